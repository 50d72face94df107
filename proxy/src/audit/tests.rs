use agentsandbox_policy::{Host, Method, Request, Scheme, Target};
use serde_json::Value;

use super::*;

const POLICY: &str =
    "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: team, name: demo}, generation: 3,
  rules: [{name: api, host: api.good.test, ports: [443], scheme: https}]}";

/// A sink that takes so many bytes and then fails, until it is given more room.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Disk {
    fn room(self, bytes: usize) -> Self {
        self.0.lock().unwrap().1 = bytes;
        self
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (written, room) = &mut *self.0.lock().unwrap();
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

fn audit(disk: &Disk) -> Arc<Audit> {
    Audit::new(Box::new(disk.clone()), Arc::default())
}

fn begin(entry: &mut Entry) -> Result<Recorded, Unrecorded> {
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
    entry.begins(Policy::from_yaml(POLICY).unwrap().decide(request).unwrap())
}

fn read(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
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
    assert_eq!((torn.len(), torn[0].len()), (1, 20));
    let numbers: Vec<_> = read(&whole).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2], "begin and end, and the denial of the second");
    assert_eq!(read(&whole)[2]["reason"], "AuditUnavailable");
}

#[test]
fn p_i5_no_character_forges_a_line_and_a_long_path_is_cut_with_its_digest() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    for end in ["a", "b"] {
        let mut entry = audit.open(Entrance::HttpProxy, None);
        entry.asks("good\r\n{\"seq\":9}\u{1b}[2J", 443);
        entry.asks_for("GET\n", &format!("/{}{end}", "x".repeat(64 << 10)));
    }
    assert_eq!(disk.lines().len(), 2);
    assert!(disk.lines().concat().bytes().all(|byte| byte >= b' '));
    let paths: Vec<String> =
        read(&disk.lines()).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert!(paths[0].len() < AUDIT_PATH_BYTES_MAX + 120 && paths[0].contains("65538 bytes, sha256 "));
    assert_ne!(paths[0], paths[1], "the digest tells them apart");
}
