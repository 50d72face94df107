use std::cell::Cell;
use std::sync::LazyLock;

use super::*;
use crate::{Host, Request, Scheme, Target};

const POLICY: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, rules: [
    {name: slack, host: slack.com, ports: [443], scheme: https, credential: slack},
    {name: lab, host: gitlab.com, ports: [443], scheme: https, credential: lab},
    {name: bare, host: bare.test, ports: [443], scheme: https},
    {name: free, host: free.test, ports: [443], scheme: https}], credentials: [
    {name: slack, inject: {type: Bearer}, scopes: [{host: slack.com, ports: [443]}]},
    {name: lab, pinnedHeaders: [{name: sudo}], inject: {type: Header, name: private-token}, scopes: [{host: gitlab.com, ports: [443]}]},
    {name: query, inject: {type: Query, name: k}, scopes: [{host: bare.test, ports: [443]}]}]}";
const JOINED: &str = "application/x-www-form-urlencoded";
const PARTS: &str = "multipart/form-data; boundary=b";
const VALUE: &str = "xoxb-own";

fn form(
    host: &str,
    method: &str,
    types: &[&str],
    encodings: &[&str],
) -> Result<Option<FormSearch>, Box<Denial>> {
    static READ: LazyLock<Policy> = LazyLock::new(|| Policy::from_yaml(POLICY).unwrap());
    let policy = &*READ;
    let permit = policy
        .decide(Request {
            scheme: Scheme::Https,
            host: Host::parse(host).unwrap(),
            port: 443,
            method: Method::parse(method).unwrap(),
            target: Target::parse("/x").unwrap(),
            websocket: false,
        })
        .unwrap();
    policy.form(
        &permit,
        types.iter().map(|text| text.as_bytes()),
        encodings.iter().map(|text| text.as_bytes()),
    )
}

/// The field that is found in a form that comes in frames of so many bytes, and how many bytes have passed before.
fn found(host: &str, kind: &str, body: &[u8], frame_bytes: usize) -> Option<(String, usize)> {
    let mut search = form(host, "POST", &[kind], &[]).unwrap().unwrap();
    let mut passed = 0;
    for frame in body.chunks(frame_bytes) {
        if let Some(field) = search.finds(frame) {
            return Some((field.to_owned(), passed));
        }
        passed += frame.len();
    }
    None
}

/// The same however the form is cut: nothing of the value has passed where a key is found.
fn finds(host: &str, kind: &str, body: &str) -> Option<String> {
    let value = body.find(VALUE).unwrap_or(body.len());
    let whole = found(host, kind, body.as_bytes(), body.len()).map(|(field, _)| field);
    for frame_bytes in 1..=body.len() {
        let cut = found(host, kind, body.as_bytes(), frame_bytes);
        assert!(cut.as_ref().is_none_or(|(_, passed)| *passed <= value), "{body:?}: {cut:?}");
        assert_eq!(cut.map(|(field, _)| field), whole, "{body:?} in frames of {frame_bytes}");
    }
    whole
}

