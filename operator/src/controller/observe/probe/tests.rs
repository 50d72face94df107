use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::fixtures::{UID, from, proxy_pod};

fn a_run(restarts: i32) -> ProxyRun {
    ProxyRun { pod_uid: "proxy".to_owned(), restarts }
}

const fn closed() -> ProxyClosed {
    ProxyClosed { _only_the_probe_makes_it: () }
}

#[test]
fn only_what_a_wall_does_is_evidence() {
    let errno = |code| sight(&Err(io::Error::from_raw_os_error(code)));
    for (name, code) in
        [("ETIMEDOUT", 110), ("ECONNREFUSED", 111), ("EHOSTUNREACH", 113), ("EPERM", 1), ("EACCES", 13)]
    {
        assert_eq!(errno(code), Sight::Closed, "{name}");
    }
    for (name, code) in [
        ("EMFILE", 24),
        ("ENFILE", 23),
        ("EADDRNOTAVAIL", 99),
        ("ENETUNREACH", 101),
        ("ECONNRESET", 104),
        ("ENOBUFS", 105),
        ("ENOMEM", 12),
        ("EINVAL", 22),
    ] {
        assert!(matches!(errno(code), Sight::Unclear(_)), "{name}");
    }
    assert_eq!(sight(&Ok(())), Sight::Open);
}

#[test]
fn a_sighting_is_proof_once_it_is_confirmed() {
    let (all, start) = (Sightings::default(), Instant::now());
    assert_eq!(all.known("s", &a_run(0), start), None);
    assert_eq!(all.judge("s", a_run(0), Sight::Closed, start), Closedness::Seen(closed(), CONFIRM_AFTER));
    let early = start + CONFIRM_AFTER / 4;
    assert_eq!(all.known("s", &a_run(0), early), Some(Closedness::Seen(closed(), CONFIRM_AFTER * 3 / 4)));
    let due = start + CONFIRM_AFTER;
    assert_eq!(all.known("s", &a_run(0), due), None, "it is tried again");
    assert_eq!(all.judge("s", a_run(0), Sight::Closed, due), Closedness::Proven(closed()));
    assert_eq!(all.known("s", &a_run(0), due), Some(Closedness::Proven(closed())));
}

#[test]
fn a_confirmation_that_finds_it_open_takes_the_sighting_back_until_it_is_closed_twice_again() {
    let (all, start) = (Sightings::default(), Instant::now());
    all.judge("s", a_run(0), Sight::Closed, start);
    for _ in 0..2 {
        assert_eq!(
            all.judge("s", a_run(0), Sight::Open, start),
            Closedness::Reopened,
            "as often as it is seen"
        );
        assert_eq!(all.known("s", &a_run(0), start), None);
    }
    assert!(matches!(
        all.judge("s", a_run(0), Sight::Unclear("x".to_owned()), start),
        Closedness::Unclear(_)
    ));
    assert_eq!(all.judge("s", a_run(0), Sight::Closed, start), Closedness::Seen(closed(), CONFIRM_AFTER));
    assert_eq!(all.judge("s", a_run(0), Sight::Closed, start), Closedness::Proven(closed()));
}

#[test]
fn a_failure_of_the_operators_own_proves_nothing_and_takes_nothing_back() {
    let (all, now) = (Sightings::default(), Instant::now());
    let unclear = || Sight::Unclear("Too many open files".to_owned());
    assert_eq!(
        all.judge("s", a_run(0), unclear(), now),
        Closedness::Unclear("Too many open files".to_owned())
    );
    assert_eq!(all.known("s", &a_run(0), now), None);
    all.judge("s", a_run(0), Sight::Closed, now);
    assert_eq!(all.judge("s", a_run(0), unclear(), now), Closedness::Seen(closed(), CONFIRM_AFTER));
}

#[test]
fn another_run_of_the_proxy_is_tried_anew() {
    let (all, now) = (Sightings::default(), Instant::now());
    all.judge("s", a_run(0), Sight::Closed, now);
    all.judge("s", a_run(0), Sight::Closed, now);
    assert!(all.known("s", &a_run(0), now).is_some());
    assert_eq!(all.known("s", &a_run(1), now), None, "its container was restarted");
    let other = ProxyRun { pod_uid: "another".to_owned(), restarts: 0 };
    assert_eq!(all.known("s", &other, now), None, "its pod was replaced");
    assert_eq!(all.judge("s", a_run(1), Sight::Open, now), Closedness::Open, "it was never seen closed");
}

