//! An agent whose class gives it no network: what it finds, read back by its own program, beside the same program in the pod's network.

use std::time::Duration;

use agentsandbox_crds::{AgentSandboxClass, names};
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::api::{Api, DeleteParams, LogParams};
use serde_json::{Value, json};
use xtask::cluster::network::{API_SERVICE, CLUSTER_DNS, NODE};

use crate::{fixtures, routes};

const TOLD_WITHIN: Duration = Duration::from_secs(90);
pub const ECHO_KEY: &str = "echo-real-77a1c0b85d2f4e63";

/// Asks by each entrance, waits until it is told what to try and somebody is beside it in its container, tries that, prints both as one line of
/// JSON, and stays. It runs as the agent itself: what `exec` starts beside it is in the pod's network.
const TRY: &str = r#"
import ctypes, errno, json, os, socket, subprocess, time
def attempt(f):
    try: f()
    except OSError as refusal: return errno.errorcode.get(refusal.errno, 'nothing came')
    except ValueError: return 'nothing is shown'
    return 'done'
def fetched(*arguments):
    made = subprocess.run(['curl', '-sS', '-m', '20', '-w', ' %{http_code}', *arguments], capture_output=True, text=True)
    return made.stdout[-600:] + made.stderr[-200:]
def dialled(kind, address, port):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind)
    s.settimeout(2)
    s.connect((address, port))
def opens(*kind): socket.socket(*kind).close()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(*[ctypes.c_long(argument) for argument in (number, *arguments)]) < 0: raise OSError(ctypes.get_errno(), '')
def entered(pid): call(308, os.open(f'/proc/{pid}/ns/net', os.O_RDONLY), 0)
def read(pid):
    with open(f'/proc/{pid}/maps') as maps: begin = int(maps.readline().split('-')[0], 16)
    with open(f'/proc/{pid}/mem', 'rb') as memory: os.pread(memory.fileno(), 1, begin)
def sockets(pid):
    folder = f'/proc/{pid}/fd'
    links = [f'{folder}/{number}' for number in os.listdir(folder)]
    found = [link for link in links if os.readlink(link).startswith('socket')]
    if not found: raise ValueError('none')
    for link in found: os.open(link, os.O_RDONLY)
def shown(pid, name):
    try: return open(f'/proc/{pid}/{name}').read().replace('\0', ' ').strip()
    except OSError as refusal: return f'{pid} {refusal}'
def beside():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if int(pid) != os.getpid():
            yield shown(pid, 'cmdline'), {
                'enter': attempt(lambda: entered(pid)), 'memory': attempt(lambda: read(pid)),
                'program': attempt(lambda: os.readlink(f'/proc/{pid}/exe')), 'sockets': attempt(lambda: sockets(pid)),
                'trace': attempt(lambda: call(101, 16, int(pid), 0, 0))}
asked = {
    'proxy variables': fetched('https://echo.world.test/by-variables'),
    'base URL': fetched('http://proxy:8080/echo/by-base-url'),
    'transparent': fetched('--noproxy', '*', 'https://echo.world.test/transparent'),
    'SOCKS5': fetched('--noproxy', '', '--socks5-hostname', socket.gethostbyname('proxy'), 'https://echo.world.test/by-socks'),
    'another host': fetched('https://example.com/denied'),
    'another name': attempt(lambda: socket.getaddrinfo('example.com', 443)),
}
while not os.path.exists('/tmp/addresses'): time.sleep(0.2)
tried = {}
for line in open('/tmp/addresses'):
    name, address, port = line.split()
    tried[f'{name} by TCP'] = attempt(lambda: dialled(socket.SOCK_STREAM, address, int(port)))
    tried[f'{name} by UDP'] = attempt(lambda: dialled(socket.SOCK_DGRAM, address, int(port)))
print(json.dumps({
    'asked': asked, 'tried': tried, 'interfaces': sorted(name for _, name in socket.if_nameindex()),
    'sockets': {
        'packet': attempt(lambda: opens(17, socket.SOCK_RAW, 0x0300)), 'raw': attempt(lambda: opens(socket.AF_INET, socket.SOCK_RAW, 255)),
        'ping': attempt(lambda: opens(socket.AF_INET, socket.SOCK_DGRAM, 1)), 'vsock': attempt(lambda: opens(40, socket.SOCK_STREAM)),
        'generic netlink': attempt(lambda: opens(16, socket.SOCK_RAW, 16)), 'SCTP': attempt(lambda: opens(socket.AF_INET, socket.SOCK_STREAM, 132))},
    'beside': dict(beside()), 'status': open('/proc/self/status').read(),
}), flush=True)
while True: time.sleep(1000)
"#;

