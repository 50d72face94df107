//! `cargo xtask bench operator`: our operator and another one, each in turn on an API server of its own with an empty etcd, and nothing
//! else that would write. What is measured, and how, is `bench-operator`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cluster::{Cluster, bootstrap, down, network, process, up};
use crate::failure::{During, Result};
use crate::{images, install, parts, paths, shell};

/// The other operator's Go module, and the newest version of it that the module proxy has.
const PEER: &str = "sigs.k8s.io/agent-sandbox";
const PEER_VERSION: &str = "v0.5.6";
/// Where its manifests put it.
const PEER_NAMESPACE: &str = "agent-sandbox-system";
const PEER_ACCOUNT: &str = "agent-sandbox-controller";

/// Sandboxes of the runs of a whole measurement.
const SANDBOXES: [usize; 2] = [500, 2000];
/// A run with fewer shows too little of how it grows.
const SANDBOXES_MIN: usize = 500;
/// Workers that the other operator is given: few, and its own default.
const WORKERS: [usize; 2] = [10, 100];
/// Where only the way is tried.
const SMOKE_SANDBOXES: usize = 20;
const SMOKE_SECONDS: u64 = 5;
/// Both operators read their credentials when they start; a run is shorter.
const TOKEN_DURATION: &str = "24h";

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct OperatorArgs {
    /// How many sandboxes, with commas between: each number is a run of its own.
    #[arg(long, value_delimiter = ',', default_values_t = SANDBOXES)]
    sandboxes: Vec<usize>,
    /// In how many namespaces they are.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    namespaces: u16,
    /// Only this contender. What is measured is then shown and not kept.
    #[arg(long)]
    contender: Option<Contender>,
    /// How many workers the other operator has, with commas between: each number is a run of its own.
    #[arg(long, value_delimiter = ',', default_values_t = WORKERS)]
    workers: Vec<usize>,
    /// Seconds without a write and a pass that count as settled.
    #[arg(long, default_value_t = 5)]
    quiet: u64,
    /// Seconds for which a settled operator is watched.
    #[arg(long, default_value_t = 120)]
    steady: u64,
    /// The most that ours may write meanwhile.
    #[arg(long, default_value_t = 0)]
    steady_writes_max: u64,
    /// Seconds that each wait may take.
    #[arg(long, default_value_t = 1800)]
    limit: u64,
    /// Tries every way with few sandboxes. What comes of it is no measurement, and not kept.
    #[arg(long)]
    smoke: bool,
    /// Name of the cluster, which is made anew for each run and removed.
    #[arg(long, default_value = "bench-operator")]
    cluster: String,
}

/// Whose operator is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// This project's.
    Ours,
    /// kubernetes-sigs/agent-sandbox.
    AgentSandbox,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    contender: Contender,
    /// Workers; none where it is not asked.
    workers: Option<usize>,
    sandboxes: usize,
}

impl OperatorArgs {
    /// Whether what is measured is fit for the document.
    pub(super) fn is_whole(&self) -> bool {
        self.contender.is_none()
            && !self.smoke
            && self.sandboxes.iter().any(|number| *number >= SANDBOXES_MIN)
    }

    /// The contenders take turns, so that they meet the same machine.
    fn runs(&self) -> Vec<Run> {
        let sizes = if self.smoke { &[SMOKE_SANDBOXES][..] } else { &self.sandboxes };
        let peer = |workers: &usize| (Contender::AgentSandbox, Some(*workers));
        let contenders: Vec<_> =
            [(Contender::Ours, None)].into_iter().chain(self.workers.iter().map(peer)).collect();
        let of_size = |sandboxes: &usize| {
            let sandboxes = *sandboxes;
            contenders.iter().map(move |(contender, workers)| Run {
                contender: *contender,
                workers: *workers,
                sandboxes,
            })
        };
        let wanted = |run: &Run| self.contender.is_none_or(|only| only == run.contender);
        sizes.iter().flat_map(of_size).filter(wanted).collect()
    }

    fn namespaces(&self) -> Vec<String> {
        (0..self.namespaces).map(|index| format!("bench-{index}")).collect()
    }
}

/// The programs of the runs to come.
struct Programs {
    bench: PathBuf,
    /// Empty where ours takes no part.
    ours: PathBuf,
    /// The other's program and its module, with its manifests; empty where it takes no part.
    peer: (PathBuf, PathBuf),
}

