use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> Option<String> {
    Host::parse(text).ok().map(|host| host.as_str().to_owned())
}

#[test]
fn p_b1_every_spelling_of_a_name_is_one_name() {
    for text in [
        "api.good.test",
        "API.GOOD.TEST",
        "api.good.test.",
        "api。good。test",
        "ａｐｉ.good.test",
        "a\u{ad}pi.good.test",
        "api．good｡test",
    ] {
        assert_eq!(canonical(text).as_deref(), Some("api.good.test"), "{text:?}");
    }
    for text in [
        "api.good.test..",
        ".api.good.test",
        "api..good.test",
        ".",
        "..",
        "",
        "a\u{200d}pi.good.test",
        "api good.test",
    ] {
        assert_eq!(canonical(text), None, "{text:?}");
    }
}

#[test]
fn p_b2_international_names_are_a_labels_and_confusables_stay_different() {
    assert_eq!(canonical("bücher.test").as_deref(), Some("xn--bcher-kva.test"));
    assert_eq!(canonical("XN--BCHER-KVA.test").as_deref(), Some("xn--bcher-kva.test"));
    // Non-transitional: ß is itself, not ss.
    assert_eq!(canonical("straße.test").as_deref(), Some("xn--strae-oqa.test"));
    assert_ne!(canonical("аpi.good.test").as_deref(), Some("api.good.test"));
    for text in ["xn--a-.test", "xn--zzzzzz9999999.test", "xn--.test"] {
        assert_eq!(canonical(text), None, "{text}");
    }
}

#[test]
fn a_host_is_shown_in_its_canonical_spelling() {
    let host = Host::parse("API.good.test.").unwrap();
    assert_eq!(
        (format!("{host}"), format!("{host:?}")),
        ("api.good.test".to_owned(), "api.good.test".to_owned())
    );
}

#[test]
fn a_host_is_bounded_as_it_is_written_and_as_it_is_read() {
    let hyphens = |count| "\u{ad}".repeat(count);
    let longest = format!("ab{}", hyphens((HOST_BYTES_MAX - 2) / 2));
    assert_eq!((longest.len(), canonical(&longest).as_deref()), (HOST_BYTES_MAX, Some("ab")));
    assert_eq!(canonical(&format!("{longest}c")), None, "a byte more");
    assert_eq!(canonical(&format!("{longest}{}", hyphens(99))), None, "many more");
    let longest_name = |letter: &str| [63, 63, 63, 61].map(|count| letter.repeat(count)).join(".");
    assert_eq!(canonical(&longest_name("ａ")), Some(longest_name("a")), "however many bytes a letter takes");
    assert_eq!(canonical(&format!("a{}", longest_name("a"))), None);
    let label = "a".repeat(63);
    assert_eq!(canonical(&format!("{label}.test")), Some(format!("{label}.test")));
    assert_eq!(canonical(&format!("a{label}.test")), None);
}