#[test]
fn of_a_sandbox_that_is_gone_nothing_is_known_and_of_another_it_is() {
    let (all, now) = (Sightings::default(), Instant::now());
    all.judge("s", a_run(0), Sight::Closed, now);
    all.judge("another", a_run(0), Sight::Closed, now);
    all.forget("s");
    assert_eq!(all.known("s", &a_run(0), now), None);
    assert!(all.known("another", &a_run(0), now).is_some());
}

#[tokio::test]
async fn a_proxy_is_tried_over_a_real_socket_once_it_serves() {
    let recent = Recent::default();
    let pod = proxy_pod("127.0.66.1");
    let mut starting = pod.clone();
    starting.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].started = Some(false);
    assert_eq!(closedness(UID, Some(&starting), WallProbe::Connect, &recent).await, Closedness::Untried);
    assert_eq!(closedness(UID, None, WallProbe::Connect, &recent).await, Closedness::Untried);
    let waived = closedness(UID, Some(&pod), WallProbe::None, &recent).await;
    assert!(matches!(waived, Closedness::Waived(_)));
    {
        let _listener = TcpListener::bind("127.0.66.1:3128").await.unwrap();
        assert_eq!(closedness(UID, Some(&pod), WallProbe::Connect, &recent).await, Closedness::Open);
    }
    let begin = Instant::now();
    let refused = closedness(UID, Some(&pod), WallProbe::Connect, &recent).await;
    assert_eq!(refused, Closedness::Seen(closed(), CONFIRM_AFTER));
    let mut restarted = pod.clone();
    restarted.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 1;
    let _listener = TcpListener::bind("127.0.66.1:3128").await.unwrap();
    let known = closedness(UID, Some(&pod), WallProbe::Connect, &recent).await;
    let is_due = begin.elapsed() >= CONFIRM_AFTER;
    assert!(is_due || matches!(known, Closedness::Seen(..)), "not tried again before its time: {known:?}");
    let anew = closedness(UID, Some(&restarted), WallProbe::Connect, &recent).await;
    assert_eq!(anew, Closedness::Open, "another run was never seen closed");
}

/// The proxy's pod before its readiness probe has ticked.
fn unready(address: &str) -> Pod {
    let mut pod = proxy_pod(address);
    pod.status.as_mut().unwrap().conditions = None;
    pod
}

#[tokio::test]
async fn a_proxy_that_has_said_that_it_listens_is_tried_before_the_kubelet_calls_it_ready() {
    let tried = closedness(UID, Some(&unready("127.0.66.3")), WallProbe::Connect, &Recent::default()).await;
    assert_eq!(tried, Closedness::Seen(closed(), CONFIRM_AFTER));
    let mut pod = unready("127.0.66.3");
    pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = Some(from(json!({})));
    let tried = closedness(UID, Some(&pod), WallProbe::Connect, &Recent::default()).await;
    assert_eq!(tried, Closedness::Untried, "it does not run");
}

#[tokio::test]
async fn a_sighting_is_confirmed_only_while_the_kubelet_calls_the_proxy_ready() {
    let recent = Recent::default();
    recent.saw_closed(UID, &unready("127.0.66.4"));
    let tried = closedness(UID, Some(&unready("127.0.66.4")), WallProbe::Connect, &recent).await;
    assert_eq!(tried, Closedness::Seen(closed(), CONFIRM_AFTER), "a refusal may be that of a dead proxy");
    let tried = closedness(UID, Some(&proxy_pod("127.0.66.4")), WallProbe::Connect, &recent).await;
    assert_eq!(tried, Closedness::Proven(closed()));
    let recent = Recent::default();
    recent.saw_closed(UID, &unready("127.0.66.5"));
    let _listener = TcpListener::bind("127.0.66.5:3128").await.unwrap();
    let tried = closedness(UID, Some(&unready("127.0.66.5")), WallProbe::Connect, &recent).await;
    assert_eq!(tried, Closedness::Reopened, "a connection is one, ready or not");
}

#[tokio::test]
async fn a_ready_pod_whose_run_is_unknown_is_not_tried() {
    let mut pod = proxy_pod("127.0.66.2");
    pod.status.as_mut().unwrap().container_statuses = Some(from(json!([])));
    let tried = closedness(UID, Some(&pod), WallProbe::Connect, &Recent::default()).await;
    assert_eq!(tried, Closedness::Untried);
}
