//! Compiles the contracts with protox, so that no protoc is needed on the machine.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "pubsub/controller.proto",
    "pubsub/push_manager.proto",
    "pubsub/connect_node.proto",
    "pubsub/node_link.proto",
    "pubsub/route_feed.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=pubsub");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("pubsub_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
