//! The load of the benchmarks: what is to be done comes as JSON in the first argument, what came of it is the last line.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the run")]
#![allow(clippy::print_stdout, reason = "the report is the output")]

use agentsandbox_bench::load;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let load = serde_json::from_str(&std::env::args().nth(1).unwrap()).unwrap();
    println!("{}", serde_json::to_string(&load::run(load).await).unwrap());
}
