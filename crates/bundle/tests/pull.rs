//! Pulling from a hub that this file serves: whole, interrupted, falsified, missing.

#![cfg(feature = "pull")]
// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "hub/mod.rs"]
mod hub;

use std::fs;
use std::path::{Path, PathBuf};

use hub::{Fault, Hub, Seen};
use likeness_bundle::pull::{PullOptions, Pulled, Recipe, pull};
use likeness_bundle::{Bundle, Error};
use tempfile::TempDir;

const BASIS: &str =
    "bytedance-research/HyperLoRA/sdxl_hyper_id_lora_v1_fidelity/hyper_lora_modules.safetensors";
const CONFIG: &str = "openai/clip-vit-large-patch14/config.json";

fn recipe() -> &'static Recipe {
    Recipe::find("sdxl-hyperlora-fidelity").unwrap()
}

fn place() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("bundle");
    (scratch, dir)
}

fn pull_from(hub: &Hub, dir: &Path) -> Result<Pulled, Error> {
    let options = PullOptions {
        endpoint: hub.endpoint(),
        token: None,
    };
    pull(recipe(), dir, &options, |_| {})
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_pulled_bundle_is_whole_and_verified() {
    let hub = Hub::serve(Vec::new());
    let (scratch, dir) = place();
    let options = PullOptions {
        endpoint: format!("{}/", hub.endpoint()),
        token: Some("hf_test".to_owned()),
    };
    let mut seen = Vec::new();
    let pulled = pull(recipe(), &dir, &options, |p| seen.push((p.done, p.total))).unwrap();
    assert_eq!(seen.last(), Some(&(pulled.bytes, pulled.bytes)));
    assert!(seen.is_sorted_by_key(|(done, _)| *done), "{seen:?}");
    let bundle = Bundle::open(&dir).unwrap();
    let verified = bundle.verify(|_| {}).unwrap();
    assert!(verified.is_ok(), "{verified:?}");
    assert_eq!(verified.files, pulled.files);
    assert!(bundle.encoder_digest().is_ok());
    assert!(
        bundle
            .manifest()
            .bundle
            .licences
            .iter()
            .any(|l| l.contains("CC-BY-NC-4.0"))
    );
    assert_eq!(names(scratch.path()), ["bundle"], "nothing else is left");
    // Half precision is preferred, and the token stays at home.
    assert!(
        dir.join("sdxl/unet/diffusion_pytorch_model.fp16.safetensors")
            .is_file()
    );
    assert!(
        !dir.join("sdxl/unet/diffusion_pytorch_model.safetensors")
            .exists()
    );
    assert!(
        hub.requests()
            .iter()
            .all(|r| r.authorised != r.path.starts_with("/cdn/"))
    );
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    let hub = Hub::serve(vec![(
        BASIS,
        Fault::Cut {
            at: 1000,
            times: 100,
        },
    )]);
    let (_scratch, dir) = place();
    let error = pull_from(&hub, &dir).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error}");
    assert!(error.to_string().contains("pull again"), "{error}");
    assert!(!dir.exists());
    let before = hub.requests().len();
    hub.heal();
    pull_from(&hub, &dir).unwrap();
    assert!(Bundle::open(&dir).unwrap().verify(|_| {}).unwrap().is_ok());
    let again = hub.requests().split_off(before);
    let of_basis = again.iter().filter(|r| r.file.as_deref() == Some(BASIS));
    let starts: Vec<u64> = of_basis.filter_map(|r| r.from).collect();
    assert!(
        starts.iter().any(|from| *from >= 1000),
        "resumed: {starts:?}"
    );
    // What was whole is not fetched again.
    let json = "hyper_lora_modules.json";
    assert!(
        !again
            .iter()
            .any(|r| r.file.as_deref().is_some_and(|f| f.ends_with(json)))
    );
}

#[test]
fn a_connection_that_breaks_is_taken_up_again_at_once() {
    let hub = Hub::serve(vec![(BASIS, Fault::Cut { at: 1000, times: 2 })]);
    let (_scratch, dir) = place();
    pull_from(&hub, &dir).unwrap();
    assert!(Bundle::open(&dir).unwrap().verify(|_| {}).unwrap().is_ok());
}

#[test]
fn a_connection_may_break_often_as_long_as_it_brings_something() {
    let hub = Hub::serve(vec![(BASIS, Fault::Eighths)]);
    let (_scratch, dir) = place();
    pull_from(&hub, &dir).unwrap();
    assert!(Bundle::open(&dir).unwrap().verify(|_| {}).unwrap().is_ok());
    let of_basis =
        |seen: &&Seen| seen.file.as_deref() == Some(BASIS) && seen.path.starts_with("/cdn");
    assert!(hub.requests().iter().filter(of_basis).count() > 6);
}

#[test]
fn a_wrong_checksum_is_refused_and_removed() {
    for file in [BASIS, CONFIG] {
        let hub = Hub::serve(vec![(file, Fault::Falsify)]);
        let (scratch, dir) = place();
        let error = pull_from(&hub, &dir).unwrap_err();
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
        assert!(!dir.exists());
        let left = fs::read_dir(scratch.path().join("bundle.partial/bundle/hyperlora"));
        let left: Vec<_> = left
            .map(|l| l.map(|e| e.unwrap().file_name()).collect())
            .unwrap_or_default();
        assert!(
            file != BASIS
                || !left
                    .iter()
                    .any(|name| name == "hyper_lora_modules.safetensors")
        );
        hub.heal();
        pull_from(&hub, &dir).unwrap();
    }
}

#[test]
fn what_the_hub_lacks_is_named() {
    let hub = Hub::serve(vec![(BASIS, Fault::Missing)]);
    let (_scratch, dir) = place();
    let text = pull_from(&hub, &dir).unwrap_err().to_string();
    assert!(
        text.contains("bytedance-research/HyperLoRA")
            && text.contains("hyper_lora_modules.safetensors"),
        "{text}"
    );
    let hub = Hub::serve(vec![("openai/clip-vit-large-patch14", Fault::Missing)]);
    let text = pull_from(&hub, &dir).unwrap_err().to_string();
    assert!(
        text.contains("openai/clip-vit-large-patch14") && text.contains("404"),
        "{text}"
    );
    assert!(!dir.exists());
}

#[test]
fn a_folder_in_use_and_a_wrong_address_are_refused() {
    let hub = Hub::serve(Vec::new());
    let (_scratch, dir) = place();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    assert!(matches!(pull_from(&hub, &dir), Err(Error::NotEmpty { .. })));
    assert!(hub.requests().is_empty());
    let (_scratch, dir) = place();
    for endpoint in ["", "huggingface.co", "ftp://x", "http://", "http://a b"] {
        let options = PullOptions {
            endpoint: endpoint.to_owned(),
            token: None,
        };
        let error = pull(recipe(), &dir, &options, |_| {}).unwrap_err();
        assert!(matches!(error, Error::Hub { .. }), "{endpoint}: {error}");
    }
}
