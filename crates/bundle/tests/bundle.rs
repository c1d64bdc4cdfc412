//! A bundle on disk from outside: made, opened, digested, verified, inspected.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use likeness_bundle::{Bundle, Detector, Error, Problem, SdxlModel, pocket};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
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
        (
            "[face]\ndetector = \"d.onnx\"\nbuiltin = \"frontal\"\n",
            "builtin",
        ),
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
fn the_pocket_inspects_clean() {
    let (_scratch, dir) = pocket_bundle();
    let report = Bundle::open(&dir).unwrap().inspect();
    assert!(report.is_ok(), "{:?}", report.parts);
    let sections: Vec<&str> = report.parts.iter().map(|p| p.section.as_str()).collect();
    assert_eq!(sections, ["sdxl", "hyperlora", "clip_vision", "face"]);
    assert!(report.parts[0].parameters() > 1_000_000);
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains("\"dtypes\"")
    );
}

/// A safetensors file of the right length with a hole where its numbers would be.
fn sparse(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let mut at = 0;
    let infos = tensors.iter().map(|(name, shape)| {
        let end = at + 2 * shape.iter().product::<usize>();
        let info = TensorInfo {
            dtype: Dtype::F16,
            shape: shape.clone(),
            data_offsets: (at, end),
        };
        at = end;
        (name.clone(), info)
    });
    let metadata = Metadata::new(None::<HashMap<String, String>>, infos.collect()).unwrap();
    let mut header = serde_json::to_vec(&metadata).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(&header);
    fs::write(path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + metadata.data_len() as u64)
        .unwrap();
}

/// The released sizes: 140 modules, K 128, rank 8, resampler of 4 layers of 1024.
fn released(dir: &Path) -> Vec<(String, Vec<usize>)> {
    let mut basis = Vec::new();
    let mut json = Vec::new();
    for number in 0..140 {
        let hidden = if number < 20 { 640 } else { 1280 };
        let cross = (number % 2 == 1).then_some(2048);
        let null = cross.map_or("null".to_owned(), |c| c.to_string());
        json.push(format!(
            "\"lora_unet_m{number}\": {{\"hidden_size\": {hidden}, \"cross_attention_dim\": {null}}}"
        ));
        let context = cross.unwrap_or(hidden);
        for (matrix, inputs) in [
            ("to_q", hidden),
            ("to_k", context),
            ("to_v", context),
            ("to_out", hidden),
        ] {
            basis.push((
                format!("{number}.{matrix}.id_down_basis"),
                vec![128, inputs, 8],
            ));
            basis.push((
                format!("{number}.{matrix}.id_up_basis"),
                vec![128, 8, hidden],
            ));
        }
    }
    fs::write(
        dir.join("hyper_lora_modules.json"),
        format!("{{{}}}", json.join(",")),
    )
    .unwrap();
    sparse(&dir.join("hyper_lora_modules.safetensors"), &basis);
    let mut projector = vec![("0.weight".to_owned(), vec![16384, 512])];
    projector.push(("0.bias".to_owned(), vec![16384]));
    projector.push(("2.weight".to_owned(), vec![1024]));
    projector.push(("2.bias".to_owned(), vec![1024]));
    sparse(&dir.join("id_projector.safetensors"), &projector);
    resampler()
}

fn resampler() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("latents".to_owned(), vec![1, 1120, 1024])];
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        all.push((format!("{name}.weight"), vec![outputs, inputs]));
        all.push((format!("{name}.bias"), vec![outputs]));
    };
    linear("proj_in", 1024, 1024);
    linear("proj_in_2", 1024, 1024);
    linear("proj_out", 128, 1024);
    for layer in 0..4 {
        linear(&format!("layers.{layer}.ff.net.0.proj"), 4096, 1024);
        linear(&format!("layers.{layer}.ff.net.2"), 1024, 4096);
    }
    for layer in 0..4 {
        for norm in ["attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"] {
            for end in ["weight", "bias"] {
                all.push((format!("layers.{layer}.norm_{norm}.{end}"), vec![1024]));
            }
        }
        for attention in 1..=3 {
            let name = format!("layers.{layer}.attn{attention}");
            for matrix in ["to_q", "to_k", "to_v"] {
                all.push((format!("{name}.{matrix}.weight"), vec![768, 1024]));
            }
            all.push((format!("{name}.to_out.0.weight"), vec![1024, 768]));
        }
    }
    all
}

