//! A bundle on disk from outside: made, opened, digested, verified.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use likeness_bundle::{Bundle, Detector, Error, SdxlModel, pocket};
use tempfile::TempDir;

/// Raise `pocket::VERSION` whenever these change: somebody's tests may rely on the bytes.
const DIGEST_OF_SEED_0: &str = "b3f532392bef5cec8a95de2b1a0157f1d010c074bfb351652202e4af5095c060";
const ENCODER_OF_SEED_0: &str = "777e965ba91431d50fcb8306950b9b70a666e63f920c48ca056932f42107b89e";

fn pocket_bundle() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pocket");
    assert_eq!(pocket::make(&dir, 0).unwrap(), pocket::Made::Written);
    (scratch, dir)
}

/// A bundle of one manifest and nothing else.
fn manifest_only(text: &str) -> Result<Bundle, Error> {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("bundle.toml"), text).unwrap();
    Bundle::open(scratch.path())
}

fn with_bundle(rest: &str) -> Result<Bundle, Error> {
    manifest_only(&format!("[bundle]\nname = \"b\"\nversion = \"1\"\n{rest}"))
}

fn refusal(rest: &str) -> String {
    match with_bundle(rest) {
        Err(error @ Error::Manifest { .. }) => error.to_string(),
        other => panic!("{rest:?} gave {other:?}"),
    }
}

#[test]
fn seed_0_gives_the_same_bytes_everywhere() {
    let (_scratch, dir) = pocket_bundle();
    let bundle = Bundle::open(&dir).unwrap();
    assert_eq!(bundle.digest(), DIGEST_OF_SEED_0);
    assert_eq!(bundle.encoder_digest().unwrap(), ENCODER_OF_SEED_0);
    let verified = bundle.verify(|_| {}).unwrap();
    assert!(verified.is_ok(), "{verified:?}");
    assert!(verified.bytes < 12_000_000, "{} bytes", verified.bytes);
}

#[test]
fn another_seed_is_another_bundle() {
    let (scratch, dir) = pocket_bundle();
    let other = scratch.path().join("other");
    pocket::make(&other, 1).unwrap();
    let (a, b) = (Bundle::open(&dir).unwrap(), Bundle::open(&other).unwrap());
    assert_ne!(a.digest(), b.digest());
    assert_ne!(a.encoder_digest().unwrap(), b.encoder_digest().unwrap());
}