#[test]
fn a_number_of_an_address_fits_its_bytes_and_no_more() {
    for (text, expected) in [
        ("255.255.255.255", Some("255.255.255.255")),
        ("1.2.3.255", Some("1.2.3.255")),
        ("1.2.65535", Some("1.2.255.255")),
        ("1.16777215", Some("1.255.255.255")),
        ("4294967295", Some("255.255.255.255")),
        ("0xffffffff", Some("255.255.255.255")),
        ("0", Some("0.0.0.0")),
        ("1.2.3.256", None),
        ("1.2.65536", None),
        ("1.16777216", None),
        ("4294967296", None),
        ("256.2.3.4", None),
        ("1.256.3.4", None),
        ("1.2.3.4.0", None),
        ("0.0.0.0.0", None),
    ] {
        assert_eq!(canonical(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn p_c1_addresses_in_any_notation_are_the_address_or_malformed() {
    for text in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
    ] {
        assert_eq!(canonical(text).as_deref(), Some("127.0.0.1"), "{text}");
    }
    assert_eq!(canonical("[::127.0.0.1]").as_deref(), Some("[::7f00:1]"));
    assert_eq!(canonical("[0::1]").as_deref(), Some("[::1]"));
    for text in [
        "[::1%25lo]",
        "[::1%lo]",
        "[::1",
        "::1",
        "[]",
        "256.0.0.1",
        "1.2.3.4.5",
        // 0x alone is the number zero for a URL parser, and a name for a C library.
        "1.2.3.0x",
        "0x",
        "0X.",
        "08.0.0.1",
        "127..1",
        "0x1ffffffff",
        "good.test.1",
        "a.0x7f",
        "1.2.3.256",
        "+127.0.0.1",
    ] {
        assert_eq!(canonical(text), None, "{text}");
    }
}

#[test]
fn hosts_hold_nothing_that_another_parser_reads_differently() {
    for text in [
        "good.test\0",
        "good.test\n",
        "good.test:443",
        "user@good.test",
        "good.test/",
        "good.test\\",
        "good.test#",
        "good.test?",
        "g%6fod.test",
        "*.good.test",
        "good,evil.test",
        "good test",
        "\tgood.test",
        "a!b.test",
        "(good.test)",
    ] {
        assert_eq!(canonical(text), None, "{text:?}");
    }
    assert_eq!(canonical("my_bucket.good.test").as_deref(), Some("my_bucket.good.test"));
    assert_eq!(canonical(&format!("{}.test", "a".repeat(63))).map(|name| name.len()), Some(68));
    assert_eq!(canonical(&format!("{}.test", "a".repeat(64))), None);
    assert_eq!(canonical(&"a.".repeat(128)), None);
}

#[test]
fn p_a12_an_authority_is_a_host_and_a_plain_port() {
    for text in [
        "good",
        "good:",
        "good:443:80",
        "[::1]",
        "good:0",
        "good:65536",
        "good:+443",
        "good:0443",
        "good:４４３",
        ":443",
        "good: 443",
        "good:443 ",
        "user@good:443",
        "good:-1",
        "[::1]443",
        "[::1]:",
        "::1:443",
        "good:443/",
        "a]b:443",
        "",
    ] {
        assert!(parse_authority(text, None).is_err(), "{text:?}");
    }
    for (text, host, port) in [
        ("good.test:443", "good.test", 443),
        ("[::1]:8443", "[::1]", 8443),
        ("[::]:1", "[::]", 1),
        ("GOOD:1", "good", 1),
    ] {
        let (parsed, parsed_port) = parse_authority(text, None).unwrap();
        assert_eq!((parsed.as_str(), parsed_port), (host, port));
    }
    assert_eq!(parse_authority("good", Some(80)).unwrap().1, 80);
    assert_eq!(parse_authority("[::2]", Some(80)).unwrap().0.as_str(), "[::2]");
    for text in ["good:", "good:0", "", ":80", "good:x"] {
        assert!(parse_authority(text, Some(80)).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_name_that_is_canonical_at_a_glance_is_what_uts_46_makes_of_it(
        text in "([a-z0-9_-]{1,4}|xn--[a-z0-9-]{0,4}|[a-z]{60,66}|[A-Zß]|)(\\.([a-z0-9_-]{1,5}|xn--a|[a-z]{61,64}|)){0,5}",
    ) {
        if is_canonical(&text) {
            prop_assert_eq!(canonical_name(&text), Ok(text));
        }
    }

    #[test]
    fn an_address_that_is_canonical_at_a_glance_is_the_one_that_is_dialled(text in "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}") {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            prop_assert_eq!(Host::parse(&text), Ok(Host::from(IpAddr::V4(address))));
            prop_assert_eq!(ipv4(&text), Ok(address));
        }
    }

    #[test]
    fn parsing_a_canonical_host_again_changes_nothing(text in "\\PC{1,40}|[a-z0-9.x-]{1,20}|xn--[a-z0-9-]{1,12}|\\[[0-9a-f:.]{1,20}\\]") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(host.as_str()).unwrap(), host.clone());
            prop_assert_eq!(parse_authority(&format!("{host}:443"), None).unwrap(), (host, 443));
        }
    }
}
