//! What [`Bundle::inspect`] says of whole and of damaged models, at full size and from headers alone.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use likeness_bundle::{Bundle, Inspection, PartReport, Problem, pocket};
use safetensors::Dtype;
use support::{Recorded, Tensors, lengthen, sparse, sparse_with};
use tempfile::TempDir;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A bundle with these sections; its files are for the caller to make.
fn bundle(sections: &str) -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let manifest = format!("[bundle]\nname = \"full\"\nversion = \"1\"\n{sections}");
    fs::write(scratch.path().join("bundle.toml"), manifest).unwrap();
    let dir = scratch.path().to_path_buf();
    (scratch, dir)
}

fn inspect(dir: &Path) -> Inspection {
    Bundle::open(dir).unwrap().inspect()
}

fn only_part(dir: &Path) -> PartReport {
    let mut parts = inspect(dir).parts;
    assert_eq!(parts.len(), 1);
    parts.remove(0)
}

fn parameters(part: &PartReport, path: &str) -> u64 {
    part.files
        .iter()
        .find(|file| file.path == path)
        .unwrap()
        .parameters
}

/// SDXL base with one model's tensors changed.
fn sdxl_with(model: &str, weights: &str, change: impl Fn(&mut Tensors)) -> (TempDir, PathBuf) {
    let (scratch, dir) = bundle("[sdxl]\npath = \"sdxl\"\n");
    support::sdxl(&dir.join("sdxl"));
    let mut recorded = Recorded::read(model);
    change(&mut recorded.tensors);
    recorded.write(&dir.join("sdxl").join(model), weights);
    (scratch, dir)
}

#[test]
fn the_pocket_inspects_clean() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pocket");
    pocket::make(&dir, 0).unwrap();
    let report = inspect(&dir);
    assert!(report.is_ok(), "{:?}", report.parts);
    let sections: Vec<&str> = report.parts.iter().map(|p| p.section.as_str()).collect();
    assert_eq!(sections, ["sdxl", "hyperlora", "clip_vision", "face"]);
    assert!(report.parts[0].parameters() > 1_000_000);
    assert!(report.parts[3].parameters() > 10_000);
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains("\"dtypes\"")
    );
}

#[test]
fn a_tokenizer_is_two_files_or_one() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pocket");
    pocket::make(&dir, 0).unwrap();
    let file = |name: &str| dir.join("sdxl/tokenizer_2").join(name);
    for name in ["vocab.json", "merges.txt"] {
        fs::remove_file(file(name)).unwrap();
    }
    assert_eq!(inspect(&dir).parts[0].problems.len(), 2);
    fs::write(file("tokenizer.json"), "{}").unwrap();
    assert!(inspect(&dir).is_ok());
}

