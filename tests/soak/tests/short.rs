//! A few seconds of the soak: that nothing is wrong in them says little, and that all parts of it work says enough.
#![allow(clippy::unwrap_used, reason = "tests state their claims by it")]

use std::path::Path;
use std::process::Command;

use xtask::programs::proxy_beside;

#[test]
fn a_few_seconds_of_load_and_changes_show_nothing_wrong_and_count_what_they_saw() {
    let own = Path::new(env!("CARGO_BIN_EXE_agentsandbox-soak"));
    let mut soak = Command::new(own);
    soak.arg("--program").arg(proxy_beside(own).unwrap()).args(["--seconds=4", "--seed=1"]);
    let output = soak.output().unwrap();
    let (report, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{report}{wrong}");
    let served = report.split("| all | | ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(served.parse::<u64>().unwrap() > 0, "{report}");
}
