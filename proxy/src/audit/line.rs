//! A record as the bytes of its line. Each request writes two, so the names of the fields are not looked through for what has to
//! be escaped, and the line is made in one buffer. It says what serde would write; a test holds it against that.

use std::net::SocketAddr;

use serde::Serialize;

use super::record::{Decision, Event, Record, Sandbox};

/// Puts the line, with its end, behind others.
pub(super) fn put(record: &Record, lines: &mut Vec<u8>) -> serde_json::Result<()> {
    let Record { sandbox: Sandbox { namespace, name, uid }, .. } = record;
    let mut line = Line(lines);
    line.value("{\"version\":", &record.version)?;
    line.text(",\"time\":", &record.time)?;
    line.value(",\"seq\":", &record.seq)?;
    line.text(",\"sandbox\":{\"namespace\":", namespace)?;
    line.text(",\"name\":", name)?;
    line.text(",\"uid\":", uid)?;
    line.text("},\"entrance\":", record.entrance.as_str())?;
    line.text(",\"event\":", event(record.event))?;
    line.text(",\"requestId\":", &record.request_id)?;
    line.text_if_any(",\"host\":", record.host.as_ref())?;
    line.value(",\"port\":", &record.port)?;
    line.text_if_any(",\"method\":", record.method.as_ref())?;
    line.text_if_any(",\"path\":", record.path.as_ref())?;
    line.text_if_any(",\"rule\":", record.rule.as_ref())?;
    line.text(",\"decision\":", decision(record.decision))?;
    line.value(",\"reason\":", &record.reason)?;
    line.text_if_any(",\"credential\":", record.credential.as_ref())?;
    line.address(",\"address\":", record.address)?;
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

    fn text_if_any(&mut self, field: &str, text: Option<&String>) -> serde_json::Result<()> {
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
        // Without an early end, so that many bytes are looked at in one step.
        if !text.bytes().fold(true, |all, byte| all & stands_for_itself(byte)) {
            return self.value(field, &text);
        }
        self.0.extend_from_slice(field.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
        Ok(())
    }
}

/// Whether JSON has this byte as it is; of others serde knows more.
const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use agentsandbox_policy::DenialReason;
    use proptest::prelude::*;

    use super::super::record::VERSION;
    use super::*;
    use crate::entrance::Entrance;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z./-]{0,20}", "\\PC{0,12}", "[\"\\\\\\x00-\\x1f\\x7f\u{2028}a]{0,6}"]
    }

    type Texts = (String, String, Option<String>, Option<String>, Option<String>);

    fn record(
        texts: Texts,
        numbers: (u64, Option<u16>, i64, Option<u64>),
        kinds: (usize, usize, bool),
    ) -> Record {
        let (time, name, host, path, rule) = texts;
        let (seq, port, generation, folded) = numbers;
        let (event, entrance, denied) = kinds;
        Record {
            version: VERSION,
            time: time.clone(),
            seq,
            sandbox: Sandbox { namespace: name.clone(), name, uid: time.clone() },
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
            request_id: time,
            method: host.clone(),
            credential: path.clone(),
            host,
            port,
            path,
            rule,
            decision: if denied { Decision::Deny } else { Decision::Allow },
            reason: denied.then_some(DenialReason::HostNotAllowed),
            address: port.map(|port| match port % 2 {
                0 => SocketAddr::from(([127, 0, 10, 255], port)),
                _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, port], port)),
            }),
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
