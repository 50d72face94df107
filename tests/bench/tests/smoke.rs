//! Every scenario, as small as it can be, against ours and the bare forwarder: nothing is measured, but all that measures runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests state their claims by them")]

use std::path::Path;
use std::process::Command;

use agentsandbox_bench::contender::Contender;
use agentsandbox_bench::scenario::Scenario;
use xtask::programs::proxy_beside;

#[test]
fn each_scenario_is_asked_of_ours_and_of_the_bare_forwarder_and_no_request_fails() {
    let own = Path::new(env!("CARGO_BIN_EXE_bench-proxy"));
    let results = tempfile::tempdir().unwrap();
    let ours = proxy_beside(own).unwrap();
    let programs = serde_json::json!({"ours": ours, "bench": own.parent().unwrap(), "peers": {}}).to_string();
    let mut run = Command::new(own);
    run.args([
        "--smoke",
        "--rounds=2",
        "--millis=20",
        "--contender=ours",
        "--contender=bare",
        "--machine=any",
    ]);
    // A policy of 10,000 rules takes its time in a build that is not optimised; what it is measured by runs in `base-url`.
    let tried = Scenario::ALL.into_iter().filter(|scenario| *scenario != Scenario::Rules);
    let names: Vec<String> = tried.clone().map(Scenario::name).collect();
    run.args(names.iter().flat_map(|name| ["--scenario", name]));
    run.arg("--results").arg(results.path()).arg("--programs").arg(programs);
    let output = run.output().unwrap();
    let (report, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for scenario in tried {
        let table = report.split("### ").find(|table| table.starts_with(scenario.title())).unwrap();
        for contender in [Contender::Ours, Contender::Bare] {
            let row = match contender.absent(scenario) {
                None => format!("| {} | ", contender.name()),
                Some(why) => format!("| {} | n/a: {why} |", contender.name()),
            };
            assert!(table.contains(&row) && !table.contains("n/a: failed"), "{scenario:?}: {table}{log}");
        }
    }
}
