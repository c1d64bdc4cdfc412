//! From photos of a person to a picture, with the pocket bundle.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use likeness_bundle::pocket;
use serde_json::Value;
use tempfile::TempDir;

use crate::{crates, flat, golden, json_of, load, names, refusal, run, save};

/// The pocket bundle, and a photo.
fn pocket_stage() -> (TempDir, String) {
    let stage = tempfile::tempdir().unwrap();
    pocket::make(stage.path().join("pocket"), 0).unwrap();
    let photo = crates().join("../tests/fixtures/astronaut.png");
    (stage, photo.display().to_string())
}

#[test]
fn a_photo_becomes_what_the_models_see_of_it() {
    let (stage, photo) = pocket_stage();
    let dir = stage.path();
    let told = json_of(
        dir,
        &[
            "model", "photo", "--bundle", "pocket", &photo, "--out", "seen",
        ],
    );
    assert!(told["quality"]["face"]["sharpness"].as_f64().unwrap() > 0.05);
    assert_eq!(
        names(&dir.join("seen")),
        ["arcface.png", "clip.png", "clip.safetensors", "report.json"]
    );
    assert_eq!(
        image::open(dir.join("seen/arcface.png")).unwrap().width(),
        112
    );
    for which in ["highest-score", "0"] {
        let args = [
            "model", "photo", "--bundle", "pocket", &photo, "--out", "seen", "--face", which,
        ];
        json_of(dir, &args);
    }
    let none = [
        "model", "photo", "--bundle", "pocket", &photo, "--out", "new", "--face", "7",
    ];
    assert!(refusal(dir, &none).contains("face 7 was asked for"));
}

/// Encodes one photo, given twice, with the pocket bundle.
fn encode_photos(dir: &Path, photo: &str) {
    let encode = [
        "model",
        "encode",
        "--bundle",
        "pocket",
        "--photo",
        photo,
        "--photo",
        photo,
        "--out",
        "c.safetensors",
    ];
    let told = json_of(dir, &encode);
    assert_eq!(told["photos"], 2);
    assert!(told["encoder"].is_string());
    for stage in ["decode", "detect", "crops", "arcface", "clip", "resampler"] {
        assert!(told["timings_ms"][1][stage].is_f64(), "{stage}");
    }
    let two = load(&dir.join("c.safetensors"));
    let photo = |photo| flat(&two["per_photo"].get(photo).unwrap());
    assert_eq!(photo(0), photo(1));
}

/// Samples a tiny picture with the pocket bundle.
fn sample(dir: &Path, out: &str, more: &[&str]) -> Value {
    let args = [
        "model",
        "sample",
        "--bundle",
        "pocket",
        "--prompt",
        "fcsks fxhks fhyks, a portrait",
        "--steps",
        "3",
        "--width",
        "64",
        "--height",
        "64",
        "--seed",
        "5",
        "--out",
        out,
    ];
    json_of(dir, &[&args, more].concat())
}

#[test]
fn photos_become_a_picture_of_a_person() {
    let (stage, photo) = pocket_stage();
    let dir = stage.path();
    encode_photos(dir, &photo);
    sample(dir, "plain.png", &[]);
    let all = [
        "--coefficients",
        "c.safetensors=0.8",
        "--trajectory",
        "t.safetensors",
        "--dump-text",
        "p.safetensors",
    ];
    assert!(sample(dir, "person.png", &all)["updated_matrices"].as_u64() > Some(0));
    sample(dir, "nobody.png", &["--coefficients", "c.safetensors=0"]);
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    assert_ne!(read("plain.png"), read("person.png"));
    assert_eq!(read("plain.png"), read("nobody.png"));
    let steps = load(&dir.join("t.safetensors"));
    assert_eq!(steps["latents"].dims(), [3, 4, 8, 8]);
    assert_eq!(
        (steps["timesteps"].dims(), steps["sigmas"].dims()),
        (&[3][..], &[3][..])
    );
    let text = load(&dir.join("p.safetensors"));
    for name in [
        "prompt_embeds",
        "pooled",
        "negative_prompt_embeds",
        "negative_pooled",
    ] {
        assert!(text.contains_key(name), "{name}");
    }
}