#[test]
fn p_f1_a_key_of_the_agents_own_among_the_fields_of_a_form_is_found_before_its_value_passes() {
    for (host, body, expected) in [
        ("slack.com", "token=xoxb-own", Some("token")),
        ("slack.com", "channel=C1&token=xoxb-own", Some("token")),
        ("slack.com", "channel=C1;TOKEN=xoxb-own", Some("token")),
        ("slack.com", "channel;token=xoxb-own", Some("token")),
        ("slack.com", "a=b&%74%6fken=xoxb-own", Some("token")),
        ("slack.com", "a=b&+%20 token=xoxb-own", Some("token")),
        ("slack.com", "a=b&token+=xoxb-own", Some("token")),
        ("slack.com", "a=b&token[]=xoxb-own", Some("token")),
        ("slack.com", "a=b&token%5B0%5D=xoxb-own", Some("token")),
        ("slack.com", "a=b&\r\ntoken=xoxb-own", Some("token")),
        ("slack.com", "a=b&token%00abc=xoxb-own", Some("token")),
        ("slack.com", "a=b&%u0074oken=xoxb-own", Some("token")),
        ("slack.com", "a=b&%uFF54oken=xoxb-own", Some(ANY)),
        ("slack.com", "access.token=xoxb-own", Some("access_token")),
        ("slack.com", "channel=C1&text=token=1&tokens=2&a_token=3", None),
        ("slack.com", "text=my token is lost&a[token]=1&token", None),
        ("slack.com", "=token&text==token=1", None),
        ("gitlab.com", "private_token=xoxb-own", Some("private_token")),
        ("gitlab.com", "a=1&[private_token]=xoxb-own", Some("private_token")),
        ("gitlab.com", "a=1&job_token=xoxb-own", Some("job_token")),
        ("gitlab.com", "sudo=root", Some("sudo")),
        ("gitlab.com", "title=a&token=1", None),
        ("bare.test", "K=xoxb-own", Some("k")),
        ("bare.test", "token=1", None),
    ] {
        assert_eq!(finds(host, JOINED, body).as_deref(), expected, "{host} {body}");
    }
    let long = "x".repeat(1000);
    for (body, is_key) in [
        (format!("{long}token=1"), false),
        (format!("{long}=1&token=xoxb-own"), true),
        (format!("token[{long}]=xoxb-own"), true),
        (format!("token%00{long}=xoxb-own"), true),
        (format!("{}token=xoxb-own", "%20".repeat(1000)), true),
    ] {
        assert_eq!(found("slack.com", JOINED, body.as_bytes(), 7).is_some(), is_key, "{body}");
    }
}

fn part(head: &str) -> String {
    format!(
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\n{head}\r\n\r\nxoxb-own\r\n--b--\r\n"
    )
}

#[test]
fn p_f1_a_key_of_the_agents_own_in_a_part_of_a_form_is_found_before_its_value_passes() {
    for head in [
        "Content-Disposition: form-data; name=\"token\"",
        "content-disposition:form-data;name=token",
        "Content-Type: text/plain\r\nContent-Disposition: form-data; NAME=\"Token\"",
        "Content-Disposition: form-data;\r\n name=\"token\"",
        "Content-Disposition: form-data;\n\tname=\"token\"",
        "Content-Disposition : form-data; name = \"token\"",
        "Content-Disposition: form-data; filename=\"x\"; name=\"token\"",
        "Content-Disposition: form-data; name=\"to\\ken\"",
        "Content-Disposition: form-data; name=\"%74oken\"",
        "Content-Disposition: form-data; name=\"token[]\"",
        "Content-Disposition: form-data; name='token'",
        "Content-Disposition: form-data; name=\"\"token\"",
        "Content-Disposition: form-data; name=\"token\\\"x\"",
        "Content-Disposition: form-data; name=\"a\"; name=\"token\"",
        // PHP and HHVM: a line without a colon goes on with the one before, and a name ends at a NUL.
        "Content-Disposition: form-data;\r\nname=\"token\"",
        "Content-Disposition: form-data; na\r\nme=\"token\"",
        "Content-Disposition: form-data; name=\"to\r\nken\"",
        "Content-Disposition: form-data; name=\"token\0x\"",
        "Content-Disposition: form-data; na\0x\r\nme=\"token\"",
        // Werkzeug takes controls away, Django divides lines at CR LF alone.
        "\u{b}Content-Disposition: form-data; name=\"token\"",
        "\u{1f}Content-Disposition\u{b}: form-data; name=\"token\"",
        "Content-Disposition: form-data;\n\n\rname=\"token\"",
        "Content-Disposition: form-data;\r\r\n\nname=\"token\"",
        // Rack.
        "X-Note: Content-Disposition: form-data; name=\"token\"",
        "Content-ID: token",
        "content-id:<token>",
        "Content-Type: token",
        // Names in pieces, encoded, and with comments.
        "Content-Disposition: form-data; name*=UTF-8''token",
        "Content-Disposition: form-data; name*=utf-16le''t%00o%00k%00e%00n%00",
        "Content-Disposition: form-data; name*0=\"to\"; name*1=\"ken\"",
        "Content-Disposition: form-data; name*0* =\"to\"",
        "Content-Disposition: form-data; name=\"=?utf-8?q?token?=\"",
        "Content-Disposition: form-data; name(a(b))=token",
        "Content-Disposition: form-data; name=token**0",
        "Content-Disposition: form-data; name=utf-8''token",
        "Content-Disposition: form-data; name=\"utf-8'en'token\"",
        "Content-Disposition: form-data; name=token%41",
        "Content-Disposition: form-data; name=(a)token",
    ] {
        let found = finds("slack.com", PARTS, &part(head));
        assert!(found.is_some_and(|field| field == "token" || field == ANY), "{head:?}");
    }
    let line = format!("X-Long: {}", "x".repeat(5 << 10));
    let head = format!("{line}Content-Disposition: form-data; name=\"token\"");
    assert!(found("slack.com", PARTS, part(&head).as_bytes(), 1000).is_some(), "PHP goes on with a new line");
}

