//! The git server: nginx ends TLS on its own address and runs `git http-backend` through fcgiwrap.
//!
//! Two private repositories, `acme/shop` and `acme/other`; Basic authentication for `x-access-token` and the one token that the
//! test has set, none before. nginx's access log, in JSON, is this server's share of the request journal.
//!
//! Both programs run as one process each, since the kernel's kill reaches only the process that asked for it, not its
//! workers; several fcgiwraps make up for it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use super::{Error, Started, bound_command, copy_tree, fresh_folder, spawn, write};
use crate::authority::Authority;
use crate::journal::Request;
use crate::names;
use crate::prepare::Cache;

/// The user that goes with the token.
pub const USER: &str = "x-access-token";
/// How many git commands run at once.
const BACKENDS: usize = 3;
/// nginx's access log.
const ACCESS_LOG: &str = "access.log";
/// The password file; nginx reads it anew for each request.
const PASSWORD_FILE: &str = "htpasswd";

pub(super) fn start(
    cache: &Cache,
    authority: &Authority,
    address: SocketAddr,
    folder: &Path,
) -> Result<Started, Error> {
    let programs = cache.git().ok_or(Error::Missing)?;
    fresh_folder(folder)?;
    copy_tree(&programs.repositories, &folder.join("repositories"))?;
    let pem = authority.pem(&[names::GITHUB, names::GIT]).map_err(Error::Certificate)?;
    write(&folder.join("tls.crt"), &pem.certificate)?;
    write(&folder.join("tls.key"), &pem.key)?;
    write(&folder.join(PASSWORD_FILE), "")?;
    write(&folder.join("nginx.conf"), &configuration(folder, address, &programs.backend))?;
    let mut children = Vec::new();
    for backend in 0..BACKENDS {
        let mut command = bound_command(&programs.fcgiwrap);
        command.args(["-f", "-c", "1", "-s"]).arg(format!("unix:{}", socket(folder, backend)));
        command.env("LD_LIBRARY_PATH", &programs.libraries);
        children.push(spawn(command, &folder.join(format!("fcgiwrap-{backend}.log")))?);
    }
    let log = folder.join("nginx.log");
    let mut command = bound_command(&programs.nginx);
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
    children.push(spawn(command, &log)?);
    Ok(Started { address, children, log })
}

pub(super) fn set_token(folder: &Path, token: &str) -> io::Result<()> {
    // Replaced as a whole: nginx may be reading it.
    let next = folder.join("htpasswd.next");
    fs::write(&next, format!("{USER}:{{PLAIN}}{token}\n"))?;
    fs::rename(next, folder.join(PASSWORD_FILE))
}

fn socket(folder: &Path, backend: usize) -> String {
    folder.join(format!("fcgi-{backend}.sock")).display().to_string()
}

fn configuration(folder: &Path, address: SocketAddr, backend: &Path) -> String {
    let mut sockets = String::new();
    for number in 0..BACKENDS {
        // Writing to a String cannot fail.
        let _ = writeln!(sockets, "    server unix:{};", socket(folder, number));
    }
    include_str!("../../data/nginx.conf")
        .replace("@SOCKETS@", sockets.trim_end())
        .replace("@ADDRESS@", &address.to_string())
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@NAMES@", &format!("{} {}", names::GITHUB, names::GIT))
        .replace("@BACKEND@", &backend.display().to_string())
}

/// One line of nginx's access log.
#[derive(Deserialize)]
struct Line {
    msec: String,
    peer: IpAddr,
    local: IpAddr,
    sni: String,
    host: String,
    method: String,
    path: String,
    version: String,
    bytes: String,
    authorization: String,
    user_agent: String,
    git_protocol: String,
}

pub(super) fn requests(folder: &Path) -> Vec<Request> {
    let Ok(file) = File::open(folder.join(ACCESS_LOG)) else { return Vec::new() };
    // A line that is half written is read whole the next time.
    BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| request(&line)).collect()
}

pub(super) fn forget_requests(folder: &Path) {
    // nginx appends, so what it writes next begins at the new end.
    if let Ok(file) = File::options().write(true).open(folder.join(ACCESS_LOG)) {
        let _ = file.set_len(0);
    }
}

fn request(line: &str) -> Option<Request> {
    let line: Line = serde_json::from_str(line).ok()?;
    let headers = [
        ("host", &line.host),
        ("authorization", &line.authorization),
        ("user-agent", &line.user_agent),
        ("git-protocol", &line.git_protocol),
    ];
    let (seconds, millis) = line.msec.split_once('.')?;
    let millis = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
    Some(Request {
        time_ns: millis.checked_mul(1_000_000)?,
        peer: line.peer,
        local: Some(line.local),
        scheme: "https".to_owned(),
        sni: (!line.sni.is_empty()).then(|| line.sni.clone()),
        certificate: None,
        host: line.host.clone(),
        method: line.method,
        path: line.path,
        version: line.version,
        headers: headers
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect(),
        body_bytes: line.bytes.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_a_request_with_its_authorization() {
        let line = r#"{"msec":"1764072000.123","peer":"10.0.0.2","local":"140.82.121.4","sni":"github.com","host":"github.com",
            "method":"GET","path":"/acme/shop.git/info/refs?service=git-upload-pack","version":"HTTP/1.1","bytes":"","authorization":"Basic eA==",
            "user_agent":"git/2","git_protocol":"version=2"}"#;
        let seen = request(&line.replace('\n', "")).unwrap();
        assert_eq!(seen.header("Authorization"), Some("Basic eA=="));
        assert_eq!(seen.time_ns, 1_764_072_000_123_000_000);
        assert_eq!(seen.body_bytes, None);
    }

    #[test]
    fn the_configuration_has_no_placeholder_left() {
        let address = SocketAddr::from((names::GIT_ADDRESS, 443));
        let text = configuration(Path::new("/state/git"), address, Path::new("/lib/git-http-backend"));
        assert!(!text.contains('@'), "{text}");
        assert!(text.contains("listen 140.82.121.4:443 ssl http2 reuseport;"));
    }
}
