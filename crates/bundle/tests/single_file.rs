//! Inspecting single-file checkpoints: the released sizes, with holes where the numbers would be.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use likeness_bundle::{Bundle, PartReport, Problem, SdxlModel};
use safetensors::Dtype;
use support::{Recorded, Tensors, sparse, sparse_with};

const CLIP: &str = "conditioner.embedders.0.transformer.text_model.";
const OPEN_CLIP: &str = "conditioner.embedders.1.model.";
const UNET: &str = "model.diffusion_model.";

/// A bundle whose model is one file, which is still to be written.
fn bundle() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let manifest =
        "[bundle]\nname = \"b\"\nversion = \"1\"\n[sdxl]\npath = \"model.safetensors\"\n";
    fs::write(scratch.path().join("bundle.toml"), manifest).unwrap();
    let path = scratch.path().join("model.safetensors");
    (scratch, path)
}

/// The released checkpoint with what it holds beside the model.
fn released() -> Tensors {
    let mut tensors = Recorded::read("single_file").tensors;
    tensors.insert(format!("{CLIP}embeddings.position_ids"), vec![1, 77]);
    tensors.insert(format!("{OPEN_CLIP}logit_scale"), vec![]);
    tensors
}

fn inspected(path: &Path) -> PartReport {
    let mut inspection = Bundle::open(path.parent().unwrap()).unwrap().inspect();
    assert_eq!(inspection.parts.len(), 1);
    inspection.parts.remove(0)
}

fn problems(tensors: &Tensors) -> Vec<Problem> {
    let (_scratch, path) = bundle();
    sparse(&path, tensors);
    inspected(&path).problems
}

#[test]
fn the_released_checkpoint_fits_and_is_counted_by_its_parts() {
    let (_scratch, path) = bundle();
    let mut tensors = released();
    tensors.insert("denoiser.sigmas".to_owned(), vec![1000]);
    tensors.insert("model_ema.decay".to_owned(), vec![]);
    let kind = |name: &str| match name {
        name if name.ends_with("position_ids") => Dtype::I64,
        name if name.starts_with("first_stage_model") => Dtype::F32,
        _ => Dtype::F16,
    };
    sparse_with(&path, &tensors, kind);
    let part = inspected(&path);
    assert!(part.problems.is_empty(), "{:?}", part.problems);
    assert_eq!(part.tensors(), 2517);
    let components = part.components.iter();
    let counted: Vec<_> = components
        .map(|c| (c.name, c.tensors, c.parameters))
        .collect();
    assert_eq!(
        counted,
        [
            ("text_encoder", 196, 123_060_480),
            ("text_encoder_2", 389, 694_659_840),
            ("unet", 1680, 2_567_463_684),
            ("vae", 248, 83_653_863),
        ]
    );
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let mut tensors = released();
    let missing = format!("{OPEN_CLIP}transformer.resblocks.31.attn.in_proj_weight");
    let misshapen = format!("{UNET}output_blocks.2.1.transformer_blocks.9.attn2.to_k.weight");
    tensors.remove(&missing);
    tensors.insert(misshapen.clone(), vec![1280, 768]);
    tensors.insert(
        format!("{UNET}output_blocks.9.0.in_layers.0.weight"),
        vec![3],
    );
    let file = || "model.safetensors".to_owned();
    let found = problems(&tensors);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.contains(&Problem::MissingTensor {
        file: file(),
        tensor: missing,
        expected: Some(vec![3840, 1280]),
    }));
    assert!(found.contains(&Problem::WrongShape {
        file: file(),
        tensor: misshapen,
        expected: vec![1280, 2048],
        found: vec![1280, 768],
    }));
    assert!(
        matches!(&found[2], Problem::ExtraTensor { tensor, .. } if tensor.contains("output_blocks.9"))
    );
}

