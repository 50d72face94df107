//! The way to a cluster, found as kubectl finds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::args::ClusterArgs;

/// A person waits: what does not connect by then is told.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an API server may say nothing to a question; what is followed may be silent for as long as it likes.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Variable with the names of kubeconfigs.
const KUBECONFIG: &str = "KUBECONFIG";

/// A cluster, and the namespace that is meant.
#[derive(Clone)]
pub struct Cluster {
    /// Whoever the kubeconfig says.
    pub client: Client,
    /// The same for what is followed: it waits for ever.
    pub streams: Client,
    /// The namespace.
    pub namespace: String,
}

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No file is there.
    #[error("there is no kubeconfig: looked for {0}; name one with --kubeconfig or in $KUBECONFIG")]
    NoKubeconfig(String),
    /// A file cannot be used.
    #[error("the kubeconfig {file} cannot be used")]
    Unusable {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// No context was chosen.
    #[error("the kubeconfig {file} has no current context: choose one with --context ({known})")]
    NoContext {
        /// Which kubeconfig.
        file: String,
        /// Names of its contexts.
        known: String,
    },
    /// There is no such context.
    #[error("the kubeconfig {file} has no context {name}: choose one that it has ({known})")]
    UnknownContext {
        /// Which kubeconfig.
        file: String,
        /// The name that was asked for.
        name: String,
        /// Names of its contexts.
        known: String,
    },
    /// What it says makes no client.
    #[error("the kubeconfig makes no client")]
    Client(#[source] Box<kube::Error>),
}

/// Connects; nothing is asked yet.
///
/// # Errors
/// [`ClusterError`].
pub async fn connect(args: &ClusterArgs) -> Result<Cluster, ClusterError> {
    let named = std::env::var_os(KUBECONFIG);
    let files = files(args.kubeconfig.as_deref(), named.as_deref(), std::env::home_dir().as_deref());
    let kubeconfig = read(&files)?;
    let file = shown(&files);
    let known = || {
        let names: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
        if names.is_empty() { "it has none".to_owned() } else { names.join(", ") }
    };
    match args.context.as_ref().or(kubeconfig.current_context.as_ref()) {
        None => return Err(ClusterError::NoContext { file, known: known() }),
        Some(name) if !kubeconfig.contexts.iter().any(|context| context.name == *name) => {
            return Err(ClusterError::UnknownContext { file, name: name.clone(), known: known() });
        }
        Some(_) => {}
    }
    let options = KubeConfigOptions {
        context: args.context.clone(),
        cluster: args.cluster.clone(),
        user: args.user.clone(),
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|source| ClusterError::Unusable { file, source: Box::new(source) })?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let streams = client(config.clone(), None)?;
    Ok(Cluster { client: client(config, Some(ANSWER_TIMEOUT))?, streams, namespace })
}

fn client(mut config: Config, answer_timeout: Option<Duration>) -> Result<Client, ClusterError> {
    config.read_timeout = answer_timeout;
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}

/// Where kubectl looks: the flag, else the variable, else the home directory.
fn files(flag: Option<&Path>, variable: Option<&std::ffi::OsStr>, home: Option<&Path>) -> Vec<PathBuf> {
    if let Some(flag) = flag {
        return vec![flag.to_owned()];
    }
    let named: Vec<PathBuf> = variable.into_iter().flat_map(std::env::split_paths).collect();
    let named: Vec<PathBuf> = named.into_iter().filter(|file| !file.as_os_str().is_empty()).collect();
    if named.is_empty() { home.map(|home| home.join(".kube/config")).into_iter().collect() } else { named }
}

/// All of them in one; those that are missing are left out, as kubectl does, unless all are.
fn read(files: &[PathBuf]) -> Result<Kubeconfig, ClusterError> {
    let mut merged: Option<Kubeconfig> = None;
    for file in files.iter().filter(|file| file.exists()) {
        let unusable =
            |source| ClusterError::Unusable { file: file.display().to_string(), source: Box::new(source) };
        let next = Kubeconfig::read_from(file).map_err(unusable)?;
        merged = Some(match merged {
            Some(before) => before.merge(next).map_err(unusable)?,
            None => next,
        });
    }
    merged.ok_or_else(|| ClusterError::NoKubeconfig(shown(files)))
}

fn shown(files: &[PathBuf]) -> String {
    if files.is_empty() {
        return "$KUBECONFIG and a home directory, and found neither".to_owned();
    }
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_kubeconfig_is_looked_for_where_kubectl_looks_for_it() {
        let home = Some(Path::new("/h"));
        let found = |flag: Option<&str>, variable: Option<&str>| {
            shown(&files(flag.map(Path::new), variable.map(OsStr::new), home))
        };
        assert_eq!(found(Some("/f"), Some("/a")), "/f");
        assert_eq!(found(None, Some("/a:/b")), "/a, /b");
        assert_eq!(found(None, Some("")), "/h/.kube/config");
        assert_eq!(found(None, Some(":")), "/h/.kube/config");
        assert_eq!(found(None, None), "/h/.kube/config");
        assert!(shown(&files(None, None, None)).contains("neither"));
    }

    #[tokio::test]
    async fn without_a_kubeconfig_it_is_said_which_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("none");
        let args = ClusterArgs { kubeconfig: Some(file.clone()), ..ClusterArgs::default() };
        let error = connect(&args).await.err().unwrap().to_string();
        assert!(error.contains(&file.display().to_string()) && error.contains("--kubeconfig"), "{error}");
    }

    #[tokio::test]
    async fn an_api_server_that_takes_a_question_and_says_nothing_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Config::new(url.parse().unwrap());
        let asked = async |timeout| client(config.clone(), timeout).unwrap().apiserver_version().await;
        assert!(asked(Some(Duration::from_millis(50))).await.is_err());
        let follows = tokio::time::timeout(Duration::from_millis(500), asked(None));
        assert!(follows.await.is_err(), "what is followed is waited for");
    }

    #[tokio::test]
    async fn a_context_that_is_not_there_is_told_beside_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}],
            contexts: [{name: one, context: {cluster: c, namespace: team}}, {name: two, context: {cluster: c}}]}";
        std::fs::write(&file, text).unwrap();
        let connected = async |context: Option<&str>, namespace: Option<&str>| {
            let args = ClusterArgs {
                kubeconfig: Some(file.clone()),
                context: context.map(str::to_owned),
                namespace: namespace.map(str::to_owned),
                ..ClusterArgs::default()
            };
            connect(&args).await.map(|cluster| cluster.namespace).map_err(|error| error.to_string())
        };
        for (context, words) in [(None, "--context"), (Some("three"), "no context three")] {
            let error = connected(context, None).await.unwrap_err();
            assert!(error.contains(words) && error.contains("one, two"), "{error}");
        }
        assert_eq!(connected(Some("one"), None).await.unwrap(), "team");
        assert_eq!(connected(Some("two"), None).await.unwrap(), "default");
        assert_eq!(connected(Some("one"), Some("other")).await.unwrap(), "other");
    }
}
