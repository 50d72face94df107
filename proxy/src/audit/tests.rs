mod idle;
mod last_lines;

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;

use agentsandbox_policy::{Host, Method, Request, Scheme, Target};
use futures::FutureExt;
use futures::future::join_all;
use proptest::prelude::*;
use serde_json::Value;

use super::entry::Stage;
use super::*;
use crate::limits::{AUDIT_BURST_SECS, AUDIT_DENIALS_PER_KIND_MAX, AUDIT_PATH_BYTES_MAX};

const POLICY: &str =
    "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: team, name: demo}, generation: 3,
  rules: [{name: api, host: api.good.test, ports: [443], scheme: https}]}";

/// A sink that takes so many bytes and then fails, until it is given more room.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<(Vec<u8>, usize)>>, Arc<AtomicUsize>);

impl Disk {
    pub(crate) fn room(self, bytes: usize) -> Self {
        self.0.lock().unwrap().1 = bytes;
        self
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (written, room) = &mut *self.0.lock().unwrap();
        self.1.fetch_add(1, Ordering::Relaxed);
        let fits = bytes.len().min(*room);
        if fits == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        written.extend_from_slice(&bytes[..fits]);
        *room -= fits;
        Ok(fits)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Disk {
    /// How often it was written to.
    fn writes(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

pub(crate) fn audit(disk: &Disk) -> Arc<Audit> {
    Audit::new(Box::new(disk.clone()), Pace::new(None), Arc::default())
}

pub(crate) fn begin(entry: &mut Entry) -> Result<Recorded, Unrecorded> {
    futures::executor::block_on(begin_with_others(entry))
}

async fn begin_with_others(entry: &mut Entry) -> Result<Recorded, Unrecorded> {
    let request = Request {
        scheme: Scheme::Https,
        host: Host::parse("api.good.test").unwrap(),
        port: 443,
        method: Method::parse("GET").unwrap(),
        target: Target::parse("/v1?secret-query").unwrap(),
        websocket: false,
    };
    entry.asks("api.good.test", 443);
    entry.asks_for("GET", "/v1");
    entry.begins(Policy::from_yaml(POLICY).unwrap().decide(request).unwrap()).await
}

pub(crate) fn read(lines: &[String]) -> Vec<Value> {
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(crate::schema::tests::audit_line_fits);
    lines
}

#[test]
fn p_i16_the_record_of_a_request_holds_its_own_permit_and_an_unwritten_one_none() {
    let disk = Disk::default().room(usize::MAX);
    let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
    let recorded = begin(&mut entry).unwrap();
    let permit = recorded.permit();
    assert_eq!((permit.host().as_str(), permit.target().as_str()), ("api.good.test", "/v1?secret-query"));
    assert!(begin(&mut audit(&Disk::default()).open(Entrance::HttpProxy, None)).is_err());
}

#[test]
fn an_allowed_request_is_a_line_before_it_is_sent_and_another_when_it_has_ended() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    begin(&mut entry).unwrap();
    let begun = read(&disk.lines());
    assert_eq!((&begun[0]["event"], &begun[0]["decision"]), (&"begin".into(), &"allow".into()));
    assert_eq!(
        (&begun[0]["host"], &begun[0]["path"], &begun[0]["rule"]),
        (&"api.good.test".into(), &"/v1".into(), &"api".into())
    );
    entry.traffic().down.fetch_add(9, Ordering::Relaxed);
    entry.answers(200);
    drop(entry);
    let lines = read(&disk.lines());
    assert_eq!((lines.len(), &lines[1]["event"], &lines[1]["status"]), (2, &"end".into(), &200.into()));
    assert_eq!(lines[1]["bytesDown"], 9);
    assert_eq!(lines[0]["requestId"], lines[1]["requestId"]);
    assert!(!disk.lines().concat().contains("secret-query"));
}

#[test]
fn a_refusal_is_one_line_and_so_is_an_entry_that_nobody_finished() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::Dns, None);
    entry.refuses(&Denial::new(DenialReason::HostNotAllowed), Some(403));
    drop(entry);
    drop(audit.open(Entrance::Dns, None));
    let mut admitted = audit.open(Entrance::Socks5, None);
    admitted.admits().unwrap();
    drop(admitted);
    let told: Vec<_> = read(&disk.lines())
        .iter()
        .map(|line| (line["event"].clone(), line["decision"].clone(), line["reason"].clone()))
        .collect();
    assert_eq!(told[0], ("deny".into(), "deny".into(), "HostNotAllowed".into()));
    assert_eq!(told[1], ("deny".into(), "deny".into(), Value::Null));
    assert_eq!(told[2], ("admit".into(), "allow".into(), Value::Null));
    assert_eq!(told.len(), 3);
}

#[test]
fn p_i5_what_cannot_be_written_down_is_denied() {
    let disk = Disk::default();
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    assert!(begin(&mut entry).is_err() && entry.admits().is_err());
    assert_eq!(
        (entry.record.decision, entry.record.reason),
        (Decision::Deny, Some(DenialReason::AuditUnavailable))
    );
    let _ = disk.clone().room(usize::MAX);
    assert!(begin(&mut entry).is_ok(), "with room it is allowed");
}

#[test]
fn p_i5_a_full_disk_tears_one_line_and_sequence_numbers_have_no_gap() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    begin(&mut audit.open(Entrance::HttpProxy, None)).unwrap();
    let _ = disk.clone().room(20);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    assert!(begin(&mut entry).is_err());
    let _ = disk.clone().room(usize::MAX);
    drop(entry);
    let (whole, torn): (Vec<_>, Vec<_>) =
        disk.lines().into_iter().partition(|line| serde_json::from_str::<Value>(line).is_ok());
    assert_eq!((torn.len(), torn[0].len()), (1, 20 + "~torn".len()));
    let numbers: Vec<_> = read(&whole).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2], "begin and end, and the denial of the second");
    assert_eq!(read(&whole)[2]["reason"], "AuditUnavailable");
}