/// A class like the rig's, but that its agents have no network.
pub async fn class_without_network(ns: &Namespace) -> Api<AgentSandboxClass> {
    let classes: Api<AgentSandboxClass> = Api::all(ns.client.clone());
    let mut spec = serde_json::to_value(classes.get("world").await.unwrap().spec).unwrap();
    spec["agentNetwork"] = json!("None");
    let own = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass",
        "metadata": {"name": ns.name}, "spec": spec,
    });
    ns.apply(&own.to_string()).await.unwrap();
    classes
}

pub fn trying(name: &str, class: &str) -> String {
    let rule = ["{name: echo, host: echo.world.test, credential: echo}"];
    let manifest = fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &rule);
    let mut sandbox: Value = serde_yaml::from_str(&manifest).unwrap();
    sandbox["spec"]["className"] = json!(class);
    sandbox["spec"]["agent"]["command"] = json!(["python3", "-c", TRY]);
    sandbox.to_string()
}

/// What the agent's program came to, once it was told every address that is none of its business.
async fn seen(ns: &Namespace, sandbox: &Sandbox) -> Value {
    sandbox.ready().await;
    let service = routes::service_address(ns, &sandbox.proxy_pod()).await;
    let pod = routes::address(ns, &sandbox.proxy_pod()).await;
    let addresses = [
        format!("service {service} {}", names::PORT_HTTP_PROXY),
        format!("proxy {pod} {}", names::PORT_HTTP_PROXY),
        format!("admin {pod} {}", names::PORT_ADMIN),
        format!("api {API_SERVICE} 443"),
        format!("node {NODE} 10250"),
        format!("dns {CLUSTER_DNS} 53"),
        "metadata 169.254.169.254 80".to_owned(),
        "public 93.184.215.14 443".to_owned(),
        "six 2606:4700::1111 443".to_owned(),
    ];
    // Somebody stays beside it, whom it may try to enter.
    let line = format!(
        "printf '%s\\n' '{}' > /tmp/new; (exec sleep 4321) </dev/null >/dev/null 2>&1 & mv /tmp/new /tmp/addresses",
        addresses.join("' '")
    );
    sandbox.sh(&line).await.ok();
    let seen = eventually("the agent has tried", TOLD_WITHIN, || async {
        serde_json::from_str(sandbox.agent_log().await.trim()).map_err(|error| error.to_string())
    })
    .await;
    eprintln!("{}: {seen:#}", sandbox.name);
    seen
}

fn every_entrance_is_found_and_denies_what_no_rule_allows(seen: &Value) {
    let asked = |what: &str| seen["asked"][what].as_str().unwrap().to_owned();
    for entrance in ["proxy variables", "base URL", "transparent", "SOCKS5"] {
        assert!(asked(entrance).ends_with(" 200"), "{entrance}: {}", asked(entrance));
    }
    assert!(asked("another host").contains("403"), "{}", asked("another host"));
    assert_ne!(asked("another name"), "done");
}

async fn each_request_arrived_with_the_key(rig: &Rig) {
    let seen = rig.world.requests_to("echo.world.test").await.unwrap();
    for path in ["/by-variables", "/by-base-url", "/transparent", "/by-socks"] {
        let with_key = seen
            .iter()
            .filter(|request| request.path == path)
            .filter(|request| request.header("authorization") == Some(&format!("Bearer {ECHO_KEY}")));
        assert!(with_key.count() >= 2, "{path} of both agents");
    }
}

fn nothing_leads_out_but_where_there_is_a_network(seen: &Value, control: &Value) {
    assert_eq!(seen["interfaces"], json!(["lo"]));
    assert_eq!(control["interfaces"], json!(["eth0", "lo"]));
    let tried = seen["tried"].as_object().unwrap();
    assert_eq!(tried.len(), 18);
    for (what, answer) in tried {
        let unreachable =
            ["ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL"].contains(&answer.as_str().unwrap());
        assert!(unreachable, "{what}: {answer}");
    }
    // The walls are the pod's: behind them its proxy's Service is found, and a route to everywhere.
    assert_eq!(control["tried"]["service by TCP"], "done");
    for what in ["api", "node", "metadata", "public"] {
        assert_eq!(control["tried"][format!("{what} by UDP")], "done", "{what}");
    }
    for (what, answer) in seen["sockets"].as_object().unwrap() {
        assert_eq!(answer, "EPERM", "{what}");
    }
    assert_eq!(control["sockets"]["ping"], "done");
}

fn nobody_beside_it_is_entered(seen: &Value, control: &Value) {
    let beside = seen["beside"].as_object().unwrap();
    let forwarders: Vec<_> = beside.keys().filter(|line| line.contains("run --no-network")).collect();
    let others: Vec<_> = beside.keys().filter(|line| line.contains("sleep 4321")).collect();
    assert!(forwarders.len() == 1 && others.len() == 1, "{beside:?}");
    for (who, what) in beside {
        for (way, answer) in what.as_object().unwrap() {
            assert_ne!(answer, "done", "{who}, {way}");
        }
    }
    // Where users and network are the same, who was started beside it lies open, and there is no forwarder.
    let open = control["beside"].as_object().unwrap();
    assert!(!open.keys().any(|line| line.contains("--no-network")), "{open:?}");
    let other = open.iter().find(|(line, _)| line.contains("sleep 4321")).unwrap().1;
    for way in ["memory", "program", "trace"] {
        assert_eq!(other[way], "done", "{way}");
    }
}

