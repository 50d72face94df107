use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentsandbox_policy::{Method, Request, Scheme, Target};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::audit::Audit;
use crate::entrance::Entrance;

const GOOD: [u8; 4] = [93, 184, 216, 34];
const NO_ERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

#[test]
fn p_b8_the_hosts_file_is_never_asked() {
    let mut options = ResolverOpts::default();
    assert!(options.use_hosts_file != ResolveHosts::Never, "it would be, if nothing were said");
    narrow(&mut options);
    assert!(options.use_hosts_file == ResolveHosts::Never);
}

#[test]
fn p_c9_an_address_is_remembered_for_five_seconds_at_least_and_five_minutes_at_most() {
    let mut options = ResolverOpts::default();
    narrow(&mut options);
    let seconds = |time: Option<Duration>| time.unwrap().as_secs();
    assert_eq!((seconds(options.positive_min_ttl), seconds(options.positive_max_ttl)), (5, 300));
    assert_eq!((seconds(options.negative_min_ttl), seconds(options.negative_max_ttl)), (5, 5));
}

#[test]
fn p_i4_the_addresses_of_few_names_are_remembered() {
    let mut options = ResolverOpts::default();
    assert!(options.cache_size > 1000, "they would be of many, if nothing were said");
    narrow(&mut options);
    assert_eq!(options.cache_size, 64);
}

/// A name server that answers with whatever it is told to; `true` stands for a query over TCP.
struct Server {
    resolver: Resolver,
    udp: Arc<AtomicUsize>,
    tcp: Arc<AtomicUsize>,
}

/// A port that is free over UDP as well as over TCP: the first that is found over one may be taken over the other.
async fn one_port() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
}

async fn serving(answer: impl Fn(&[u8], bool) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
    // Paused time would otherwise jump to the resolver's own timeouts while an answer is on its way.
    tokio::spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // And the kernel has to be given the time to bring it.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (socket, listener) = one_port().await;
    let address = listener.local_addr().unwrap();
    let (answer, udp, tcp) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (over_udp, asked) = (Arc::clone(&answer), Arc::clone(&udp));
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = over_udp(&buffer[..length], false) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    let asked = Arc::clone(&tcp);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            while let Ok(length) = io.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                io.read_exact(&mut query).await.unwrap();
                asked.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = answer(&query, true) else { break };
                let length = u16::try_from(answer.len()).unwrap();
                io.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.unwrap();
            }
        }
    });
    let mut ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for way in &mut ways {
        way.port = address.port();
    }
    let server = NameServerConfig::new(address.ip(), true, ways.to_vec());
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = Resolver { fixed: HashMap::new(), system: Some(build(builder).unwrap()) };
    Server { resolver, udp, tcp }
}

impl Server {
    async fn ask(&self) -> Result<Vec<IpAddr>, DenialReason> {
        let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
            rules: [{name: a, host: api.good.test, ports: [443], scheme: https}]}";
        let policy = Policy::from_yaml(text).unwrap();
        let permit = policy.decide(Request {
            scheme: Scheme::Https,
            host: Host::parse("api.good.test").unwrap(),
            port: 443,
            method: Method::parse("GET").unwrap(),
            target: Target::parse("/").unwrap(),
            websocket: false,
        });
        let audit =
            Audit::new(Box::new(std::io::sink()), crate::audit::pace::Pace::new(None), Arc::default());
        let mut entry = audit.open(Entrance::HttpProxy, Some(&policy));
        self.resolver.resolve(&entry.begins(permit.unwrap()).await.unwrap(), &policy).await
    }
}

/// An answer to a query (RFC 1035, 4.1): its flags' second byte, and its records. AAAA is answered with none.
fn answer(query: &[u8], truncated: bool, code: u8, name: &[u8], ttl: u32, address: [u8; 4]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let question = &query[12..end];
    let is_a = question[question.len() - 3] == 1;
    let count = u8::from(is_a && code == NO_ERROR && !truncated);
    let flags = [0x84 | u8::from(truncated) << 1 | query[2] & 1, code];
    let mut answer = [&query[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0], question].concat();
    if count == 1 {
        let fixed = [&[0, 1, 0, 1][..], &ttl.to_be_bytes(), &[0, 4]].concat();
        answer.extend([name, &fixed, &address].concat());
    }
    answer
}

/// The name that was asked for (RFC 1035, 4.1.4).
const ASKED: &[u8] = &[0xc0, 12];

fn good(query: &[u8], _: bool) -> Option<Vec<u8>> {
    Some(answer(query, false, NO_ERROR, ASKED, 0, GOOD))
}

