//! Why a command has no answer. Each sentence says what to do next; causes are chained once, at the edge.

use crate::cluster::ClusterError;
use crate::copy::CopyError;
use crate::exec::ExecError;
use crate::explain::{DocumentError, Unanswerable};
use crate::find::FindError;
use crate::power::PowerError;
use crate::review::ReviewError;
use crate::run::RunError;
use crate::whole::WholeError;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What was named is not there, or is not shown.
    #[error(transparent)]
    Find(#[from] FindError),
    /// There is no policy document to decide by.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no spec to tell of.
    #[error(transparent)]
    Whole(#[from] WholeError),
    /// The question cannot be answered.
    #[error(transparent)]
    Question(#[from] Unanswerable),
    /// A run came to no end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A sandbox is not what was asked for.
    #[error(transparent)]
    Power(#[from] PowerError),
    /// The end of a command is not known.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// What an agent made of its workspace is not known, or not applied.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// Something is not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The answer cannot be read or written.
    #[error("the answer cannot be read or written")]
    Output(#[from] std::io::Error),
    /// The answer cannot be written as JSON.
    #[error("the answer cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// The error and its causes in one line, none of them twice.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut next) = (String::new(), Some(error));
    while let Some(error) = next {
        let answer = answer(error);
        let words = answer.map_or_else(|| error.to_string(), str::to_owned);
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = if answer.is_some() { None } else { error.source() };
    }
    text
}

/// The API server's own sentence, which the client wraps into the names of its types.
fn answer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    let boxed = error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
    match error.downcast_ref::<kube::Error>().or(boxed)? {
        kube::Error::Api(status) if !status.message.is_empty() => Some(&status.message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_own_sentence_is_told_and_nothing_of_the_clients_types() {
        let refused =
            || kube::Error::Api(Box::new(kube::core::Status::failure("pods is forbidden", "Forbidden")));
        assert_eq!(chain(&refused()), "pods is forbidden");
        let error = Error::from(FindError::not_given("the pods")(refused()));
        assert_eq!(chain(&error), "the API server does not give the pods: pods is forbidden");
    }
}