#[test]
fn noise_is_taken_as_given_and_persons_stack() {
    let (stage, photo) = pocket_stage();
    let dir = stage.path();
    encode_photos(dir, &photo);
    let picture = |name: &str, more: &[&str]| {
        sample(dir, name, more);
        image::open(dir.join(name)).unwrap().into_rgb8().into_raw()
    };
    let plain = picture("plain.png", &[]);
    let noise = Tensor::randn(0_f32, 1.0, (1, 4, 8, 8), &Device::Cpu).unwrap();
    save(&dir.join("n.safetensors"), &[("noise", &noise)]);
    assert_ne!(plain, picture("noise.png", &["--noise", "n.safetensors"]));
    let half = ["--coefficients", "c.safetensors=0.4"];
    let two = picture("two.png", &[half, half].concat());
    let one = picture("one.png", &["--coefficients", "c.safetensors=0.8"]);
    let far = two.iter().zip(&one).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(far <= Some(1), "{far:?}");
}

#[test]
fn prompts_are_weighed_and_encoded_by_the_layer_that_is_asked_for() {
    let (stage, _) = pocket_stage();
    let dir = stage.path();
    let text = |negative: &str, clip_skip: &str| {
        let more = ["--negative", negative, "--clip-skip", clip_skip];
        let told = sample(
            dir,
            "x.png",
            &[&["--dump-text", "t.safetensors"], &more[..]].concat(),
        );
        assert_eq!(told["clip_skip"].to_string(), clip_skip);
        let text = load(&dir.join("t.safetensors"));
        ["negative_prompt_embeds", "negative_pooled"].map(|name| flat(&text[name]))
    };
    let [states, pooled] = text("a blurry portrait", "2");
    let [weighed, same] = text("a (blurry:1.4) portrait", "2");
    assert_ne!(weighed, states);
    assert_eq!(same, pooled);
    let [last, same] = text("a blurry portrait", "1");
    assert_ne!(last, states);
    assert_eq!(same, pooled);
    let told = sample(dir, "x.png", &[]);
    assert_eq!(told["clip_skip"], 2);
}

#[test]
fn what_cannot_be_sampled_is_refused_and_leaves_nothing() {
    let (stage, _) = pocket_stage();
    let dir = stage.path();
    let noise = Tensor::zeros((1, 4, 9, 8), DType::F32, &Device::Cpu).unwrap();
    save(&dir.join("n.safetensors"), &[("noise", &noise)]);
    let sample = |more: &[&str]| {
        let args = [
            "model",
            "sample",
            "--bundle",
            "pocket",
            "--prompt",
            "x",
            "--steps",
            "2",
            "--width",
            "64",
            "--height",
            "64",
            "--out",
            "x.png",
            "--trajectory",
            "t.safetensors",
        ];
        refusal(dir, &[&args, more].concat())
    };
    assert!(sample(&["--noise", "n.safetensors"]).contains("[1, 4, 8, 8]"));
    assert!(sample(&["--coefficients", "n.safetensors"]).contains("no `coefficients`"));
    assert!(
        sample(&["--coefficients", "missing.safetensors=1"])
            .contains("cannot read missing.safetensors")
    );
    assert!(sample(&["--model", "realvis"]).contains("realvis"));
    assert!(sample(&["--guidance", "1000"]).contains("guidance"));
    assert!(sample(&["--clip-skip", "0"]).contains("clip_skip: expected 1"));
    assert!(sample(&["--negative", &"x".repeat(100_000)]).contains("negative_prompt: expected"));
    let usage = |more: &[&str]| {
        let args = [
            "model", "sample", "--bundle", "pocket", "--prompt", "x", "--out", "x.png",
        ];
        run(dir, &[&args, more].concat()).code
    };
    for wrong in [
        ["--scheduler", "magic"],
        ["--device", "tpu"],
        ["--dtype", "f8"],
        ["--dtype", "bf16"],
        ["--coefficients", "c=inf"],
    ] {
        assert_eq!(usage(&wrong), 2, "{wrong:?}");
    }
    assert!(!dir.join("x.png").exists());
}