fn hyperlora_bundle(scratch: &TempDir) -> (Bundle, PathBuf) {
    let manifest = "[bundle]\nname = \"r\"\nversion = \"1\"\n[hyperlora]\npath = \"h\"\n";
    fs::write(scratch.path().join("bundle.toml"), manifest).unwrap();
    let dir = scratch.path().join("h");
    fs::create_dir(&dir).unwrap();
    (Bundle::open(scratch.path()).unwrap(), dir)
}

#[test]
fn the_released_sizes_are_counted_from_headers() {
    let scratch = tempfile::tempdir().unwrap();
    let (bundle, dir) = hyperlora_bundle(&scratch);
    let resampler = released(&dir);
    sparse(&dir.join("resampler.safetensors"), &resampler);
    let report = bundle.inspect();
    assert!(report.is_ok(), "{:?}", report.parts[0].problems);
    assert_eq!(report.encoder_digest, None);
    let parameters = |name: &str| {
        let file = report.parts[0]
            .files
            .iter()
            .find(|f| f.path.starts_with(name));
        file.unwrap().parameters
    };
    assert_eq!(parameters("hyper_lora_modules") / 1_000_000, 1486);
    assert_eq!(parameters("resampler") / 10_000, 7475);
    assert_eq!(parameters("id_projector") / 100_000, 84);
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let (bundle, dir) = hyperlora_bundle(&scratch);
    let mut resampler = released(&dir);
    resampler.retain(|(name, _)| name != "layers.3.norm_ff.bias");
    resampler.push(("layers.0.surprise".to_owned(), vec![3]));
    let out = resampler
        .iter_mut()
        .find(|(name, _)| name == "layers.2.attn3.to_k.weight")
        .unwrap();
    out.1 = vec![768, 1000];
    sparse(&dir.join("resampler.safetensors"), &resampler);
    let file = || "resampler.safetensors".to_owned();
    let found = bundle.inspect().parts.remove(0).problems;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.contains(&Problem::MissingTensor {
        file: file(),
        tensor: "layers.3.norm_ff.bias".to_owned(),
        expected: Some(vec![1024]),
    }));
    assert!(found.contains(&Problem::WrongShape {
        file: file(),
        tensor: "layers.2.attn3.to_k.weight".to_owned(),
        expected: vec![768, 1024],
        found: vec![768, 1000],
    }));
    assert!(found.contains(&Problem::ExtraTensor {
        file: file(),
        tensor: "layers.0.surprise".to_owned(),
        found: vec![3],
    }));
}

#[test]
fn damaged_files_are_reported_and_stop_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (bundle, dir) = hyperlora_bundle(&scratch);
    released(&dir);
    let cut = dir.join("hyper_lora_modules.safetensors");
    fs::File::options()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(1_000_000)
        .unwrap();
    fs::write(dir.join("id_projector.safetensors"), [255_u8; 64]).unwrap();
    fs::write(dir.join("hyper_lora_modules.json"), "[]").unwrap();
    let found = bundle.inspect().parts.remove(0).problems;
    let bad = |path: &str| {
        found
            .iter()
            .any(|p| matches!(p, Problem::BadFile { path: at, .. } if at == path))
    };
    assert!(
        bad("hyper_lora_modules.safetensors") && bad("id_projector.safetensors"),
        "{found:?}"
    );
    assert!(bad("hyper_lora_modules.json"), "{found:?}");
    let gone = Problem::MissingFile {
        path: "resampler.safetensors".to_owned(),
    };
    assert!(found.contains(&gone), "{found:?}");
}
