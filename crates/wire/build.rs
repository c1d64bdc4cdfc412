//! Generates the gRPC code from `proto/`, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 4] = [
    "likeness/v1/admin.proto",
    "likeness/v1/identity.proto",
    "likeness/v1/render.proto",
    "likeness/v1/slider.proto",
];

#[allow(
    clippy::disallowed_methods,
    reason = "a build script is told where to write by its environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(PROTOS, [root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("likeness.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".likeness.v1")
        // Sorted maps encode in one way only: request digests rely on it.
        .btree_map(".likeness.v1")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