#[test]
fn p_f1_a_key_in_a_part_is_found_whatever_some_server_leaves_out_joins_or_decodes_in_its_head() {
    for head in [
        "Content-Disposition: form-data; name=(a(b)c)token",
        "Content-Disposition: form-data; name(a;b=c)=token",
        "Content-Disposition: form-data; name*(a)=utf-8''token",
        "Content-Disposition: form-data; name*0(a)=\"to\"; name*1=\"ken\"",
        "Content-Disposition: form-data; name==?utf-8?q?token?=",
        // Unquoted names end at other signs to Rack, Werkzeug and formidable.
        "Content-Disposition: form-data; name=token(x)",
        "Content-Disposition: form-data; name=token:x",
        "Content-Disposition: form-data; name=token/x",
        "Content-Disposition: form-data; name=token\\x",
        "Content-Disposition: form-data; name=token?x",
        "Content-Disposition: form-data; name=token=x",
        "Content-Disposition: form-data; name=token@x",
        "Content-Disposition: form-data; name=token{x}",
        "Content-Disposition: form-data; name=token\u{a0}x",
        // Blanks beyond ASCII around the key (Go, Django, Tornado, WebOb, aiohttp, Bottle).
        "Content-Disposition: form-data; name\u{a0}=\"token\"",
        "Content-Disposition: form-data; name\u{85}=token",
        "Content-Disposition: form-data; name\u{2003}=\"token\"",
        "Content-Disposition: form-data; \u{a0}name\u{7f}=\"token\"",
        "Content-Disposition: form-data; name*\u{a0}=utf-8''token",
        "Content-Disposition\u{a0}: form-data; name=\"token\"",
        // System.Web and Netty.
        "Content-Disposition: form-data; xname=\"token\"",
        "Content-Disposition: form-data; file-name=\"token\"",
        "Content-Disposition: form-data; \"name\"=token",
        "Content-Disposition: form-data; na\"me\"=token",
        "Content-Disposition: form-data; name:=token",
        "Content-Disposition x: form-data; name=\"token\"",
        "Content-Disposition \u{b}x y: form-data; name=\"token\"",
        // Rack, whose part says its character set.
        "Content-Disposition: form-data; name=\"to\u{1b}(Bken\"\r\nContent-Type: text/plain; charset=iso-2022-jp",
        "Content-ID: to\u{1b}(Bken\r\nContent-Type: text/plain; charset=iso-2022-jp",
        // PHP joins what stands before a NUL with the next line.
        "Content-Disposition: form-data;\0x\r\nna\0x\r\nme=\"token\"",
        "Content-Disposition:\0x\r\n na\0x\r\nme=\"token\"",
        "Content-Disposition: form-data; x=1\0\r\n; n\0x\r\name=token",
        "Content-Disposition: form-data;\0Content-Disposition: x\r\nna\0x\r\nme=token",
        "Content-Disposition: form-data; name\0x\r\n=token",
        "Content-Disposition: form-data; name=\0x\r\ntoken",
        "Content-Disposition: form-data; name=\"to\0x\r\nken\"",
        // What is no line of Content-Type to every reader.
        "Content-Disposition: form-data;\nContent-Type:; name*=utf-8''token",
        "Content-Disposition: form-data; x=\"Content-Type: \"; name*=utf-8''token",
        "Content-Disposition: a\r\nContent-Type: b\r\nContent-Disposition: form-data; name*=utf-8''token",
        "Content-Disposition: a\r\nContent-Type: b\nx: form-data; name=\"=?utf-8?q?token?=\"",
        "Content-Disposition: form-data\r\nContent-Type: x; name=\"token\"",
        "Content-Disposition: form-data; x=\"a:\"; name*0=\"to\"; name*1=\"ken\"",
        "Content-Disposition: a\r\nContent-Type: b; Content-Disposition: form-data; name*0=\"to\"; name*1=\"ken\"",
        "Content-Disposition: form-data; name=\"%uFF54oken\"",
    ] {
        let found = finds("slack.com", PARTS, &part(head));
        assert!(found.is_some_and(|field| field == "token" || field == ANY), "{head:?}");
    }
    let ebcdic =
        b"Content-Disposition: form-data; name=\"\xa3\x96\x92\x85\x95\"\r\nContent-Type: a; charset=ibm037";
    assert_eq!(found("slack.com", PARTS, ebcdic, 1).map(|(field, _)| field).as_deref(), Some(ANY), "Rack");
    let cut = format!("Content-Disposition: form-data;\0{}na\0x\r\nme=token", "x".repeat(5 << 10));
    assert!(found("slack.com", PARTS, part(&cut).as_bytes(), 1000).is_some(), "PHP goes on with a new line");
}