/// Its bundle lacks the weights, so that whatever is refused by its own name was refused before loading.
#[test]
fn a_wrong_request_is_refused_before_the_model_is_loaded() {
    let (stage, _) = pocket_stage();
    let dir = stage.path();
    for part in ["unet/diffusion_pytorch_model", "text_encoder/model"] {
        fs::remove_file(dir.join(format!("pocket/sdxl/{part}.safetensors"))).unwrap();
    }
    let sample = |more: &[&str]| {
        let args = ["model", "sample", "--bundle", "pocket", "--out", "x.png"];
        refusal(dir, &[&args, more].concat())
    };
    let long = "x".repeat(100_000);
    fs::write(dir.join("flux.safetensors"), [0; 16]).unwrap();
    for (says, more) in [
        ("prompt: expected at most", &["--prompt", &long][..]),
        (
            "negative_prompt: expected at most",
            &["--prompt", "x", "--negative", &long],
        ),
        ("width: expected", &["--prompt", "x", "--width", "60"]),
        ("height: expected", &["--prompt", "x", "--height", "4096"]),
        ("steps: expected", &["--prompt", "x", "--steps", "0"]),
        ("steps: expected", &["--prompt", "x", "--steps", "10000"]),
        (
            "guidance: expected",
            &["--prompt", "x", "--guidance", "NaN"],
        ),
        ("guidance: expected", &["--prompt", "x", "--guidance", "-1"]),
        (
            "guidance_rescale: expected",
            &["--prompt", "x", "--guidance-rescale", "2"],
        ),
        (
            "clip_skip: expected",
            &["--prompt", "x", "--clip-skip", "0"],
        ),
        ("realvis", &["--prompt", "x", "--model", "realvis"]),
        ("flux", &["--prompt", "x", "--lora", "flux.safetensors"]),
        ("there is no such file", &["--prompt", "x"]),
    ] {
        let said = sample(more);
        assert!(said.contains(says), "expected {says:?}: {said}");
    }
}

#[test]
fn an_exported_lora_shows_the_person_that_its_coefficients_show() {
    let (stage, photo) = pocket_stage();
    let dir = stage.path();
    encode_photos(dir, &photo);
    for naming in ["sgm", "diffusers"] {
        let synthesize = [
            "model",
            "synthesize",
            "--bundle",
            "pocket",
            "--coefficients",
            "c.safetensors",
            "--naming",
            naming,
            "--out",
            "l.safetensors",
        ];
        json_of(dir, &synthesize);
        sample(dir, "direct.png", &["--coefficients", "c.safetensors=0.8"]);
        sample(dir, "exported.png", &["--lora", "l.safetensors=0.8"]);
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        assert_eq!(read("direct.png"), read("exported.png"), "{naming}");
    }
}

#[test]
fn a_lora_of_another_model_is_refused_with_all_that_does_not_fit() {
    let (stage, _) = pocket_stage();
    let dir = stage.path();
    let other = golden("lora/kohya_sgm.safetensors");
    let other = other.display().to_string();
    let args = [
        "model", "sample", "--bundle", "pocket", "--prompt", "x", "--steps", "1", "--width", "64",
        "--height", "64", "--out", "x.png", "--lora", &other,
    ];
    let ran = run(dir, &args);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let lines: Vec<&str> = ran.err.trim_end().lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.err);
    assert!(
        lines[0].contains("not used") && lines[0].contains("in_layers_2.alpha"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("error: ") && lines[1].contains("attn"),
        "{}",
        lines[1]
    );
    assert!(!dir.join("x.png").exists());
}