/// Measures, keeps the runs in `docs/benchmarks/`, and returns the report.
///
/// # Errors
/// When something cannot be built or measured, or ours writes while nothing happens.
pub fn measure(args: &OperatorArgs) -> Result<String> {
    let cluster = Cluster::named(&args.cluster)?;
    let programs = programs(&args.runs())?;
    let mut runs = Vec::new();
    for run in args.runs() {
        println!("{run:?}");
        let measured = on_its_own(&cluster, args, &programs, run);
        down::down(&cluster)?;
        runs.push(measured?);
    }
    let kept = if args.is_whole() {
        paths::repository().join("docs/benchmarks")
    } else {
        paths::target().join("bench")
    };
    fs::create_dir_all(&kept).during(format!("{} cannot be made", kept.display()))?;
    let kept = kept.join("operator.json");
    let document = json!({"machine": machine(), "runs": runs});
    let text = serde_json::to_string_pretty(&document).during("the runs cannot be written")?;
    fs::write(&kept, text + "\n").during(format!("{} cannot be written", kept.display()))?;
    let report = shell::output(shell::command(&programs.bench, &["report"]).arg(&kept))?;
    check_steady(&runs, args.steady_writes_max)?;
    Ok(report)
}

fn machine() -> String {
    format!("{}; Kubernetes {}", super::machine_in_full(), parts::KUBERNETES_VERSION)
}

/// Ours must leave a cluster alone in which nothing happens.
fn check_steady(runs: &[Value], writes_max: u64) -> Result<()> {
    let ours = runs.iter().filter(|run| run["contender"] == "ours");
    let writes = |run: &Value| -> u64 {
        let kinds = run["steady"]["writes"].as_object().into_iter().flatten();
        kinds.filter_map(|(_, count)| count.as_u64()).chain(run["steady"]["events"].as_u64()).sum()
    };
    match ours.map(writes).max().filter(|most| *most > writes_max) {
        Some(most) => None.during(format!(
            "ours wrote {most} times while nothing happened; at most {writes_max} are allowed"
        )),
        None => Ok(()),
    }
}

