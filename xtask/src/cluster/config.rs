//! Configuration files of the node's programs.

use std::fs;
use std::path::Path;

use super::{Cluster, cgroup, network};
use crate::failure::{During, Result};
use crate::paths;

/// Reference of the pause image.
pub const PAUSE_IMAGE: &str = "agentsandbox.test/pause:1";

/// Writes all of them.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all(cluster: &Cluster) -> Result<()> {
    let folder = cluster.state().join("config");
    fs::create_dir_all(folder.join("cni-runc")).during("a folder cannot be made")?;
    fs::create_dir_all(folder.join("cni-gvisor")).during("a folder cannot be made")?;
    let file = |name: &str, text: String| {
        fs::write(folder.join(name), text).during(format!("{name} cannot be written"))
    };
    file("containerd.toml", containerd(cluster, &folder))?;
    file(
        "runsc.toml",
        format!("binary_name = \"{}/runsc\"\n\n[runsc_config]\nplatform = \"systrap\"\n", bin()),
    )?;
    file("kubelet.yaml", kubelet(cluster))?;
    file("kube-proxy.yaml", kube_proxy(cluster))?;
    file("audit.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n".to_owned())?;
    file("resolv.conf", format!("nameserver {}\n", network::WORLD_DNS))?;
    file("cni-runc/10-pods.conflist", cni(cluster, network::PODS_RUNC))?;
    file("cni-gvisor/10-pods.conflist", cni(cluster, network::PODS_GVISOR))
}

fn bin() -> String {
    paths::cache().join("rig/bin").display().to_string()
}

fn containerd(cluster: &Cluster, folder: &Path) -> String {
    let state = cluster.state();
    let (state, folder, bin) = (state.display(), folder.display(), bin());
    format!(
        "version = 3
root = \"{state}/containerd\"
state = \"/run/containerd/state\"

[grpc]
address = \"{socket}\"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = \"{PAUSE_IMAGE}\"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [\"/usr/lib/cni\"]
conf_dir = \"{folder}/cni-runc\"

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = \"runc\"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.fake-runsc]
runtime_type = \"io.containerd.runc.v2\"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.fake-runsc.options]
SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc]
runtime_type = \"io.containerd.runsc.v1\"
cni_conf_dir = \"{folder}/cni-gvisor\"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc.options]
TypeUrl = \"io.containerd.runsc.v1.options\"
ConfigPath = \"{folder}/runsc.toml\"

[plugins.'io.containerd.internal.v1.opt']
path = \"{state}/opt\"

# Programs are found on the PATH that starts with {bin}.
",
        socket = cluster.containerd_socket()
    )
}

fn kubelet(cluster: &Cluster) -> String {
    let state = cluster.state();
    let (state, cgroup_root) = (state.display(), cgroup::root_name(cluster));
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {state}/pki/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {state}/pki/kubelet-serving.crt
tlsPrivateKeyFile: {state}/pki/kubelet-serving.key
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup_root}
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [{dns}]
resolvConf: {state}/config/resolv.conf
containerRuntimeEndpoint: unix://{socket}
podLogsDir: {state}/pod-logs
podPidsLimit: 4096
maxPods: 250
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
shutdownGracePeriod: 0s
",
        dns = network::CLUSTER_DNS,
        socket = cluster.containerd_socket()
    )
}

fn kube_proxy(cluster: &Cluster) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}
hostnameOverride: node
clientConnection: {{kubeconfig: {state}/pki/kube-proxy.kubeconfig}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{minSyncPeriod: 0s, syncPeriod: 30s}}
",
        pods = network::PODS,
        state = cluster.state().display()
    )
}

/// Both pod ranges are one network: the second bridge plugin call finds the bridge and gives it the other gateway.
fn cni(cluster: &Cluster, range: &str) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "forceAddress": false, "ipMasq": false, "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{state}/cni/{kind}", "ranges": [[{{"subnet": "{pods}", "rangeStart": "{start}", "rangeEnd": "{end}", "gateway": "10.244.0.1"}}]],
             "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        state = cluster.state().display(),
        bridge = network::BRIDGE,
        // Each range remembers its own last address: with one memory for both, each would begin anew at its first free
        // address, and a pod that gets the address of one just deleted is deaf while neighbours remember the old one.
        kind = if range == network::PODS_RUNC { "runc" } else { "gvisor" },
        pods = network::PODS,
        start = if range == network::PODS_RUNC { "10.244.0.10" } else { "10.244.128.10" },
        end = if range == network::PODS_RUNC { "10.244.127.250" } else { "10.244.255.250" },
    )
}
