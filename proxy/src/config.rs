//! The configuration, parsed whole before anything is bound: every fault is found, not only the first. What comes out
//! is ready for use; nothing later can find a missing file or a bad address.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentsandbox_policy::{Host, Policy};
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::budget::Budgets;
use crate::cli::{Ports, ServeArgs};
use crate::enrolment::Enrolment;
use crate::limits::{
    AUDIT_DECISIONS_PER_SECOND_MAX, CONNECTIONS_IN_POD_MAX, CONNECTIONS_MAX, H2_UPSTREAM_STREAM_WAIT_MAX,
    UPSTREAM_CONNECTIONS_IN_POD_MAX, UPSTREAM_CONNECTIONS_MAX,
};
use crate::metrics::Metrics;
use crate::reload::{self, Loaded};
use crate::secrets::{SecretError, Secrets, Unusable};
use crate::upstream::Places;

const TOKEN: &str = "enrolment-token";
/// The file of the state folder that holds what the last words of an earlier start told of a missing secret.
const TOLD: &str = "told-of-a-secret";
/// Shorter tokens could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Everything `serve` needs.
pub struct Config {
    /// Where to listen.
    pub bind: IpAddr,
    /// On which ports.
    pub ports: Ports,
    /// The policy file, its text and its content.
    pub policy: (PathBuf, String, Loaded),
    /// The secrets.
    pub secrets: Secrets,
    /// The CA.
    pub authority: Authority,
    /// Who is served.
    pub enrolment: Enrolment,
    /// How many connections are served at a time.
    pub connections_max: usize,
    /// How many connections to upstreams are open at a time, if so many are served.
    pub upstream_connections_max: usize,
    /// How long a request waits for one of them, or for a stream of one.
    pub upstream_wait_max: Duration,
    /// Decisions for one second, beyond which requests wait. Outside a pod nobody rotates the audit trail away.
    pub decisions_per_second: Option<NonZeroU32>,
    /// What the policy DNS answers with.
    pub advertise: Option<IpAddr>,
    /// Names with addresses given by hand.
    pub resolve: Vec<(Host, IpAddr)>,
    /// TLS's cryptography.
    pub provider: Arc<CryptoProvider>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What was sent under rules with limits.
    pub budgets: Arc<Budgets>,
}

/// Why the proxy does not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration; each fault is a sentence.
    Faults(Vec<String>),
    /// A credential of the policy.
    Credential {
        /// Its name.
        name: String,
        /// What is wrong with its secret.
        error: SecretError,
    },
}

impl Config {
    /// Reads and checks everything.
    pub fn parse(args: &ServeArgs) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let metrics = Arc::new(Metrics::default());
        let mut faults = Vec::new();
        let bind = bind(args, &mut faults);
        let places = Arc::<Places>::default();
        faults.extend(args.memory_mib.and_then(|mib| bound_memory(mib, &places).err()));
        let policy = keep(&mut faults, policy(&args.policy, &provider, &metrics, &places));
        let authority = match &args.keys {
            Some(keys) => Authority::open(keys, Arc::clone(&provider), Arc::clone(&metrics)),
            None => Authority::open_or_create(&args.state, Arc::clone(&provider), Arc::clone(&metrics)),
        };
        let authority = keep(&mut faults, authority.map_err(|error| chain(&error)));
        let enrolment = keep(&mut faults, enrolment(args));
        if !args.state.is_dir() {
            faults.push(format!("--state {} is not a folder; create it.", args.state.display()));
        }
        let (Some(policy), Some(authority), Some(enrolment), true) =
            (policy, authority, enrolment, faults.is_empty())
        else {
            return Err(StartError::Faults(faults));
        };
        let secrets = Secrets::new(args.secrets.clone(), Arc::clone(&metrics));
        missing(args, &policy.2.policy, &secrets)?;
        let advertise = args.advertise.or_else(|| bind.is_loopback().then_some(bind));
        let resolve = args.resolve.clone();
        let ports = args.ports.or_defaults(args.keys.is_some());
        let (connections_max, upstream_connections_max) = match args.keys {
            Some(_) => (CONNECTIONS_IN_POD_MAX, UPSTREAM_CONNECTIONS_IN_POD_MAX),
            None => (CONNECTIONS_MAX, UPSTREAM_CONNECTIONS_MAX),
        };
        let decisions_per_second = args.keys.as_ref().map(|_| AUDIT_DECISIONS_PER_SECOND_MAX);
        Ok(Self {
            bind,
            ports,
            policy,
            secrets,
            authority,
            enrolment,
            connections_max,
            upstream_connections_max,
            upstream_wait_max: H2_UPSTREAM_STREAM_WAIT_MAX,
            decisions_per_second,
            advertise,
            resolve,
            provider,
            metrics,
            budgets: Budgets::open(&args.state, std::time::Instant::now()),
        })
    }
}

/// A secret that is missing ends the first start, whose last words tell so: nobody else hears of it soon. The next start waits for
/// it, unready and denying, for what ends again and again is started again later and later.
fn missing(args: &ServeArgs, policy: &Policy, secrets: &Secrets) -> Result<(), StartError> {
    let now = std::time::Instant::now();
    let missing: Vec<_> = secrets.unusable(policy, now).collect();
    let Some(Unusable { name, error, .. }) = missing.first() else { return Ok(()) };
    let words = format!("{name}: {error}");
    let told = args.state.join(TOLD);
    let is_told = std::fs::read_to_string(&told).is_ok_and(|last| last == words);
    if args.termination_log.is_none() || !is_told {
        if let Err(error) = std::fs::write(&told, words) {
            tracing::warn!(error = %error, "the next start will not wait for a missing secret");
        }
        return Err(StartError::Credential { name: (*name).to_owned(), error: *error });
    }
    for Unusable { name, held, error } in missing {
        tracing::warn!(credential = name, error = %error, "a secret is waited for; until it is there nobody is served");
        secrets.wait_for(held);
    }
    Ok(())
}

