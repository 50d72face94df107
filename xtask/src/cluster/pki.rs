//! The cluster's certificates and kubeconfigs, made once and kept with its state.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{Cluster, network};
use crate::failure::{During, Result};

/// A client of the API server: file name, user and group.
const CLIENTS: [(&str, &str, &str); 7] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:node", "system:nodes"),
    ("kube-proxy", "system:kube-proxy", ""),
    ("kube-router", "kube-router", "system:masters"),
    ("provisioner", "provisioner", "system:masters"),
];

/// Makes what is missing.
///
/// # Errors
/// When a file cannot be written.
pub fn create(cluster: &Cluster, host_port: u16) -> Result<()> {
    let folder = cluster.state().join("pki");
    if folder.join("done").exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let ca_key = KeyPair::generate().during("a key cannot be made")?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "agentsandbox test cluster");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_certificate = ca.self_signed(&ca_key).during("the CA cannot be signed")?.pem();
    write(&folder.join("ca.crt"), &ca_certificate)?;
    write(&folder.join("ca.key"), &ca_key.serialize_pem())?;
    let issuer = Issuer::new(ca, ca_key);

    let serving = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let addresses = [network::API_SERVICE, network::NODE, "127.0.0.1"];
    leaf(&folder, &issuer, "apiserver", ("kube-apiserver", ""), &serving, &addresses)?;
    leaf(
        &folder,
        &issuer,
        "kubelet-serving",
        ("system:node:node", "system:nodes"),
        &["node"],
        &[network::NODE],
    )?;
    for (name, user, group) in CLIENTS {
        leaf(&folder, &issuer, name, (user, group), &[], &[])?;
        let inside = format!("https://{}:6443", network::NODE);
        write(&folder.join(format!("{name}.kubeconfig")), &kubeconfig(&folder, name, &inside))?;
    }
    let accounts = KeyPair::generate().during("a key cannot be made")?;
    write(&folder.join("sa.key"), &accounts.serialize_pem())?;
    write(&folder.join("sa.pub"), &accounts.public_key_pem())?;
    let outside = format!("https://127.0.0.1:{host_port}");
    write(&cluster.kubeconfig(), &kubeconfig(&folder, "admin", &outside))?;
    write(&folder.join("done"), "")
}

fn leaf(
    folder: &Path,
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    (user, group): (&str, &str),
    names: &[&str],
    addresses: &[&str],
) -> Result<()> {
    let key = KeyPair::generate().during("a key cannot be made")?;
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .during("a certificate cannot be described")?;
    params.distinguished_name.push(DnType::CommonName, user);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    for address in addresses {
        let address: IpAddr = address.parse().during("an address cannot be read")?;
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, issuer).during("a certificate cannot be signed")?;
    write(&folder.join(format!("{name}.crt")), &certificate.pem())?;
    write(&folder.join(format!("{name}.key")), &key.serialize_pem())
}

fn kubeconfig(folder: &Path, client: &str, server: &str) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: agentsandbox
  cluster: {{server: \"{server}\", certificate-authority: {folder}/ca.crt}}
users:
- name: {client}
  user: {{client-certificate: {folder}/{client}.crt, client-key: {folder}/{client}.key}}
contexts:
- name: agentsandbox
  context: {{cluster: agentsandbox, user: {client}}}
current-context: agentsandbox
"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).during(format!("{} cannot be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).during("a file cannot be made private")
}
