//! Rounds of attempts until one whole round is closed.
//!
//! Policy engines program a pod's rules after it starts, so the first rounds usually find routes open; the fence then
//! tries again at once. A closed round counts only if the proxy answered in that same round, tried as the routes are and
//! in the same window: otherwise a network that is not up yet, or is too slow, would look exactly like a wall. [`judge`]
//! is pure; [`prove`] runs the rounds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::{sleep, sleep_until};

use crate::args::IcmpRule;
use crate::probe::{self, Sighting};
use crate::route::Route;

/// A round that takes longer than this is given up, whatever keeps it.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// Pause between rounds while rules are likely to appear any moment.
const PAUSE_YOUNG: Duration = Duration::from_millis(15);
/// Pause between rounds later on: by now something is wrong, and the API server need not be knocked on all the time.
const PAUSE_OLD: Duration = Duration::from_millis(200);
/// Age at which rounds slow down; engines take 50 to 100 ms, and seconds under load.
const YOUNG: Duration = Duration::from_secs(3);

/// What one round saw. Routes that had not concluded when the round was given up are in none of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How long the proxy took to answer; `None` if it did not within the window.
    pub proxy: Option<Duration>,
    /// Somebody answered.
    pub open: Vec<Route>,
    /// Refused or silent.
    pub closed: Vec<Route>,
    /// Not tried, with the reason.
    pub untried: Vec<(Route, String)>,
}

/// What a round is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every route was tried and is closed, while the proxy answered.
    Closed,
    /// A route is open.
    Open,
    /// No route is known to be open, but some were not tried, or the proxy did not answer.
    Unknown,
}

/// What all rounds came to.
#[derive(Clone, Debug)]
pub struct Walls {
    /// Rounds made.
    pub rounds: u32,
    /// When a round was a proof.
    pub closed_after: Option<Duration>,
    /// The last round.
    pub last: Round,
    /// What the last round is worth.
    pub judgement: Judgement,
}

impl Walls {
    /// Before the first round: nothing is known.
    #[must_use]
    pub fn none() -> Self {
        Self { rounds: 0, closed_after: None, last: Round::default(), judgement: Judgement::Unknown }
    }
}

/// Judges a round. `routes` is how many there were to try: a list cut short proves nothing, and neither does an empty one.
#[must_use]
pub fn judge(round: &Round, routes: usize, icmp: IcmpRule) -> Judgement {
    if round.open.iter().any(|route| disqualifies(route, icmp)) {
        return Judgement::Open;
    }
    let concluded = round.open.len() + round.closed.len();
    if round.proxy.is_none() || routes == 0 || concluded < routes {
        Judgement::Unknown
    } else {
        Judgement::Closed
    }
}

fn disqualifies(route: &Route, icmp: IcmpRule) -> bool {
    match icmp {
        IcmpRule::Refuse => true,
        IcmpRule::Report => !route.protocol.is_icmp(),
    }
}

/// Makes rounds until one is a proof, or until the deadline.
pub async fn prove(
    routes: &[Route],
    proxy: SocketAddr,
    icmp: IcmpRule,
    started: Instant,
    deadline: Instant,
) -> Walls {
    let mut walls = Walls::none();
    loop {
        let (window, pause) = if started.elapsed() < YOUNG {
            (probe::WINDOW, PAUSE_YOUNG)
        } else {
            (probe::WINDOW_PATIENT, PAUSE_OLD)
        };
        // The last round is not cut short, so that the report of a failure names every route.
        let last = Instant::now() + pause + window * 2 >= deadline;
        // Beside a proxy that does not answer no round is a proof, and this pod may have come up first: until then the
        // routes, the API server's among them, are left alone.
        if !last && probe::control(proxy, window).await.is_none() {
            sleep(pause).await;
            continue;
        }
        let gather = if last { window * 2 } else { Duration::ZERO };
        walls.last = round(routes, proxy, icmp, window, gather).await;
        walls.rounds += 1;
        walls.judgement = judge(&walls.last, routes.len(), icmp);
        if walls.judgement == Judgement::Closed {
            walls.closed_after = Some(started.elapsed());
            return walls;
        }
        if last || Instant::now() >= deadline {
            return walls;
        }
        sleep(pause).await;
    }
}

