//! A HyperLoRA release in miniature: resampler, ID projector, basis and the modules' list.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::unet::AttentionModule;
use crate::error::Error;
use crate::layout::{Init, Layout, attention_std};

/// Width of the resampler's hidden states.
const DIM: usize = 64;
/// Width of one of its attention heads.
pub(crate) const DIM_HEAD: usize = 16;
const HEADS: usize = 4;
const DEPTH: usize = 2;
const FF: usize = 4;
const ID_TOKENS: usize = 16;
const ID_EMBEDDING: usize = 512;
/// Numbers per token of the coefficients: K.
const HYPER_DIM: usize = 16;
const RANK: usize = 4;
/// Tokens per attention module: q, k, v and out, times down and up.
pub(crate) const TOKENS_PER_MODULE: usize = 8;

/// How large an identity's update is beside the weights it changes, at the default scale of 0.8.
const STRENGTH: f32 = 0.5;
/// The default scale times alpha / rank, through which an update goes.
const SCALE: f32 = 0.8 * 0.5;

/// `resampler.safetensors`; `width` is the width of the CLIP states and of the ID tokens.
pub(crate) fn resampler(modules: usize, width: usize) -> Layout {
    let mut to = Layout::default();
    to.put(
        "latents",
        &[1, modules * TOKENS_PER_MODULE, DIM],
        Init::Random(0.5),
    );
    to.linear("proj_in", DIM, width, 1.0);
    to.linear("proj_in_2", DIM, width, 1.0);
    to.linear("proj_out", HYPER_DIM, DIM, 1.0);
    for layer in 0..DEPTH {
        resampler_layer(&mut to, &format!("layers.{layer}"));
    }
    to
}

fn resampler_layer(to: &mut Layout, name: &str) {
    for norm in ["attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"] {
        to.norm(&format!("{name}.norm_{norm}"), DIM);
    }
    let inner = HEADS * DIM_HEAD;
    for attention in ["attn1", "attn2", "attn3"] {
        // Sharp attention lets each token look at something of its own in the photo.
        for (matrix, gain) in [("to_q", 1.6), ("to_k", 1.6), ("to_v", 1.2)] {
            to.weight(&format!("{name}.{attention}.{matrix}"), inner, DIM, gain);
        }
        to.weight(&format!("{name}.{attention}.to_out.0"), DIM, inner, 1.0);
    }
    to.linear(&format!("{name}.ff.net.0.proj"), FF * DIM, DIM, 1.0);
    to.linear(&format!("{name}.ff.net.2"), DIM, FF * DIM, 1.0);
}

/// `id_projector.safetensors`: a linear layer and the LayerNorm of each token.
pub(crate) fn id_projector(width: usize) -> Layout {
    let mut to = Layout::default();
    // An embedding has length 1, so that this spread gives tokens of spread 1.
    to.put(
        "0.weight",
        &[ID_TOKENS * width, ID_EMBEDDING],
        Init::Random(1.0),
    );
    to.put("0.bias", &[ID_TOKENS * width], Init::Constant(0.0));
    to.norm("2", width);
    to
}

/// `hyper_lora_modules.safetensors`, scaled so that an identity visibly changes the picture.
pub(crate) fn basis(modules: &[AttentionModule]) -> Layout {
    let mut to = Layout::default();
    for (number, module) in modules.iter().enumerate() {
        let context = module.cross.unwrap_or(module.hidden);
        let inputs = [
            ("to_q", module.hidden),
            ("to_k", context),
            ("to_v", context),
            ("to_out", module.hidden),
        ];
        for (matrix, width) in inputs {
            basis_pair(
                &mut to,
                &format!("{number}.{matrix}"),
                matrix,
                width,
                module.hidden,
            );
        }
    }
    to
}

/// ‖up · down‖ ≈ √(in · out · rank) · down's std · up's std, and ‖W‖ = √(in · out) · W's std.
fn basis_pair(to: &mut Layout, name: &str, matrix: &str, inputs: usize, outputs: usize) {
    let product = STRENGTH * attention_std(matrix, inputs) / (SCALE * (RANK as f32).sqrt());
    let down = 1.0 / (inputs as f32).sqrt();
    to.put(
        &format!("{name}.id_down_basis"),
        &[HYPER_DIM, inputs, RANK],
        Init::Random(down),
    );
    to.put(
        &format!("{name}.id_up_basis"),
        &[HYPER_DIM, RANK, outputs],
        Init::Random(product / down),
    );
}

/// `hyper_lora_modules.json`, whose order pairs names with the basis's numbers.
pub(crate) fn modules_json(modules: &[AttentionModule]) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(&ModuleList(modules))
        .map_err(Error::encode("hyper_lora_modules.json"))
}

struct ModuleList<'a>(&'a [AttentionModule]);

#[derive(Serialize)]
struct Widths {
    hidden_size: usize,
    cross_attention_dim: Option<usize>,
}

impl Serialize for ModuleList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for module in self.0 {
            let widths = Widths {
                hidden_size: module.hidden,
                cross_attention_dim: module.cross,
            };
            map.serialize_entry(&module_name(module), &widths)?;
        }
        map.end()
    }
}

fn module_name(module: &AttentionModule) -> String {
    let attention = if module.cross.is_some() {
        "attn2"
    } else {
        "attn1"
    };
    format!(
        "lora_unet_{}_transformer_blocks_{}_{attention}",
        module.sgm, module.depth
    )
}
