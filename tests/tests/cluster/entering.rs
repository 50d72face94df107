//! A person's command where an agent without a network is, beside one that is started in its container only.

use std::time::Duration;

use agentsandbox_crds::names::{AGENT_PROGRAM, AGENT_PROGRAM_ENTER, PORT_HTTP_PROXY};
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use futures::SinkExt;
use kube::api::{AttachParams, DeleteParams, TerminalSize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::cli::{run, says, text};
use crate::no_network::{ECHO_KEY, class_without_network, trying};
use crate::{fixtures, routes};

const WITHIN: Duration = Duration::from_secs(90);

/// Says where it is: interfaces, capabilities, filters, and what came of dialling the address that it is given.
const WHERE: &str = "
import errno, socket, sys
def dialled(kind):
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(2)
    try: s.connect((sys.argv[1], int(sys.argv[2])))
    except OSError as refusal: return errno.errorcode.get(refusal.errno, 'nothing came')
    return 'done'
print('interfaces', *sorted(name for _, name in socket.if_nameindex()))
print('TCP', dialled(socket.SOCK_STREAM), 'UDP', dialled(socket.SOCK_DGRAM))
for line in open('/proc/self/status'):
    if line.split(':')[0] in ('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp'): print(*line.split())
";

/// The path that is asked for: this test's alone, for the world remembers what it was asked before.
fn path(ns: &Namespace) -> String {
    format!("/entered/{}", ns.name)
}

/// Asks the proxy for a host that a rule allows and for one that none does, by the variables that the container has.
fn asks(ns: &Namespace) -> String {
    format!(
        "curl -sS -m 20 -o /dev/null -w 'echo %{{http_code}}\\n' https://echo.world.test{}; \
         curl -sS -m 20 -w 'other %{{http_code}}\\n' http://evil.test/; exit 7",
        path(ns)
    )
}

/// At a terminal: whether it is its own, its size each time a line comes, and an end of its own when it is interrupted.
const AT_A_TERMINAL: &str = "
import os, sys
print('terminal', os.isatty(0), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
try:
    for line in sys.stdin: print('size', *os.get_terminal_size(), flush=True)
except KeyboardInterrupt:
    print('interrupted', flush=True)
    sys.exit(6)
";

async fn the_command_is_where_the_agent_is(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let cli = async |command: &[&str]| {
        run(rig, ns, &[&["exec", agent.name.as_str(), "--"], command].concat()).await
    };
    let service = routes::service_address(ns, &agent.proxy_pod()).await.to_string();
    let port = PORT_HTTP_PROXY.to_string();
    let place = ["python3", "-c", WHERE, service.as_str(), port.as_str()];
    let found = cli(&place).await;
    says(&found, 0, &["interfaces lo\n", "TCP ENETUNREACH UDP ENETUNREACH", "NoNewPrivs: 1", "Seccomp: 2"]);
    says(&found, 0, &["CapEff: 0000000000000000", "CapBnd: 0000000000000000"]);
    let asked = cli(&["sh", "-c", &asks(ns)]).await;
    says(&asked, 7, &["echo 200", "other 403", "HostNotAllowed"]);

    // What is started in the container alone is in the pod's network, where the variables lead nowhere.
    let open = agent.exec(&place).await.ok().stdout;
    for word in ["interfaces eth0 lo\n", "TCP done UDP done", "Seccomp: 0"] {
        assert!(open.contains(word), "{word}: {open}");
    }
    let lost = agent.sh(&asks(ns)).await;
    assert!(lost.code == 7 && lost.stdout.contains("echo 000"), "{lost:?}");
}

async fn the_request_is_the_proxys_to_judge(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let seen = rig.world.requests_to("echo.world.test").await.unwrap();
    let key = format!("Bearer {ECHO_KEY}");
    let arrived = seen.iter().filter(|request| request.path == path(ns));
    let with_key = arrived.filter(|request| request.header("authorization") == Some(&key)).count();
    assert_eq!(with_key, 1, "that of the command alone");
    let denied = |line: &Value| line["decision"] == "deny" && line["host"] == "evil.test";
    eventually("the denial is written down", WITHIN, || async {
        let audit = agent.audit().await;
        if audit.iter().any(denied) { Ok(()) } else { Err(format!("{audit:?}")) }
    })
    .await;
}

/// Reads on until this is shown so many times.
async fn shows(from: &mut (impl AsyncRead + Unpin), seen: &mut String, what: &str, times: usize) {
    let mut chunk = [0; 4096];
    while seen.matches(what).count() < times {
        let read = tokio::time::timeout(WITHIN, from.read(&mut chunk)).await;
        let count = read.unwrap_or_else(|_| panic!("{what} is not shown: {seen}")).unwrap();
        assert!(count > 0, "{what} is not shown: {seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}

async fn it_has_its_terminal(agent: &Sandbox) {
    let command = [AGENT_PROGRAM, AGENT_PROGRAM_ENTER, "python3", "-c", AT_A_TERMINAL];
    let params = AttachParams::default().container("agent").stdin(true).stdout(true).stderr(false).tty(true);
    let mut process = agent.pods().exec(&agent.agent_pod(), command, &params).await.unwrap();
    let (mut types, mut shown) = (process.stdin().unwrap(), process.stdout().unwrap());
    let status = process.take_status().unwrap();
    let mut seen = String::new();
    shows(&mut shown, &mut seen, "terminal True True", 1).await;
    let mut sizes = process.terminal_size().unwrap();
    sizes.send(TerminalSize { width: 77, height: 33 }).await.unwrap();
    // The runtime is told of it on another way than of what is typed, so that may come first.
    let told = async {
        for times in 1.. {
            types.write_all(b"again\n").await.unwrap();
            shows(&mut shown, &mut seen, "size ", times).await;
            if seen.contains("size 77 33") {
                break;
            }
        }
    };
    tokio::time::timeout(WITHIN, told).await.expect("it is told its size");
    types.write_all(b"\x03").await.unwrap();
    shows(&mut shown, &mut seen, "interrupted", 1).await;
    let status = status.await.unwrap();
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    assert!(causes.iter().any(|cause| cause.message.as_deref() == Some("6")), "{causes:?}");
}

/// Processes of the container whose command line contains this.
async fn running(agent: &Sandbox, what: &str) -> Vec<u32> {
    let line = format!(
        "for one in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$one/cmdline | grep -q '^{what}' && echo ${{one#/proc/}}; done; true"
    );
    let found = agent.sh(&line).await.ok().stdout;
    found.lines().map(|number| number.parse().unwrap()).collect()
}

/// A command that stays while the agent tries what it can do to it; then it is ended, as its caller is told, and what carried for it is gone.
async fn it_is_out_of_the_agents_reach(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let stays = async {
        let ended = run(rig, ns, &["exec", &agent.name, "--", "sleep", "5432"]).await;
        assert_eq!(ended.status.code(), Some(137), "{}", text(&ended));
    };
    let tried = async {
        eventually("the command runs, and one process carries for it", WITHIN, || async {
            let found = (
                running(agent, "sleep 5432").await.len(),
                running(agent, "/proc/self/exe carry").await.len(),
            );
            if found == (1, 1) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        agent.sh("printf 'none 192.0.2.1 9\\n' > /tmp/new; mv /tmp/new /tmp/addresses").await.ok();
        let seen: Value = eventually("the agent has tried", WITHIN, || async {
            serde_json::from_str(agent.agent_log().await.trim()).map_err(|error| error.to_string())
        })
        .await;
        let beside = seen["beside"].as_object().unwrap();
        for who in ["sleep 5432", "/proc/self/exe carry"] {
            let tried: Vec<_> = beside.iter().filter(|(line, _)| line.starts_with(who)).collect();
            assert_eq!(tried.len(), 1, "{who}: {beside:?}");
            for (way, answer) in tried[0].1.as_object().unwrap() {
                assert_ne!(answer, "done", "{who}, {way}");
            }
        }
        let command = running(agent, "sleep 5432").await[0];
        agent.sh(&format!("kill -KILL {command}")).await.ok();
    };
    tokio::join!(stays, tried);
    eventually("nothing carries any more", WITHIN, || async {
        let left = running(agent, "/proc/self/exe carry").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// Where the fence has told nobody how the agent starts, as in the pod of an older operator: a copy of the program without what lies beside it.
async fn where_that_is_not_known_nothing_is_started(agent: &Sandbox) {
    let line = format!("cp {AGENT_PROGRAM} /tmp/alone && /tmp/alone {AGENT_PROGRAM_ENTER} -- echo started");
    let refused = agent.sh(&line).await;
    assert!(refused.code == 71 && refused.stderr.contains("older operator"), "{refused:?}");
    assert!(!refused.text().contains("started\n"), "{refused:?}");
    let forged =
        agent.sh("rm -f /etc/agentsandbox/program/run.json; echo '[]' > /etc/agentsandbox/program/run.json");
    assert!(forged.await.failed().stderr.contains("Read-only"));
}

#[tokio::test]
async fn who_enters_an_agent_without_a_network_is_where_the_agent_is_and_out_of_its_reach() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "entered", async |ns| {
        let classes = class_without_network(&ns).await;
        ns.secret("echo", "token", ECHO_KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let agent = ns.sandbox("worker", &trying("worker", &ns.name)).await;
        agent.ready().await;
        the_command_is_where_the_agent_is(&rig, &ns, &agent).await;
        the_request_is_the_proxys_to_judge(&rig, &ns, &agent).await;
        it_has_its_terminal(&agent).await;
        it_is_out_of_the_agents_reach(&rig, &ns, &agent).await;
        where_that_is_not_known_nothing_is_started(&agent).await;
        agent.delete().await;
        agent.gone(WITHIN).await;
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_g18_who_enters_an_agent_runs_no_copied_program_where_the_agent_may_not() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "entered-noexec", async |ns| {
        let line = "cp /bin/true /tmp/copied && chmod 755 /tmp/copied && /tmp/copied && echo ran";
        for class in ["world", "container"] {
            let of = |name: &str, execution: &str| {
                let mut manifest: Value = serde_yaml::from_str(&fixtures::closed(name)).unwrap();
                manifest["spec"]["className"] = json!(class);
                manifest["spec"]["scratch"] = json!({"execution": execution});
                manifest.to_string()
            };
            let (name, control) = (format!("on-{class}"), format!("on-{class}-control"));
            let agent = ns.sandbox(&name, &of(&name, "Deny")).await;
            let control = ns.sandbox(&control, &of(&control, "Allow")).await;
            agent.ready().await;
            let refused = run(&rig, &ns, &["exec", &agent.name, "--", "sh", "-c", line]).await;
            says(&refused, 126, &["/tmp/copied: Permission denied"]);
            if class == "container" {
                // Beside it, in the container alone, it runs; gVisor has whoever comes in the mounts of the first process.
                assert_eq!(agent.sh(line).await.ok().stdout, "ran\n");
            }
            control.ready().await;
            let ran = run(&rig, &ns, &["exec", &control.name, "--", "sh", "-c", line]).await;
            says(&ran, 0, &["ran"]);
            agent.delete().await;
            control.delete().await;
        }
    })
    .await;
}