#[tokio::test(start_paused = true)]
async fn p_c9_a_name_without_a_lifetime_is_asked_for_once_in_five_seconds() {
    let server = serving(good).await;
    for _ in 0..3 {
        assert_eq!(server.ask().await, Ok(vec![IpAddr::from(GOOD)]));
    }
    assert_eq!(server.udp.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn p_c9_a_truncated_answer_is_asked_for_again_over_tcp() {
    let server = serving(|query, over_tcp| Some(answer(query, !over_tcp, NO_ERROR, ASKED, 60, GOOD))).await;
    assert_eq!(server.ask().await, Ok(vec![IpAddr::from(GOOD)]));
    assert!(server.tcp.load(Ordering::SeqCst) > 0);
    let server = serving(|query, _| Some(answer(query, true, NO_ERROR, ASKED, 60, GOOD))).await;
    assert!(server.ask().await.is_err(), "truncated there as well");
}

#[tokio::test(start_paused = true)]
async fn p_c9_an_answer_that_is_none_is_an_error_and_never_an_address() {
    const EVIL: [u8; 4] = [10, 0, 0, 1];
    type Told = Box<dyn Fn(&[u8], bool) -> Option<Vec<u8>> + Send + Sync>;
    let answers: Vec<(&str, Told)> = vec![
        ("silence", Box::new(|_, _| None)),
        ("nothing", Box::new(|_, _| Some(vec![]))),
        ("a head alone", Box::new(|query, _| Some(query[..12].to_vec()))),
        ("oversize", Box::new(|query, _| Some([&query[..12], &[0xff; 60_000]].concat()))),
        (
            "a loop",
            Box::new(|query, _| {
                let at = u8::try_from(answer(query, true, NO_ERROR, ASKED, 60, EVIL).len()).unwrap();
                Some(answer(query, false, NO_ERROR, &[0xc0, at], 60, EVIL))
            }),
        ),
        (
            "another id",
            Box::new(|query, over_tcp| {
                let mut answer = good(query, over_tcp)?;
                answer[0] ^= 0xff;
                Some(answer)
            }),
        ),
        (
            "another question",
            Box::new(|query, over_tcp| {
                let mut answer = good(query, over_tcp)?;
                answer[13] = b'x';
                Some(answer)
            }),
        ),
        (
            "another name",
            Box::new(|query, _| Some(answer(query, false, NO_ERROR, b"\x04evil\x04test\0", 60, EVIL))),
        ),
        (
            "no question",
            Box::new(|query, over_tcp| {
                let mut answer = good(query, over_tcp)?;
                answer[5] = 0;
                Some(answer)
            }),
        ),
    ];
    for (what, told) in answers {
        let server = serving(told).await;
        assert!(server.ask().await.is_err(), "{what}");
    }
    for (code, reason) in
        [(SERVFAIL, DenialReason::UpstreamUnreachable), (NXDOMAIN, DenialReason::NameNotFound)]
    {
        let server = serving(move |query, _| Some(answer(query, false, code, ASKED, 60, GOOD))).await;
        assert_eq!(server.ask().await, Err(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn p_c9_a_name_whose_question_failed_is_not_said_to_have_no_address() {
    // There is no answer for A, and AAAA has no record.
    let is_a = |query: &[u8]| query[12..].windows(4).any(|part| part == [0, 0, 1, 0]);
    for code in [None, Some(SERVFAIL)] {
        let server = serving(move |query, _| match code {
            Some(code) if is_a(query) => Some(answer(query, false, code, ASKED, 60, GOOD)),
            None if is_a(query) => None,
            _ => Some(answer(query, false, NO_ERROR, ASKED, 60, GOOD)),
        })
        .await;
        assert_eq!(server.ask().await, Err(DenialReason::UpstreamUnreachable), "{code:?}");
    }
    let server = serving(move |query, _| {
        let code = if is_a(query) { NXDOMAIN } else { NO_ERROR };
        Some(answer(query, false, code, ASKED, 60, GOOD))
    })
    .await;
    assert_eq!(server.ask().await, Err(DenialReason::NameNotFound));
}

#[tokio::test(start_paused = true)]
async fn p_c9_no_damage_to_an_answer_ends_the_resolver() {
    let seed = Arc::new(AtomicUsize::new(1));
    let server = serving(move |query, over_tcp| {
        let mut answer = good(query, over_tcp)?;
        for _ in 0..3 {
            let random = seed.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
            let at = 2 + random % (answer.len() - 2);
            answer[at] = u8::try_from(random >> 8 & 0xff).unwrap();
        }
        Some(answer)
    })
    .await;
    for _ in 0..100 {
        // Whatever it is, it is an answer or an error; addresses are judged later.
        let _ = server.ask().await;
        server.resolver.system.as_ref().unwrap().clear_cache();
    }
    assert!(server.udp.load(Ordering::SeqCst) >= 100);
}
