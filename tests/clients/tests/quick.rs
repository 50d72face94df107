//! The clients that every machine of this project has, through every entrance that they can use. The others need downloads:
//! `cargo xtask clients` runs them all. Of an organisation's own proxies Squid and Dante are here, whose packages a first run downloads from
//! Debian into the cache.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

use agentsandbox_clients::catalogue::{Catalogue, Client, Quick};
use agentsandbox_clients::cell::{CLIENT_TIMEOUT_SECS, Script, script};
use agentsandbox_clients::entrance::Entrance;
use agentsandbox_clients::install::Folders;
use agentsandbox_clients::rig::{self, Rig};
use agentsandbox_clients::run::{self, Selection};
use agentsandbox_world::names;

#[test]
fn quick_clients_are_answered_and_refused_through_each_entrance() {
    let catalogue = Catalogue::read().unwrap();
    let clients: Vec<_> = catalogue.clients.iter().filter(|client| client.quick == Quick::Yes).collect();
    assert!(clients.iter().all(|client| client.needs.is_empty()), "a quick client needs no download");
    let found = run::run(&catalogue, &Selection { clients, ..Selection::default() }).unwrap();
    assert!(found.rows.len() > 15, "only {} rows", found.rows.len());
    let faults = found.faults();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn p_i14_an_organisations_own_proxy_takes_our_login_or_refuses_it_and_the_client_is_told_which() {
    let catalogue = Catalogue::read().unwrap();
    let quick = |client: &&Client| client.quick == Quick::Yes;
    let fronts =
        catalogue.fronts.iter().map(|front| (front, catalogue.clients_of(front).filter(quick).collect()));
    let found =
        run::run(&catalogue, &Selection { fronts: fronts.collect(), ..Selection::default() }).unwrap();
    let protocols: Vec<_> = found.fronts.iter().map(|row| row.protocol).collect();
    assert_eq!(protocols, ["CONNECT", "CONNECT", "SOCKS5", "SOCKS5"], "curl and git");
    let faults = found.faults();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What an agent does to get around the proxy, in two seconds, since a packet that goes nowhere is never answered; with `$BASE` for the host that it would like to reach.
const WAYS_AROUND: [&str; 9] = [
    "curl -sS --max-time 2 --fail-with-body --noproxy '*' \"$BASE/thing\"",
    "NO_PROXY='*' no_proxy='*' curl -sS --max-time 2 --fail-with-body -k \"$BASE/thing\"",
    "env -i PATH=\"$PATH\" curl -sS --max-time 2 --fail-with-body -k \"$BASE/thing\"",
    "printf 'proxy = \"\"\\ninsecure\\n' > \"$HOME/.curlrc\"; curl -sS --max-time 2 --fail-with-body \"$BASE/thing\"",
    "timeout 2 git -c http.proxy= -c http.sslVerify=false ls-remote \"$BASE/thing\"",
    "python3 -c 'import os, ssl, urllib.request as u; \
     u.build_opener(u.ProxyHandler({}), u.HTTPSHandler(context=ssl._create_unverified_context())).open(os.environ[\"BASE\"] + \"/thing\", timeout=2)'",
    // The right name at the real server's own address, and at the proxy's.
    "curl -sS --max-time 2 --fail-with-body -k --noproxy '*' --resolve '*:443:93.184.215.14' \"$BASE/thing\"",
    "curl -sS --max-time 2 --fail-with-body -k --noproxy '*' --resolve '*:443:10.9.0.1' \"$BASE/thing\"",
    // A name that is allowed for the handshake, and the other inside.
    "curl -sS --max-time 2 --fail-with-body -k --noproxy '*' -H 'Host: evil.world.test' https://echo.world.test/allowed/thing",
];

fn ask(rig: &Rig, run: &str, base: &str) -> (Option<i32>, String) {
    let folders = Folders::new();
    let (entrance, base, seconds) = (Entrance::Connect, base.to_owned(), CLIENT_TIMEOUT_SECS);
    let (code, said) = script(rig, &Script { run, entrance, base, folders: &folders, seconds }).unwrap();
    assert_eq!(Rig::secret_in(&said), None, "{run}: {said}");
    (code, said)
}

#[test]
fn p_i2_a_client_that_ignores_proxy_and_certificates_gains_nothing() {
    rig::build().unwrap();
    let rig = Rig::start(&Catalogue::read().unwrap(), &Folders::new()).unwrap();
    let ask = |run: &str, base: &str| ask(&rig, run, base);
    // Each of these ways reaches what is allowed, by the transparent entrance; so none fails for its own faults below.
    for run in WAYS_AROUND.iter().filter(|run| !run.contains("git") && !run.contains("93.184.215.14")) {
        let base = "https://echo.world.test/allowed";
        let run = run
            .replace("-H 'Host: evil.world.test'", "")
            .replace("--max-time 2", "--max-time 20")
            .replace("timeout=2)", "timeout=20)");
        let (code, said) = ask(&run, base);
        assert_eq!(code, Some(0), "{run}: {said}");
    }
    let arrived = rig.requests().unwrap();
    assert!(!arrived.is_empty() && arrived.iter().all(|seen| seen.host == names::ECHO), "{arrived:?}");

    rig.forget().unwrap();
    for run in WAYS_AROUND {
        for base in ["https://evil.world.test", "https://echo.world.test/denied", "https://93.184.215.66"] {
            let (code, said) = ask(run, base);
            assert_ne!(code, Some(0), "{run} {base}: {said}");
        }
    }
    assert_eq!(rig.requests().unwrap(), []);
    let asked_for = rig.names_asked_for().unwrap();
    assert!(!asked_for.iter().any(|name| name == names::EVIL), "{asked_for:?}");
    assert_eq!(rig.packets().unwrap().0, 0, "a packet of the agent's own arrived");
}
