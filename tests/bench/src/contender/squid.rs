//! Squid: a forward proxy that intercepts, and an accelerator for the base URL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{Setting, right};
use crate::scenario::{Back, Front};
use crate::{API, PLAIN};

pub(super) fn command(setting: &Setting<'_>) -> Command {
    let peer = setting.peer("squid");
    let root = peer.root.display();
    // It gives up its rights, and still writes its log.
    fs::set_permissions(&setting.folder, fs::Permissions::from_mode(0o777)).unwrap();
    let hosts = setting.file("hosts", &format!("127.0.0.1 {API} {PLAIN}\n"));
    let front = front(setting);
    let authorization = match setting.scenario.back() {
        Back::Plain => String::new(),
        _ => format!(
            "request_header_access Authorization deny all\nrequest_header_add Authorization \"{}\" all",
            right()
        ),
    };
    let folder = setting.folder.display();
    let text = format!(
        "{front}
{authorization}
http_access allow all
cache deny all
cache_mem 8 MB
memory_pools on
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
cache_store_log none
pid_filename none
coredump_dir {folder}
visible_hostname bench
hosts_file {hosts}
max_filedescriptors 8192
client_persistent_connections on
server_persistent_connections on
pinger_enable off
unlinkd_program {root}/usr/lib/squid/unlinkd
mime_table {root}/usr/share/squid/mime.conf
icon_directory {root}/usr/share/squid/icons
error_directory {root}/usr/share/squid/errors/templates
shutdown_lifetime 0 seconds
buffered_logs on
",
        hosts = hosts.display()
    );
    let file = setting.file("squid.conf", &text);
    let mut command = setting.peer_command("squid");
    command.arg("-N").arg("-f").arg(file);
    command
}

/// Its port, and what that needs.
fn front(setting: &Setting<'_>) -> String {
    let peer = setting.peer("squid");
    let bundle =
        [&setting.pki.ca, &setting.pki.ca_key].map(|file| fs::read_to_string(file).unwrap()).concat();
    let bundle = setting.file("ca.pem", &bundle);
    let (ca, listen) = (setting.pki.ca.display(), setting.listen);
    match setting.scenario.front() {
        Front::BaseUrl => format!(
            "http_port {listen} accel defaultsite={name} no-vhost
cache_peer 127.0.0.1 parent {port} 0 no-query no-digest originserver name=up tls sslcafile={ca} ssldomain={name}
cache_peer_access up allow all
never_direct allow all",
            name = setting.name(),
            port = setting.target().port()
        ),
        Front::Absolute => format!("http_port {listen}"),
        Front::Tunnel | Front::TunnelH2 => {
            // Squid gives up its rights before it starts this, and may not look into its own user's cache then.
            let helper = setting.folder.join("certgen");
            fs::copy(peer.root.join("usr/lib/squid/security_file_certgen"), &helper).unwrap();
            let mut make = Command::new(&helper);
            make.env("LD_LIBRARY_PATH", &peer.libraries).stdout(Stdio::null()).stderr(Stdio::null());
            let made = make.arg("-c").arg("-s").arg(setting.folder.join("certs")).args(["-M", "64MB"]).status();
            assert!(made.unwrap().success(), "squid's certificate store is made");
            let _ = Command::new("chown").args(["-R", "proxy"]).arg(setting.folder.join("certs")).status();
            format!(
                "http_port {listen} ssl-bump tls-cert={} generate-host-certificates=on dynamic_cert_mem_cache_size=64MB
sslcrtd_program {} -s {} -M 64MB
sslcrtd_children 4 startup=4 idle=1
ssl_bump bump all
tls_outgoing_options cafile={ca}",
                bundle.display(),
                helper.display(),
                setting.show("certs")
            )
        }
    }
}
