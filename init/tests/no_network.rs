//! `agentsandbox-init run --no-network`, on the kernel that is here: what a program without a network finds, beside one in the network that it left.
//! Where this machine gives a thread no network of its own nothing is seen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod pod;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use agentsandbox_init::confine::network::{DATAGRAMS, STREAMS};
use agentsandbox_init::confine::{EXIT_NOT_CONFINED, attempts};
use pod::{PROXY, in_a_pods_network, shell};

const INIT: &str = env!("CARGO_BIN_EXE_agentsandbox-init");

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn bash(line: &str) -> Output {
    Command::new("bash").args(["-c", line]).output().unwrap()
}

fn without_network(line: &str) -> Output {
    let proxy = format!("--proxy={PROXY}");
    Command::new(INIT).args(["run", "--no-network", &proxy, "--", "bash", "-c", line]).output().unwrap()
}

/// Asks every port of the loopback, by TCP, and that of DNS by UDP.
fn asks() -> String {
    let ports = STREAMS.map(|port| port.to_string()).join(" ");
    format!(
        "for port in {ports}; do exec 3<>/dev/tcp/127.0.0.1/$port && echo -n ping >&3 && cat <&3; exec 3>&-; done; \
         exec 4<>/dev/udp/127.0.0.1/{DATAGRAMS} && echo -n ping >&4 && timeout 5 head -n 1 <&4"
    )
}

#[test]
fn without_a_network_each_entrance_of_the_proxy_is_found_on_the_loopback_and_nothing_else_is() {
    let Some((confined, open, beyond, control)) = in_a_pods_network(|| {
        let beyond = "exec 3<>/dev/udp/192.0.2.1/9 && echo sent; \
                      exec 3<>/dev/tcp/127.0.0.7/3128 && echo dialled; exit 5";
        (without_network(&asks()), bash(&asks()), without_network(beyond), bash(beyond))
    }) else {
        return;
    };
    let answers = STREAMS.map(|port| format!("ping to {port}\n")).concat() + "told\n";
    assert_eq!(String::from_utf8_lossy(&confined.stdout), answers, "{}", text(&confined));
    // There they are at the proxy's address alone.
    assert!(!text(&open).contains("ping to") && !text(&open).contains("told"), "{}", text(&open));
    let (told, control) = (text(&beyond), text(&control));
    assert_eq!(beyond.status.code(), Some(5), "the exit code is the command's: {told}");
    assert!(!told.contains("sent") && !told.contains("dialled"), "{told}");
    assert!(told.contains("Network is unreachable") && told.contains("Connection refused"), "{told}");
    assert!(control.contains("sent") && control.contains("dialled"), "{control}");
}

#[test]
fn who_has_no_network_does_not_come_back_to_the_pods_and_has_no_capability() {
    let ways = "other=$PPID; echo found $other; \
                nsenter -t $other -n true && echo back; nsenter -t $other -U true && echo back; ls -l /proc/$other/fd/ 2>&1 | grep socket && echo back; \
                readlink /proc/$other/ns/net && echo back; head -c 1 /proc/$other/mem && echo back; \
                unshare -Urn true && echo back; ip link add type dummy 2>/dev/null && echo back; ip link set lo down 2>/dev/null && echo back; \
                grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let Some(output) = in_a_pods_network(|| without_network(ways)) else { return };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = told.lines().next().and_then(|line| line.strip_prefix("found "));
    assert!(found.is_some_and(|number| number.parse::<u32>().is_ok()), "{}", text(&output));
    assert!(!told.contains("back"), "{}", text(&output));
    for kind in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(told.lines().any(|line| line == format!("{kind}:\t0000000000000000")), "{kind}: {told}");
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(told.lines().any(|seen| seen == line), "no {line} in {told}");
    }
}

