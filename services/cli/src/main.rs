//! The one binary `likeness`.
fn main() {}