fn programs(runs: &[Run]) -> Result<Programs> {
    let takes_part = |contender: Contender| runs.iter().any(|run| run.contender == contender);
    let mut programs = Programs {
        bench: paths::target().join("debug/bench-operator"),
        ours: PathBuf::new(),
        peer: Default::default(),
    };
    if takes_part(Contender::Ours) {
        programs.ours = images::operator(&paths::repository()).during("the operator is not built")?;
    }
    if takes_part(Contender::AgentSandbox) {
        programs.peer = peer()?;
    }
    let mut cargo = shell::command("cargo", &["build", "--locked", "--bin", "bench-operator"]);
    cargo.current_dir(paths::repository()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    shell::output(&mut cargo).during("bench-operator is not built")?;
    Ok(programs)
}

/// The other operator's program, built once from its module with that module's own requirements, and the module.
fn peer() -> Result<(PathBuf, PathBuf)> {
    let _held = paths::cache_locked("peers")?;
    let described = shell::run("go", &["mod", "download", "-json", &format!("{PEER}@{PEER_VERSION}")])?;
    let described: Value = serde_json::from_str(&described).during("go printed no JSON")?;
    let source =
        described["Dir"].as_str().map(PathBuf::from).during("go has not said where the module is")?;
    let folder = paths::cache().join("peers").join(format!("agent-sandbox-{PEER_VERSION}"));
    let program = folder.join("agent-sandbox-controller");
    if !program.is_file() {
        println!("building {PEER} {PEER_VERSION}; this is done once");
        fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
        let partial = folder.join("partial");
        let mut go = shell::command("go", &["build", "-trimpath", "-ldflags", "-s -w", "-o"]);
        go.arg(&partial).arg("./cmd/agent-sandbox-controller").current_dir(&source).env("CGO_ENABLED", "0");
        shell::logged(&mut go, &folder.join("build.log"))?;
        fs::rename(&partial, &program).during(format!("{} cannot be written", program.display()))?;
    }
    Ok((program, source))
}

/// One run on an API server of its own.
fn on_its_own(cluster: &Cluster, args: &OperatorArgs, programs: &Programs, run: Run) -> Result<Value> {
    up::control_plane(cluster)?;
    let (program, version, own_args) = match run.contender {
        Contender::Ours => (&programs.ours, env!("CARGO_PKG_VERSION"), install_ours(cluster)?),
        Contender::AgentSandbox => {
            install_peer(cluster, &programs.peer.1)?;
            (&programs.peer.0, PEER_VERSION, peer_args(run.workers))
        }
    };
    let (account, namespace) = match run.contender {
        Contender::Ours => ("agentsandbox-operator", install::NAMESPACE),
        Contender::AgentSandbox => (PEER_ACCOUNT, PEER_NAMESPACE),
    };
    let own_kubeconfig = own_kubeconfig(cluster, account, namespace)?;
    let namespaces = args.namespaces();
    namespaces.iter().try_for_each(|name| bootstrap::apply(cluster, &namespace_manifest(name)))?;
    let api_server = process::running(cluster, "apiserver")?.during("the API server does not run")?;
    let state = cluster.state();
    let (steady, quiet) = if args.smoke { (SMOKE_SECONDS, SMOKE_SECONDS) } else { (args.steady, args.quiet) };
    let paths = [
        ("--program", program.clone()),
        ("--own-kubeconfig", own_kubeconfig),
        ("--kubeconfig", state.join("pki/admin.kubeconfig")),
        ("--audit-log", cluster.audit_log()),
        ("--log", cluster.log("contender")),
    ];
    let kind = run.contender.to_possible_value().during("a contender has no name")?;
    let numbers = [
        ("--contender", kind.get_name().to_owned()),
        ("--version", version.to_owned()),
        ("--namespaces", namespaces.join(",")),
        ("--api-server", api_server.to_string()),
        ("--sandboxes", run.sandboxes.to_string()),
        ("--quiet", quiet.to_string()),
        ("--steady", steady.to_string()),
        ("--limit", args.limit.to_string()),
    ];
    let mut bench = cluster.on_node(&programs.bench.display().to_string(), &[])?;
    bench.arg("run");
    bench.args(paths.iter().flat_map(|(flag, path)| [Path::new(flag), path]));
    bench.args(numbers.iter().flat_map(|(flag, value)| [*flag, value])).arg("--").args(&own_args);
    let measured = shell::output(bench.stderr(Stdio::inherit()));
    let measured = measured
        .during(format!("not measured; the API server's log is {}", cluster.log("apiserver").display()))?;
    serde_json::from_str(&measured).during("bench-operator printed no JSON")
}

/// The chart as it is; no controller makes a pod of its Deployment here. Returns the operator's arguments, those of the chart.
fn install_ours(cluster: &Cluster) -> Result<Vec<String>> {
    bootstrap::apply(cluster, &namespace_manifest(install::NAMESPACE))?;
    let crds = paths::repository().join("charts/agentsandbox/crds").display().to_string();
    shell::output(&mut cluster.kubectl(&["apply", "--server-side", "-f", &crds])?)?;
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    let mut helm =
        install::helm(cluster, &["template", install::RELEASE, &chart, "--namespace", install::NAMESPACE]);
    helm.args(["--set", "runtimeClasses.create={gvisor}"]);
    bootstrap::apply(cluster, &shell::output(&mut helm)?)?;
    let get = [
        "-n",
        install::NAMESPACE,
        "get",
        "configmap",
        "agentsandbox-admission",
        "-o",
        "jsonpath={.data.admission\\.yaml}",
    ];
    let admission = cluster.state().join("admission.yaml");
    fs::write(&admission, shell::output(&mut cluster.kubectl(&get)?)?)
        .during("the admission policies cannot be written")?;
    Ok(vec![
        "run".to_owned(),
        format!("--pod-cidr={}", network::PODS),
        format!("--node-cidr={}/32", network::NODE),
        format!("--cluster-dns={}", network::CLUSTER_DNS),
        format!("--admission={}", admission.display()),
        "--leader-election=off".to_owned(),
        "--wall-probe=connect".to_owned(),
        "--denials=ask".to_owned(),
        "--admin-address=127.0.0.1:8080".to_owned(),
    ])
}

/// The other's own manifests, and a RuntimeClass. Nobody serves its conversion webhook here, and all objects are of the stored version.
fn install_peer(cluster: &Cluster, source: &Path) -> Result<()> {
    bootstrap::apply(cluster, &namespace_manifest(PEER_NAMESPACE))?;
    bootstrap::apply(
        cluster,
        "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: gvisor}, handler: runsc}",
    )?;
    for file in ["k8s/crds/agents.x-k8s.io_sandboxes.yaml", "k8s/rbac.generated.yaml", "k8s/controller.yaml"]
    {
        let file = source.join(file).display().to_string();
        shell::output(&mut cluster.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            &file,
        ])?)?;
    }
    let unconverted = r#"[{"op": "replace", "path": "/spec/conversion", "value": {"strategy": "None"}}]"#;
    let patch = ["patch", "crd", "sandboxes.agents.x-k8s.io", "--type=json", "-p", unconverted];
    shell::output(&mut cluster.kubectl(&patch)?).map(drop)
}

