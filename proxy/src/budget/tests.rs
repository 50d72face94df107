use std::time::Duration;

use super::*;

const MIB: u64 = 1 << 20;

fn limits(total: Option<u64>, minute: Option<u64>) -> UploadLimits {
    UploadLimits::new("api.good.test", total, minute)
}

struct World {
    folder: tempfile::TempDir,
    start: Instant,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), start: Instant::now() }
    }

    /// A process that starts now.
    fn process(&self) -> Arc<Budgets> {
        Budgets::open(self.folder.path(), self.start)
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

#[test]
fn p_i15_of_many_requests_at_once_only_those_are_sent_that_there_is_room_for() {
    let world = World::new();
    let (budgets, limits) = (world.process(), limits(Some(100), None));
    let reserve = || budgets.reserve(&limits, 60, world.start).ok();
    let all: Vec<Option<Meter>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(reserve)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(all.iter().flatten().count(), 1);
    drop(all);
    assert!(reserve().is_some(), "what was not sent is given back");
}

#[test]
fn p_g3_a_length_beyond_all_bounds_makes_nobody_forget_what_others_hold() {
    let world = World::new();
    let budgets = world.process();
    let (bounded, counted) = (limits(Some(100), None), limits(None, None));
    let held = budgets.reserve(&bounded, 60, world.start).unwrap();
    for bytes in [u64::MAX, u64::MAX - 2, BUDGET_REQUEST_BYTES_MAX + 1] {
        assert_eq!(budgets.reserve(&counted, bytes, world.start).err(), Some(Exceeded::UsedUp));
        assert_eq!(budgets.reserve(&bounded, 60, world.start).err(), Some(Exceeded::UsedUp));
    }
    let large: Vec<Meter> =
        (0..4).map(|_| budgets.reserve(&counted, BUDGET_REQUEST_BYTES_MAX, world.start).unwrap()).collect();
    drop(large);
    assert_eq!(budgets.reserve(&bounded, 60, world.start).err(), Some(Exceeded::UsedUp));
    drop(held);
    assert!(budgets.reserve(&bounded, 60, world.start).is_ok());
}

#[test]
fn p_i15_what_has_no_known_length_is_reserved_as_it_flows() {
    let world = World::new();
    let (budgets, limits) = (world.process(), limits(Some(100), None));
    let streams: Vec<Meter> = (0..4).map(|_| budgets.reserve(&limits, 0, world.start).unwrap()).collect();
    let sent = (0..40).filter(|turn| streams[turn % 4].spend(9, world.start).is_ok()).count();
    assert_eq!(sent, 11, "99 of 100 bytes");
    assert_eq!(budgets.reserve(&limits, 2, world.start).err(), Some(Exceeded::UsedUp));
    assert!(budgets.reserve(&limits, 1, world.start).is_ok());
}

#[test]
fn p_i15_what_was_sent_counts_however_an_exchange_ends_and_nothing_is_sent_after_it() {
    let world = World::new();
    let (budgets, limits) = (world.process(), limits(Some(100), Some(1000)));
    let meter = budgets.reserve(&limits, 60, world.start).unwrap();
    meter.spend(20, world.start).unwrap();
    meter.over();
    assert_eq!(meter.spend(1, world.start), Err(Exceeded::UsedUp));
    drop(meter);
    assert_eq!(budgets.reserve(&limits, 81, world.start).err(), Some(Exceeded::UsedUp));
    let meter = budgets.reserve(&limits, 80, world.start).unwrap();
    assert_eq!(meter.spend(81, world.start), Err(Exceeded::UsedUp), "beyond what was reserved");
    meter.spend(80, world.start).unwrap();
}

#[test]
fn p_g3_no_minute_has_more_than_its_limit_and_reserved_bytes_belong_to_each() {
    let world = World::new();
    let (budgets, limits) = (world.process(), limits(None, Some(100)));
    let spend =
        |bytes, second| budgets.reserve(&limits, bytes, world.at(second))?.spend(bytes, world.at(second));
    for (bytes, second, goes) in [
        (60, 0, true),
        (40, 30, true),
        (1, 30, false),
        (1, 60, false),
        (60, 61, true),
        (1, 61, false),
        (40, 91, true),
        (u64::MAX, 500, false),
        (101, 500, false),
        (100, 500, true),
    ] {
        assert_eq!(spend(bytes, second).is_ok(), goes, "{bytes} bytes in second {second}");
    }
    let held = budgets.reserve(&limits, 90, world.at(1000)).unwrap();
    assert!(spend(11, 1200).is_err(), "it may be sent at any time");
    held.over();
    assert!(spend(11, 1200).is_ok());
}

#[test]
fn p_g3_sums_that_would_overflow_are_denied() {
    let world = World::new();
    let sent = format!("{{\"version\":1,\"sent\":{{\"api.good.test\":{}}}}}", u64::MAX - 10);
    std::fs::write(world.file(), sent).unwrap();
    let (budgets, limits) = (world.process(), limits(Some(u64::MAX), None));
    assert_eq!(budgets.reserve(&limits, 11, world.start).err(), Some(Exceeded::UsedUp));
    let held = budgets.reserve(&limits, 10, world.start).unwrap();
    assert_eq!(budgets.reserve(&limits, 1, world.start).err(), Some(Exceeded::UsedUp));
    drop(held);
    assert!(budgets.reserve(&limits, 1, world.start).is_ok());
}

#[test]
fn p_g3_other_hosts_have_room_of_their_own_and_their_number_is_bounded() {
    let world = World::new();
    let budgets = world.process();
    let of = |host: usize| UploadLimits::new(&format!("h{host}.test"), Some(10), None);
    for host in 0..BUDGETS_MAX {
        budgets.reserve(&of(host), 10, world.start).unwrap().spend(10, world.start).unwrap();
    }
    assert_eq!(budgets.reserve(&of(0), 1, world.start).err(), Some(Exceeded::UsedUp));
    assert_eq!(budgets.reserve(&of(BUDGETS_MAX), 1, world.start).err(), Some(Exceeded::UsedUp));
    assert!(world.file().metadata().unwrap().len() < MIB / 2, "it and its successor fit into the folder");
}

#[test]
fn p_i15_a_restart_forgets_nothing_that_was_sent() {
    let world = World::new();
    let limits = limits(Some(MIB), Some(MIB));
    let budgets = world.process();
    for frame in 0..MIB / 2 / 4096 {
        let meter = budgets.reserve(&limits, 0, world.start).unwrap();
        meter.spend(4096, world.start).unwrap();
        let kept = read(&world.file()).unwrap()["api.good.test"];
        assert!(kept >= (frame + 1) * 4096, "the record is never behind");
    }
    // Nothing is written at the end, so it could as well have been killed.
    drop(budgets);
    let again = world.process();
    let share = MIB / BUDGET_CLAIM_SHARE;
    assert_eq!(
        again.reserve(&limits, 1, world.at(60)).err(),
        Some(Exceeded::UsedUp),
        "the minute counts as full"
    );
    assert!(again.reserve(&limits, MIB / 2 + 1, world.at(61)).is_err());
    assert!(again.reserve(&limits, MIB / 2 - share, world.at(61)).is_ok(), "no more than a share is lost");
}

#[test]
fn p_i15_what_was_reserved_and_not_sent_is_not_remembered_as_sent() {
    let world = World::new();
    let limits = limits(Some(MIB), None);
    drop(world.process().reserve(&limits, MIB, world.start).unwrap());
    assert!(world.process().reserve(&limits, MIB - MIB / BUDGET_CLAIM_SHARE, world.start).is_ok());
}

#[test]
fn p_i15_a_record_that_cannot_be_read_counts_as_used_up() {
    let world = World::new();
    let limits = limits(Some(100), None);
    let verdict = || world.process().reserve(&limits, 1, world.start).err();
    assert_eq!(verdict(), None, "no record is a first start");
    let good = std::fs::read_to_string(world.file()).unwrap();
    for damaged in
        ["", "{", "{}", &good[1..], &good.replace("\"version\":1", "\"version\":2"), &format!("{good}x")]
    {
        std::fs::write(world.file(), damaged).unwrap();
        assert_eq!(verdict(), Some(Exceeded::Unreadable), "{damaged:?}");
    }
    std::fs::remove_file(world.file()).unwrap();
    std::fs::create_dir(world.file()).unwrap();
    assert_eq!(verdict(), Some(Exceeded::Unreadable), "a folder in its place");
    std::fs::remove_dir(world.file()).unwrap();
    std::fs::write(world.file(), good).unwrap();
    assert_eq!(verdict(), None);
}

#[test]
fn p_i15_what_cannot_be_written_down_is_not_sent() {
    let world = World::new();
    let limits = limits(Some(100), None);
    let budgets = world.process();
    let moved = world.folder.path().with_extension("moved");
    std::fs::rename(world.folder.path(), &moved).unwrap();
    assert_eq!(budgets.reserve(&limits, 60, world.start).err(), Some(Exceeded::Unwritable));
    std::fs::rename(&moved, world.folder.path()).unwrap();
    assert!(budgets.reserve(&limits, 100, world.start).is_ok(), "and nothing was taken");
}
