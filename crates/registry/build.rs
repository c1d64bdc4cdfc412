//! Rebuilds the crate, which carries the migrations inside, when one of them comes or changes.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
