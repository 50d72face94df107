//! The upstream of the benchmarks; its first line says where it listens.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the run")]
#![allow(clippy::print_stdout, reason = "the one who started it waits for this line")]

use std::path::PathBuf;

use agentsandbox_bench::{pki::Pki, upstream};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap());
    upstream::serve(&Pki::at(&folder), |addresses| {
        println!("{}", serde_json::to_string(&addresses).unwrap())
    })
    .await;
}
