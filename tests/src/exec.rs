//! Running a command in a container, as `kubectl exec` does.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use tokio::io::AsyncReadExt;

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 when the API server reported a failure without one.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a command that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "command failed: {self:?}");
        self
    }

    /// The output of a command that must have failed.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert_ne!(self.code, 0, "command was expected to fail: {self:?}");
        self
    }

    /// Standard output and standard error together.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` in `container` of `pod` and waits for its end.
///
/// # Panics
/// When the API server refuses the exec.
pub async fn exec(pods: &Api<Pod>, pod: &str, container: &str, command: &[&str]) -> Output {
    attempt(pods, pod, container, command).await.unwrap_or_else(|e| panic!("exec in {pod}/{container}: {e}"))
}

/// As [`exec`], where the container may just be ending or starting.
///
/// # Errors
/// When the API server refuses the exec, or the command's end is not told.
pub async fn attempt(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
) -> Result<Output, String> {
    let params = AttachParams::default().container(container).stdout(true).stderr(true);
    let mut process =
        pods.exec(pod, command.iter().copied(), &params).await.map_err(|error| error.to_string())?;
    let mut out = process.stdout().expect("stdout was asked for");
    let mut err = process.stderr().expect("stderr was asked for");
    let status = process.take_status().expect("a status is sent once");
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (a, b, status) = tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr), status);
    a.and(b).map_err(|error| error.to_string())?;
    let status = status.ok_or("the API server does not report how the command ended")?;
    let code = match status.status.as_deref() {
        Some("Success") => 0,
        _ => status
            .details
            .and_then(|d| d.causes)
            .into_iter()
            .flatten()
            .find(|c| c.reason.as_deref() == Some("ExitCode"))
            .and_then(|c| c.message)
            .and_then(|m| m.parse().ok())
            .unwrap_or(-1),
    };
    Ok(Output {
        code,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