fn peer_args(workers: Option<usize>) -> Vec<String> {
    let mut args: Vec<String> = [
        "--leader-elect=false",
        "--enable-webhook=false",
        "--metrics-bind-address=127.0.0.1:8080",
        "--health-probe-bind-address=127.0.0.1:8081",
    ]
    .map(str::to_owned)
    .into();
    args.extend(workers.map(|workers| format!("--sandbox-concurrent-workers={workers}")));
    args
}

/// Pods name this ServiceAccount by default, and no controller makes it here.
fn namespace_manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: default, namespace: {name}}}\n"
    )
}

/// A contender has the rights of its own ServiceAccount, and no others.
fn own_kubeconfig(cluster: &Cluster, account: &str, namespace: &str) -> Result<PathBuf> {
    let duration = format!("--duration={TOKEN_DURATION}");
    let token =
        shell::output(&mut cluster.kubectl(&["-n", namespace, "create", "token", account, &duration])?)?;
    let cluster_ca = cluster.state().join("pki/ca.crt").display().to_string();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "own",
        "clusters": [{"name": "own", "cluster": {"server": format!("https://{}:6443", network::NODE), "certificate-authority": cluster_ca}}],
        "users": [{"name": "own", "user": {"token": token.trim()}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own", "namespace": namespace}}],
    });
    let file = cluster.state().join("contender.kubeconfig");
    fs::write(&file, config.to_string()).during(format!("{} cannot be written", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: OperatorArgs,
    }

    fn args(flags: &[&str]) -> OperatorArgs {
        Cli::parse_from(["operator"].iter().chain(flags)).args
    }

    #[test]
    fn contenders_take_turns_and_each_number_of_workers_is_a_run() {
        let peer = |workers, sandboxes| Run {
            contender: Contender::AgentSandbox,
            workers: Some(workers),
            sandboxes,
        };
        let ours = |sandboxes| Run { contender: Contender::Ours, workers: None, sandboxes };
        let runs = args(&["--sandboxes", "50,60", "--workers", "1,2"]).runs();
        assert_eq!(runs, [ours(50), peer(1, 50), peer(2, 50), ours(60), peer(1, 60), peer(2, 60)]);
        assert_eq!(args(&["--smoke", "--contender", "ours"]).runs(), [ours(SMOKE_SANDBOXES)]);
    }

    #[test]
    fn nothing_is_kept_of_a_run_that_is_not_whole() {
        assert!(args(&[]).is_whole());
        assert!(args(&["--sandboxes", "20,500"]).is_whole());
        for flags in [&["--smoke"][..], &["--contender", "ours"], &["--sandboxes", "499"]] {
            assert!(!args(flags).is_whole(), "{flags:?}");
        }
    }

    #[test]
    fn one_write_too_many_of_ours_while_nothing_happens_fails_and_others_do_not() {
        let run = |contender: &str, writes: u64, events: u64| json!({"contender": contender, "steady": {"writes": {"patch pods": writes}, "events": events}});
        assert!(check_steady(&[run("ours", 0, 0), run("agent-sandbox", 9, 9)], 0).is_ok());
        assert!(check_steady(&[run("ours", 1, 0)], 0).is_err());
        assert!(check_steady(&[run("ours", 0, 1)], 0).is_err());
        assert!(check_steady(&[run("ours", 1, 1)], 2).is_ok());
    }
}
