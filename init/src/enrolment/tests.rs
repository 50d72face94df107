use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

fn token_of(text: &[u8]) -> Result<Token, EnrolmentError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, text).unwrap();
    Token::read(&path)
}

fn token() -> Token {
    token_of(b"s3cret\n").unwrap()
}

/// What the functions under test come to; without the guard under test some would ask for ever.
async fn within<T>(outcome: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), outcome).await.expect("it comes to an end")
}

/// What a peer does with one connection after it has read the request.
#[derive(Clone, Copy)]
enum Peer {
    /// Answers, then closes at once.
    Says(&'static str),
    /// Never answers.
    Keeps,
}

/// A peer that treats the first connections as the list says and all later ones as its last entry; it counts them and
/// keeps what it was sent.
async fn peer(behaviour: &'static [Peer]) -> (SocketAddr, Arc<AtomicUsize>, Arc<std::sync::Mutex<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(String::new())));
    let (counter, hearing) = (count.clone(), heard.clone());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            *hearing.lock().unwrap() = String::from_utf8(request).unwrap();
            match behaviour.get(number).or(behaviour.last()) {
                Some(Peer::Says(text)) => stream.write_all(text.as_bytes()).await.unwrap(),
                Some(Peer::Keeps) | None => kept.push(stream),
            }
        }
    });
    (address, count, heard)
}

const TAKEN: Peer = Peer::Says("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
const NOT_YET: Peer = Peer::Says("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");

#[test]
fn a_token_that_is_missing_empty_or_malformed_is_refused_before_anything_is_sent() {
    let missing = Token::read(Path::new("/nonexistent/token"));
    assert!(matches!(missing, Err(EnrolmentError::ReadToken(_))));
    for text in [&b""[..], b" \n\t"] {
        assert!(matches!(token_of(text), Err(EnrolmentError::MalformedToken(None))), "{text:?}");
    }
    for text in [&b"a\nb"[..], b"a\x00b", b"a\x7fb"] {
        assert!(matches!(token_of(text), Err(EnrolmentError::MalformedToken(Some(_)))), "{text:?}");
    }
    assert!(matches!(token_of(b"\xff\xfe"), Err(EnrolmentError::ReadToken(_))), "not a text");
    let Token(value) = token();
    assert_eq!(value, "Bearer s3cret");
    assert!(value.is_sensitive() && !format!("{value:?}").contains("s3cret"), "no log shows it");
}

#[tokio::test]
async fn the_token_enrols_though_the_server_closes_after_its_answer() {
    let (proxy, count, heard) = peer(&[TAKEN]).await;
    within(enrol(proxy, &token())).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let heard = heard.lock().unwrap().to_ascii_lowercase();
    assert!(heard.starts_with("post /enrol http/1.1\r\n"), "{heard}");
    assert!(heard.contains("authorization: bearer s3cret\r\n"), "{heard}");
}

#[tokio::test]
async fn a_refusal_is_final_and_named() {
    for (behaviour, status) in [
        (&[Peer::Says("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")], StatusCode::UNAUTHORIZED),
        (&[Peer::Says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")], StatusCode::NOT_FOUND),
    ] {
        let (proxy, count, _) = peer(behaviour).await;
        let refused = within(enrol(proxy, &token())).await;
        assert!(matches!(refused, Err(EnrolmentError::Refused(found)) if found == status), "{refused:?}");
        assert_eq!(count.load(Ordering::SeqCst), 1, "asked once");
    }
}

#[tokio::test]
async fn what_is_neither_taken_nor_refused_is_asked_again() {
    let (proxy, count, _) = peer(&[
        NOT_YET,
        Peer::Says(""),
        Peer::Says("HTTP/1.1 2"),
        Peer::Says("nonsense\r\n\r\n"),
        Peer::Says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        TAKEN,
    ])
    .await;
    within(enrol(proxy, &token())).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 6, "only 204 means that the pod is enrolled");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_keeps_silent_is_left_after_a_second_and_asked_again() {
    let (proxy, count, _) = peer(&[Peer::Keeps, TAKEN]).await;
    let started = tokio::time::Instant::now();
    within(enrol(proxy, &token())).await.unwrap();
    assert!(started.elapsed() >= REQUEST_TIMEOUT, "{:?}", started.elapsed());
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_never_takes_the_pod_enrols_nobody() {
    for behaviour in [&[Peer::Keeps], &[NOT_YET]] {
        let (proxy, count, _) = peer(behaviour).await;
        let enrolled = timeout(Duration::from_secs(20), enrol(proxy, &token())).await;
        assert!(enrolled.is_err(), "{enrolled:?}");
        assert!(count.load(Ordering::SeqCst) > 1);
    }
    // An address on which nobody else listens, so that the port stays nobody's.
    let gone = TcpListener::bind((Ipv4Addr::new(127, 0, 91, 4), 0)).await.unwrap().local_addr().unwrap();
    let enrolled = timeout(Duration::from_secs(20), enrol(gone, &token())).await;
    assert!(enrolled.is_err(), "nobody listens: {enrolled:?}");
}

/// A name server that makes each answer from the query.
async fn name_server(answer: impl Fn(&Message) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 1024];
        loop {
            let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
            let query = Message::from_vec(&packet[..length]).unwrap();
            assert_eq!(query.queries[0].name().to_ascii(), NAME_UNKNOWN);
            socket.send_to(&answer(&query), peer).await.unwrap();
        }
    });
    address
}

fn response(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.response_code = code;
    answer.queries.clone_from(&query.queries);
    answer
}

#[tokio::test]
async fn a_policy_dns_that_denies_is_what_it_should_be() {
    let dns = name_server(|query| response(query, ResponseCode::NXDomain).to_vec().unwrap()).await;
    within(check_dns(dns)).await.unwrap();
}

#[tokio::test]
async fn a_dns_that_answers_a_name_no_rule_allows_is_found_out() {
    let dns = name_server(|query| {
        let mut answer = response(query, ResponseCode::NoError);
        let name = Name::from_ascii(NAME_UNKNOWN).unwrap();
        answer.answers.push(Record::from_rdata(name, 5, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
        answer.to_vec().unwrap()
    })
    .await;
    assert!(matches!(within(check_dns(dns)).await, Err(EnrolmentError::DnsInvents)));
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_malformed() {
    let garbage = name_server(|_| b"not DNS".to_vec()).await;
    let echo = name_server(|query| query.to_vec().unwrap()).await;
    let empty = name_server(|_| Vec::new()).await;
    let another = name_server(|query| {
        let mut answer = response(query, ResponseCode::NXDomain);
        answer.metadata.id = query.metadata.id.wrapping_add(1);
        answer.to_vec().unwrap()
    })
    .await;
    for (case, dns) in [("garbage", garbage), ("echo", echo), ("empty", empty), ("another id", another)] {
        assert!(matches!(within(check_dns(dns)).await, Err(EnrolmentError::DnsMalformed)), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dns_that_keeps_silent_is_asked_again_and_passes_for_nothing() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let checked = timeout(Duration::from_secs(2), check_dns(silent.local_addr().unwrap())).await;
    assert!(checked.is_err(), "{checked:?}");
    let mut packet = [0; 1024];
    for _ in 0..2 {
        silent.recv_from(&mut packet).await.unwrap();
    }
}
