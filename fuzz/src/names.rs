//! Names, paths and addresses: one spelling, and the same as another reader of URLs has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentsandbox_policy::{Host, Scheme, Target, parse_authority};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use url::Url;

use crate::rules;

/// What ends a host, or begins something else, in the other reader's URL.
const NO_HOST: [char; 9] = ['/', '\\', '?', '#', '@', ':', '\t', '\n', '\r'];

/// A host or authority is refused or has one spelling, and the `url` crate (the WHATWG's URL) reads the same host in it.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host), "it has two spellings");
        let inside = text.trim_start_matches('[').trim_end_matches(']');
        if text.starts_with('[') || !inside.contains(NO_HOST) {
            same_host(&host, &format!("https://{text}/"));
        }
        same_host(&host, &format!("https://{host}/"));
    }
    if let Ok((host, port)) = parse_authority(text, Some(443)) {
        assert_ne!(port, 0);
        let again = parse_authority(&format!("{host}:{port}"), None);
        assert_eq!(again, Ok((host.clone(), port)), "what is judged is not what is sent");
        let url = Url::parse(&format!("https://{text}/")).expect("the other reader takes it, too");
        assert_eq!(url.port_or_known_default(), Some(port), "another port is read in {text:?}");
        same_host(&host, url.as_str());
    }
}

/// The other reader keeps a dot at the end of a name, and IPv4 in IPv6 clothes.
fn same_host(host: &Host, url: &str) {
    let url = Url::parse(url).unwrap_or_else(|error| panic!("{host} is none in {url:?}: {error}"));
    let other = match url.host().expect("it has a host") {
        url::Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => Host::from(IpAddr::V6(address)).as_str().to_owned(),
    };
    assert_eq!(host.as_str(), other, "another host is read in {url}");
}

/// The other reader takes `/x:/..` for a drive of Windows, which no `..` leaves, in any URL and not only in those of files. What is
/// sent has no `..` left in it, so that no server asks itself.
fn has_drive_letter(text: &str) -> bool {
    let is_drive =
        |part: &[u8]| part[0] == b'/' && part[1].is_ascii_alphabetic() && matches!(part[2], b':' | b'|');
    text.as_bytes().windows(3).any(is_drive)
}

/// A path and query is refused or has one spelling; a reader of URLs takes the same path from what the agent wrote and
/// from what is sent; and a parameter that is put in is the only one of its name.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = Target::parse(text) else { return };
    assert_eq!(Target::parse(target.as_str()).as_ref(), Ok(&target), "it has two spellings");
    match target.as_str().parse::<http::uri::PathAndQuery>() {
        Ok(sent) => assert_eq!(sent.as_str(), target.as_str(), "something else is sent than was judged"),
        // hyper takes these from no agent, and sends them to no upstream.
        Err(_) => {
            assert!(target.query().is_some_and(|query| query.contains(['"', '<', '>'])), "it is not sent")
        }
    }
    let read = |text: &str| Url::parse(&format!("https://a.test{text}")).expect("a URL");
    let (written, sent) = (read(text), read(target.as_str()));
    assert_eq!(sent.path(), target.path(), "a server reads another path than was judged");
    let of_written = Target::parse(written.path()).expect("what another reader makes of it is a path");
    if !has_drive_letter(text) {
        assert_eq!(of_written.path(), target.path(), "another path is read in {text:?}");
    }
    let injected = target.with_query_parameter("key", "s&e=c;r%e+t");
    assert_eq!(injected.path(), target.path());
    let pairs = read(injected.as_str());
    let values: Vec<String> = pairs
        .query_pairs()
        .filter(|(name, _)| name.eq_ignore_ascii_case("key"))
        .map(|(_, value)| value.into_owned())
        .collect();
    assert_eq!(values, ["s&e=c;r%e+t"], "{injected:?}");
}

/// Whatever an answer of the DNS holds, no address is dialled that is not public. The address is judged as it is in
/// every form that the answer's reader gives out.
pub fn address_guard(data: &[u8]) {
    let mut addresses = Vec::new();
    if let Ok(message) = Message::from_vec(data) {
        addresses.extend(message.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }));
    }
    addresses.extend(data.first_chunk::<4>().map(|four| IpAddr::V4(Ipv4Addr::from(*four))));
    addresses.extend(data.first_chunk::<16>().map(|all| IpAddr::V6(Ipv6Addr::from(*all))));
    let asked = rules::request(Scheme::Https, "api.good.test", 443, "GET", "/v1/x");
    let permit = rules::known().decide(asked).expect("a rule allows it");
    for address in addresses {
        let Ok(dial) = permit.dial(rules::known(), address) else { continue };
        assert_eq!(dial.address().ip(), address.to_canonical(), "another address is dialled than was judged");
        assert!(is_global(dial.address().ip()), "{address} is dialled");
    }
}

/// The ranges of the registries (IANA IPv4 and IPv6 special-purpose addresses), by the octets that everybody knows.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (b & 0xc0) == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b & 0xfe) == 18)
                || v4 == Ipv4Addr::new(168, 63, 129, 16))
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            (first & 0xe000) == 0x2000
                && first != 0x2002
                && !(first == 0x2001 && (second == 0 || second == 0xdb8))
                && !(first == 0x3fff && second < 0x1000)
        }
    }
}
