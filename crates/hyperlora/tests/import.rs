//! LoRA files of other programs: what diffusers and peft made of them is what is read here.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_hyperlora::{Error, Imported, Lora, LoraMatrix, Stack};

type Tensors = HashMap<String, Tensor>;

const DOWN: &str = "down_blocks_1_attentions_0_transformer_blocks_0";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lora")
}

fn f64s(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (f64s(found), f64s(expected));
    let error: f64 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    (error / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// The update of every matrix, by its name.
fn deltas(lora: &Lora) -> HashMap<String, Tensor> {
    let mut stack = Stack::default();
    stack.push(lora, 1.0).unwrap();
    let updates = stack.updates().unwrap();
    let delta = |update: &likeness_hyperlora::Update| update.up.matmul(&update.down).unwrap();
    updates
        .iter()
        .map(|update| (update.target(), delta(update)))
        .collect()
}

fn check(file: &str, matrices: usize, unknown: &[&str]) -> Imported {
    let imported = Lora::load(&golden().join(file)).unwrap();
    assert_eq!(imported.lora.matrices.len(), matrices, "{file}");
    assert_eq!(imported.unknown, unknown, "{file}");
    let all = safetensors::load(golden().join("expected.safetensors"), &Device::Cpu).unwrap();
    let prefix = format!("{file}|");
    let expected: HashMap<_, _> = all
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)))
        .collect();
    let found = deltas(&imported.lora);
    assert_eq!(found.len(), expected.len(), "{file}");
    let worst = expected
        .iter()
        .map(|(name, expected)| relative_error(&found[*name], expected))
        .fold(0.0, f64::max);
    println!("{file}: worst matrix, relative error {worst:.2e}");
    // Products of f32 in another order of additions.
    assert!(worst <= 1e-6, "{file}: {worst}");
    imported
}

#[test]
fn files_of_diffusers_give_its_own_updates() {
    let ff = "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2";
    let ff = ["A", "B"].map(|side| format!("{ff}.lora_{side}.weight"));
    check("diffusers.safetensors", 3, &[&ff[0], &ff[1]]);
    let text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";
    let text = ["A", "B"].map(|side| format!("{text}.lora_{side}.weight"));
    check(
        "diffusers_plain.safetensors",
        3,
        &[&text[0], &text[1], &ff[0], &ff[1]],
    );
}

#[test]
fn files_of_diffusers_past_are_read() {
    check("diffusers_old.safetensors", 16, &[]);
    check("diffusers_mid.safetensors", 16, &[]);
}

#[test]
fn a_folder_of_peft_is_read_with_its_configuration() {
    check("peft/adapter_model.safetensors", 3, &[]);
}

#[test]
fn files_in_kohya_s_keys_are_read() {
    let conv = "lora_unet_input_blocks_4_0_in_layers_2";
    let conv = ["alpha", "lora_down.weight", "lora_up.weight"].map(|end| format!("{conv}.{end}"));
    let conv: Vec<&str> = conv.iter().map(String::as_str).collect();
    let imported = check("kohya_sgm.safetensors", 16, &conv);
    assert_eq!(
        imported.to_string(),
        "LoRA of 16 attention matrices; 3 other tensors are not used"
    );
    let mut ranks: Vec<_> = imported
        .lora
        .matrices
        .iter()
        .map(LoraMatrix::rank)
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    assert_eq!(ranks, [1, 2, 5]);
    let plain = check("kohya_diffusers.safetensors", 16, &[]);
    assert!(
        plain
            .lora
            .matrices
            .iter()
            .all(|matrix| (matrix.scale() - 1.0).abs() < 1e-12)
    );
}

/// A file with these tensors, and what reading it gives.
fn load(tensors: &[(&str, Tensor)]) -> Result<Imported, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let tensors: Tensors = tensors
        .iter()
        .map(|(name, tensor)| (format!("lora_unet_{name}"), tensor.clone()))
        .collect();
    safetensors::save(&tensors, &path).unwrap();
    Lora::load(&path)
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
}

fn names(matrix: &str, ends: [&str; 2]) -> [String; 2] {
    ends.map(|end| format!("{DOWN}_{matrix}.{end}"))
}

const PAIR: [&str; 2] = ["lora_down.weight", "lora_up.weight"];

#[test]
fn modules_that_are_more_than_a_lora_are_listed_whole() {
    let [down, up] = names("attn1_to_q", PAIR);
    let [other_down, other_up] = names("attn1_to_k", PAIR);
    let dora = format!("{DOWN}_attn1_to_k.dora_scale");
    let lone = format!("{DOWN}_attn1_to_v.alpha");
    let imported = load(&[
        (&down, ones(&[2, 4])),
        (&up, ones(&[4, 2])),
        (&other_down, ones(&[2, 4])),
        (&other_up, ones(&[4, 2])),
        (&dora, ones(&[4])),
        (&lone, ones(&[])),
    ])
    .unwrap();
    assert_eq!(imported.lora.matrices.len(), 1);
    let listed = [dora, other_down, other_up, lone].map(|name| format!("lora_unet_{name}"));
    assert_eq!(imported.unknown, listed);
}

