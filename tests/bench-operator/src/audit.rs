//! The API server's audit log: who asked for what, and when. It is the API server's word, not the contender's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::Failure;

/// One finished request, as far as it is counted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Debug, Default, Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// Requests by verb and resource, such as `patch agentsandboxes/status`.
pub type Counts = BTreeMap<String, u64>;

/// What one user asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Writes that the API server took, without Events and Leases.
    pub writes: Counts,
    /// Events that it wrote.
    pub events: u64,
    /// Gets and lists. Watches are opened, not counted.
    pub reads: Counts,
    /// What was answered with an error, with the code before it.
    pub refused: Counts,
    /// When the first of all its requests arrived.
    pub first: Option<Timestamp>,
    /// When its last write was answered, refused or not; Events and Leases are not counted.
    pub last_write: Option<Timestamp>,
}

impl Tally {
    fn add(&mut self, event: &Event) {
        let subresource = &event.object_ref.subresource;
        let slash = if subresource.is_empty() { "" } else { "/" };
        let what = format!("{} {}{slash}{subresource}", event.verb, event.object_ref.resource);
        let is_write = matches!(event.verb.as_str(), "create" | "update" | "patch" | "delete");
        self.first.get_or_insert(event.request_received_timestamp);
        // The lease of a leader tells nothing of sandboxes.
        if event.object_ref.resource == "leases" || event.verb == "watch" {
            return;
        }
        if is_write && event.object_ref.resource != "events" {
            self.last_write = self.last_write.max(Some(event.stage_timestamp));
        }
        let counts = if event.response_status.code >= 400 {
            return *self.refused.entry(format!("{} {what}", event.response_status.code)).or_default() += 1;
        } else if !is_write {
            &mut self.reads
        } else if event.object_ref.resource == "events" {
            return self.events += 1;
        } else {
            &mut self.writes
        };
        *counts.entry(what).or_default() += 1;
    }
}

/// Reads what was written to the log since the last look, for one user.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    user: String,
    offset: u64,
}

impl Follower {
    /// Of what is written from now on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn from_now(path: PathBuf, user: &str) -> Result<Self, Failure> {
        let offset = path.metadata().map_err(|error| unreadable(&path, &error))?.len();
        Ok(Self { path, user: user.to_owned(), offset })
    }

    /// Adds what is new to a tally.
    ///
    /// # Errors
    /// When the log cannot be read, or has a line that is not the API server's.
    pub fn read(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        let mut file = File::open(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(|error| unreadable(&self.path, &error))?;
        // A line that is being written is read the next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        bytes.truncate(whole);
        self.offset += whole as u64;
        count(&String::from_utf8_lossy(&bytes), &self.user, tally)
    }
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("the audit log {} cannot be read: {error}", path.display()))
}

fn count(text: &str, user: &str, tally: &mut Tally) -> Result<(), Failure> {
    // Most lines are of others, and reading each as JSON would take a processor from what is measured.
    let named = format!("\"username\":\"{user}\"");
    for line in text.lines().filter(|line| line.contains(&named)) {
        let event: Event = serde_json::from_str(line)
            .map_err(|error| Failure::new(format!("the audit log has an unknown line: {error}")))?;
        if event.stage == "ResponseComplete" && event.user.username == user {
            tally.add(&event);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, resource: &str, subresource: &str, code: u16, second: u8) -> String {
        format!(
            "{{\"stage\":\"ResponseComplete\",\"verb\":\"{verb}\",\"user\":{{\"username\":\"me\",\"groups\":[]}},\
             \"objectRef\":{{\"resource\":\"{resource}\",\"subresource\":\"{subresource}\"}},\
             \"responseStatus\":{{\"metadata\":{{}},\"code\":{code}}},\
             \"requestReceivedTimestamp\":\"2026-01-01T00:00:{second:02}.000001Z\",\"stageTimestamp\":\"2026-01-01T00:00:{second:02}.500000Z\"}}\n"
        )
    }

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }

    #[test]
    fn writes_reads_events_and_refusals_are_told_apart() {
        let text = [
            line("list", "pods", "", 200, 1),
            line("create", "pods", "", 201, 2),
            line("create", "pods", "", 201, 3),
            line("patch", "agentsandboxes", "status", 200, 4),
            line("create", "pods", "", 409, 5),
            line("create", "events", "", 201, 6),
            line("update", "leases", "", 200, 7),
            line("watch", "pods", "", 200, 8),
        ]
        .concat();
        let mut tally = Tally::default();
        count(&text, "me", &mut tally).unwrap();
        assert_eq!(tally.writes, counts(&[("create pods", 2), ("patch agentsandboxes/status", 1)]));
        assert_eq!(tally.reads, counts(&[("list pods", 1)]));
        assert_eq!(tally.refused, counts(&[("409 create pods", 1)]));
        assert_eq!(tally.events, 1);
        assert_eq!(tally.first, "2026-01-01T00:00:01.000001Z".parse().ok());
        let refused = "2026-01-01T00:00:05.500000Z".parse().ok();
        assert_eq!(tally.last_write, refused, "one that still tries has not settled");
    }

    #[test]
    fn what_others_ask_is_not_counted_and_a_line_in_the_making_is_read_later() {
        let file = std::env::temp_dir().join(format!("bench-operator-audit-{}", std::process::id()));
        let old = line("create", "secrets", "", 201, 0);
        std::fs::write(&file, &old).unwrap();
        let (mut follower, mut tally) = (Follower::from_now(file.clone(), "me").unwrap(), Tally::default());
        let all = [
            line("create", "pods", "", 201, 1).replace("\"me\"", "\"them\""),
            line("create", "pods", "", 201, 2),
        ];
        let all = format!("{old}{}", all.concat());
        std::fs::write(&file, &all[..all.len() - 9]).unwrap();
        follower.read(&mut tally).unwrap();
        assert_eq!(tally, Tally::default());
        std::fs::write(&file, &all).unwrap();
        follower.read(&mut tally).unwrap();
        follower.read(&mut tally).unwrap();
        assert_eq!(tally.writes, counts(&[("create pods", 1)]));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_line_that_cannot_be_read_is_no_zero() {
        assert!(count("{\"user\":{\"username\":\"me\"}}", "me", &mut Tally::default()).is_err());
    }
}
