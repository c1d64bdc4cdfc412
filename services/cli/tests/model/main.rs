//! `likeness model …` and what it says to bad input, through the binary.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

mod sample;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const TOLERANCE: f64 = 1e-5;

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates")
}

fn golden(name: &str) -> PathBuf {
    crates().join("hyperlora/tests/golden").join(name)
}

fn face_golden(name: &str) -> PathBuf {
    crates().join("face/tests/golden").join(name)
}

/// A folder to work in, with a bundle around the authors' tiny example.
fn stage() -> TempDir {
    let stage = tempfile::tempdir().unwrap();
    bundle_in(&stage.path().join("golden"), |_| {});
    stage
}

fn bundle_in(dir: &Path, change: impl Fn(&Path)) {
    let model = dir.join("hyperlora");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(golden("model")).unwrap() {
        let entry = entry.unwrap();
        fs::write(
            model.join(entry.file_name()),
            fs::read(entry.path()).unwrap(),
        )
        .unwrap();
    }
    let manifest = "[bundle]\nname = \"golden\"\nversion = \"1\"\n[hyperlora]\npath = \"hyperlora\"\ndim_head = 16\n";
    fs::write(dir.join("bundle.toml"), manifest).unwrap();
    change(&model);
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_likeness"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn json_of(dir: &Path, args: &[&str]) -> Value {
    let ran = run(dir, &[args, &["--output", "json"]].concat());
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

/// The one line that a refused command says; `out` must not be there afterwards, nor anything beside it.
fn refusal(dir: &Path, args: &[&str]) -> String {
    let before = names(dir);
    let ran = run(dir, args);
    assert_eq!(ran.code, 1, "{args:?}: {} {}", ran.out, ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
    assert_eq!(names(dir), before, "{args:?} left something behind");
    ran.err
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn load(path: &Path) -> HashMap<String, Tensor> {
    safetensors::load(path, &Device::Cpu).unwrap()
}

fn save(path: &Path, tensors: &[(&str, &Tensor)]) {
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone()))
        .collect();
    safetensors::save(&tensors, path).unwrap();
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected‖.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (flat(found), flat(expected));
    assert_eq!(found.len(), expected.len());
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| square(a - b))
        .sum();
    (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

/// The first photo's inputs, in the shapes of the command's own description.
fn first_photo(path: &Path) {
    let inputs = load(&golden("inputs.safetensors"));
    let clip = inputs["clip_hidden"].narrow(0, 0, 1).unwrap();
    let arcface = inputs["arcface"]
        .narrow(0, 0, 1)
        .unwrap()
        .squeeze(1)
        .unwrap();
    save(path, &[("clip_hidden", &clip), ("arcface", &arcface)]);
}

fn encode_first(dir: &Path) {
    first_photo(&dir.join("one.safetensors"));
    let args = [
        "model",
        "encode",
        "--bundle",
        "golden",
        "--inputs",
        "one.safetensors",
        "--out",
        "c.safetensors",
    ];
    assert_eq!(run(dir, &args).code, 0);
}

#[test]
fn coefficients_and_lora_are_the_authors() {
    let stage = stage();
    let dir = stage.path();
    let expected = load(&golden("expected.safetensors"));
    let inputs = golden("inputs.safetensors").display().to_string();
    let encode = [
        "model",
        "encode",
        "--bundle",
        "golden",
        "--inputs",
        &inputs,
        "--out",
        "two.safetensors",
    ];
    let told = json_of(dir, &encode);
    assert_eq!(
        (&told["photos"], &told["tokens"], &told["k"]),
        (&json!(2), &json!(48), &json!(16))
    );
    let two = load(&dir.join("two.safetensors"));
    assert_eq!(two["per_photo"].dims(), [2, 48, 16]);
    assert_eq!(two["coefficients"].dims(), [48, 16]);
    assert_eq!(two["coefficients"].dtype(), DType::F32);
    assert!(error(&two["per_photo"], &expected["multi01.proj_out_per_image"]) <= TOLERANCE);
    assert!(error(&two["coefficients"], &expected["multi01.tokens"]) <= TOLERANCE);

    encode_first(dir);
    let one = load(&dir.join("c.safetensors"));
    assert!(error(&one["coefficients"], &expected["img0.tokens"]) <= TOLERANCE);
    for naming in ["sgm", "diffusers"] {
        let synthesize = [
            "model",
            "synthesize",
            "--bundle",
            "golden",
            "--coefficients",
            "c.safetensors",
            "--naming",
            naming,
            "--out",
            "lora.safetensors",
        ];
        assert_eq!(json_of(dir, &synthesize)["matrices"], 24);
        let found = load(&dir.join("lora.safetensors"));
        let lora = load(&golden("lora_img0.safetensors"));
        assert_eq!(found.len(), lora.len());
        for (name, expected) in &lora {
            let name = if naming == "sgm" {
                name.clone()
            } else {
                name.replace("input_blocks_4_1", "down_blocks_1_attentions_0")
                    .replace("output_blocks_0_1", "up_blocks_0_attentions_0")
                    .replace("middle_block_1", "mid_block_attentions_0")
            };
            assert!(error(&found[&name], expected) <= TOLERANCE, "{name}");
        }
    }
}

/// What `model encode` says to `bad.safetensors`.
fn refuse_inputs(dir: &Path) -> String {
    let args = [
        "model",
        "encode",
        "--bundle",
        "golden",
        "--inputs",
        "bad.safetensors",
        "--out",
        "c.safetensors",
    ];
    refusal(dir, &args)
}

#[test]
fn bad_inputs_are_refused_in_one_line_and_leave_nothing() {
    let stage = stage();
    let dir = stage.path();
    let inputs = load(&golden("inputs.safetensors"));
    let (clip, arcface) = (
        &inputs["clip_hidden"],
        &inputs["arcface"].squeeze(1).unwrap(),
    );
    let whole = fs::read(golden("inputs.safetensors")).unwrap();
    let nan = (clip * f64::NAN).unwrap();
    let wide = clip.narrow(2, 0, 31).unwrap().contiguous().unwrap();
    let counts = clip.to_dtype(DType::I64).unwrap();
    let fewer = arcface.narrow(0, 0, 1).unwrap();
    let long = (arcface * 2.0).unwrap();
    let none = clip.narrow(0, 0, 0).unwrap();
    let half = &whole[..whole.len() / 2];
    for bytes in [half, b"", &[255; 64]] {
        fs::write(dir.join("bad.safetensors"), bytes).unwrap();
        let said = refuse_inputs(dir);
        assert!(said.contains("not a whole safetensors file"), "{said}");
    }
    let (clip_only, arcface_only) = ([("clip_hidden", clip)], [("arcface", arcface)]);
    let both = |clip, arcface| [("clip_hidden", clip), ("arcface", arcface)];
    for (says, tensors) in [
        ("`clip_hidden` holds NaN", &both(&nan, arcface)[..]),
        (
            "`clip_hidden` is I64, expected F32",
            &both(&counts, arcface),
        ),
        ("[n, t, 32]", &both(&wide, arcface)),
        ("[n, t, 32]", &both(&none, arcface)),
        ("as many photos", &both(clip, &fewer)),
        ("unit length", &both(clip, &long)),
        (
            "no `clip_hidden` [n, t, width] or `pixel_values`",
            &arcface_only,
        ),
        ("no `arcface` [n, 512]; it has clip_hidden", &clip_only),
    ] {
        save(&dir.join("bad.safetensors"), tensors);
        let said = refuse_inputs(dir);
        assert!(said.contains(says), "expected {says:?}: {said}");
    }
    let pixels = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
    save(
        &dir.join("bad.safetensors"),
        &[("pixel_values", &pixels), ("arcface", arcface)],
    );
    assert!(refuse_inputs(dir).contains("[clip_vision]"));
    let away = [
        "model",
        "encode",
        "--bundle",
        "golden",
        "--inputs",
        "bad.safetensors",
        "--out",
        "no/c.safetensors",
    ];
    assert!(refusal(dir, &away).contains("create it first"));
    assert_eq!(
        run(
            dir,
            &["model", "encode", "--bundle", "golden", "--out", "c"]
        )
        .code,
        2
    );
}

#[test]
fn coefficients_of_another_bundle_are_refused() {
    let stage = stage();
    let dir = stage.path();
    encode_first(dir);
    // The same shapes, other numbers.
    bundle_in(&dir.join("other"), |model| {
        let path = model.join("resampler.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    let of = |file: &str, bundle: &str, more: &[&str]| {
        let args = [
            "model",
            "synthesize",
            "--bundle",
            bundle,
            "--coefficients",
            file,
            "--out",
            "l.safetensors",
        ];
        refusal(dir, &[&args, more].concat())
    };
    let said = of("c.safetensors", "other", &[]);
    assert!(
        said.contains("coefficients of another bundle") && said.contains("encode the photos again"),
        "{said}"
    );
    // Without a note of where they come from only the shape tells.
    let own = load(&dir.join("c.safetensors"));
    save(
        &dir.join("bare.safetensors"),
        &[("coefficients", &own["coefficients"])],
    );
    let args = [
        "model",
        "synthesize",
        "--bundle",
        "other",
        "--coefficients",
        "bare.safetensors",
        "--out",
        "../l.safetensors",
    ];
    assert_eq!(
        run(
            &dir.join("other"),
            &[
                &args[..3],
                &["."],
                &args[4..5],
                &["../bare.safetensors"],
                &args[6..]
            ]
            .concat()
        )
        .code,
        0
    );
    fs::remove_file(dir.join("l.safetensors")).unwrap();
    let short = own["coefficients"].narrow(0, 0, 40).unwrap();
    save(&dir.join("short.safetensors"), &[("coefficients", &short)]);
    let said = of("short.safetensors", "golden", &[]);
    assert!(
        said.contains("[40, 16]") && said.contains("[48, 16]"),
        "{said}"
    );
    assert!(of("c.safetensors", "golden", &["--kind", "base"]).contains("no Base-LoRA"));
    save(&dir.join("other.safetensors"), &[("something", &short)]);
    assert!(
        of("other.safetensors", "golden", &[])
            .contains("no `coefficients` [48, 16]; it has something")
    );
}

#[test]
fn clips_view_of_a_face_is_the_reference_s() {
    let stage = stage();
    let dir = stage.path();
    let bytes = fs::read(face_golden("centre_landmarks.npy")).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let numbers: Vec<f32> = bytes[start..]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let points: Vec<&[f32]> = numbers.chunks_exact(2).collect();
    fs::write(dir.join("landmarks.json"), json!(points).to_string()).unwrap();
    let image = face_golden("centre_image.png").display().to_string();
    let photo = [
        "model",
        "photo",
        "--bundle",
        "golden",
        &image,
        "--out",
        "seen",
        "--landmarks",
        "landmarks.json",
    ];
    for (flags, expected) in [
        (&[][..], "nobg1_gray0"),
        (&["--keep-background"], "nobg0_gray0"),
        (&["--grey"], "nobg1_gray1"),
        (&["--grey", "--keep-background"], "nobg0_gray1"),
    ] {
        json_of(dir, &[&photo, flags].concat());
        let found = image::open(dir.join("seen/clip.png")).unwrap().into_rgb8();
        let expected = image::open(face_golden(&format!("centre_clip224_{expected}.png")));
        let expected = expected.unwrap().into_rgb8();
        let far = found
            .iter()
            .zip(expected.iter())
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(far <= Some(1), "{flags:?}: {far:?}");
    }
    assert_eq!(
        names(&dir.join("seen")),
        ["clip.png", "clip.safetensors", "report.json"]
    );
    assert_eq!(
        load(&dir.join("seen/clip.safetensors"))["pixel_values"].dims(),
        [1, 3, 224, 224]
    );
    let report: Value =
        serde_json::from_slice(&fs::read(dir.join("seen/report.json")).unwrap()).unwrap();
    let crops: Value =
        serde_json::from_slice(&fs::read(face_golden("crops.json")).unwrap()).unwrap();
    let crops = &crops["centre"];
    let corners = |r: &Value| json!([r["left"], r["top"], r["right"], r["bottom"]]);
    assert_eq!(corners(&report["crops"]["clip"]), crops["clip_crop"]);
    assert_eq!(corners(&report["crops"]["arcface"]), crops["arcface_crop"]);
    assert_eq!(
        report["crops"]["outline_paste"],
        crops["face_crop"]["paste_origin"]
    );
    assert_eq!(report["landmarks"].as_array().unwrap().len(), 106);

    fs::write(dir.join("few.json"), "[[1, 2]]").unwrap();
    let few = [&photo[..5], &["--out", "new", "--landmarks", "few.json"]].concat();
    let said = refusal(dir, &few);
    assert!(
        said.contains("106 landmarks") && said.contains("there are 1"),
        "{said}"
    );
    let without = &photo[..7];
    assert!(
        refusal(dir, without).contains("[face]"),
        "a detector is needed then"
    );
}
