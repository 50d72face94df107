use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

const ISSUED: &str = "sk-0123456789abcdef0123456789abcdef";

fn placeholders(of_one: &[&str], of_other: &[&str]) -> Arc<Placeholders> {
    let list = |texts: &[&str]| serde_json::to_string(texts).unwrap();
    let scopes = "inject: {type: Bearer}, scopes: [{host: a.test, ports: [443]}]";
    let text = format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [],
          credentials: [{{name: one, placeholders: {}, {scopes}}}, {{name: other, placeholders: {}, {scopes}}}]}}",
        list(of_one),
        list(of_other)
    );
    Arc::new(Placeholders::of(&Policy::from_yaml(&text).unwrap()).unwrap())
}

/// Each character of the text percent-encoded.
fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Each character of the text escaped as in JSON.
fn json(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u00{byte:02X}")).collect()
}

#[test]
fn p_f3_a_placeholder_is_found_in_each_spelling_of_a_head() {
    let all = placeholders(&[ISSUED], &[]);
    for text in [
        ISSUED.to_owned(),
        format!("Bearer {ISSUED}"),
        format!("Basic {}", STANDARD.encode(format!("x:{ISSUED}"))),
        format!("Basic {}", STANDARD.encode(format!("user:{ISSUED}"))),
        format!("Basic {}", STANDARD.encode(format!("{ISSUED}:x"))),
        format!("Basic {}", STANDARD.encode(format!("user{ISSUED}:x"))),
        format!("Basic {}", STANDARD.encode(format!("{ISSUED}~"))),
        percent(ISSUED),
        percent(&percent(ISSUED)),
        percent(&STANDARD.encode(ISSUED)),
        ISSUED.replace('-', "%2d"),
        json(ISSUED),
        percent(&json(ISSUED)),
        format!("/a?b=%zz&c={ISSUED}"),
    ] {
        assert_eq!(all.misused(text.as_bytes(), None), Some("one"), "{text}");
        assert_eq!(all.misused(text.as_bytes(), Some("one")), None, "{text}");
        assert_eq!(all.misused(text.as_bytes(), Some("other")), Some("one"), "{text}");
    }
    for text in [
        "",
        "%",
        "\\",
        "sk-0123456789abcdef0123456789abcde",
        "SK-0123456789ABCDEF0123456789ABCDEF",
        "%%%\\u00",
    ] {
        assert_eq!(all.misused(text.as_bytes(), None), None, "{text}");
    }
    let name = format!("x-{ISSUED}");
    assert_eq!(
        all.misused_in([(name.as_str(), &b"1"[..])].into_iter(), |_| Some("one")),
        Some("one"),
        "no credential is put into a field's name"
    );
}

#[test]
fn one_constant_may_stand_for_several_credentials_and_be_a_part_of_another() {
    let all = placeholders(&["placeholder"], &["placeholder", "sk-ant-placeholder"]);
    for (text, own, found) in [
        ("placeholder", None, Some("one")),
        ("placeholder", Some("one"), None),
        ("placeholder", Some("other"), None),
        ("sk-ant-placeholder", Some("other"), None),
        ("sk-ant-placeholder", Some("one"), Some("other")),
        ("x-placeholder", Some("third"), Some("one")),
    ] {
        assert_eq!(all.misused(text.as_bytes(), own), found, "{text} {own:?}");
    }
    assert!(placeholders(&[], &[]).in_body().is_none());
}

#[test]
fn p_f3_a_constant_is_found_in_heads_if_it_is_long_enough_and_never_in_bodies() {
    let text = r#"{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, rules: [], credentials: [
        {name: one, placeholders: [issued-0123456789abcdef], constants: [placeholder, a-placeholder-of-28-letters], inject: {type: Bearer},
         scopes: [{host: a.test, ports: [443]}]}]}"#;
    let all = Arc::new(Placeholders::of(&Policy::from_yaml(text).unwrap()).unwrap());
    for (text, in_head, in_body) in [
        ("placeholder", false, false),
        ("a-placeholder-of-28-letters", true, false),
        ("issued-0123456789abcdef", true, true),
    ] {
        assert_eq!(all.misused(text.as_bytes(), None).is_some(), in_head, "{text}");
        let named = [(text, &b"1"[..])].into_iter();
        assert_eq!(all.misused_in(named, |_| None).is_some(), in_head, "{text}");
        assert_eq!(found(&all, text.as_bytes(), text.len()).is_some(), in_body, "{text}");
    }
}

/// Whether the placeholder is found when the text comes in frames of this size, and how many bytes came before.
fn found(all: &Arc<Placeholders>, text: &[u8], frame_bytes: usize) -> Option<usize> {
    let mut search = all.in_body().unwrap();
    let mut passed = 0;
    for frame in text.chunks(frame_bytes) {
        if let Some(credential) = search.finds(frame) {
            assert_eq!(credential, "one", "no other has it");
            return Some(passed);
        }
        passed += frame.len();
    }
    None
}