#[test]
fn alphas_of_any_number_type_are_read() {
    let [down, up] = names("attn1_to_q", PAIR);
    let alpha = format!("{DOWN}_attn1_to_q.alpha");
    for dtype in [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I64,
        DType::I32,
    ] {
        let value = Tensor::full(4_f32, 1, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let pair = [
            (&*down, ones(&[2, 4])),
            (&*up, ones(&[4, 2, 1, 1])),
            (&*alpha, value),
        ];
        let scale = load(&pair).unwrap().lora.matrices[0].scale();
        assert!((scale - 2.0).abs() < 1e-12, "{dtype:?}");
    }
    let text = load(&[
        (&down, ones(&[2, 4])),
        (&up, ones(&[4, 2])),
        (&alpha, ones(&[2])),
    ])
    .err()
    .unwrap()
    .to_string();
    assert!(
        text.ends_with("attn1_to_q.alpha is F32 [2], expected one number"),
        "{text}"
    );
    let nan = Tensor::full(f32::NAN, (), &Device::Cpu).unwrap();
    let text = load(&[(&down, ones(&[2, 4])), (&up, ones(&[4, 2])), (&alpha, nan)])
        .err()
        .unwrap()
        .to_string();
    assert!(text.contains("not finite"), "{text}");
}

#[test]
fn pairs_that_make_no_lora_are_refused() {
    let [down, up] = names("attn1_to_q", PAIR);
    let refusal = |tensors: &[(&str, Tensor)]| load(tensors).err().unwrap().to_string();
    let assert =
        |text: String, part: &str| assert!(text.contains(part), "{part:?} is not in {text:?}");
    assert(
        refusal(&[(&down, ones(&[2, 4]))]),
        "lora_down.weight has no up factor",
    );
    assert(
        refusal(&[(&up, ones(&[4, 2]))]),
        "lora_up.weight has no down factor",
    );
    assert(
        refusal(&[(&down, ones(&[2, 4])), (&up, ones(&[4, 3]))]),
        "of one rank r >= 1",
    );
    assert(
        refusal(&[(&down, ones(&[0, 4])), (&up, ones(&[4, 0]))]),
        "of one rank r >= 1",
    );
    assert(
        refusal(&[(&down, ones(&[2, 4, 3, 3])), (&up, ones(&[4, 2]))]),
        "[2, 4, 3, 3]",
    );
    assert(
        refusal(&[
            (&down, ones(&[2, 4])),
            (&up, (ones(&[4, 2]) / 0.0).unwrap()),
        ]),
        "not finite",
    );
    let whole = ones(&[2, 4]).to_dtype(DType::I64).unwrap();
    assert(
        refusal(&[(&down, whole), (&up, ones(&[4, 2]))]),
        "is I64, expected F32, F16 or BF16",
    );
    let again = "input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight";
    let twice = refusal(&[
        (&down, ones(&[2, 4])),
        (&up, ones(&[4, 2])),
        (again, ones(&[2, 4])),
    ]);
    assert(twice, "are two names of one tensor");
    assert(
        refusal(&[("te", ones(&[1]))]),
        "among its 1 tensors, such as lora_unet_te; expected keys such as",
    );
    assert(refusal(&[]), "among its 0 tensors;");
}

#[test]
fn files_of_another_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.pt");
    for start in [&b"PK\x03\x04rest"[..], b"\x80\x02}q\x00."] {
        std::fs::write(&path, start).unwrap();
        let text = Lora::load(&path).err().unwrap().to_string();
        assert!(
            text.contains("lora.pt: a PyTorch pickle") && text.contains("convert"),
            "{text}"
        );
    }
    for bytes in [
        &b""[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
        b"hello world, this is text",
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Lora::load(&path), Err(Error::Safetensors { .. })));
    }
    assert!(matches!(Lora::load(dir.path()), Err(Error::File { .. })));
}

#[test]
fn patterns_that_are_expressions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = golden().join("peft");
    let path = dir.path().join("adapter_model.safetensors");
    std::fs::copy(from.join("adapter_model.safetensors"), &path).unwrap();
    let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let refusal = |config: String| {
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        Lora::load(&path).err().unwrap().to_string()
    };
    let text = refusal(config.replace("\"attn1.to_v\"", "\"attn[12].to_v\""));
    assert!(
        text.contains("alpha_pattern \"attn[12].to_v\" is an expression"),
        "{text}"
    );
    let text = refusal(config.replace("\"lora_alpha\": 6", "\"lora_alpha\": \"six\""));
    assert!(text.contains("peft's configuration"), "{text}");
    assert!(refusal("{".into()).contains("adapter_config.json"));
}

#[test]
fn a_lora_of_another_model_names_every_matrix_that_does_not_fit() {
    let lora = Lora::load(&golden().join("kohya_sgm.safetensors"))
        .unwrap()
        .lora;
    assert!(
        lora.check_fits(|name| Some((
            16,
            if name.contains("attn2.to_k") || name.contains("attn2.to_v") {
                12
            } else {
                16
            }
        )))
        .is_ok()
    );
    let text = lora
        .check_fits(|name| name.starts_with("down").then_some((16, 16)))
        .err()
        .unwrap()
        .to_string();
    let shape = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k has shape [16, 12], expected [16, 16]";
    assert!(text.contains(shape), "{text}");
    assert!(
        text.starts_with("the LoRA does not fit this model: "),
        "{text}"
    );
    assert!(
        text.contains("to_q [16, 16] does not belong here") && text.ends_with("and 2 more"),
        "{text}"
    );
}