fn it_holds_no_capability(seen: &Value) {
    let status = seen["status"].as_str().unwrap();
    for kind in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let none = format!("{kind}:\t0000000000000000");
        assert!(status.lines().any(|line| line == none), "{kind}: {status}");
    }
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
}

/// Whoever ends the first process, as an agent may, ends the container.
async fn who_carries_is_ended_with_its_agent_and_another_carries_for_the_next(sandbox: &Sandbox) {
    // The container may be gone before it has answered.
    let _ = sandbox.try_sh("kill -KILL 1").await;
    let again = eventually("the agent has tried once more", TOLD_WITHIN, || async {
        let pod = sandbox.pods().get(&sandbox.agent_pod()).await.map_err(|error| error.to_string())?;
        let agents = pod.status.into_iter().flat_map(|status| status.container_statuses.unwrap_or_default());
        let restarts: i32 = agents.map(|agent| agent.restart_count).sum();
        if restarts == 0 {
            return Err("it was not started again".to_owned());
        }
        let params = LogParams { container: Some("agent".to_owned()), ..LogParams::default() };
        let log =
            sandbox.pods().logs(&sandbox.agent_pod(), &params).await.map_err(|error| error.to_string())?;
        serde_json::from_str::<Value>(log.trim()).map_err(|error| error.to_string())
    })
    .await;
    every_entrance_is_found_and_denies_what_no_rule_allows(&again);
    assert_eq!(again["interfaces"], json!(["lo"]));
}

#[tokio::test]
async fn claude_code_answers_without_a_network() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claude-unplugged", async |ns| {
        let classes = class_without_network(&ns).await;
        rig.world.set_keys([("anthropic", fixtures::ANTHROPIC_KEY)]).await.unwrap();
        ns.secret("anthropic", "api-key", fixtures::ANTHROPIC_KEY).await;
        ns.apply(fixtures::ANTHROPIC_CREDENTIAL).await.unwrap();
        let rule = ["{host: api.anthropic.com, credential: anthropic}"];
        let manifest = fixtures::sleeper("coder", fixtures::CLAUDE_IMAGE, "Unset", &rule);
        let mut coder: Value = serde_yaml::from_str(&manifest).unwrap();
        coder["spec"]["className"] = json!(ns.name);
        // What `exec` starts beside it is in the pod's network, so it is the program itself.
        let line = "cd /workspace && timeout 100 claude -p 'Answer. [[say:the fence holds]]' </dev/null; exec sleep infinity";
        coder["spec"]["agent"]["command"] = json!(["sh", "-c", line]);
        let coder = ns.sandbox("coder", &coder.to_string()).await;
        coder.ready().await;
        eventually("Claude Code has answered", TOLD_WITHIN, || async {
            let said = coder.agent_log().await;
            if said.contains("the fence holds") { Ok(()) } else { Err(said) }
        })
        .await;
        let audit = coder.audit().await;
        let allowed = |line: &Value| line["decision"] == "allow" && line["host"] == "api.anthropic.com";
        assert!(audit.iter().any(|line| allowed(line) && line["entrance"].to_string().contains("transparent")), "{audit:?}");
        coder.delete().await;
        coder.gone(TOLD_WITHIN).await;
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn p_a16_an_agent_without_a_network_reaches_its_proxy_by_every_entrance_and_nothing_else_by_any_socket()
{
    let rig = Rig::beside().await;
    with_namespace(&rig, "unplugged", async |ns| {
        let classes = class_without_network(&ns).await;
        ns.secret("echo", "token", ECHO_KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let without = ns.sandbox("without", &trying("without", &ns.name)).await;
        let with = ns.sandbox("with", &trying("with", "world")).await;
        let (seen, control) = (seen(&ns, &without).await, seen(&ns, &with).await);
        for one in [&seen, &control] {
            every_entrance_is_found_and_denies_what_no_rule_allows(one);
        }
        each_request_arrived_with_the_key(&rig).await;
        nothing_leads_out_but_where_there_is_a_network(&seen, &control);
        nobody_beside_it_is_entered(&seen, &control);
        it_holds_no_capability(&seen);
        who_carries_is_ended_with_its_agent_and_another_carries_for_the_next(&without).await;
        let verified = without.await_condition("RuntimeVerified", "True", TOLD_WITHIN).await;
        assert!(verified.message.contains("leave the pod's network"), "{}", verified.message);
        without.delete().await;
        with.delete().await;
        without.gone(TOLD_WITHIN).await;
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}