#[test]
fn parts_that_only_look_like_a_key_pass() {
    for head in [
        "Content-Disposition: form-data; name=\"file\"; filename=\"token\"",
        "Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''token",
        "Content-Disposition: form-data; name=\"file\"; filename=\"=?utf-8?q?token?=\"",
        "Content-Disposition: form-data; name=\"tokens\"",
        "Content-Disposition: form-data; name=\"a_token\"",
        "Content-Disposition: form-data; name=\"token.type\"",
        "Content-Disposition: form-data; name=\"a[token]\"",
        "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; token=1",
        "Content-Type: application/octet-stream; name=\"token\"",
        "Content-Id: <item1>\r\nContent-Type: application/json",
        "Content-Disposition: form-data; filename =\"token\"; FileName*0=token",
        "Content-Disposition: form-data; name=\"file\"; filename=\"%u4F60.txt\"",
        "Content-Type: text/plain; x=%u4F60",
        "Content-Disposition: form-data; name=\"你好\"; filename=\"\u{1b}[0m\"",
        "Content-Disposition, in short: form-data",
        "Content-Disposition: form-data; name=\"a)token\"",
        // What is no name by itself: a comment, and a word in an encoding of its own, behind other letters of one.
        "Content-Disposition: form-data; name=\"a(b)token\"",
        "Content-Disposition: form-data; name=a(b)token",
        "Content-Disposition: form-data; name=\"a =?utf-8?q?token?=\"",
        "Content-ID: =?utf-8?q?token?=",
        "Content-Disposition: form-data; name2=\"token\"; na1me=\"token\"",
        "Content-Disposition: form-data; name; token",
        "Content-Disposition: form-data; n*=\"token\"",
    ] {
        assert_eq!(finds("slack.com", PARTS, &part(head)), None, "{head}");
    }
    for content in [
        "token=1&token",
        "name=\"token\"",
        "Content-Disposition, name=\"token\"",
        "Content-Disposition: inline\r\n\r\nname=\"token\"",
        "Content-Type, Token",
        "abc: name=\"token\"",
        "abc d: name=\"token\"",
        "Content-Disposition of a part\nname=\"token\"",
        "*name* = token",
        // Mail, as Apple's and as Python's programs write it.
        "Content-Disposition: attachment;\r\n\tfilename*=utf-8''Bu%CC%88cher.pdf\r\nContent-Type: application/pdf;\r\n\tx-unix-mode=0644;\r\n\tname=\"=?utf-8?Q?Bu=CC=88cher=2Epdf?=\"\r\n\r\nAAAA",
        "Content-Disposition: attachment; filename=\"a.pdf\"\r\nContent-Type: application/pdf; Name*=utf-8''%C3%BC.pdf\r\n\r\nAAAA",
        "Content-Disposition: attachment; filename*=utf-8''%C3%BC.pdf\n\nAAAA\n",
        // Lines for training, logs and sources.
        "{\"c\":\"Content-Disposition: attachment\"}\n{\"c\":\"def name(self):\\n  x = 1\"}\n",
        "{\"c\":\"Content-Disposition: attachment\"}\n{\"c\":\"SELECT a WHERE name=?\"}\n",
        "# Content-Disposition: attachment\nfoo(name=(1,2))\nf.Name())\nerr := g(a_name(self))\nx = 1\n",
        "# Content-Disposition: attachment\nf(x)=\"token\"\n",
        "< content-disposition: attachment; filename=x\n<\n{\"a\":1}\nprint(user.name(1) == 2)",
        // Programs.
        "Content-Disposition: %s%s%s%s%s%s%s\0; filename=\"%s\"\0version\0name\0",
        "Content-Disposition: attachment;\0\0\0\0Content-Transfer-Encoding: base64%s%s\0\0\n; version\0",
        "Content-disposition:\0filename=\0name\0user_name=\0",
        "Content-Disposition: attachment\nContent-Type: na\0",
        "Content-Disposition: form-data; name=\"%s\"\0; filename=\"%s\"\0",
    ] {
        let head =
            "Content-Disposition: form-data; name=\"file\"; filename=\"x\"\r\nContent-Type: text/plain";
        assert_eq!(finds("slack.com", PARTS, &part(&format!("{head}\r\n\r\n{content}"))), None, "{content}");
    }
    for padding in [" ", " \n", "\r\n", "\n", "\0"] {
        let content = padding.repeat(100 << 10);
        let head = "Content-Disposition: form-data; name=\"file\"\r\n\r\n";
        assert_eq!(
            found("slack.com", PARTS, part(&format!("{head}{content}")).as_bytes(), 4096),
            None,
            "{padding:?}"
        );
    }
}

