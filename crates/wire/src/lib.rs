//! The gRPC contract in Rust: the generated code, proto ↔ domain, and the one place where an error becomes a status.

pub mod identity;
pub mod json;
pub mod render;
pub mod status;
pub mod tenant;
pub mod time;

/// The generated messages, clients and servers of `likeness.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("likeness.v1");
}

/// The contract's descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/likeness.bin"));