#[test]
fn the_agent_ends_with_what_carries_for_it() {
    let Some(agent) = in_a_pods_network(|| {
        let mut before = Command::new(INIT)
            .args([
                "run",
                "--no-network",
                &format!("--proxy={PROXY}"),
                "--",
                "sh",
                "-c",
                "echo $$; exec sleep 1000",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(before.stdout.take().unwrap()).read_line(&mut number).unwrap();
        before.kill().unwrap();
        before.wait().unwrap();
        number.trim().to_owned()
    }) else {
        return;
    };
    assert!(!agent.is_empty());
    // The kernel may take a moment.
    let gone = || !Path::new("/proc").join(&agent).join("exe").exists();
    let tried = (0..500).any(|_| {
        let is_gone = gone();
        if !is_gone {
            bash("true");
        }
        is_gone
    });
    assert!(tried, "{agent} is still there");
}

#[test]
fn who_has_no_network_ends_as_its_program_does_is_told_signals_and_keeps_its_way_whatever_it_ends() {
    let Some((by_code, by_signal, asked, told)) = in_a_pods_network(|| {
        let mut waiting = Command::new(INIT)
            .args(["run", "--no-network", &format!("--proxy={PROXY}"), "--", "bash", "-c"])
            .arg("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(waiting.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(bash(&format!("kill -TERM {}", waiting.id())).status.success());
        let ends_group = format!("trap : TERM HUP; kill -TERM 0; kill -HUP 0; {}", asks());
        (
            without_network("exit 13"),
            without_network("kill -KILL $$"),
            without_network(&ends_group),
            waiting.wait().unwrap(),
        )
    }) else {
        return;
    };
    assert_eq!(by_code.status.code(), Some(13), "{}", text(&by_code));
    assert_eq!(by_signal.status.code(), Some(137), "{}", text(&by_signal));
    assert_eq!(told.code(), Some(9));
    assert!(String::from_utf8_lossy(&asked.stdout).ends_with("ping to 53\ntold\n"), "{}", text(&asked));
}

#[test]
fn what_cannot_be_had_beside_no_network_is_named_and_starts_nothing() {
    let Some(output) = in_a_pods_network(|| {
        let proxy = format!("--proxy={PROXY}");
        let args =
            ["run", "--no-network", &proxy, "--no-execute=/nobody-has-made-this", "--", "echo", "started"];
        Command::new(INIT).args(args).output().unwrap()
    }) else {
        return;
    };
    assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
    assert!(output.stdout.is_empty() && text(&output).contains("/nobody-has-made-this"), "{}", text(&output));
}

#[test]
fn what_a_program_is_given_on_standard_input_it_has_without_a_network_too() {
    let Some(output) = in_a_pods_network(|| {
        let mut reading = Command::new(INIT)
            .args(["run", "--no-network", &format!("--proxy={PROXY}"), "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        reading.stdin.take().unwrap().write_all(b"given").unwrap();
        reading.wait_with_output().unwrap()
    }) else {
        return;
    };
    assert_eq!(text(&output), "given");
}

#[test]
fn a_network_is_none_without_its_proxy_and_no_command_line_mixes_it_with_landlock() {
    for wrong in [
        &["--no-network"][..],
        &["--proxy=127.0.0.7"],
        &["--no-network", "--proxy=127.0.0.7", "--write=/tmp"],
    ] {
        let output =
            Command::new(INIT).arg("run").args(wrong).args(["--", "echo", "started"]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    }
}

#[test]
fn where_there_is_a_network_no_way_into_it_is_taken_for_denied() {
    let found = in_a_pods_network(|| {
        assert!(shell("ip link add other type bridge && ip link set other up").status.success());
        attempts::beyond_the_loopback("10.1.2.3".parse().unwrap())
    });
    for attempt in found.into_iter().flatten() {
        // Of the addresses of IPv6 none has a route here.
        assert_eq!(attempt.is_denied(), attempt.what.contains("2001:"), "{attempt}");
    }
}