#[test]
fn making_again_does_nothing_and_making_over_something_else_is_refused() {
    let (scratch, dir) = pocket_bundle();
    assert_eq!(pocket::make(&dir, 0).unwrap(), pocket::Made::AlreadyThere);
    assert!(matches!(pocket::make(&dir, 1), Err(Error::NotEmpty { .. })));
    fs::write(dir.join("mine.txt"), "keep me").unwrap();
    assert!(matches!(pocket::make(&dir, 0), Err(Error::NotEmpty { .. })));
    assert_eq!(fs::read_to_string(dir.join("mine.txt")).unwrap(), "keep me");
    let file = scratch.path().join("file");
    fs::write(&file, "a file").unwrap();
    assert!(matches!(
        pocket::make(&file, 0),
        Err(Error::NotEmpty { .. })
    ));
    let left: Vec<_> = fs::read_dir(scratch.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_empty_directory_is_filled() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("empty");
    fs::create_dir(&dir).unwrap();
    assert_eq!(pocket::make(&dir, 0).unwrap(), pocket::Made::Written);
    assert!(Bundle::open(&dir).unwrap().verify(|_| {}).unwrap().is_ok());
}

#[test]
fn the_pocket_has_every_part_where_its_manifest_says() {
    let (_scratch, dir) = pocket_bundle();
    let bundle = Bundle::open(&dir).unwrap();
    assert_eq!(
        (bundle.name(), bundle.version()),
        ("pocket", pocket::VERSION)
    );
    assert_eq!(
        bundle.sdxl(None).unwrap(),
        SdxlModel::Folder(dir.join("sdxl"))
    );
    assert_eq!(bundle.hyperlora().unwrap().dim_head, 16);
    assert!(bundle.clip_vision().unwrap().join("config.json").is_file());
    let face = bundle.face().unwrap();
    assert_eq!(face.detector, Detector::Frontal);
    assert!(face.recognizer.is_file());
    assert_eq!(bundle.defaults().width, 256);
    match bundle.sdxl(Some("realvis")) {
        Err(Error::UnknownModel { model, .. }) => assert_eq!(model, "realvis"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verify_names_what_is_changed_missing_and_extra() {
    let (_scratch, dir) = pocket_bundle();
    fs::write(dir.join("sdxl/unet/config.json"), "{}").unwrap();
    fs::remove_file(dir.join("sdxl/tokenizer/merges.txt")).unwrap();
    fs::write(dir.join("sdxl/new.bin"), "x").unwrap();
    let mut last = (0, 0);
    let verified = Bundle::open(&dir)
        .unwrap()
        .verify(|p| last = (p.done, p.total))
        .unwrap();
    assert!(!verified.is_ok());
    assert_eq!(verified.missing, ["sdxl/tokenizer/merges.txt"]);
    assert_eq!(verified.extra, ["sdxl/new.bin"]);
    let changed: Vec<&str> = verified.changed.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(changed, ["sdxl/unet/config.json"]);
    assert_eq!(last.0, last.1);
}

#[test]
fn a_directory_without_manifest_is_no_bundle() {
    let scratch = tempfile::tempdir().unwrap();
    assert!(matches!(
        Bundle::open(scratch.path()),
        Err(Error::NotABundle { .. })
    ));
}

#[test]
fn wrong_manifests_are_refused_with_line_and_reason() {
    for (text, words) in [
        ("[hyperlora]\npath = \"h\"\ndimhead = 3\n", "dimhead"),
        ("[defaults]\nsteps = 0\n", "steps"),
        ("[defaults]\nguidance = nan\n", "guidance"),
        ("[defaults]\nwidth = 300\n", "width"),
        ("[face]\nbuiltin = \"sideways\"\n", "frontal"),
        ("[files]\n\"a\" = \"ABC\"\n", "sha-256"),
        ("[sdxl]\n", "path"),
        ("[sdxl\n", "line 4"),
    ] {
        let message = refusal(text);
        assert!(message.contains(words), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let message = manifest_only("[bundle]\nname = \"a b\"\nversion = \"1\"\n")
        .unwrap_err()
        .to_string();
    assert!(message.contains("a b"), "{message}");
}

#[test]
fn a_manifest_may_name_a_detector_the_built_in_one_or_both() {
    let detector = |section: &str| {
        let bundle = with_bundle(section).unwrap();
        (bundle.face_detector().unwrap(), bundle.dir().join("d.onnx"))
    };
    let (file, frontal) = ("detector = \"d.onnx\"\n", "builtin = \"frontal\"\n");
    let (found, _) = detector(&format!("[face]\n{frontal}"));
    assert_eq!(found, Detector::Frontal);
    let (found, path) = detector(&format!("[face]\n{file}"));
    assert_eq!(found, Detector::Onnx(path));
    let (found, path) = detector(&format!("[face]\n{file}{frontal}"));
    assert_eq!(found, Detector::OnnxThenFrontal(path));
}

#[test]
fn paths_cannot_leave_the_bundle() {
    for path in [
        "../x",
        "/etc/passwd",
        "a/../../b",
        ".",
        "",
        "a//b",
        "a/./b",
        "a\\\\b",
    ] {
        assert!(
            refusal(&format!("[sdxl]\npath = \"{path}\"\n")).contains("inside"),
            "{path}"
        );
        assert!(
            refusal(&format!("[files]\n\"{path}\" = \"00\"\n")).contains("inside"),
            "{path}"
        );
    }
}

#[test]
fn a_missing_section_is_named() {
    let bundle = with_bundle("[face]\nrecognizer = \"r.onnx\"\n").unwrap();
    let message = |result: Result<(), Error>| match result {
        Err(error @ Error::MissingSection { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(message(bundle.sdxl(None).map(drop)).contains("[sdxl]"));
    assert!(message(bundle.hyperlora().map(drop)).contains("[hyperlora]"));
    assert!(message(bundle.clip_vision().map(drop)).contains("[clip_vision]"));
    assert!(message(bundle.face().map(drop)).contains("detector"));
    assert!(message(bundle.encoder_digest().map(drop)).contains("[hyperlora]"));
}

#[test]
fn a_digest_needs_the_hashes_of_its_files() {
    let (_scratch, dir) = pocket_bundle();
    let path = dir.join("bundle.toml");
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains("resampler.safetensors"))
        .collect();
    fs::write(&path, kept.join("\n")).unwrap();
    match Bundle::open(&dir).unwrap().encoder_digest() {
        Err(Error::NotListed { path }) => assert_eq!(path, "hyperlora/resampler.safetensors"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn models_do_not_change_the_encoder_but_the_bundle() {
    let (_scratch, dir) = pocket_bundle();
    let before = Bundle::open(&dir).unwrap();
    let path = dir.join("bundle.toml");
    let text = fs::read_to_string(&path).unwrap();
    let unet = "\"sdxl/unet/config.json\" = \"";
    let at = text.find(unet).unwrap() + unet.len();
    let digit = if text.as_bytes()[at] == b'0' {
        "1"
    } else {
        "0"
    };
    fs::write(&path, format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
    let after = Bundle::open(&dir).unwrap();
    assert_ne!(before.digest(), after.digest());
    assert_eq!(
        before.encoder_digest().unwrap(),
        after.encoder_digest().unwrap()
    );
}

#[test]
fn hashing_replaces_the_checksums_and_nothing_else() {
    let (_scratch, dir) = pocket_bundle();
    let path = dir.join("bundle.toml");
    let before = Bundle::open(&dir).unwrap().digest();
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("[files]").unwrap();
    fs::write(&path, format!("# mine\n{}", &text[..start])).unwrap();
    fs::write(dir.join("sdxl/an \"odd\" name"), "x").unwrap();
    let bundle = Bundle::open(&dir).unwrap();
    let mut last = (0, 0);
    let hashed = bundle.write_hashes(|p| last = (p.done, p.total)).unwrap();
    assert_eq!(last, (hashed.bytes, hashed.bytes));
    let bundle = Bundle::open(&dir).unwrap();
    assert!(bundle.verify(|_| {}).unwrap().is_ok());
    assert!(fs::read_to_string(&path).unwrap().starts_with("# mine\n"));
    fs::remove_file(dir.join("sdxl/an \"odd\" name")).unwrap();
    // Another section behind the checksums stays, too.
    let text = fs::read_to_string(&path).unwrap();
    let text =
        text.replace("[defaults]", "[defaults] # here") + "\n[models.other]\npath = \"sdxl\"\n";
    fs::write(&path, text).unwrap();
    Bundle::open(&dir).unwrap().write_hashes(|_| {}).unwrap();
    let bundle = Bundle::open(&dir).unwrap();
    assert!(bundle.sdxl(Some("other")).is_ok());
    assert_eq!(bundle.digest(), before);
}

#[test]
fn checksums_in_another_form_are_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("bundle.toml");
    let text = "files = {}\n[bundle]\nname = \"b\"\nversion = \"1\"\n";
    fs::write(&path, text).unwrap();
    let bundle = Bundle::open(scratch.path()).unwrap();
    let refused = bundle.write_hashes(|_| {});
    assert!(
        matches!(refused, Err(Error::Manifest { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}
