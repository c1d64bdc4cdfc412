//! `likeness bundle …` through the binary.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use likeness_bundle::pocket;
use serde_json::Value;

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_likeness"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

#[test]
fn without_accepted_licences_nothing_is_asked_of_the_hub() {
    let scratch = tempfile::tempdir().unwrap();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let pull = [
        "bundle",
        "pull",
        "sdxl-hyperlora-fidelity",
        "--endpoint",
        &endpoint,
    ];
    let output = run(scratch.path(), &pull);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in [
        "CC-BY-NC-4.0",
        "no commercial use",
        "antelopev2",
        "--accept-licence",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(hub.accept().is_err(), "the hub was asked");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    drop(hub);
    let pull = [
        "bundle",
        "pull",
        "sdxl-hyperlora-edit",
        "--endpoint",
        &endpoint,
        "--accept-licence",
    ];
    let output = run(scratch.path(), &pull);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&endpoint) && said.trim_end().lines().count() == 1,
        "{said}"
    );
    let unknown = run(scratch.path(), &["bundle", "pull", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("sdxl-hyperlora-fidelity"));
}

#[test]
fn a_bundle_is_hashed_verified_and_inspected() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    pocket::make(dir.join("pocket"), 0).unwrap();
    fs::write(dir.join("pocket/notes.txt"), "mine").unwrap();
    assert_eq!(
        run(dir, &["bundle", "verify", "pocket"]).status.code(),
        Some(1)
    );
    let hashed = run(dir, &["bundle", "hash", "pocket", "--output", "json"]);
    let told: Value = serde_json::from_slice(&hashed.stdout).unwrap();
    assert!(told["files"].as_u64() > Some(20), "{told}");
    assert_eq!(
        run(dir, &["bundle", "verify", "pocket"]).status.code(),
        Some(0)
    );
    assert_eq!(
        run(dir, &["bundle", "inspect", "pocket"]).status.code(),
        Some(0)
    );
    let vae = dir.join("pocket/sdxl/vae/diffusion_pytorch_model.safetensors");
    fs::write(vae, "").unwrap();
    let inspected = run(dir, &["bundle", "inspect", "pocket", "--output", "json"]);
    assert_eq!(inspected.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(
        told["parts"][0]["problems"][0]["kind"], "bad_file",
        "{told}"
    );
}

#[test]
fn the_pocket_bundle_is_the_trained_one_unless_random_weights_are_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    let digest = |args: &[&str]| {
        let made = run(scratch.path(), &[args, &["--output", "json"]].concat());
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        let told: Value = serde_json::from_slice(&made.stdout).unwrap();
        told["digest"].as_str().unwrap().to_owned()
    };
    let make = ["bundle", "make-pocket"];
    let trained = digest(&[&make[..], &["a"]].concat());
    assert_eq!(trained, pocket::trained_digest().unwrap());
    let random = digest(&[&make[..], &["b", "--random"]].concat());
    let other = digest(&[&make[..], &["c", "--random", "--seed", "1"]].concat());
    assert!(trained != random && random != other && trained != other);
    let seeded = run(
        scratch.path(),
        &["bundle", "make-pocket", "d", "--seed", "1"],
    );
    assert_eq!(
        seeded.status.code(),
        Some(2),
        "a seed is for random weights"
    );
    let over = run(scratch.path(), &["bundle", "make-pocket", "b"]);
    assert_eq!(over.status.code(), Some(1));
}