/// Lets so many requests come to their first line at the same moment; what comes of each.
fn begin_together(audit: &Arc<Audit>, requests: usize) -> (Vec<Entry>, Vec<bool>) {
    let mut entries: Vec<Entry> = (0..requests).map(|_| audit.open(Entrance::HttpProxy, None)).collect();
    let begun = futures::executor::block_on(join_all(entries.iter_mut().map(begin_with_others)));
    (entries, begun.iter().map(Result::is_ok).collect())
}

/// Gives each a turn, and tells how many are written down.
fn recorded<F: Future>(all: &mut [Pin<Box<F>>]) -> usize {
    all.iter_mut().filter_map(|one| one.as_mut().now_or_never()).count()
}

#[test]
fn p_i16_requests_that_begin_together_are_written_down_together_before_any_of_them_is_sent() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut entries: Vec<Entry> = (0..9).map(|_| audit.open(Entrance::HttpProxy, None)).collect();
    let mut all: Vec<_> = entries.iter_mut().map(|entry| Box::pin(begin_with_others(entry))).collect();
    assert_eq!((recorded(&mut all), disk.lines().len()), (0, 0), "unwritten, none may be sent");
    assert_eq!((recorded(&mut all), disk.lines().len(), disk.writes()), (9, 9, 1));
    drop(all);
    drop(entries);
    let numbers: Vec<_> = read(&disk.lines()).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..18).collect::<Vec<_>>());
}

#[test]
fn p_i5_of_requests_that_are_written_down_together_those_behind_a_full_disk_are_denied() {
    let disk = Disk::default().room(usize::MAX);
    drop(begin_together(&audit(&disk), 4));
    let usual = disk.lines()[0].len() + 1;
    for room in 0..=4 * usual {
        let disk = Disk::default().room(room);
        let audit = audit(&disk);
        let (entries, begun) = begin_together(&audit, 4);
        let told = disk.lines().iter().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
        let whole = room / usual;
        assert_eq!(begun, (0..4).map(|number| number < whole).collect::<Vec<_>>(), "room for {room} bytes");
        assert!(told == whole || (told == whole + 1 && room % usual == usual - 1), "room for {room} bytes");
        let _ = disk.clone().room(usize::MAX);
        drop(entries);
        audit.write_folds(None);
        assert_eq!(decisions(&disk.lines()), 4);
        let lines: Vec<Value> =
            disk.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "room for {room} bytes");
    }
}

#[test]
fn p_i5_a_request_that_is_given_up_while_its_first_line_waits_has_both_lines() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    assert!(begin_with_others(&mut entry).now_or_never().is_none());
    drop(entry);
    let lines = read(&disk.lines());
    let events: Vec<_> = lines.iter().map(|line| (&line["event"], &line["reason"])).collect();
    assert_eq!(events, [(&"begin".into(), &Value::Null), (&"end".into(), &"Interrupted".into())]);
}

#[test]
fn p_i5_no_character_forges_a_line_and_a_long_path_is_cut_with_its_digest() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    for end in ["a", "b"] {
        let mut entry = audit.open(Entrance::HttpProxy, None);
        entry.asks("good\r\n{\"seq\":9}\u{1b}[2J", 443);
        entry.asks_for("GET\n", format!("/{}{end}", "x".repeat(64 << 10)));
    }
    assert_eq!(disk.lines().len(), 2);
    assert!(disk.lines().concat().bytes().all(|byte| byte >= b' '));
    let paths: Vec<String> =
        read(&disk.lines()).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert!(paths[0].len() < AUDIT_PATH_BYTES_MAX + 120 && paths[0].contains("65538 bytes, sha256 "));
    assert_ne!(paths[0], paths[1], "the digest tells them apart");
}