#[test]
fn a_tensor_that_tells_a_size_is_itself_the_misfit() {
    for (name, shape) in [
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            vec![321, 4, 3, 3],
        ),
        (
            "model.diffusion_model.input_blocks.5.0.out_layers.3.weight",
            vec![639, 640, 3, 3],
        ),
        (
            "model.diffusion_model.label_emb.0.0.weight",
            vec![1280, 2815],
        ),
        ("model.diffusion_model.out.2.weight", vec![5, 320, 3, 3]),
        (
            "first_stage_model.encoder.down.1.block.0.conv2.weight",
            vec![255, 256, 3, 3],
        ),
        (
            "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
            vec![49_408, 767],
        ),
        (
            "conditioner.embedders.1.model.text_projection",
            vec![1280, 1279],
        ),
    ] {
        let mut tensors = released();
        assert!(tensors.insert(name.to_owned(), shape).is_some(), "{name}");
        let found = problems(&tensors);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(matches!(&found[0], Problem::WrongShape { tensor, .. } if tensor == name));
        assert!(tensors.remove(name).is_some());
        let found = problems(&tensors);
        assert_eq!(found.len(), 1, "without {name}: {found:?}");
    }
}

#[test]
fn types_that_are_not_read_are_named() {
    let (_scratch, path) = bundle();
    let name = "first_stage_model.quant_conv.weight";
    sparse_with(&path, &released(), |tensor| {
        if tensor == name {
            Dtype::F8_E4M3
        } else {
            Dtype::F16
        }
    });
    let found = inspected(&path).problems;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(matches!(&found[0], Problem::WrongDtype { tensor, .. } if tensor == name));
}

#[test]
fn other_models_are_told_apart() {
    let (_scratch, path) = bundle();
    let refused = |tensors: &Tensors, word: &str| {
        sparse(&path, tensors);
        let found = inspected(&path).problems;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().contains(word), "{word}: {}", found[0]);
    };
    let mut tensors = released();
    tensors.insert(format!("{UNET}input_blocks.0.0.weight"), vec![320, 9, 3, 3]);
    refused(&tensors, "inpainting");
    let refiner = |(name, shape): (String, Vec<usize>)| {
        let name = name.replace("embedders.1.", "embedders.0.");
        (!name.starts_with("conditioner.embedders.0.transformer")).then_some((name, shape))
    };
    refused(
        &released().into_iter().filter_map(refiner).collect(),
        "refiner",
    );
    let one = |name: &str| Tensors::from([(name.to_owned(), vec![2, 2])]);
    refused(
        &one("lora_unet_input_blocks_4_1_proj_in.lora_up.weight"),
        "LoRA",
    );
    refused(&one("double_blocks.0.img_attn.qkv.weight"), "Flux");
    refused(&one("a"), "no SDXL checkpoint");
    fs::write(&path, b"PK\x03\x04 and more").unwrap();
    assert!(inspected(&path).problems[0].to_string().contains("pickle"));
}

#[test]
fn the_folder_beside_a_checkpoint_is_found() {
    let (scratch, path) = bundle();
    let config = |bundle: &Path, model| match Bundle::open(bundle).unwrap().sdxl(model).unwrap() {
        SdxlModel::SingleFile { config, .. } => config,
        SdxlModel::Folder(dir) => panic!("{}", dir.display()),
    };
    let dir = scratch.path();
    assert_eq!(config(dir, None), None);
    fs::create_dir(path.with_extension("")).unwrap();
    assert_eq!(config(dir, None), Some(path.with_extension("")));
    let manifest = fs::read_to_string(dir.join("bundle.toml")).unwrap();
    let named = format!("{manifest}config = \"elsewhere\"\n");
    fs::write(dir.join("bundle.toml"), named).unwrap();
    assert_eq!(config(dir, None), Some(dir.join("elsewhere")));
    let second = manifest.replace("model.safetensors", "sdxl")
        + "[models.other]\npath = \"o.safetensors\"\n";
    fs::write(dir.join("bundle.toml"), second).unwrap();
    fs::create_dir(dir.join("sdxl")).unwrap();
    assert_eq!(config(dir, Some("other")), Some(dir.join("sdxl")));
}
