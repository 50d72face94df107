//! A record as the bytes of its line. Each request writes two, so the names of the fields are not looked through for what has to
//! be escaped, and the line is made in one buffer. It says what serde would write; a test holds it against that.

use std::net::SocketAddr;

use serde::Serialize;

use super::record::{Decision, Event, Record, RequestId, Sandbox};

/// Puts the line, with its end, behind others.
pub(super) fn put(record: &Record, lines: &mut Vec<u8>) -> serde_json::Result<()> {
    let Sandbox { namespace, name, uid } = record.sandbox.sandbox();
    let mut line = Line(lines);
    line.value("{\"version\":", &record.version)?;
    line.text(",\"time\":", &record.time)?;
    line.value(",\"seq\":", &record.seq)?;
    line.text(",\"sandbox\":{\"namespace\":", namespace)?;
    line.text(",\"name\":", name)?;
    line.text(",\"uid\":", uid)?;
    line.name("},\"entrance\":", record.entrance.as_str());
    line.name(",\"event\":", event(record.event));
    line.request_id(",\"requestId\":", record.request_id);
    line.text_if_any(",\"host\":", record.host.as_deref())?;
    line.value(",\"port\":", &record.port)?;
    line.text_if_any(",\"method\":", record.method.as_deref())?;
    line.text_if_any(",\"path\":", record.path.as_deref())?;
    line.text_if_any(",\"rule\":", record.rule.as_deref())?;
    line.name(",\"decision\":", decision(record.decision));
    line.value(",\"reason\":", &record.reason)?;
    line.text_if_any(",\"credential\":", record.credential.as_deref())?;
    if let Some(certificate) = &record.client_certificate {
        line.text(",\"clientCertificate\":", certificate)?;
    }
    if let Some(shown) = &record.client_certificate_shown {
        line.value(",\"clientCertificateShown\":", shown)?;
    }
    line.address(",\"address\":", record.address)?;
    if let Some(resent) = &record.resent {
        line.value(",\"resent\":", resent)?;
    }
    if let Some(leads) = &record.leads_to_http {
        line.value(",\"leadsToHttp\":", leads)?;
    }
    if let Some(told) = &record.last_event {
        line.value(",\"lastEvent\":", told)?;
    }
    if let Some(drained) = &record.drained {
        line.value(",\"drained\":", drained)?;
    }
    line.value(",\"status\":", &record.status)?;
    line.value(",\"bytesUp\":", &record.bytes_up)?;
    line.value(",\"bytesDown\":", &record.bytes_down)?;
    line.value(",\"millis\":", &record.millis)?;
    line.value(",\"generation\":", &record.generation)?;
    if let Some(folded) = &record.folded {
        line.value(",\"folded\":", folded)?;
    }
    line.0.extend_from_slice(b"}\n");
    Ok(())
}

const fn event(event: Event) -> &'static str {
    match event {
        Event::Begin => "begin",
        Event::End => "end",
        Event::Admit => "admit",
        Event::Deny => "deny",
    }
}

const fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn value(&mut self, field: &str, value: &impl Serialize) -> serde_json::Result<()> {
        self.0.extend_from_slice(field.as_bytes());
        serde_json::to_writer(&mut *self.0, value)
    }

    fn text_if_any(&mut self, field: &str, text: Option<&str>) -> serde_json::Result<()> {
        match text {
            Some(text) => self.text(field, text),
            None => self.value(field, &()),
        }
    }

    fn address(&mut self, field: &str, address: Option<SocketAddr>) -> serde_json::Result<()> {
        let Some(SocketAddr::V4(address)) = address else { return self.value(field, &address) };
        let [first, rest @ ..] = address.ip().octets();
        self.0.extend_from_slice(field.as_bytes());
        self.value("\"", &first)?;
        rest.iter().try_for_each(|part| self.value(".", part))?;
        self.value(":", &address.port())?;
        self.0.push(b'"');
        Ok(())
    }

    fn text(&mut self, field: &str, text: &str) -> serde_json::Result<()> {
        if !stands_for_itself(text.as_bytes()) {
            return self.value(field, &text);
        }
        self.name(field, text);
        Ok(())
    }

    /// A text that JSON has as it is.
    fn name(&mut self, field: &str, text: &str) {
        self.0.reserve(field.len() + text.len() + 2);
        self.0.extend_from_slice(field.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    fn request_id(&mut self, field: &str, RequestId { run, number }: RequestId) {
        self.0.extend_from_slice(field.as_bytes());
        self.0.push(b'"');
        self.hexadecimal(run, 16);
        self.0.push(b'-');
        self.hexadecimal(number, 6);
        self.0.push(b'"');
    }

    /// So many digits at least.
    fn hexadecimal(&mut self, number: u64, least: usize) {
        let mut digits = [b'0'; 16];
        let (mut rest, mut needed) = (number, 0);
        for digit in digits.iter_mut().rev() {
            if rest == 0 {
                break;
            }
            let value = u8::try_from(rest & 0xf).unwrap_or_default();
            *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
            (rest, needed) = (rest >> 4, needed + 1);
        }
        self.0.extend_from_slice(digits.get(digits.len() - needed.max(least)..).unwrap_or_default());
    }
}

/// Whether JSON has each of these bytes as it is; of others serde knows more. Eight are looked at in one step.
fn stands_for_itself(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<8>() else {
        return text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\');
    };
    let (words, _) = text.as_chunks::<8>();
    words.iter().chain([last]).all(|word| {
        let word = u64::from_le_bytes(*word);
        let is_zero = |bytes: u64| bytes.wrapping_sub(EACH) & !bytes;
        let below_space = word.wrapping_sub(EACH * 0x20) & !word;
        let above_tilde = ((word & !HIGH) + EACH) | word;
        let quote_or_backslash = is_zero(word ^ (EACH * 0x22)) | is_zero(word ^ (EACH * 0x5c));
        (below_space | above_tilde | quote_or_backslash) & HIGH == 0
    })
}

/// One in each byte.
const EACH: u64 = u64::MAX / 0xff;
/// The highest bit of each byte.
const HIGH: u64 = EACH << 7;

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use agentsandbox_policy::DenialReason;
    use agentsandbox_policy::document::SandboxIdentity;
    use proptest::prelude::*;

    use super::super::record::{Owner, Text, VERSION};
    use super::*;
    use crate::entrance::Entrance;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z./-]{0,20}",
            "\\PC{0,12}",
            "[\"\\\\\\x00-\\x1f\\x7f\u{2028}a]{0,6}",
            "[ -~]{0,9}[\"\\\\\\x00-\\x1f\\x7f\u{2028}~ !#\\[\\]]{0,2}[a-z]{0,9}"
        ]
    }

    type Texts = (String, String, Option<String>, Option<String>, Option<String>);

    fn record(
        texts: Texts,
        numbers: (u64, Option<u16>, i64, Option<u64>),
        kinds: (usize, usize, bool),
    ) -> Record {
        let (time, name, host, path, rule) = texts;
        let identity = SandboxIdentity { namespace: name.clone(), name, uid: time.clone() };
        let (seq, port, generation, folded) = numbers;
        let (event, entrance, denied) = kinds;
        Record {
            version: VERSION,
            time,
            seq,
            sandbox: Owner(Some(Arc::new(identity))),
            entrance: [
                Entrance::HttpProxy,
                Entrance::Socks5,
                Entrance::BaseUrl,
                Entrance::TransparentTls,
                Entrance::TransparentHttp,
                Entrance::Dns,
                Entrance::Enrolment,
            ][entrance],
            event: [Event::Begin, Event::End, Event::Admit, Event::Deny][event],
            request_id: RequestId { run: seq, number: folded.unwrap_or(seq) },
            method: host.clone().map(Cow::Owned),
            credential: path.clone().map(Text::from),
            client_certificate: rule.clone().map(Text::from),
            client_certificate_shown: port.map(|port| port % 2 == 0),
            host: host.map(Text::from),
            port,
            path: path.map(Text::from),
            rule: rule.map(Text::from),
            decision: if denied { Decision::Deny } else { Decision::Allow },
            reason: denied.then_some(DenialReason::HostNotAllowed),
            address: port.map(|port| match port % 2 {
                0 => SocketAddr::from(([127, 0, 10, 255], port)),
                _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, port], port)),
            }),
            resent: port.map(|port| port % 3 == 0),
            leads_to_http: port.map(|port| port % 5 == 0),
            last_event: port.map(|port| port % 5 == 0),
            drained: port.map(|port| port % 7 == 0),
            status: port,
            bytes_up: seq,
            bytes_down: seq,
            millis: seq,
            generation,
            folded,
        }
    }

    proptest! {
        #[test]
        fn a_line_is_what_serde_would_write(
            texts in (text(), text(), prop::option::of(text()), prop::option::of(text()), prop::option::of(text())),
            numbers in (any::<u64>(), any::<Option<u16>>(), any::<i64>(), any::<Option<u64>>()),
            kinds in (0..4_usize, 0..7_usize, any::<bool>()),
        ) {
            let record = record(texts, numbers, kinds);
            let mut line = Vec::new();
            put(&record, &mut line).unwrap();
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            prop_assert_eq!(String::from_utf8(line).unwrap(), serde_json::to_string(&record).unwrap() + "\n");
        }
    }
}