/// The decisions that these lines stand for. Lines that are no JSON were never told to anybody.
fn decisions(lines: &[String]) -> u64 {
    let whole = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    whole.filter(|line| line["event"] != "end").map(|line| line["folded"].as_u64().unwrap_or(1)).sum()
}

#[test]
fn p_i5_a_line_without_its_end_is_completed_by_nothing() {
    let mut whole_but_for_its_end = 0;
    let disk = Disk::default().room(usize::MAX);
    begin(&mut audit(&disk).open(Entrance::HttpProxy, None)).unwrap();
    let usual = disk.lines()[0].len();
    for room in 0..usual + 5 {
        let disk = Disk::default().room(room);
        let audit = audit(&disk);
        let mut entry = audit.open(Entrance::HttpProxy, None);
        let told = usize::from(begin(&mut entry).is_ok());
        let out = disk.0.lock().unwrap().0.clone();
        whole_but_for_its_end += usize::from(told == 0 && serde_json::from_slice::<Value>(&out).is_ok());
        let _ = disk.clone().room(usize::MAX);
        // Nothing more of this one, so that the next line is another's.
        std::mem::forget(entry);
        drop(audit.open(Entrance::Dns, None));
        let lines = disk.lines();
        let begun = lines
            .iter()
            .filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == "begin"));
        assert_eq!(begun.count(), told, "room for {room} bytes: {:?}", disk.lines());
        assert_eq!(decisions(&disk.lines()), 1 + told as u64);
    }
    assert!(whole_but_for_its_end > 0, "the case that matters was tried");
}

#[test]
fn p_i4_denials_are_folded_by_entrance_host_rule_and_reason() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let denial = |rule: &str, reason| {
        let mut entry = audit.open(Entrance::HttpProxy, None);
        entry.asks("api.good.test", 443);
        entry.refuses(&Denial::new(reason).with_rule(rule), Some(403));
    };
    for _ in 0..100 {
        denial("a", DenialReason::PathNotAllowed);
        denial("b", DenialReason::PathNotAllowed);
        denial("a", DenialReason::MethodNotAllowed);
    }
    assert_eq!(disk.lines().len(), 3 * AUDIT_DENIALS_PER_KIND_MAX);
    audit.write_folds(None);
    let lines = read(&disk.lines());
    assert_eq!(lines.len(), 3 * AUDIT_DENIALS_PER_KIND_MAX + 3);
    for line in &lines[3 * AUDIT_DENIALS_PER_KIND_MAX..] {
        assert_eq!(line["folded"], 100 - AUDIT_DENIALS_PER_KIND_MAX);
        assert_eq!((&line["event"], &line["host"]), (&"deny".into(), &"api.good.test".into()));
    }
    assert_eq!(decisions(&disk.lines()), 300);
    let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn p_i5_what_is_denied_after_the_last_count_was_taken_has_a_line_of_its_own() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let flood = || {
        for _ in 0..100 {
            let mut entry = audit.open(Entrance::Dns, None);
            entry.repeats();
            entry.refuses(&Denial::new(DenialReason::HostNotAllowed), None);
        }
    };
    flood();
    audit.write_folds(None);
    assert_eq!(disk.lines().len(), 2, "one, and the number of the others");
    flood();
    audit.end_folds(None);
    assert_eq!(disk.lines().len(), 4);
    flood();
    assert_eq!((disk.lines().len(), decisions(&disk.lines())), (104, 300));
}

#[tokio::test(start_paused = true)]
async fn p_i4_a_line_spends_its_turn_and_a_denial_that_is_only_counted_does_not() {
    const RATE: u32 = 1;
    let disk = Disk::default().room(usize::MAX);
    let audit =
        Audit::new(Box::new(disk.clone()), Pace::new(std::num::NonZeroU32::new(RATE)), Arc::default());
    let start = tokio::time::Instant::now();
    for _ in 0..10_000 {
        let turn = audit.turn().await;
        let mut entry = audit.open(Entrance::HttpProxy, None);
        entry.takes(turn);
        entry.refuses(&Denial::new(DenialReason::HostNotAllowed), None);
    }
    assert_eq!(disk.lines().len(), AUDIT_DENIALS_PER_KIND_MAX);
    let waited = start.elapsed().as_secs();
    let told = AUDIT_DENIALS_PER_KIND_MAX as u64;
    assert!((told - AUDIT_BURST_SECS..=told).contains(&waited), "{waited} s for {told} lines");
    let start = tokio::time::Instant::now();
    for _ in 0..10 {
        let turn = audit.turn().await;
        let mut entry = audit.open(Entrance::HttpProxy, None);
        entry.takes(turn);
        begin(&mut entry).unwrap();
    }
    assert!(start.elapsed().as_secs() >= 9, "each has lines: {:?}", start.elapsed());
}