#[test]
fn p_f3_a_placeholder_in_a_body_is_found_before_its_last_byte_passes_wherever_frames_end() {
    let all = placeholders(&[ISSUED, "placeholder"], &["other-placeholder-with-sixteen-bytes"]);
    let spelled = [
        ISSUED.to_owned(),
        ISSUED.replace('-', "%2D"),
        percent(ISSUED),
        json(ISSUED),
        format!("\\\"{ISSUED}"),
        // A backslash that is escaped itself begins nothing, wherever a frame ends.
        format!("\\\\{}", json(ISSUED)),
    ];
    let encoded = ["", "a", "ab"].map(|before| STANDARD.encode(format!("{before}{ISSUED}=x")));
    for inner in spelled.into_iter().chain(encoded) {
        let text = format!("{{\"a\": \"50% \\n {inner}\", \"b\": \"\\u004\"}}");
        let end = text.find(&inner).unwrap() + inner.len();
        for frame_bytes in 1..=text.len() {
            let passed = found(&all, text.as_bytes(), frame_bytes);
            assert!(
                passed.is_some_and(|passed| passed < end),
                "{inner} in frames of {frame_bytes}: {passed:?}"
            );
        }
    }
    for harmless in ["{\"a\": \"placeholder\"}".to_owned(), ISSUED.replace('-', "%2"), ISSUED[1..].to_owned()]
    {
        for frame_bytes in 1..=harmless.len() {
            assert_eq!(found(&all, harmless.as_bytes(), frame_bytes), None, "{harmless}");
        }
    }
}

#[test]
fn p_f3_a_placeholder_in_trailers_is_found_by_their_names_and_their_values() {
    let search = placeholders(&["issued-for-one-0001"], &["issued-for-other-01"]).in_body().unwrap();
    for (name, value, expected) in [
        ("x-trailer", "issued-for-one-0001", Some("one")),
        ("x-trailer", "Bearer issued-for-other-01", Some("other")),
        ("x-issued-for-other-01", "1", Some("other")),
        ("x-trailer", "1", None),
    ] {
        let trailers = [(name, value.as_bytes())].into_iter();
        assert_eq!(search.finds_in_trailers(trailers), expected, "{name}: {value}");
    }
}

#[test]
fn p_f3_a_placeholder_passes_in_that_part_of_a_target_alone_which_its_secret_takes() {
    let credential = |name: &str, placeholder: &str, inject: &str| {
        format!(
            "{{name: {name}, placeholders: [{placeholder}], inject: {{{inject}}}, scopes: [{{host: {name}.test, ports: [443]}}]}}"
        )
    };
    let rule = |name: &str| {
        format!("{{name: {name}, host: {name}.test, ports: [443], scheme: https, credential: {name}}}")
    };
    let text = format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [{}, {}, {}, {{name: open, host: open.test, ports: [443], scheme: https}}],
          credentials: [{}, {}, {}]}}",
        rule("query"),
        rule("bot"),
        rule("header"),
        credential("query", "issued-for-query-01", "type: Query, name: key"),
        credential("bot", "issued-for-bot-0001", "type: PathSegment, after: /bot"),
        credential("header", "issued-for-header-1", "type: Header, name: x-key"),
    );
    let policy = Policy::from_yaml(&text).unwrap();
    let all = Placeholders::of(&policy).unwrap();
    for (host, target, expected) in [
        ("query.test", "/x?a=1&key=issued-for-query-01", None),
        ("query.test", "/x?a=issued-for-query-01", Some("query")),
        ("query.test", "/issued-for-query-01?key=issued-for-query-01", Some("query")),
        ("query.test", "/x?key=issued-for-bot-0001", Some("bot")),
        ("query.test", "/x", None),
        ("bot.test", "/botissued-for-bot-0001/send", None),
        ("bot.test", "/botissued-for-bot-0001/send?a=issued-for-bot-0001", Some("bot")),
        ("header.test", "/x?key=issued-for-header-1", Some("header")),
        ("open.test", "/x?key=issued-for-query-01", Some("query")),
        ("open.test", "/x?key=1", None),
    ] {
        let request = crate::Request {
            scheme: crate::Scheme::Https,
            host: crate::Host::parse(host).unwrap(),
            port: 443,
            method: crate::Method::parse("GET").unwrap(),
            target: crate::Target::parse(target).unwrap(),
            websocket: false,
        };
        let permit = policy.decide(request).unwrap();
        assert_eq!(all.misused_in_target(&permit), expected, "{host}{target}");
    }
}

#[test]
fn a_slash_that_json_escapes_is_a_slash() {
    let all = placeholders(&["issued/for/one-0001"], &[]);
    let text = r"issued\/for\/one-0001";
    assert_eq!(all.misused(text.as_bytes(), None), Some("one"));
    for frame_bytes in 1..=text.len() {
        assert!(found(&all, text.as_bytes(), frame_bytes).is_some(), "in frames of {frame_bytes}");
    }
}

proptest! {
    #[test]
    fn how_a_body_is_cut_into_frames_changes_nothing(
        text in "[a%\\\\u0-]{0,12}",
        inside in prop::bool::ANY,
        frame_bytes in 1_usize..9,
    ) {
        let all = placeholders(&["aa-0000-aa-0000-aa"], &[]);
        let text = if inside { format!("{text}aa%2d0000-aa\\u002D0000-aa{text}") } else { text };
        let whole = found(&all, text.as_bytes(), text.len().max(1)).is_some();
        prop_assert_eq!(found(&all, text.as_bytes(), frame_bytes).is_some(), whole, "{}", text);
    }
}