#[test]
fn p_f1_a_form_that_cannot_be_read_is_told_from_one_that_can_and_from_what_is_none() {
    let told = |method: &str, types: &[&str], encodings: &[&str]| match form(
        "slack.com",
        method,
        types,
        encodings,
    ) {
        Ok(None) => "none",
        Ok(Some(FormSearch { joined: Some(_), parts: None, .. })) => "joined",
        Ok(Some(FormSearch { joined: None, parts: Some(_), .. })) => "parts",
        Ok(Some(_)) => "both",
        Err(denial) => {
            assert_eq!(denial.reason, DenialReason::ForeignCredential);
            "unreadable"
        }
    };
    for (types, encodings, expected) in [
        (&[JOINED][..], &[][..], "joined"),
        (&["Application/X-WWW-Form-Urlencoded; charset=UTF-8"], &["identity"], "joined"),
        (&["application/x-url-encoded; charset=\"us-ascii\""], &[], "joined"),
        (&[PARTS], &["", " Identity "], "parts"),
        (&["multipart/mixed; boundary=x"], &[], "parts"),
        (&["Multipart/Form-Data; charset=utf-8; Boundary=\"x\""], &[], "parts"),
        (&["multipart/form-data; boundary=; boundary=b"], &[], "parts"),
        (&["multipart/form-data"], &[], "unreadable"),
        (&["multipart/form-data; boundary=\"\""], &[], "unreadable"),
        (&["multipart/form-data; boundary=;"], &[], "unreadable"),
        (&["multipart/form-data; boundary="], &[], "unreadable"),
        (&["multipart/form-data; boundary =b"], &[], "unreadable"),
        (&["multipart/mixed; boundary*=b"], &[], "unreadable"),
        (&["application/x-www-form-urlencoded; charset:utf-8"], &[], "joined"),
        (&["application/x-www-form-urlencoded; charset="], &[], "joined"),
        (&["application/x-www-form-urlencoded; charset=; a=b"], &[], "joined"),
        (&["application/x-www-form-urlencoded; charset= utf-16"], &[], "unreadable"),
        (&["text/plain, application/x-www-form-urlencoded, multipart/related; boundary=b"], &[], "both"),
        // Rack takes it for a form, WebOb one whose type names none.
        (&[], &[], "joined"),
        (&[""], &[], "joined"),
        (&["; charset=utf-8"], &[], "joined"),
        (&["json"], &[], "joined"),
        (&[", application/json"], &[], "joined"),
        (&["application/json"], &["gzip"], "none"),
        (&["application/json; charset=utf-16"], &[], "none"),
        (&["application/json", "text/plain"], &[], "none"),
        (&[JOINED], &["gzip"], "unreadable"),
        (&[PARTS], &["identity", "br"], "unreadable"),
        (&[], &["gzip"], "unreadable"),
        (&["application/x-www-form-urlencoded; charset=utf-7"], &[], "unreadable"),
        (&["application/x-www-form-urlencoded; charset=ibm037"], &[], "unreadable"),
        (&["application/x-www-form-urlencoded; charset*=utf-8''utf-16"], &[], "unreadable"),
        (&["application/x-www-form-urlencoded; charset =utf-16"], &[], "unreadable"),
        (&["multipart/form-data; charset=\"utf-16\"; boundary=b"], &[], "unreadable"),
        (&["text/plain", JOINED], &[], "unreadable"),
        (&["application/json", ""], &[], "unreadable"),
    ] {
        assert_eq!(told("POST", types, encodings), expected, "{types:?} {encodings:?}");
    }
    assert_eq!(told("PUT", &[JOINED], &[]), "joined");
    assert_eq!(told("PUT", &[], &["gzip"]), "none", "a file, as it is stored");
    for types in [&[JOINED][..], &[]] {
        assert!(form("free.test", "POST", types, &["gzip"]).unwrap().is_none(), "its host is sent no key");
    }
}