/// Tries the proxy and every route at once. Once the round can be no proof any more it goes on for `gather`.
async fn round(
    routes: &[Route],
    proxy: SocketAddr,
    icmp: IcmpRule,
    window: Duration,
    gather: Duration,
) -> Round {
    let control = probe::control(proxy, window).shared();
    let mut attempts: FuturesUnordered<_> = routes
        .iter()
        .map(|route| {
            let silence = probe::silence(window, control.clone());
            async move { (*route, probe::attempt(*route, silence).await) }
        })
        .collect();
    let mut round = Round::default();
    // Attempts bound themselves. A pod with little CPU is throttled, and then they end late; a bound of the round's own
    // would turn that into a round that proves nothing, for ever.
    let give_up = sleep_until((Instant::now() + ROUND_MAX).into());
    tokio::pin!(give_up);
    let mut control = control.fuse();
    let (mut asked, mut failed) = (false, false);
    while !(asked && attempts.is_empty()) {
        let spoiled = tokio::select! {
            biased;
            answered = &mut control, if !asked => {
                asked = true;
                round.proxy = answered;
                answered.is_none()
            }
            Some((route, sighting)) = attempts.next(), if !attempts.is_empty() => {
                record(&mut round, route, sighting);
                round.open.last().is_some_and(|route| disqualifies(route, icmp))
            }
            () = &mut give_up => break,
        };
        if spoiled && !failed {
            failed = true;
            give_up.as_mut().reset((Instant::now() + gather).into());
        }
    }
    round.open.sort_unstable();
    round.closed.sort_unstable();
    round
}

