//! Released layouts at full size, with holes where the numbers would be.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

/// Names and shapes.
pub type Tensors = BTreeMap<String, Vec<usize>>;

/// A model as `tests/parity/full_size_tensors.py` recorded it from diffusers and transformers.
#[derive(Deserialize)]
pub struct Recorded {
    config: serde_json::Value,
    pub parameters: u64,
    pub tensors: Tensors,
}

impl Recorded {
    pub fn read(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/full_size/{name}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Writes `config.json` and the weights.
    pub fn write(&self, dir: &Path, weights: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        sparse(&dir.join(weights), &self.tensors);
    }
}

/// A safetensors file of f16 tensors, of the right length with a hole where its numbers would be.
pub fn sparse(path: &Path, tensors: &Tensors) {
    sparse_with(path, tensors, |_| Dtype::F16);
}

/// As [`sparse`], in number types by name.
pub fn sparse_with(path: &Path, tensors: &Tensors, dtype: impl Fn(&str) -> Dtype) {
    let mut at = 0;
    let infos = tensors.iter().map(|(name, shape)| {
        let dtype = dtype(name);
        let end = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype,
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
    lengthen(path, bytes.len() + metadata.data_len());
}

/// Makes a file longer by a hole.
pub fn lengthen(path: &Path, length: usize) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length as u64).unwrap();
}

/// SDXL base as a diffusers folder.
pub fn sdxl(dir: &Path) {
    for file in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer_2/vocab.json",
        "tokenizer_2/merges.txt",
    ] {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }
    for (name, weights) in [
        ("text_encoder", "model.safetensors"),
        ("text_encoder_2", "model.safetensors"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ] {
        Recorded::read(name).write(&dir.join(name), weights);
    }
}

/// CLIP ViT-L/14 as a transformers folder.
pub fn clip_vision(dir: &Path) {
    Recorded::read("clip_vision").write(dir, "model.safetensors");
    fs::write(dir.join("preprocessor_config.json"), "{}").unwrap();
}

/// The attention blocks of SDXL's UNet in the release's order: sgm name, hidden size, width of the text
/// states for cross-attention.
pub fn modules() -> Vec<(String, usize, Option<usize>)> {
    let places = [
        ("input_blocks_4_1", 2, 640),
        ("input_blocks_5_1", 2, 640),
        ("input_blocks_7_1", 10, 1280),
        ("input_blocks_8_1", 10, 1280),
        ("output_blocks_0_1", 10, 1280),
        ("output_blocks_1_1", 10, 1280),
        ("output_blocks_2_1", 10, 1280),
        ("output_blocks_3_1", 2, 640),
        ("output_blocks_4_1", 2, 640),
        ("output_blocks_5_1", 2, 640),
        ("middle_block_1", 10, 1280),
    ];
    let mut modules = Vec::new();
    for (place, depth, hidden) in places {
        for block in 0..depth {
            for (attention, text) in [("attn1", None), ("attn2", Some(2048))] {
                let name = format!("lora_unet_{place}_transformer_blocks_{block}_{attention}");
                modules.push((name, hidden, text));
            }
        }
    }
    modules
}

/// `hyper_lora_modules.json` of some modules.
pub fn modules_json(modules: &[(String, usize, Option<usize>)]) -> String {
    let entry = |(name, hidden, text): &(String, usize, Option<usize>)| {
        let text = text.map_or("null".to_owned(), |width| width.to_string());
        format!("\"{name}\": {{\"hidden_size\": {hidden}, \"cross_attention_dim\": {text}}}")
    };
    format!(
        "{{{}}}",
        modules.iter().map(entry).collect::<Vec<_>>().join(",")
    )
}

/// The released HyperLoRA: 140 modules, K 128, rank 8, a resampler of 4 layers of 1024.
pub fn hyperlora(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let modules = modules();
    assert_eq!(modules.len(), 140);
    fs::write(dir.join("hyper_lora_modules.json"), modules_json(&modules)).unwrap();
    sparse(
        &dir.join("hyper_lora_modules.safetensors"),
        &basis(&modules, "id", 8),
    );
    sparse(&dir.join("resampler.safetensors"), &resampler(true));
    let projector = [
        ("0.weight", vec![16_384, 512]),
        ("0.bias", vec![16_384]),
        ("2.weight", vec![1024]),
        ("2.bias", vec![1024]),
    ];
    let projector = projector.map(|(name, shape)| (name.to_owned(), shape));
    sparse(&dir.join("id_projector.safetensors"), &projector.into());
}

/// The basis of one kind.
pub fn basis(modules: &[(String, usize, Option<usize>)], kind: &str, rank: usize) -> Tensors {
    let mut basis = Tensors::new();
    for (number, (_, hidden, text)) in modules.iter().enumerate() {
        let context = text.unwrap_or(*hidden);
        for (matrix, inputs) in [
            ("to_q", *hidden),
            ("to_k", context),
            ("to_v", context),
            ("to_out", *hidden),
        ] {
            let name = format!("{number}.{matrix}.{kind}");
            basis.insert(format!("{name}_down_basis"), vec![128, inputs, rank]);
            basis.insert(format!("{name}_up_basis"), vec![128, rank, *hidden]);
        }
    }
    basis
}

/// The resampler's tensors; the base resampler has no second condition.
pub fn resampler(second: bool) -> Tensors {
    let mut all = Tensors::from([("latents".to_owned(), vec![1, 1120, 1024])]);
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        all.insert(format!("{name}.weight"), vec![outputs, inputs]);
        all.insert(format!("{name}.bias"), vec![outputs]);
    };
    linear("proj_in", 1024, 1024);
    if second {
        linear("proj_in_2", 1024, 1024);
    }
    linear("proj_out", 128, 1024);
    for layer in 0..4 {
        linear(&format!("layers.{layer}.ff.net.0.proj"), 4096, 1024);
        linear(&format!("layers.{layer}.ff.net.2"), 1024, 4096);
    }
    for layer in 0..4 {
        let norms: &[&str] = if second {
            &["attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"]
        } else {
            &["attn1", "attn2_l", "attn2_x", "ff"]
        };
        for norm in norms {
            for end in ["weight", "bias"] {
                all.insert(format!("layers.{layer}.norm_{norm}.{end}"), vec![1024]);
            }
        }
        for attention in 1..=if second { 3 } else { 2 } {
            let name = format!("layers.{layer}.attn{attention}");
            for matrix in ["to_q", "to_k", "to_v"] {
                all.insert(format!("{name}.{matrix}.weight"), vec![768, 1024]);
            }
            all.insert(format!("{name}.to_out.0.weight"), vec![1024, 768]);
        }
    }
    all
}