#[test]
fn ids_are_of_one_run() {
    let (one, other) = (audit(&Disk::default()), audit(&Disk::default()));
    let id = |audit: &Arc<Audit>| {
        let entry = audit.open(Entrance::HttpProxy, None);
        let id = entry.request_id().to_string();
        let (run, number) = id.split_once('-').unwrap();
        (run.to_owned(), number.to_owned())
    };
    let [a, b, c] = [id(&one), id(&one), id(&other)];
    assert_eq!((&a.0, a.1.as_str(), b.1.as_str()), (&b.0, "000000", "000001"));
    assert_ne!(a.0, c.0, "the same number of another run is another request");
    assert_eq!((c.1.as_str(), c.0.len()), ("000000", 16));
}

#[test]
fn where_a_key_is_missing_the_last_line_names_that_one_and_nothing_as_shown() {
    let disk = Disk::default().room(10_000);
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    begin(&mut entry).unwrap();
    entry.shows(Some(true));
    entry.refuses(&Denial::new(DenialReason::CredentialUnavailable).with_credential("key"), Some(403));
    drop(entry);
    let line = read(&disk.lines()).remove(1);
    assert_eq!((&line["credential"], line.get("clientCertificateShown")), (&"key".into(), None), "{line}");
}

#[test]
fn the_first_reason_of_a_broken_exchange_stands() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut entry = audit.open(Entrance::HttpProxy, None);
    begin(&mut entry).unwrap();
    entry.breaks(DenialReason::AnswerBroken);
    entry.breaks(DenialReason::Interrupted);
    drop(entry);
    let end = &read(&disk.lines())[1];
    assert_eq!((&end["reason"], &end["decision"]), (&"AnswerBroken".into(), &"allow".into()));
}

/// One thing that happens to an audit trail.
#[derive(Clone, Debug)]
enum Happening {
    Denied { host: u8, rule: u8, reason: usize, often: bool },
    Begun,
    Admitted,
    AdmittedOften { host: u8 },
    WindowEnds,
    Room(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0..90_u8, 0..2_u8, 0..DenialReason::ALL.len(), any::<bool>())
            .prop_map(|(host, rule, reason, often)| Happening::Denied { host, rule, reason, often }),
        2 => Just(Happening::Begun),
        1 => Just(Happening::Admitted),
        3 => (0..90_u8).prop_map(|host| Happening::AdmittedOften { host }),
        1 => Just(Happening::WindowEnds),
        1 => prop_oneof![Just(usize::MAX), 0..2000_usize].prop_map(Happening::Room),
    ]
}

proptest! {
    #[test]
    fn p_i5_lines_and_counts_add_up_to_the_decisions_whatever_the_disk_does(
        happenings in prop::collection::vec(happening(), 1..400),
    ) {
        let disk = Disk::default().room(usize::MAX);
        let audit = audit(&disk);
        let mut made = 0;
        for happening in happenings {
            made += 1;
            let mut entry = audit.open(Entrance::HttpProxy, None);
            match happening {
                Happening::Denied { host, rule, reason, often } => {
                    if often {
                        entry.repeats();
                    }
                    entry.asks(format!("x{host}.test"), 443);
                    entry.refuses(&Denial::new(DenialReason::ALL[reason]).with_rule(rule), None);
                }
                Happening::Begun => drop(begin(&mut entry)),
                Happening::Admitted => drop(entry.admits()),
                Happening::AdmittedOften { host } => {
                    entry.repeats();
                    entry.asks_name(format!("x{host}.test"));
                    let _ = entry.admits_often();
                }
                Happening::WindowEnds => {
                    entry.stage = Stage::Whole;
                    made -= 1;
                    audit.write_folds(None);
                }
                Happening::Room(bytes) => {
                    entry.stage = Stage::Whole;
                    made -= 1;
                    let _ = disk.clone().room(bytes);
                }
            }
        }
        let _ = disk.clone().room(usize::MAX);
        audit.write_folds(None);
        prop_assert_eq!(decisions(&disk.lines()), made);
        let numbers: Vec<_> = disk.lines().iter().filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|line| line["seq"].as_u64().unwrap()).collect();
        prop_assert_eq!(&numbers, &(0..numbers.len() as u64).collect::<Vec<_>>());
    }
}

pub(crate) const fn request_id(run: u64, number: u64) -> RequestId {
    RequestId { run, number }
}