#[test]
fn the_released_models_are_counted_exactly() {
    let (_scratch, dir) = bundle(
        "[sdxl]\npath = \"sdxl\"\n[hyperlora]\npath = \"hyperlora\"\n[clip_vision]\npath = \"clip\"\n\
         [face]\ndetector = \"det.onnx\"\nlandmarks = \"106.onnx\"\nrecognizer = \"rec.onnx\"\n",
    );
    support::sdxl(&dir.join("sdxl"));
    support::hyperlora(&dir.join("hyperlora"));
    support::clip_vision(&dir.join("clip"));
    let points: [&[u64]; 9] = [
        &[12_800, 1],
        &[3200, 1],
        &[800, 1],
        &[12_800, 4],
        &[3200, 4],
        &[800, 4],
        &[12_800, 10],
        &[3200, 10],
        &[800, 10],
    ];
    for (name, input, outputs, weight) in [
        ("det.onnx", [1, 3, 640, 640], points.as_slice(), [4_000_000]),
        ("106.onnx", [1, 3, 192, 192], &[&[1, 212]], [1_200_000]),
        ("rec.onnx", [1, 3, 112, 112], &[&[1, 512]], [65_000_000]),
    ] {
        let (bytes, length) = support::onnx(&input, outputs, &weight);
        fs::write(dir.join(name), bytes).unwrap();
        lengthen(&dir.join(name), length);
    }
    let report = inspect(&dir);
    assert!(report.is_ok(), "{:?}", report.parts);
    let [sdxl, hyperlora, clip, face] = report.parts.as_slice() else {
        panic!("{:?}", report.parts)
    };
    assert_eq!(parameters(sdxl, UNET), 2_567_463_684);
    assert_eq!(
        parameters(sdxl, "vae/diffusion_pytorch_model.safetensors"),
        83_653_863
    );
    assert_eq!(
        parameters(sdxl, "text_encoder/model.safetensors"),
        123_060_480
    );
    assert_eq!(
        parameters(sdxl, "text_encoder_2/model.safetensors"),
        694_659_840
    );
    assert_eq!(
        parameters(hyperlora, "hyper_lora_modules.safetensors"),
        1_486_356_480
    );
    assert_eq!(parameters(hyperlora, "resampler.safetensors"), 74_750_080);
    assert_eq!(parameters(hyperlora, "id_projector.safetensors"), 8_407_040);
    assert_eq!(parameters(clip, "model.safetensors"), 303_966_208);
    assert_eq!(parameters(face, "rec.onnx"), 65_000_000);
}

#[test]
fn the_recorded_counts_are_those_of_the_released_models() {
    for (name, count) in [
        ("unet", 2_567_463_684),
        ("vae", 83_653_863),
        ("text_encoder", 123_060_480),
        ("text_encoder_2", 694_659_840),
        ("clip_vision", 303_966_208),
    ] {
        assert_eq!(Recorded::read(name).parameters, count, "{name}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let name = "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_v.weight";
    let weights = "diffusion_pytorch_model.safetensors";
    let (_scratch, dir) = sdxl_with("unet", weights, |tensors| {
        tensors.remove(name).unwrap();
    });
    assert_eq!(
        only_part(&dir).problems,
        [Problem::MissingTensor {
            file: UNET.to_owned(),
            tensor: name.to_owned(),
            expected: Some(vec![640, 2048]),
        }]
    );
}

#[test]
fn an_extra_tensor_is_named() {
    let weights = "diffusion_pytorch_model.safetensors";
    let (_scratch, dir) = sdxl_with("unet", weights, |tensors| {
        tensors.insert("down_blocks.0.surprise".to_owned(), vec![3]);
    });
    assert_eq!(
        only_part(&dir).problems,
        [Problem::ExtraTensor {
            file: UNET.to_owned(),
            tensor: "down_blocks.0.surprise".to_owned(),
            found: vec![3],
        }]
    );
}

#[test]
fn a_misshapen_tensor_is_named() {
    // An inpainting UNet has nine input channels.
    let weights = "diffusion_pytorch_model.safetensors";
    let (_scratch, dir) = sdxl_with("unet", weights, |tensors| {
        tensors.insert("conv_in.weight".to_owned(), vec![320, 9, 3, 3]);
    });
    assert_eq!(
        only_part(&dir).problems,
        [Problem::WrongShape {
            file: UNET.to_owned(),
            tensor: "conv_in.weight".to_owned(),
            expected: vec![320, 4, 3, 3],
            found: vec![320, 9, 3, 3],
        }]
    );
}

#[test]
fn a_number_type_that_is_not_read_is_named() {
    let (_scratch, dir) = bundle("[sdxl]\npath = \"sdxl\"\n");
    support::sdxl(&dir.join("sdxl"));
    let vae = dir.join("sdxl/vae/diffusion_pytorch_model.safetensors");
    let tensors = Recorded::read("vae").tensors;
    sparse_with(&vae, &tensors, |name| {
        if name == "quant_conv.bias" {
            Dtype::I64
        } else {
            Dtype::F32
        }
    });
    let problems = only_part(&dir).problems;
    let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        text,
        [
            "vae/diffusion_pytorch_model.safetensors: quant_conv.bias holds I64, expected F32, F16 or BF16"
        ]
    );
}

#[test]
fn half_precision_and_shards_are_read_as_a_loader_would() {
    let weights = "model.fp16.safetensors";
    let (_scratch, dir) = sdxl_with("text_encoder_2", weights, |_| {});
    fs::remove_file(dir.join("sdxl/text_encoder_2/model.safetensors")).unwrap();
    let unet = dir.join("sdxl/unet");
    fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    let (mut first, mut second, mut map) = (Tensors::new(), Tensors::new(), serde_json::Map::new());
    for (name, shape) in Recorded::read("unet").tensors {
        let (shard, file) = if name.as_str() < "m" {
            (&mut first, "a.safetensors")
        } else {
            (&mut second, "b.safetensors")
        };
        map.insert(name.clone(), file.into());
        shard.insert(name, shape);
    }
    sparse(&unet.join("a.safetensors"), &first);
    sparse(&unet.join("b.safetensors"), &second);
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let part = only_part(&dir);
    assert!(part.problems.is_empty(), "{:?}", part.problems);
    assert_eq!(
        part.parameters(),
        2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840
    );

    second.remove("time_embedding.linear_1.bias");
    sparse(&unet.join("b.safetensors"), &second);
    let problems = only_part(&dir).problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .all(|p| p.to_string().contains("time_embedding.linear_1.bias"))
    );
    fs::write(
        &index,
        r#"{"weight_map": {"conv_in.bias": "../x.safetensors"}}"#,
    )
    .unwrap();
    assert!(
        only_part(&dir).problems[0]
            .to_string()
            .contains("plain file name")
    );
}

