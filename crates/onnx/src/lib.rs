//! Small ONNX files: the messages of the format that a small network needs, and a [`Graph`] that is put together layer by layer.

pub mod format;
mod graph;

pub use graph::{Graph, Window};
