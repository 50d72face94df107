//! The limit on open files. Shells and service managers set a low one and let a process raise it; a proxy that is out of files can
//! neither serve nor read its policy, so it takes no more connections than it has files for, and opens no more
//! to upstreams than it takes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{FILES_BESIDE_CONNECTIONS, FILES_PER_CONNECTION};

/// There are too few files for a single connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit on open files is {limit}; raise it to {needed} or more (ulimit -n), so that connections can be served"
)]
pub struct TooFewFiles {
    limit: u64,
    needed: u64,
}

/// Files for so many connections.
fn files_for(connections: usize) -> u64 {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    connections.saturating_mul(FILES_PER_CONNECTION).saturating_add(FILES_BESIDE_CONNECTIONS)
}

/// Raises the limit as far as it goes, and gives back how many of the `wanted` connections may be served at a time.
///
/// # Errors
/// There are too few files for one.
pub fn connections_max(wanted: usize) -> Result<usize, TooFewFiles> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %error, "the limit on open files is not raised");
    }
    let limit = getrlimit(Resource::Nofile).current;
    let connections = connections_within(limit, wanted)?;
    if connections < wanted {
        let needed = files_for(wanted);
        tracing::warn!(
            limit,
            needed,
            connections,
            "the limit on open files is low: fewer connections are served"
        );
    }
    Ok(connections)
}

/// How many connections there are files for; no limit is as good as enough.
fn connections_within(limit: Option<u64>, wanted: usize) -> Result<usize, TooFewFiles> {
    let Some(limit) = limit else { return Ok(wanted) };
    let connections = limit.saturating_sub(FILES_BESIDE_CONNECTIONS) / FILES_PER_CONNECTION;
    match usize::try_from(connections).unwrap_or(usize::MAX).min(wanted) {
        0 => Err(TooFewFiles { limit, needed: files_for(wanted) }),
        connections => Ok(connections),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        ADMIN_CONNECTIONS_MAX, CONNECTIONS_IN_POD_MAX, CONNECTIONS_MAX, ENROLMENTS_MAX,
        UPSTREAM_CONNECTIONS_IN_POD_MAX, UPSTREAM_CONNECTIONS_MAX,
    };

    #[test]
    fn p_i4_no_more_connections_are_served_than_there_are_files_for() {
        for (limit, connections) in [
            (None, Some(CONNECTIONS_MAX)),
            (Some(1 << 20), Some(CONNECTIONS_MAX)),
            (Some(files_for(CONNECTIONS_MAX)), Some(CONNECTIONS_MAX)),
            (Some(files_for(CONNECTIONS_MAX) - 1), Some(CONNECTIONS_MAX - 1)),
            (Some(1024), Some(192)),
            (Some(FILES_BESIDE_CONNECTIONS + FILES_PER_CONNECTION - 1), None),
            (Some(0), None),
        ] {
            assert_eq!(connections_within(limit, CONNECTIONS_MAX).ok(), connections, "{limit:?}");
        }
    }

    #[test]
    fn p_i4_there_are_files_for_all_connections_of_both_sides_and_beside_them() {
        for (served, upstreams) in [
            (CONNECTIONS_MAX, UPSTREAM_CONNECTIONS_MAX),
            (CONNECTIONS_IN_POD_MAX, UPSTREAM_CONNECTIONS_IN_POD_MAX),
        ] {
            assert!(files_for(served) >= (served + upstreams) as u64 + FILES_BESIDE_CONNECTIONS);
        }
        assert!(FILES_BESIDE_CONNECTIONS >= 2 * (ADMIN_CONNECTIONS_MAX + ENROLMENTS_MAX) as u64);
    }
}