#[test]
fn older_names_of_the_same_tensors_are_accepted() {
    let weights = "diffusion_pytorch_model.safetensors";
    let (_scratch, dir) = sdxl_with("vae", weights, |tensors| {
        let old = |name: &str| {
            name.replace(".to_q.", ".query.")
                .replace(".to_k.", ".key.")
                .replace(".to_v.", ".value.")
                .replace(".to_out.0.", ".proj_attn.")
        };
        *tensors = tensors
            .iter()
            .map(|(name, shape)| (old(name), shape.clone()))
            .collect();
    });
    let mut bare = Recorded::read("text_encoder");
    bare.tensors = bare
        .tensors
        .into_iter()
        .map(|(name, shape)| (name.replace("text_model.", ""), shape))
        .collect();
    bare.tensors
        .insert("embeddings.position_ids".to_owned(), vec![1, 77]);
    bare.write(&dir.join("sdxl/text_encoder"), "model.safetensors");
    let part = only_part(&dir);
    assert!(part.problems.is_empty(), "{:?}", part.problems);
}

#[test]
fn a_whole_clip_serves_as_clip_vision() {
    let (_scratch, dir) = bundle("[clip_vision]\npath = \"clip\"\n");
    support::clip_vision(&dir.join("clip"));
    let path = dir.join("clip/model.safetensors");
    let mut tensors = Recorded::read("clip_vision").tensors;
    tensors.insert("text_model.final_layer_norm.bias".to_owned(), vec![768]);
    tensors.insert("logit_scale".to_owned(), vec![]);
    sparse(&path, &tensors);
    assert!(only_part(&dir).problems.is_empty());
    tensors.remove("vision_model.encoder.layers.23.mlp.fc2.bias");
    tensors.insert(
        "vision_model.encoder.layers.24.mlp.fc2.bias".to_owned(),
        vec![1024],
    );
    sparse(&path, &tensors);
    let problems = only_part(&dir).problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    fs::write(
        dir.join("clip/config.json"),
        r#"{"vision_config": {"num_hidden_layers": 999999999}}"#,
    )
    .unwrap();
    assert!(
        only_part(&dir).problems[0]
            .to_string()
            .contains("num_hidden_layers")
    );
}

