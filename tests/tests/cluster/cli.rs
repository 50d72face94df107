//! `kubectl agentsandbox`, as its user starts it: the built program against the cluster, by exit code and output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::Value;
use xtask::{paths, programs};

use crate::fixtures::AGENT_IMAGE;

/// What the agent prints: a title, a cleared screen, and a word.
const HOSTILE: &str = r"\033]0;owned\007\033[2Jhello";

fn sandbox(name: &str) -> String {
    format!(
        "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {{name: {name}}}
spec:
  className: world
  agent:
    image: {AGENT_IMAGE}
    command: [sh, -c, \"printf '{}\\\\n'; exec sleep infinity\"]
  egress:
    allow:
    - {{name: echo, host: echo.world.test, methods: [GET], paths: [/allowed/**]}}
",
        HOSTILE.replace('\\', "\\\\")
    )
}

/// Runs the program in the namespace.
pub async fn run(rig: &Rig, ns: &Namespace, args: &[&str]) -> Output {
    let own = paths::target().join("debug/xtask");
    let (kubeconfig, namespace) = (rig.cluster.kubeconfig(), ns.name.clone());
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let program = programs::cli_beside(&own).expect("the program is built");
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--namespace", &namespace]).args(args);
        command.output().expect("the program starts")
    })
    .await
    .unwrap()
}

/// Runs the program at a terminal of 77 columns and 33 rows.
async fn run_at_a_terminal(rig: &Rig, ns: &Namespace, args: &str) -> Output {
    let program = programs::cli_beside(&paths::target().join("debug/xtask")).expect("the program is built");
    let (kubeconfig, namespace) = (rig.cluster.kubeconfig(), &ns.name);
    let program =
        format!("{} --kubeconfig {} --namespace {namespace}", program.display(), kubeconfig.display());
    let command = format!("stty cols 77 rows 33 && {program} {args}");
    tokio::task::spawn_blocking(move || {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        script.output().expect("the terminal starts")
    })
    .await
    .unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The program ends so and says all of these words.
#[track_caller]
pub fn says(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not all in: {said}");
}

#[tokio::test]
async fn the_program_explains_lists_shows_logs_and_runs_commands_in_a_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "cli", async |ns| {
        let sandbox = ns.sandbox("fix-login", &sandbox("fix-login")).await;
        sandbox.ready().await;
        let run = async |args: &[&str]| run(&rig, &ns, args).await;

        let explain = ["explain", "fix-login", "--url"];
        let allowed = run(&[&explain[..], &["https://echo.world.test/allowed/x"]].concat()).await;
        says(&allowed, 0, &["allowed", "rule      echo"]);
        let denied = run(&[&explain[..], &["https://echo.world.test/other", "-o", "json"]].concat()).await;
        says(&denied, 1, &["PathNotAllowed", "howToAllow"]);
        says(&run(&[&explain[..], &["https://evil.test/"]].concat()).await, 1, &["HostNotAllowed"]);
        let unknown = run(&["explain", "fix-lgoin", "--url", "https://evil.test/"]).await;
        says(&unknown, 2, &["did you mean fix-login?"]);

        says(&run(&["status", "fix-login"]).await, 0, &["NetworkIsolated", "RuntimeVerified", "Ready"]);
        says(&run(&["list"]).await, 0, &["fix-login", "world"]);
        says(
            &run(&["exec", "fix-login", "--", "sh", "-c", "echo from-inside; exit 7"]).await,
            7,
            &["from-inside"],
        );
        says(&run(&["exec", "fix-login", "--", "true"]).await, 0, &[]);
        says(&run(&["exec", "fix-login", "-it", "--raw", "--", "true"]).await, 2, &["no terminal"]);
        // Its size comes after the command has begun, as kubectl's does.
        let sized = r#"for _ in $(seq 100); do test "$(stty size)" = "33 77" && exit 7; sleep 0.1; done"#;
        let sized = format!("exec fix-login -it --raw -- sh -c '{sized}'");
        says(&run_at_a_terminal(&rig, &ns, &sized).await, 7, &[]);

        // Nobody knows where a pipe ends.
        let harmless = run(&["logs", "fix-login"]).await;
        says(&harmless, 0, &[r"\u{1b}]0;owned\u{7}\u{1b}[2Jhello"]);
        assert!(!text(&harmless).contains('\u{1b}'), "{}", text(&harmless));
        let log = run(&["logs", "fix-login", "--raw"]).await;
        says(&log, 0, &["\u{1b}]0;owned\u{7}\u{1b}[2Jhello"]);
        let _refused = sandbox.sh("curl -sS -m 20 http://evil.test/ || true").await;
        eventually("the denial is in the audit trail", Duration::from_secs(30), || async {
            let audit = run(&["logs", "fix-login", "--audit"]).await;
            if text(&audit).contains("evil.test") { Ok(()) } else { Err(text(&audit)) }
        })
        .await;

        says(&run(&["suspend", "fix-login"]).await, 0, &["Suspended=True", "is suspended"]);
        let agent = ns.pods().get_opt(&sandbox.agent_pod()).await.unwrap();
        assert!(agent.is_none(), "{agent:?}");
        says(&run(&["resume", "fix-login"]).await, 0, &["NetworkIsolated=True Proven", "is running"]);
        says(&run(&["exec", "fix-login", "--", "true"]).await, 0, &[]);
        says(&run(&["suspend", "fix-lgoin"]).await, 2, &["did you mean fix-login?"]);
    })
    .await;
}

/// The verdict of each line.
fn lines(output: &Output) -> Vec<(String, String, String)> {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)));
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let line = |line: &Value| (word(line, "check"), word(line, "verdict"), word(line, "found"));
    told["checks"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn doctor_is_well_on_a_whole_cluster_and_tells_of_a_class_without_runtime_and_of_a_missing_binding() {
    // Others make classes that are wrong on purpose.
    let rig = Rig::alone().await;
    with_namespace(&rig, "doctor", async |ns| {
        ns.sandbox("proof", &sandbox("proof")).await.ready().await;
        let doctor = async || run(&rig, &ns, &["doctor", "-o", "json"]).await;
        let well = doctor().await;
        // What tests before left to be deleted is not this one's.
        let is_ours = |check: &str| match check.split_once(' ') {
            Some(("class", name)) => ["gvisor", "world", "container"].contains(&name),
            Some(("kernel", rest)) => rest.ends_with(" gvisor"),
            _ => true,
        };
        let wrong: Vec<_> = lines(&well).into_iter().filter(|(_, verdict, _)| verdict != "ok").collect();
        assert!(wrong.iter().all(|(check, ..)| !is_ours(check)), "{wrong:?}");
        assert_eq!(well.status.code() == Some(0), wrong.is_empty(), "{wrong:?}");

        let class = serde_json::json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass",
            "metadata": {"name": ns.name}, "spec": {"isolation": "GVisor", "runtimeClassName": "no-such-runtime"}});
        ns.apply(&class.to_string()).await.unwrap();
        // Nobody uses it, so nothing is wrong yet.
        let unused = lines(&doctor().await);
        let own = format!("class {}", ns.name);
        let line = unused.iter().find(|(check, ..)| *check == own).unwrap_or_else(|| panic!("{unused:?}"));
        assert!(line.1 == "ok" && line.2.contains("not available"), "{line:?}");
        let user = sandbox("user").replace("className: world", &format!("className: {}", ns.name));
        ns.sandbox("user", &user).await;
        let broken = doctor().await;
        ns.api_of(&class).delete(&ns.name, &DeleteParams::default()).await.unwrap();
        let is_told = |output: &Output, check: &str, words: &str| {
            assert_eq!(output.status.code(), Some(1), "{}", text(output));
            let told = lines(output);
            let line = told.iter().find(|(own, ..)| own == check).unwrap_or_else(|| panic!("{told:?}"));
            assert!(line.1 == "failed" && line.2.contains(words), "{line:?}");
        };
        is_told(&broken, &format!("class {}", ns.name), "no-such-runtime does not exist");

        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(rig.client.clone());
        let mut binding = bindings.get("agentsandbox-proxy-access").await.unwrap();
        bindings.delete("agentsandbox-proxy-access", &DeleteParams::default()).await.unwrap();
        let broken = doctor().await;
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        bindings.create(&PostParams::default(), &binding).await.unwrap();
        is_told(&broken, "admission policies", "agentsandbox-proxy-access is missing");
    })
    .await;
}

/// The names in a folder here.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_an_agent_packs_comes_whole_or_not_at_all_and_what_goes_in_has_no_secret() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "copy", async |ns| {
        let agent = ns.sandbox("fix-login", &sandbox("fix-login")).await;
        agent.ready().await;
        let here = tempfile::tempdir().unwrap();
        let place = |name: &str| here.path().join(name).display().to_string();
        let cp = async |from: &str, to: &str| run(&rig, &ns, &["cp", from, to]).await;

        fs::create_dir_all(here.path().join("data/src")).unwrap();
        fs::write(here.path().join("data/src/a.txt"), "from here\n").unwrap();
        fs::write(here.path().join("data/.env"), "KEY=1\n").unwrap();
        let given = cp(&place("data"), "fix-login:/tmp").await;
        says(&given, 0, &["left out: .env", "is copied to fix-login:/tmp"]);
        let inside = agent.sh("ls -A /tmp/data && cat /tmp/data/src/a.txt").await.ok().stdout;
        assert_eq!(inside, "src\nfrom here\n");

        let work = "mkdir -p /tmp/out/.git && echo made >/tmp/out/b.txt && ln -s b.txt /tmp/out/l && \
                    echo '[core]' >/tmp/out/.git/config && chmod 4755 /tmp/out/b.txt";
        agent.sh(work).await.ok();
        let taken = cp("fix-login:/tmp/out", &place("taken")).await;
        says(&taken, 0, &["left out: .git/config", "is copied to"]);
        let made = here.path().join("taken/b.txt");
        assert_eq!(fs::read_to_string(&made).unwrap(), "made\n");
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(names(&here.path().join("taken")), ["b.txt", "l"]);
        says(&cp("fix-login:/tmp/out", &place("taken/b.txt")).await, 2, &["is there already"]);

        // One name up is beside the copy.
        agent.sh("ln -s ../etc /tmp/out/up").await.ok();
        says(&cp("fix-login:/tmp/out", &place("again")).await, 2, &["up", "nothing is written"]);
        says(
            &cp("fix-login:/tmp/none", &place("again")).await,
            2,
            &["`tar` in the agent's container ended with"],
        );
        let nowhere = cp(&place("data"), "fix-login:/tmp/none/data").await;
        says(&nowhere, 2, &["`tar` in the agent's container ended with"]);
        assert_eq!(names(here.path()), ["data", "taken"]);
    })
    .await;
}
