//! What an agent prints, and what its proxy writes down.
//!
//! What the agent prints is hostile, and a pipe may end at a terminal. So it goes through [`Filter`] wherever it goes, unless it is asked
//! for raw.

use std::io::Write;

use agentsandbox_crds::names::{COMPONENT_AGENT, COMPONENT_PROXY, SUFFIX_AGENT, SUFFIX_PROXY};
use anstyle::AnsiColor;
use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde_json::Value;

use crate::args::{LogsArgs, Output};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::find;
use crate::text::{Filter, harmless_json, harmless_line};

/// How much is read at a time.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Whether what is shown may reach a terminal, which would obey it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is made harmless.
    Harmless,
    /// As it is.
    Raw,
}

/// Prints the log of the sandbox's agent, or its proxy's audit lines.
///
/// # Errors
/// Where there is no such sandbox, or its log is not given.
pub async fn print(
    cluster: &Cluster,
    args: &LogsArgs,
    shown: Shown,
    out: &mut impl Write,
) -> Result<(), Error> {
    let sandbox = find::sandbox(cluster, &args.name).await?;
    let (suffix, container, whose) = match args.audit {
        true => (SUFFIX_PROXY, COMPONENT_PROXY, "proxy"),
        false => (SUFFIX_AGENT, COMPONENT_AGENT, "agent"),
    };
    let params = LogParams {
        container: Some(container.to_owned()),
        follow: args.follow,
        previous: args.previous,
        tail_lines: args.tail,
        ..LogParams::default()
    };
    let pod = find::pod(cluster, &sandbox, suffix).await?;
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let what = format!(
        "the log of the {whose} of AgentSandbox {0}; `kubectl agentsandbox status {0}` says how far it is",
        args.name
    );
    let log = find::in_time(what, pods.log_stream(&pod, &params)).await?;
    match args.audit {
        true => audit(log, args.output, out).await,
        false => copy(log, shown, out).await,
    }
}

/// Copies what an agent printed.
///
/// # Errors
/// When it ends too early, or nobody reads any more.
pub async fn copy(
    mut log: impl AsyncBufRead + Unpin,
    shown: Shown,
    out: &mut impl Write,
) -> Result<(), Error> {
    let (mut filter, mut chunk) = (Filter::default(), vec![0; CHUNK_BYTES]);
    loop {
        let count = log.read(&mut chunk).await?;
        let bytes = chunk.get(..count).unwrap_or_default();
        match shown {
            Shown::Raw => out.write_all(bytes)?,
            Shown::Harmless if count == 0 => out.write_all(filter.rest().as_bytes())?,
            Shown::Harmless => out.write_all(filter.push(bytes).as_bytes())?,
        }
        out.flush()?;
        if count == 0 {
            return Ok(());
        }
    }
}

async fn audit(log: impl AsyncBufRead + Unpin, output: Output, out: &mut impl Write) -> Result<(), Error> {
    let mut lines = log.lines();
    while let Some(line) = lines.try_next().await? {
        // What the proxy says of itself stands between them.
        let Some(record) = record(&line) else { continue };
        match output {
            Output::Json => writeln!(out, "{}", harmless_json(&line))?,
            Output::Table => writeln!(out, "{}", pretty(&record))?,
        }
        out.flush()?;
    }
    Ok(())
}

/// An audit line, if it is one.
fn record(line: &str) -> Option<Value> {
    let record: Value = serde_json::from_str(line).ok()?;
    (record["decision"].is_string() && record["event"].is_string() && record["seq"].is_u64())
        .then_some(record)
}

/// An audit line for people.
fn pretty(record: &Value) -> String {
    let text = |key: &str| match &record[key] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let is_denied = record["decision"] == "deny";
    let style = if is_denied { AnsiColor::Red.on_default() } else { AnsiColor::Green.on_default() };
    let host = [text("host"), text("port")].into_iter().flatten().collect::<Vec<_>>().join(":");
    let place = format!("{host}{}", text("path").unwrap_or_default());
    let words = [text("method"), Some(place).filter(|place| !place.is_empty())];
    let words = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let labelled = ["rule", "credential", "reason", "status", "folded"]
        .into_iter()
        .filter_map(|key| Some(format!(" {key}={}", text(key)?)))
        .collect::<String>();
    format!(
        "{} {style}{:5}{style:#} {:5} {}{}",
        harmless_line(&text("time").unwrap_or_default()),
        harmless_line(&text("decision").unwrap_or_default()),
        harmless_line(&text("event").unwrap_or_default()),
        harmless_line(&words),
        harmless_line(&labelled)
    )
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use serde_json::json;

    use super::*;

    const HOSTILE: &[u8] = b"begin \x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xff gr\xc3\xbc\xc3\x9fe\nend\xc3";

    async fn copied(shown: Shown) -> Vec<u8> {
        let mut out = Vec::new();
        copy(Cursor::new(HOSTILE), shown, &mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn what_an_agent_prints_is_shown_without_its_escapes_and_raw_as_it_is() {
        let shown = String::from_utf8(copied(Shown::Harmless).await).unwrap();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("grüße\nend\u{fffd}") && shown.contains("\\u{1b}[2J"), "{shown:?}");
        assert_eq!(copied(Shown::Raw).await, HOSTILE);
    }

    fn line(decision: &str, reason: Option<&str>) -> String {
        json!({"version": 1, "time": "2026-06-01T00:00:00Z", "seq": 4, "event": "end", "decision": decision, "method": "GET",
            "host": "a.test", "port": 443, "path": "/x\u{9b}2J", "rule": "a", "credential": null, "reason": reason, "status": 200})
        .to_string()
    }

    #[tokio::test]
    async fn audit_lines_are_told_from_what_the_proxy_says_of_itself() {
        let log = format!(
            "{}\n{{\"level\":\"INFO\"}}\nnot json\n{}\n",
            line("allow", None),
            line("deny", Some("X"))
        );
        let printed = async |output| {
            let mut out = Vec::new();
            audit(Cursor::new(log.as_bytes()), output, &mut out).await.unwrap();
            String::from_utf8(out).unwrap()
        };
        let json = printed(Output::Json).await;
        assert_eq!(json.lines().count(), 2, "{json}");
        assert_eq!(record(json.lines().next().unwrap()), record(&line("allow", None)));
        let table = anstream::adapter::strip_str(&printed(Output::Table).await).to_string();
        assert_eq!(
            table.lines().next().unwrap(),
            "2026-06-01T00:00:00Z allow end   GET a.test:443/x\\u{9b}2J rule=a status=200"
        );
        assert!(table.lines().nth(1).unwrap().contains("deny") && table.contains("reason=X"), "{table}");
    }
}