#[test]
fn another_onnx_model_is_not_taken_for_the_right_one() {
    let (_scratch, dir) = bundle("[face]\ndetector = \"a.onnx\"\nrecognizer = \"b.onnx\"\n");
    let (bytes, length) = support::onnx(&[1, 3, 112, 112], &[&[1, 512]], &[8]);
    for name in ["a.onnx", "b.onnx"] {
        fs::write(dir.join(name), &bytes).unwrap();
        lengthen(&dir.join(name), length);
    }
    let problems = only_part(&dir).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    let text = problems[0].to_string();
    assert!(
        text.contains("SCRFD") && text.contains("[1, 3, 112, 112]"),
        "{text}"
    );
    for cut in 0..bytes.len() {
        fs::write(dir.join("b.onnx"), &bytes[..cut]).unwrap();
        let problems = only_part(&dir).problems;
        assert!(
            problems
                .iter()
                .any(|p| matches!(p, Problem::BadFile { path, .. } if path == "b.onnx")),
            "cut at {cut}: {problems:?}"
        );
    }
}

#[test]
fn a_base_lora_is_part_of_the_release() {
    let (_scratch, dir) = bundle("[hyperlora]\npath = \"h\"\n");
    support::hyperlora(&dir.join("h"));
    let modules = support::modules();
    let mut basis = support::basis(&modules, "id", 8);
    basis.extend(support::basis(&modules, "base", 4));
    sparse(&dir.join("h/hyper_lora_modules.safetensors"), &basis);
    let base = dir.join("h/base_resampler.safetensors");
    sparse(&base, &support::resampler(false));
    let part = only_part(&dir);
    assert!(part.problems.is_empty(), "{:?}", part.problems);
    assert_eq!(part.files.len(), 4);
}

#[test]
fn missing_extra_and_misshapen_tensors_of_hyperlora_are_named() {
    let (_scratch, dir) = bundle("[hyperlora]\npath = \"h\"\n");
    support::hyperlora(&dir.join("h"));
    let mut resampler = support::resampler(true);
    resampler.remove("layers.3.norm_ff.bias");
    resampler.insert("layers.0.surprise".to_owned(), vec![3]);
    resampler.insert("layers.2.attn3.to_k.weight".to_owned(), vec![768, 1000]);
    sparse(&dir.join("h/resampler.safetensors"), &resampler);
    let file = || "resampler.safetensors".to_owned();
    let found = only_part(&dir).problems;
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
fn a_list_of_modules_in_another_order_does_not_fit_the_tensors() {
    let (_scratch, dir) = bundle("[hyperlora]\npath = \"h\"\n");
    support::hyperlora(&dir.join("h"));
    let mut modules = support::modules();
    modules.swap(7, 8);
    let json = dir.join("h/hyper_lora_modules.json");
    fs::write(&json, support::modules_json(&modules)).unwrap();
    let problems = only_part(&dir).problems;
    assert!(!problems.is_empty());
    let of_swapped = |p: &Problem| matches!(p, Problem::WrongShape { tensor, .. } if tensor.starts_with("7.") || tensor.starts_with("8."));
    assert!(problems.iter().all(of_swapped), "{problems:?}");
    modules[8].0 = modules[7].0.clone();
    fs::write(&json, support::modules_json(&modules)).unwrap();
    let text = only_part(&dir).problems[0].to_string();
    assert!(text.contains("a second time"), "{text}");
}

#[test]
fn damaged_files_are_reported_and_stop_nothing() {
    let (_scratch, dir) = bundle("[hyperlora]\npath = \"h\"\n");
    let dir_of = dir.join("h");
    support::hyperlora(&dir_of);
    fs::remove_file(dir_of.join("resampler.safetensors")).unwrap();
    lengthen(&dir_of.join("hyper_lora_modules.safetensors"), 1_000_000);
    fs::write(dir_of.join("id_projector.safetensors"), [255_u8; 64]).unwrap();
    fs::write(dir_of.join("hyper_lora_modules.json"), "[]").unwrap();
    let found = only_part(&dir).problems;
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