/// Bytes of an ONNX file with one input and some outputs, and as its last field one f32 weight whose
/// numbers are a hole: with its whole length. Field numbers are those of `onnx.proto`.
pub fn onnx(input: &[u64], outputs: &[&[u64]], weight: &[u64]) -> (Vec<u8>, usize) {
    let mut graph = field(11, &value("input", input));
    for (number, sizes) in outputs.iter().enumerate() {
        graph.extend(field(12, &value(&format!("output{number}"), sizes)));
    }
    let numbers = 4 * weight.iter().product::<u64>() as usize;
    let mut tensor = Vec::new();
    for size in weight {
        tensor.push(1 << 3);
        tensor.extend(number(*size));
    }
    tensor.extend([2 << 3, 1]);
    tensor.extend(field(8, b"weight"));
    tensor.extend(key(9, numbers));
    graph.extend(key(5, tensor.len() + numbers));
    graph.extend(&tensor);
    let mut model = vec![1 << 3, 8];
    model.extend(key(7, graph.len() + numbers));
    model.extend(&graph);
    let length = model.len() + numbers;
    (model, length)
}

fn value(name: &str, sizes: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = sizes
        .iter()
        .flat_map(|size| {
            let mut dim = vec![1 << 3];
            dim.extend(number(*size));
            field(1, &dim)
        })
        .collect();
    let mut tensor = vec![1 << 3, 1];
    tensor.extend(field(2, &dims));
    let mut value = field(1, name.as_bytes());
    value.extend(field(2, &field(1, &tensor)));
    value
}

fn field(tag: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = key(tag, content.len());
    bytes.extend(content);
    bytes
}

fn key(tag: u64, length: usize) -> Vec<u8> {
    let mut bytes = number(tag << 3 | 2);
    bytes.extend(number(length as u64));
    bytes
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
