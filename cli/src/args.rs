//! The command line, and nothing more.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Explains, checks and follows the sandboxes of AI agents on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kubectl-agentsandbox", bin_name = "kubectl agentsandbox", version, about)]
pub struct Cli {
    /// Which cluster, and which namespace of it.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where to ask; the names are kubectl's own.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The kubeconfig, in place of $KUBECONFIG and ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig, in place of the context's.
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig, in place of the context's.
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// The namespace, in place of the context's.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a request would be allowed, by which rule, and if not what to write.
    ///
    /// The answer is the decision of the proxy's own code, by the policy document that is written for the sandbox's proxy, which
    /// may need a minute or two to obey a change. Nothing is sent.
    /// With --spec it says what the sandbox and its template come to, and where each field is from.
    /// Exit code 0: allowed, or accepted by the template; 1: denied, or not; 2: there is no answer.
    Explain(ExplainArgs),
    /// Say whether this cluster is able to keep the promises, and what to do where it is not.
    ///
    /// No pod is started. Exit code 0: all is well; 1: something failed; 2: something is not known.
    Doctor(DoctorArgs),
    /// Make a sandbox, follow it until its agent runs, and show the agent's output to its end.
    ///
    /// The exit code is the agent's own; 2 where there is none; 128 and the signal's number where a signal ended it. An agent that
    /// has ended is started again until its sandbox is deleted, with --rm too for as long as that takes: it may do its work twice.
    Run(RunArgs),
    /// List the sandboxes of the namespace.
    List(ListArgs),
    /// Say how far a sandbox is, what was proven, and what was denied.
    ///
    /// Exit code 0: it is ready; 1: it is not.
    Status(StatusArgs),
    /// Take the power of a sandbox away for a while: its agent and its proxy end, its walls stay.
    ///
    /// The workspace begins anew on resume, and so does the program of a Task that has not ended.
    Suspend(PowerArgs),
    /// Give a suspended sandbox its power back, with a new proxy, a new agent and a new proof.
    Resume(PowerArgs),
    /// Print what the agent prints, or what its proxy writes down.
    ///
    /// The agent's output is shown without escapes and other controls, also into a pipe.
    Logs(LogsArgs),
    /// Run a command in the agent's container; the exit code is the command's own.
    Exec(ExecArgs),
    /// Copy a file or a folder out of a sandbox, or into it.
    ///
    /// One of the places is NAME:PATH, from the sandbox's /workspace on unless the path is absolute. It is packed and unpacked by the
    /// program `tar` in the agent's container, which comes to where the agent is. What comes out is as it was asked for and whole, or
    /// nothing of it is written; what goes in is without the names of secrets and without `.git`.
    Cp(CopyArgs),
    /// Show what an agent made of its workspace, where the original stays (`access: Overlay`), as git would.
    ///
    /// The agent may be writing meanwhile: `apply` takes the digest that is told at the end, and applies nothing else.
    /// Exit code 0: all of it is shown; 1: paths are refused, or their content is not shown, and they are named on stderr.
    Diff(DiffArgs),
    /// Make the same of a folder that holds the original: all that was reviewed, or nothing.
    ///
    /// Exit code 0: it is done; 1: it is not what was reviewed, paths are refused, or the folder is not as the original, and
    /// nothing was written.
    Apply(ApplyArgs),
    /// Delete an agent's pod with all that it made of its workspace: the operator makes another one, with the original.
    Discard(DiscardArgs),
    /// Print the completions of a shell.
    Completions {
        /// Which.
        shell: Shell,
    },
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The AgentSandbox whose policy document is read from the cluster.
    #[arg(required_unless_present_any = ["policy", "filename"])]
    pub name: Option<String>,
    /// A policy document to decide by, without any cluster.
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub policy: Option<PathBuf>,
    /// Say what the spec of the AgentSandbox is with its AgentSandboxTemplate, and where each field is from; about no request.
    #[arg(long, conflicts_with_all = ["policy", "url", "method", "websocket"])]
    pub spec: bool,
    /// A file with an AgentSandbox and its AgentSandboxTemplate to say that of, without any cluster.
    #[arg(short, long, value_name = "FILE", requires = "spec", conflicts_with = "name")]
    pub filename: Option<PathBuf>,
    /// The method of the request.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// Its URL, whole, such as https://api.example.com/v1/models.
    #[arg(long, required_unless_present = "spec")]
    pub url: Option<String>,
    /// Ask for a WebSocket.
    #[arg(long)]
    pub websocket: bool,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the AgentSandbox; without one it is given one.
    pub name: Option<String>,
    /// Image of the agent, with a tag other than latest or a digest.
    #[arg(long, required_unless_present = "template")]
    pub image: Option<String>,
    /// The AgentSandboxTemplate that says what is not said here, and bounds what is.
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// The AgentSandboxClass; without one the cluster's default.
    #[arg(long)]
    pub class: Option<String>,
    /// A host that the agent may reach, without a key. May be given again.
    #[arg(long, value_name = "HOST")]
    pub allow: Vec<String>,
    /// A host that the agent may reach with the key of an AgentCredential. May be given again.
    #[arg(long, value_name = "NAME=HOST")]
    pub credential: Vec<String>,
    /// What stands after -- is the program with its arguments, in place of arguments for the image's own.
    #[arg(long, requires = "args")]
    pub command: bool,
    /// Do not follow: end once it is made.
    #[arg(short, long, conflicts_with = "rm")]
    pub detach: bool,
    /// Delete the sandbox once its program has ended, on any error, and on Ctrl-C, SIGTERM and SIGHUP.
    #[arg(long)]
    pub rm: bool,
    /// How many seconds the agent may take to start.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Show the agent's output byte by byte: the agent can then do with the terminal at the end of the pipe what it likes.
    #[arg(long)]
    pub raw: bool,
    /// Arguments of the agent, after --.
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Those of every namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The AgentSandbox.
    pub name: String,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `suspend` and `resume`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// The AgentSandbox.
    pub name: String,
    /// Do not wait: end once it is written.
    #[arg(short, long)]
    pub detach: bool,
    /// How many seconds it may take.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The AgentSandbox.
    pub name: String,
    /// The proxy's audit lines, in the place of the agent's output.
    #[arg(long)]
    pub audit: bool,
    /// Go on as more comes.
    #[arg(short, long)]
    pub follow: bool,
    /// That of the run before this one.
    #[arg(short, long)]
    pub previous: bool,
    /// Only so many lines, the newest.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    pub tail: Option<i64>,
    /// Show the agent's output byte by byte: the agent can then do with the terminal at the end of the pipe what it likes.
    #[arg(long, conflicts_with = "audit")]
    pub raw: bool,
    /// How audit lines are written.
    #[arg(short, long, value_enum, default_value_t, requires = "audit")]
    pub output: Output,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The AgentSandbox.
    pub name: String,
    /// Give the command what is typed or piped in.
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Show the output byte by byte: the agent can then do with the terminal at the end of the pipe what it likes.
    #[arg(long)]
    pub raw: bool,
    /// Give the command this terminal, with -i: keys go there as they are, and the terminal does what it and the agent write.
    #[arg(short = 't', long, requires_all = ["stdin", "raw"])]
    pub tty: bool,
    /// The command, after --.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// What is copied: NAME:PATH in a sandbox, or a path here.
    pub from: String,
    /// Where it comes to: into a folder that is there, or by this name.
    pub to: String,
    /// Leave out what matches this pattern of .gitignore. May be given again.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Take what the project's list of secrets would leave out, on the way in. May be given again.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// How many seconds the sandbox may take for it.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The AgentSandbox.
    pub name: String,
    /// Only a letter for each path: A added, D deleted, M modified, T of another kind; folders, with a slash behind them, where
    /// they come or go without files.
    #[arg(long, conflicts_with_all = ["stat", "output"])]
    pub name_status: bool,
    /// Only how many lines come and go in each path.
    #[arg(long, conflicts_with = "output")]
    pub stat: bool,
    /// Show what the agent wrote byte by byte: it can then do with the terminal at the end of the pipe what it likes.
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
    /// Show content with a zero byte, too, as `git diff --text` does.
    #[arg(long, conflicts_with_all = ["name_status", "output"])]
    pub text: bool,
    /// How the answer is written; as JSON without any content.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The AgentSandbox.
    pub name: String,
    /// The folder, which has to hold the original at each path that differs.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The digest that `diff` told of what it showed: nothing else is applied.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    pub reviewed: String,
    /// Apply the rest where some paths are refused, but delete nothing then: what is gone may be what is refused.
    #[arg(long)]
    pub without_refused: bool,
}

fn digest(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.len() == 64 && is_hex {
        true => Ok(text.to_owned()),
        false => Err("a digest has 64 hexadecimal digits in lower case".to_owned()),
    }
}

/// Arguments of `discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// The AgentSandbox.
    pub name: String,
    /// Do it: what the agent made is gone then, and its program starts anew.
    #[arg(long)]
    pub yes: bool,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}
