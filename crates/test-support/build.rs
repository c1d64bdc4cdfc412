//! The template database holds the migrations as they are now.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