fn record(round: &mut Round, route: Route, sighting: Sighting) {
    match sighting {
        Sighting::Open => round.open.push(route),
        Sighting::Closed => round.closed.push(route),
        Sighting::Untried(errno) => round.untried.push((route, errno.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU8, Ordering};

    use tokio::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::route::Protocol;

    const ANSWERED: Option<Duration> = Some(Duration::from_millis(1));

    fn route(protocol: Protocol, target: &str) -> Route {
        Route { protocol, target: target.parse().unwrap() }
    }

    #[test]
    fn only_a_whole_closed_round_is_a_proof() {
        let tcp = route(Protocol::Tcp, "192.0.2.1:443");
        let link = route(Protocol::Link, "[ff02::1%2]:0");
        let icmp = route(Protocol::Icmp, "192.0.2.1:0");
        let untried = vec![(tcp, "too many open files".to_owned())];
        let cases = [
            ("all closed", vec![], vec![tcp, icmp], vec![], IcmpRule::Refuse, Judgement::Closed),
            ("one open", vec![tcp], vec![icmp], vec![], IcmpRule::Refuse, Judgement::Open),
            ("one open, the rest given up", vec![tcp], vec![], vec![], IcmpRule::Report, Judgement::Open),
            ("one not concluded", vec![], vec![tcp], vec![], IcmpRule::Refuse, Judgement::Unknown),
            ("one untried", vec![], vec![icmp], untried.clone(), IcmpRule::Report, Judgement::Unknown),
            ("one untried, one open", vec![icmp], vec![], untried, IcmpRule::Refuse, Judgement::Open),
            ("icmp open where refused", vec![icmp], vec![tcp], vec![], IcmpRule::Refuse, Judgement::Open),
            ("icmp open where reported", vec![icmp], vec![tcp], vec![], IcmpRule::Report, Judgement::Closed),
            (
                "a link open, whatever is said of icmp",
                vec![link],
                vec![tcp],
                vec![],
                IcmpRule::Report,
                Judgement::Open,
            ),
            ("icmp and tcp open", vec![icmp, tcp], vec![], vec![], IcmpRule::Report, Judgement::Open),
        ];
        for (case, open, closed, untried, rule, expected) in cases {
            let round = Round { proxy: ANSWERED, open, closed, untried };
            assert_eq!(judge(&round, 2, rule), expected, "{case}");
            let expected = if expected == Judgement::Closed { Judgement::Unknown } else { expected };
            let mute = Round { proxy: None, ..round };
            assert_eq!(judge(&mute, 2, rule), expected, "{case}, and the proxy did not answer");
        }
    }

    #[test]
    fn no_routes_are_no_proof() {
        let round = Round { proxy: ANSWERED, ..Round::default() };
        assert_eq!(judge(&round, 0, IcmpRule::Report), Judgement::Unknown);
    }

    fn seconds(count: u64) -> (Instant, Instant) {
        let started = Instant::now();
        (started, started + Duration::from_secs(count))
    }

    /// Listens on an address of its own, so that its port is nobody's when it is gone.
    async fn listener() -> (TcpListener, SocketAddr, Vec<Route>) {
        static NEXT: AtomicU8 = AtomicU8::new(10);
        let address = Ipv4Addr::new(127, 0, 91, NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        (listener, target, vec![Route { protocol: Protocol::Tcp, target }])
    }

    /// Completes once `count` connections have come, then closes the listener.
    async fn closes_after(listener: TcpListener, count: usize) {
        for _ in 0..count {
            drop(listener.accept().await.unwrap());
        }
    }

    #[tokio::test]
    async fn rounds_go_on_until_the_wall_is_up() {
        let (_proxy, proxy, _) = listener().await;
        let (wall, _, routes) = listener().await;
        let (started, deadline) = seconds(10);
        let proof = prove(&routes, proxy, IcmpRule::Refuse, started, deadline);
        let (walls, ()) = tokio::join!(proof, closes_after(wall, 3));
        assert_eq!(walls.judgement, Judgement::Closed);
        assert!(walls.rounds > 3 && walls.last.closed == routes, "{walls:?}");
        assert!(walls.closed_after.is_some() && walls.last.proxy.is_some());
    }

    #[tokio::test]
    async fn a_route_that_stays_open_is_named_at_the_deadline() {
        let (_proxy, proxy, _) = listener().await;
        let (_open, _, routes) = listener().await;
        let started = Instant::now();
        let deadline = started + Duration::from_millis(150);
        let walls = prove(&routes, proxy, IcmpRule::Refuse, started, deadline).await;
        assert_eq!((walls.judgement, walls.closed_after), (Judgement::Open, None));
        assert_eq!(walls.last.open, routes);
    }

    #[tokio::test]
    async fn closed_routes_beside_a_proxy_that_does_not_answer_are_no_proof() {
        let (gone, proxy, routes) = listener().await;
        drop(gone);
        let started = Instant::now();
        let deadline = started + Duration::from_millis(400);
        let walls = prove(&routes, proxy, IcmpRule::Refuse, started, deadline).await;
        let last_round = PAUSE_YOUNG + probe::WINDOW * 2;
        assert!(Instant::now() + last_round >= deadline, "the fence waits until the deadline");
        assert_eq!((walls.judgement, walls.closed_after), (Judgement::Unknown, None));
        assert_eq!((walls.last.closed, walls.last.proxy), (routes, None), "the last round is a whole one");
        assert_eq!(walls.rounds, 1, "the routes are left alone until then");
    }

    #[tokio::test]
    async fn a_round_that_a_refusal_of_the_proxy_spoils_is_not_waited_for() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let routes = vec![Route { protocol: Protocol::Dns, target: silent.local_addr().unwrap() }];
        let (gone, proxy, _) = listener().await;
        drop(gone);
        let (began, long) = (Instant::now(), Duration::from_secs(10));
        let spoiled = round(&routes, proxy, IcmpRule::Refuse, long, Duration::ZERO).await;
        assert!(began.elapsed() < long);
        assert_eq!(spoiled, Round::default(), "nothing concluded");
        let (_proxy, proxy, _) = listener().await;
        let (mut began, mut whole) = (Instant::now(), Round::default());
        // On a machine that stands still the proxy answers too late, which spoils the round.
        for _ in 0..20 {
            began = Instant::now();
            whole = round(&routes, proxy, IcmpRule::Refuse, probe::WINDOW_PATIENT, Duration::ZERO).await;
            if whole.proxy.is_some() {
                break;
            }
        }
        assert!(
            began.elapsed() >= probe::WINDOW_PATIENT,
            "beside a proxy that answers, silence is heard out"
        );
        assert_eq!((whole.closed, whole.proxy.is_some()), (routes, true));
    }

    #[tokio::test]
    async fn the_proxys_answer_in_an_earlier_round_vouches_for_no_later_one() {
        let (answering, proxy, _) = listener().await;
        let (wall, _, routes) = listener().await;
        let started = Instant::now();
        let deadline = started + Duration::from_secs(5);
        let proof = prove(&routes, proxy, IcmpRule::Refuse, started, deadline);
        // Both go away together: from then on everything is closed, and nothing shows that the network is up.
        let both = async {
            answering.accept().await.unwrap();
            wall.accept().await.unwrap();
            drop((answering, wall));
        };
        let (walls, ()) = tokio::join!(proof, both);
        assert_eq!((walls.judgement, walls.closed_after), (Judgement::Unknown, None), "{walls:?}");
    }
}
