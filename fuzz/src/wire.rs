//! The first bytes of a connection: TLS, SOCKS5, DNS.

use agentsandbox_policy::DenialReason;
use agentsandbox_proxy::entrance::dns::{answer_by, asked_name};
use agentsandbox_proxy::entrance::hello::is_encrypted;
use agentsandbox_proxy::entrance::socks5::greet;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use rustls::server::Acceptor;

use crate::pieces::{Script, cut};
use crate::{requests, rules};

/// RFC 9849, 5.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const SERVER_NAME: u16 = 0;

/// A client hello is read the same however it is cut into records; one that is encrypted is seen, and one that was made
/// by hand from any extensions is told apart by them alone.
pub fn client_hello(data: &[u8]) {
    // As it comes: the TLS library and our reader have the same bytes.
    let _ = is_encrypted(data);
    let mut acceptor = Acceptor::default();
    let mut rest = data;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        if !matches!(acceptor.accept(), Ok(None)) {
            break;
        }
    }
    // As a message of our own, in records of any size.
    let Some((plan, list)) = data.split_first() else { return };
    let kinds: Vec<u16> =
        list.chunks_exact(2).take(1000).map(|two| u16::from(two[0]) << 8 | u16::from(two[1])).collect();
    let record_bytes = usize::from(*plan) + 1;
    let encrypted = kinds.contains(&ENCRYPTED_CLIENT_HELLO);
    let whole = hello(&kinds, record_bytes);
    assert_eq!(is_encrypted(&whole), encrypted, "{kinds:?} in records of {record_bytes}");
    let half = whole.get(..whole.len() / 2).unwrap_or_default();
    assert!(is_encrypted(half), "what cannot be read counts as encrypted");
}

/// A client hello with these extensions, in records of this size (RFC 8446, 4.1.2 and 5.1).
fn hello(kinds: &[u16], record_bytes: usize) -> Vec<u8> {
    let two = |number: usize| u16::try_from(number).expect("it is short").to_be_bytes();
    let extension = |kind: &u16| {
        let content = if *kind == SERVER_NAME { &b"\x00\x06\x00\x00\x03abc"[..] } else { &b""[..] };
        [&kind.to_be_bytes()[..], &two(content.len()), content].concat()
    };
    let list: Vec<u8> = kinds.iter().flat_map(extension).collect();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &two(list.len()), &list].concat();
    let message = [&[1, 0][..], &two(body.len()), &body].concat();
    message.chunks(record_bytes).flat_map(|part| [&[22, 3, 1][..], &two(part.len()), part].concat()).collect()
}

/// A greeting names a canonical host and a port, or none, however it is cut; and only the reply that the RFC has for it
/// is written.
pub fn socks5(data: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let mut io = Script::of(pieces);
        let greeted = requests::block_on(greet(&mut io));
        (greeted, io.written)
    };
    let (whole, written) = read(&[data]);
    assert_eq!((&whole, &written), (&read(&cut(data)).0, &read(&cut(data)).1), "cut, it is read otherwise");
    assert!([&b""[..], &[5, 0], &[5, 0xff]].contains(&written.as_slice()), "{written:?}");
    if let Ok((host, port)) = whole {
        assert_ne!(port, 0);
        assert_eq!(agentsandbox_policy::Host::parse(host.as_str()).as_ref(), Ok(&host));
        assert_eq!(written, [5, 0], "a destination without a method");
        assert_eq!(data.first(), Some(&5));
    }
}

/// A query is answered with at most one address, for an allowed name alone, under its own id; whatever is not a query
/// is not answered.
pub fn dns_query(data: &[u8]) {
    let (mut allowed, mut refused) = (None, None::<DenialReason>);
    let answer = answer_by(
        data,
        |question| match asked_name(question).filter(|host| rules::known().answers(host)) {
            Some(host) => {
                allowed = Some(host);
                let data = RData::A(A(std::net::Ipv4Addr::LOCALHOST));
                (ResponseCode::NoError, Some(Record::from_rdata(question.name().clone(), 1, data)))
            }
            None => (ResponseCode::NXDomain, None),
        },
        |reason| refused = Some(reason),
    );
    let Some(answer) = answer else { return };
    let answer = Message::from_vec(&answer).expect("an answer can be read");
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(data.get(..2), Some(&answer.metadata.id.to_be_bytes()[..]));
    assert_eq!(answer.answers.len(), usize::from(allowed.is_some()));
    assert!(answer.queries.len() <= 1 && answer.authorities.is_empty() && answer.additionals.is_empty());
    assert!(refused.is_none() || allowed.is_none());
    if let Some(host) = allowed {
        let name = host.as_str();
        let good = name.strip_suffix(".good.test").or(name.strip_suffix(".wild.test"));
        assert!(
            good.is_some_and(|label| !label.is_empty() && !label.contains('.')),
            "{name} is answered for"
        );
    }
}
