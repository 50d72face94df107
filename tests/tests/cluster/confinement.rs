//! The process sandbox, read back from inside: the agent's own program tries what it may do, and the same program tries it where
//! nobody asked for one. The table is in docs/isolation.md.

use std::collections::BTreeMap;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::fixtures;

/// Tries everything once, prints what came of it as one line of JSON, and stays. It runs as the agent itself: what `exec` starts is not in
/// the process sandbox.
const TRY: &str = r#"
import ctypes, errno, json, os, shutil, socket, subprocess, threading, time
def attempt(f):
    try: f()
    except OSError as refusal: return errno.errorcode[refusal.errno]
    return 'done'
def opened(path, flags): os.close(os.open(path, flags))
def made(folder):
    opened(folder + '/made', os.O_CREAT | os.O_WRONLY)
    os.unlink(folder + '/made')
def copied(folder):
    shutil.copy(shutil.which('true'), folder + '/copy')
    subprocess.run([folder + '/copy'])
def opens(*kind): socket.socket(*kind).close()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    words = [ctypes.c_long(argument or 0) for argument in (number, *arguments)]
    if libc.syscall(*words) < 0: raise OSError(ctypes.get_errno(), '')
def threads():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()
inet, stream, datagram = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(json.dumps({
    'write /workspace': attempt(lambda: made('/workspace')),
    'write /home/agent': attempt(lambda: made('/home/agent')),
    'write /dev/shm': attempt(lambda: made('/dev/shm')),
    'write own memory': attempt(lambda: opened('/proc/self/mem', os.O_WRONLY)),
    'write oom score': attempt(lambda: opened('/proc/self/oom_score_adj', os.O_WRONLY)),
    'read /etc/passwd': attempt(lambda: opened('/etc/passwd', os.O_RDONLY)),
    'read trust': attempt(lambda: opened(os.environ['SSL_CERT_FILE'], os.O_RDONLY)),
    'read /sys': attempt(lambda: os.listdir('/sys')),
    'execute in /workspace': attempt(lambda: copied('/workspace')),
    'execute in /tmp': attempt(lambda: copied('/tmp')),
    'execute in /home/agent': attempt(lambda: copied('/home/agent')),
    'execute /usr': attempt(lambda: subprocess.run(['true'])),
    'thread': attempt(threads),
    'tcp': attempt(lambda: opens(inet, stream)),
    'udp': attempt(lambda: opens(inet, datagram)),
    'unix': attempt(lambda: opens(socket.AF_UNIX, stream)),
    'routes': attempt(lambda: opens(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    'ping': attempt(lambda: opens(inet, datagram, socket.IPPROTO_ICMP)),
    'generic netlink': attempt(lambda: opens(socket.AF_NETLINK, socket.SOCK_RAW, 16)),
    'read memory': attempt(lambda: call(310, os.getpid(), None, 0, None, 0, 0)),
    'detach': attempt(lambda: call(101, 17, os.getpid(), None, None)),
    'landlock': attempt(lambda: call(444, None, 0, 1)),
    'Seccomp_filters': status.get('Seccomp_filters', '').strip(),
    'NoNewPrivs': status['NoNewPrivs'].strip(),
}), flush=True)
while True: time.sleep(1000)
"#;

const ASKED: &str =
    "{readPaths: [/usr, /bin, /lib, /lib64, /etc, /proc], noExecutePaths: [/tmp, /home/agent]}";
/// What the container alone leaves open, and what is answered in the process sandbox.
const TAKEN: [(&str, &str); 9] = [
    ("write own memory", "EACCES"),
    ("write oom score", "EACCES"),
    ("read /sys", "EACCES"),
    ("execute in /tmp", "EACCES"),
    ("execute in /home/agent", "EACCES"),
    ("ping", "EPERM"),
    ("generic netlink", "EPERM"),
    ("read memory", "EPERM"),
    ("detach", "EPERM"),
];
/// What an agent needs.
const LEFT: [&str; 13] = [
    "write /workspace",
    "write /home/agent",
    "write /dev/shm",
    "read /etc/passwd",
    "read trust",
    "execute in /workspace",
    "execute /usr",
    "thread",
    "tcp",
    "udp",
    "unix",
    "routes",
    "landlock",
];
const TOLD_WITHIN: Duration = Duration::from_secs(60);

type Seen = BTreeMap<String, String>;

/// A sandbox whose agent is the program.
fn trying(name: &str, class: &str, process_sandbox: &str) -> Value {
    let manifest = fixtures::closed(name).replace("className: world", &format!("className: {class}"));
    let mut sandbox: Value = serde_yaml::from_str(&manifest).unwrap();
    sandbox["spec"]["agent"]["command"] = json!(["python3", "-c", TRY]);
    if !process_sandbox.is_empty() {
        sandbox["spec"]["agent"]["processSandbox"] = serde_yaml::from_str(process_sandbox).unwrap();
    }
    sandbox
}

async fn seen(sandbox: &Sandbox) -> Seen {
    sandbox.ready().await;
    let seen = eventually("the agent has tried", TOLD_WITHIN, || async {
        serde_json::from_str(sandbox.agent_log().await.trim()).map_err(|error| error.to_string())
    })
    .await;
    eprintln!("{}: {seen:#?}", sandbox.name);
    seen
}

fn it_takes_what_the_container_leaves_open_and_nothing_that_an_agent_needs(confined: &Seen, control: &Seen) {
    for (what, answer) in TAKEN {
        assert_eq!(confined[what], answer, "{what}");
        // There is no process that this one holds.
        let open = if what == "detach" { "ESRCH" } else { "done" };
        assert_eq!(control[what], open, "{what}, by the container alone");
    }
    for what in LEFT {
        assert_eq!((confined[what].as_str(), control[what].as_str()), ("done", "done"), "{what}");
    }
    let filters = |seen: &Seen| seen["Seccomp_filters"].parse::<u32>().unwrap();
    assert_eq!(filters(confined), filters(control) + 3);
}

/// What was started in the container beside the agent, and is not in its process sandbox, cannot change what it starts by either.
async fn nobody_in_the_container_changes_what_it_starts_by(sandbox: &Sandbox) {
    let place = "/etc/agentsandbox/program";
    for line in ["rm -f {}/agentsandbox-init", "mv {}/agentsandbox-init {}/x", "touch {}/x"] {
        let output = sandbox.sh(&line.replace("{}", place)).await;
        assert!(output.code != 0 && output.stderr.contains("Read-only file system"), "{output:?}");
    }
}

async fn what_cannot_be_enforced_starts_nothing(ns: &Namespace) {
    let absent = trying("absent", "container", "{writePaths: [/nobody-has-made-this]}");
    let absent = ns.sandbox("absent", &absent.to_string()).await;
    let told = absent.await_reason("Ready", "AgentFailing", TOLD_WITHIN).await;
    assert!(told.message.contains("/nobody-has-made-this"), "{}", told.message);
    let previous = LogParams { container: Some("agent".to_owned()), previous: true, ..LogParams::default() };
    let log = absent.pods().logs(&absent.agent_pod(), &previous).await.unwrap();
    assert!(log.contains("nothing is started") && !log.contains("NoNewPrivs"), "{log}");
}

/// The program itself, as a pod of a RuntimeClass or of the node's own runtime: how it ended, and what it said.
async fn run_beside(ns: &Namespace, name: &str, image: &str, runtime_class: Option<&str>) -> (i32, String) {
    let mut pod = fixtures::plain(name, "");
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["runtimeClassName"] = json!(runtime_class);
    pod["spec"]["containers"][0]["image"] = json!(image);
    pod["spec"]["containers"][0]["command"] =
        json!(["/agentsandbox-init", "run", "--", "/agentsandbox-init", "--version"]);
    ns.apply(&pod.to_string()).await.unwrap();
    let code = eventually("the program has ended", TOLD_WITHIN, || async {
        let pod = ns.pods().get(name).await.map_err(|error| error.to_string())?;
        let statuses =
            pod.status.into_iter().flat_map(|status| status.container_statuses.unwrap_or_default());
        let ended = statuses.filter_map(|status| status.state?.terminated).next();
        ended.map(|ended| ended.exit_code).ok_or_else(|| "it runs".to_owned())
    })
    .await;
    (code, ns.pods().logs(name, &LogParams::default()).await.unwrap())
}

#[tokio::test]
async fn o_g18_the_process_sandbox_takes_from_an_agent_what_the_container_leaves_and_is_never_left_out() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "confinement", async |ns| {
        let confined = ns.sandbox("confined", &trying("confined", "container", ASKED).to_string()).await;
        let control = ns.sandbox("control", &trying("control", "container", "").to_string()).await;
        let refused = ns.sandbox("refused", &trying("refused", "world", "{}").to_string()).await;
        let told = refused.await_reason("Accepted", "ClassUnsupported", TOLD_WITHIN).await;
        assert!(told.message.contains("spec.agent.processSandbox"), "{}", told.message);
        it_takes_what_the_container_leaves_open_and_nothing_that_an_agent_needs(
            &seen(&confined).await,
            &seen(&control).await,
        );
        let verified = confined.await_condition("RuntimeVerified", "True", TOLD_WITHIN).await;
        assert!(verified.message.contains("Landlock"), "{}", verified.message);
        nobody_in_the_container_changes_what_it_starts_by(&confined).await;
        what_cannot_be_enforced_starts_nothing(&ns).await;
        assert!(
            ns.pods().get_opt(&refused.agent_pod()).await.unwrap().is_none(),
            "it was started all the same"
        );

        // Where there is no Landlock the program starts nothing; beside it, the same where there is.
        let pod = ns.pods().get(&confined.agent_pod()).await.unwrap();
        let image = pod.spec.unwrap().init_containers.unwrap()[0].image.clone().unwrap();
        let (code, said) = run_beside(&ns, "without", &image, Some("gvisor")).await;
        assert!(
            code == 71 && said.contains("no Landlock") && !said.contains("agentsandbox-init 0"),
            "{code} {said}"
        );
        let (code, said) = run_beside(&ns, "with", &image, None).await;
        assert!(code == 64 && said.contains("agentsandbox-init 0"), "{code} {said}");
    })
    .await;
}
