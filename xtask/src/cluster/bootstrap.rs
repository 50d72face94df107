//! What a new cluster is given first: the images it cannot start without, its DNS and its RuntimeClass.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use super::{Cluster, config, network};
use crate::failure::{During, Failure, Result};
use crate::oci::{File, Image};
use crate::{oci, paths, shell};

const DNS_IMAGE: &str = "agentsandbox.test/coredns:1";

/// The program of a pause container: it holds the pod's namespaces, reaps what is reparented to it, and ends when told.
const PAUSE_SOURCE: &str = "#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// Gives the node its first images.
///
/// # Errors
/// When one cannot be made or loaded.
pub fn images(cluster: &Cluster) -> Result<()> {
    let folder = paths::cache().join("rig/images");
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let (pause, dns) = (folder.join("pause.tar"), folder.join("coredns.tar"));
    if !pause.exists() {
        let (source, program) = (folder.join("pause.c"), folder.join("pause"));
        fs::write(&source, PAUSE_SOURCE).during("the pause program cannot be written")?;
        let mut cc = shell::command("cc", &["-O2", "-static", "-s", "-o"]);
        shell::output(cc.arg(&program).arg(&source))?;
        archive(config::PAUSE_IMAGE, "/pause", &program, "65535:65535", &pause)?;
    }
    let program = fs::canonicalize(paths::cache().join("rig/bin/coredns")).during("CoreDNS is not built")?;
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if !dns.exists() || modified(&program) > modified(&dns) {
        archive(DNS_IMAGE, "/coredns", &program, "65532:65532", &dns)?;
    }
    cluster.load(&[pause, dns])
}

/// An image of one program.
fn archive(reference: &str, path: &str, program: &Path, user: &str, archive: &Path) -> Result<()> {
    let content = fs::read(program).during(format!("{} cannot be read", program.display()))?;
    let image = Image {
        reference: reference.to_owned(),
        files: [(path.to_owned(), File { content, mode: 0o755 })].into(),
        entrypoint: vec![path.to_owned()],
        user: user.to_owned(),
        ..Image::default()
    };
    oci::write(&image, archive).during(format!("{reference} cannot be made")).map(drop)
}

/// Applies the first objects.
///
/// # Errors
/// When the API server refuses one.
pub fn objects(cluster: &Cluster) -> Result<()> {
    apply(cluster, &manifest())
}

/// Applies a manifest with the administrator's rights.
///
/// # Errors
/// When the API server refuses an object.
pub fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    let mut kubectl = cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"])?;
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .during("kubectl cannot be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifest.as_bytes()).during("kubectl does not read")?;
    }
    let out = child.wait_with_output().during("kubectl did not end")?;
    if out.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("kubectl apply failed: {}", String::from_utf8_lossy(&out.stderr))))
}

fn manifest() -> String {
    format!(
        "apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: gvisor}}
handler: runsc
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: coredns}}
rules:
- {{apiGroups: [\"\"], resources: [services, namespaces, pods], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: coredns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
    .:53 {{
        errors
        health :8080
        ready :8181
        kubernetes cluster.local in-addr.arpa {{
            pods insecure
        }}
        forward . {forward}
        cache 5
    }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      priorityClassName: system-cluster-critical
      dnsPolicy: Default
      # It starts before the node is declared ready.
      tolerations: [{{operator: Exists}}]
      securityContext:
        sysctls: [{{name: net.ipv4.ip_unprivileged_port_start, value: \"0\"}}]
      containers:
      - name: coredns
        image: {DNS_IMAGE}
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1}}
        securityContext:
          runAsNonRoot: true
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities: {{drop: [ALL]}}
          seccompProfile: {{type: RuntimeDefault}}
        volumeMounts: [{{name: config, mountPath: /etc/coredns, readOnly: true}}]
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {dns}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
",
        forward = network::WORLD_DNS,
        dns = network::CLUSTER_DNS
    )
}
