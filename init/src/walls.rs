//! Rounds of attempts until one whole round is closed.
//!
//! Policy engines program a pod's rules after it starts, so the first rounds usually find routes open; the fence then
//! tries again at once. A closed round counts only if the proxy had answered before that round began: otherwise a
//! network that is not up yet would look exactly like a wall. [`judge`] is pure; [`prove`] runs the rounds.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::args::IcmpRule;
use crate::probe::{self, Sighting};
use crate::route::Route;

/// Once one route is open the round has failed; it goes on this long, for others that answer as quickly.
const GATHER: Duration = Duration::from_millis(20);
/// A round that takes longer than this is given up, whatever keeps it.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// Pause between rounds while rules are likely to appear any moment.
const PAUSE_YOUNG: Duration = Duration::from_millis(10);
/// Pause between rounds later on: by now something is wrong, and the API server need not be knocked on all the time.
const PAUSE_OLD: Duration = Duration::from_millis(200);
/// Age at which rounds slow down; engines take 50 to 100 ms, and seconds under load.
const YOUNG: Duration = Duration::from_secs(3);

/// What one round saw. Routes that had not concluded when the round was given up are in none of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
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
    /// Every route was tried and is closed.
    Closed,
    /// A route is open.
    Open,
    /// No route is known to be open, but some were not tried.
    Unknown,
}

/// What all rounds came to.
#[derive(Clone, Debug)]
pub struct Walls {
    /// Rounds made.
    pub rounds: u32,
    /// When a whole round was first closed.
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
    if routes == 0 || concluded < routes { Judgement::Unknown } else { Judgement::Closed }
}

fn disqualifies(route: &Route, icmp: IcmpRule) -> bool {
    match icmp {
        IcmpRule::Refuse => true,
        IcmpRule::Report => !route.protocol.is_icmp(),
    }
}

/// Makes rounds until one is closed that began after the proxy had answered, or until the deadline.
pub async fn prove(
    routes: &[Route],
    icmp: IcmpRule,
    mut answered: watch::Receiver<bool>,
    started: Instant,
    deadline: Instant,
) -> Walls {
    let mut walls = Walls::none();
    loop {
        let answered_before = *answered.borrow();
        // The last round is not cut short, so that the report of a failure names every route.
        let last = Instant::now() + PAUSE_OLD + probe::WINDOW * 2 >= deadline;
        let gather = if last { probe::WINDOW * 2 } else { GATHER };
        walls.last = round(routes, icmp, gather).await;
        walls.rounds += 1;
        walls.judgement = judge(&walls.last, routes.len(), icmp);
        if walls.judgement == Judgement::Closed {
            walls.closed_after.get_or_insert_with(|| started.elapsed());
            let waited = async { answered.wait_for(|answered| *answered).await.is_ok() };
            if answered_before || !timeout_at(deadline.into(), waited).await.unwrap_or(false) {
                return walls;
            }
            continue;
        }
        walls.closed_after = None;
        if last || Instant::now() >= deadline {
            return walls;
        }
        sleep(if started.elapsed() < YOUNG { PAUSE_YOUNG } else { PAUSE_OLD }).await;
    }
}

/// Tries every route at once, and goes on for `gather` once one is open.
async fn round(routes: &[Route], icmp: IcmpRule, gather: Duration) -> Round {
    let mut attempts: FuturesUnordered<_> =
        routes.iter().map(|route| async move { (*route, probe::attempt(*route).await) }).collect();
    let mut round = Round::default();
    // Attempts bound themselves. A pod with little CPU is throttled, and then they end late; a bound of the round's own
    // would turn that into a round that proves nothing, for ever.
    let give_up = sleep_until((Instant::now() + ROUND_MAX).into());
    tokio::pin!(give_up);
    let mut failed = false;
    loop {
        let (route, sighting) = tokio::select! {
            biased;
            next = attempts.next() => match next {
                Some(concluded) => concluded,
                None => break,
            },
            () = &mut give_up => break,
        };
        match sighting {
            Sighting::Open => round.open.push(route),
            Sighting::Closed => round.closed.push(route),
            Sighting::Untried(errno) => round.untried.push((route, errno.to_string())),
        }
        if !failed && round.open.last().is_some_and(|route| disqualifies(route, icmp)) {
            failed = true;
            give_up.as_mut().reset((Instant::now() + gather).into());
        }
    }
    round.open.sort_unstable();
    round.closed.sort_unstable();
    round
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::route::Protocol;

    fn route(protocol: Protocol, target: &str) -> Route {
        Route { protocol, target: target.parse().unwrap() }
    }

    #[test]
    fn only_a_whole_closed_round_is_a_proof() {
        let tcp = route(Protocol::Tcp, "192.0.2.1:443");
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
            ("icmp and tcp open", vec![icmp, tcp], vec![], vec![], IcmpRule::Report, Judgement::Open),
        ];
        for (case, open, closed, untried, rule, expected) in cases {
            assert_eq!(judge(&Round { open, closed, untried }, 2, rule), expected, "{case}");
        }
    }

    #[test]
    fn no_routes_are_no_proof() {
        assert_eq!(judge(&Round::default(), 0, IcmpRule::Report), Judgement::Unknown);
    }

    fn seconds(count: u64) -> (Instant, Instant) {
        let started = Instant::now();
        (started, started + Duration::from_secs(count))
    }

    async fn listener() -> (TcpListener, Vec<Route>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target: SocketAddr = listener.local_addr().unwrap();
        (listener, vec![Route { protocol: Protocol::Tcp, target }])
    }

    #[tokio::test]
    async fn rounds_go_on_until_the_wall_is_up() {
        let (listener, routes) = listener().await;
        let (_proxy, answered) = watch::channel(true);
        let (started, deadline) = seconds(10);
        let wall = async {
            sleep(Duration::from_millis(100)).await;
            drop(listener);
        };
        let (walls, ()) = tokio::join!(prove(&routes, IcmpRule::Refuse, answered, started, deadline), wall);
        assert_eq!(walls.judgement, Judgement::Closed);
        assert!(walls.rounds > 1 && walls.last.closed == routes, "{walls:?}");
        assert!(walls.closed_after.is_some_and(|after| after >= Duration::from_millis(100)));
    }

    #[tokio::test]
    async fn a_route_that_stays_open_is_named_at_the_deadline() {
        let (_listener, routes) = listener().await;
        let (_proxy, answered) = watch::channel(true);
        let started = Instant::now();
        let walls =
            prove(&routes, IcmpRule::Refuse, answered, started, started + Duration::from_millis(150)).await;
        assert_eq!((walls.judgement, walls.closed_after), (Judgement::Open, None));
        assert_eq!(walls.last.open, routes);
    }

    #[tokio::test]
    async fn a_closed_round_before_the_proxy_answered_does_not_count() {
        let (listener, routes) = listener().await;
        drop(listener);
        let (proxy, answered) = watch::channel(false);
        let (started, deadline) = seconds(10);
        let answer = async {
            sleep(Duration::from_millis(60)).await;
            proxy.send(true).unwrap();
        };
        let (walls, ()) = tokio::join!(prove(&routes, IcmpRule::Refuse, answered, started, deadline), answer);
        assert_eq!((walls.judgement, walls.rounds), (Judgement::Closed, 2));
    }
}