#[test]
fn p_i4_a_form_costs_the_same_for_each_byte_whatever_it_is_made_of() {
    const BYTES: usize = 256 << 10;
    let padded = format!("{}\nx\n", " ".repeat(4094));
    for piece in [
        "&",
        ";",
        "=",
        "[",
        "a[",
        "a&",
        "%",
        "%00",
        "%u00",
        " ",
        " \n",
        "\r\n",
        "\r",
        "content-",
        "c",
        "content-disposition:",
        "content-id:a ",
        "content-type: [",
        "name=",
        "n\r\n",
        "name=a\"",
        "name*",
        "name(",
        "content-disposition ",
        "content-disposition: name=(",
        "content-disposition: name=)%u1234",
        "content-disposition:;\0\n",
        "content-disposition: name=[a ",
        &padded,
    ] {
        let asked = Cell::new(0);
        let count = |_: &[u8]| {
            asked.set(asked.get() + 1);
            false
        };
        let (mut joined, mut parts) = (Joined::default(), Parts::default());
        let mut armed = Parts { head: Some(Head { disposes: true, ..Head::default() }), ..Parts::default() };
        let body: Vec<u8> = piece.bytes().cycle().take(BYTES).collect();
        for frame in body.chunks(1000) {
            let _ = joined.finds(frame, count);
            let _ = parts.finds(frame, count) || armed.finds(frame, count);
        }
        assert!(asked.get() <= BYTES + 10, "{piece:?}: {}", asked.get());
    }
}