fn bound_memory(mib: usize, places: &Places) -> Result<(), String> {
    let bounded = places.ceiling().bound(mib.saturating_mul(1024 * 1024));
    bounded.map_err(|error| format!("--memory-mib: nobody says how much the proxy takes: {error}."))
}

fn bind(args: &ServeArgs, faults: &mut Vec<String>) -> IpAddr {
    let usual = if args.keys.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let bind = args.bind.unwrap_or(IpAddr::V4(usual));
    if args.keys.is_none() && !bind.is_loopback() {
        faults.push(format!(
            "--bind {bind} needs --keys: without an enrolment token only loopback peers are served."
        ));
    }
    bind
}

fn policy(
    file: &Path,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
    places: &Arc<Places>,
) -> Result<(PathBuf, String, Loaded), String> {
    let load = || {
        let text = reload::read(file)?;
        let loaded = reload::load(&text, provider, metrics, places)?;
        Ok((file.to_owned(), text, loaded))
    };
    load().map_err(|error: reload::LoadError| format!("--policy {}: {}", file.display(), chain(&error)))
}

fn enrolment(args: &ServeArgs) -> Result<Enrolment, String> {
    let Some(keys) = &args.keys else { return Ok(Enrolment::Loopback) };
    let file = keys.join(TOKEN);
    let mut token = std::fs::read(&file)
        .map(Zeroizing::new)
        .map_err(|error| format!("--keys: {TOKEN} cannot be read: {error}."))?;
    if token.ends_with(b"\n") {
        token.pop();
    }
    if token.len() < TOKEN_BYTES_MIN {
        return Err(format!("--keys: {TOKEN} is shorter than {TOKEN_BYTES_MIN} bytes."));
    }
    Ok(Enrolment::with_token(token, &args.state, args.enrolled))
}

fn keep<T>(faults: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

/// An error with its causes, rendered once, at the edge.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentsandbox_policy::CertificateFiles;

    use crate::secrets::Held;

    const POLICY: &str =
        "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
      rules: [{name: good, host: api.good.test, ports: [443], scheme: https, credential: first}],
      credentials: [{name: first, file: one, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443]}]}]}";

    fn args(folder: &Path, termination_log: Option<PathBuf>) -> ServeArgs {
        std::fs::write(folder.join("policy.yaml"), POLICY).unwrap();
        ServeArgs {
            policy: folder.join("policy.yaml"),
            secrets: folder.to_owned(),
            keys: None,
            state: folder.to_owned(),
            advertise: None,
            enrolled: None,
            termination_log,
            bind: None,
            resolve: Vec::new(),
            memory_mib: None,
            ports: Ports::default(),
        }
    }

    /// Of one start: whether it waits for the secret, or what ended it.
    fn start(args: &ServeArgs) -> Result<bool, SecretError> {
        match Config::parse(args) {
            Ok(config) => Ok(config.secrets.is_waited_for(Held::Secret("one"))),
            Err(StartError::Credential { name, error }) => {
                assert_eq!(name, "first");
                Err(error)
            }
            Err(StartError::Faults(faults)) => panic!("{faults:?}"),
        }
    }

    #[test]
    fn a_missing_secret_ends_the_first_start_in_a_pod_and_is_waited_for_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), Some(folder.path().join("log")));
        assert_eq!(start(&args), Err(SecretError::Missing), "the kubelet has last words to tell");
        assert_eq!(start(&args), Ok(true));
        std::fs::write(folder.path().join("one"), "with spaces in it").unwrap();
        assert_eq!(start(&args), Err(SecretError::NotVisible), "that was not told yet");
        assert_eq!(start(&args), Ok(true));
        std::fs::write(folder.path().join("one"), "sk-real-0123456789").unwrap();
        assert_eq!(start(&args), Ok(false));
    }

    #[test]
    fn p_f21_a_pair_that_is_not_whole_ends_the_first_start_in_a_pod_and_is_waited_for_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), Some(folder.path().join("log")));
        let certificates = "
      clientCertificates: [{name: mtls, certificateFile: crt, keyFile: key, scopes: [{host: api.good.test, ports: [443]}]}]}";
        std::fs::write(&args.policy, POLICY.trim_end_matches('}').to_owned() + "," + certificates).unwrap();
        std::fs::write(folder.path().join("one"), "sk-real-0123456789").unwrap();
        let files = CertificateFiles { certificate: "crt".to_owned(), key: "key".to_owned() };
        match Config::parse(&args) {
            Err(StartError::Credential { name, error: SecretError::PairMissing }) => assert_eq!(name, "mtls"),
            other => panic!("{:?}", other.err()),
        }
        let secrets = Config::parse(&args).map(|config| config.secrets).unwrap();
        assert!(secrets.is_waited_for(Held::Certificate(&files)));
        assert!(!secrets.is_waited_for(Held::Secret("one")));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(folder.path().join("crt"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("key"), key.serialize_pem()).unwrap();
        secrets
            .certificate(&files, std::time::Instant::now() + crate::limits::SECRET_STAT_INTERVAL * 2)
            .unwrap();
        assert!(!secrets.is_waited_for(Held::Certificate(&files)), "it was whole once");
    }

    #[test]
    fn a_missing_secret_ends_every_start_where_a_person_reads_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), None);
        for _ in 0..3 {
            assert_eq!(start(&args), Err(SecretError::Missing));
        }
    }
}
