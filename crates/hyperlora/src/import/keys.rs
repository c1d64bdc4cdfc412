//! The keys under which programs have kept the LoRA of an attention matrix.
//!
//! With dots read as underscores they all are `[prefix_]BLOCK_attnN_[processor_]to_X` and one of a few
//! endings: `lora_down.weight` (kohya), `_lora.down.weight` (diffusers' first), `lora.down.weight` (its
//! second) become one, `lora_A.weight` (peft, and diffusers today) is the other.

use crate::names::{Attention, Block, Projection};

/// What stands before a block's name.
const PREFIXES: [&str; 8] = [
    "lora_unet_",
    "unet_base_model_model_",
    "unet_",
    "base_model_model_unet_",
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "",
];

/// What a tensor is to a matrix's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `[r, in]`.
    Down,
    /// `[out, r]`.
    Up,
    /// The scale times the rank.
    Alpha,
    /// What a plain LoRA does not have, such as DoRA's magnitudes or a bias.
    Other,
}

/// One key of a LoRA file that belongs to an attention matrix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub target: (Block, Projection),
    pub part: Part,
}

impl Key {
    pub fn parse(key: &str) -> Option<Self> {
        let key = key.replace('.', "_");
        let prefix = PREFIXES.iter().find(|prefix| key.starts_with(**prefix))?;
        let (block, rest) = block(&key[prefix.len()..])?;
        let (projection, ending) = projection(rest.strip_prefix("processor_").unwrap_or(rest))?;
        Some(Self {
            target: (block, projection),
            part: part(ending),
        })
    }
}

/// `BLOCK_attn1_REST`.
fn block(text: &str) -> Option<(Block, &str)> {
    [Attention::Itself, Attention::Text]
        .iter()
        .find_map(|attention| {
            let (place, rest) = text.split_once(&format!("_{attention}_"))?;
            let (block, _) = Block::parse(&format!("lora_unet_{place}_{attention}"))?;
            Some((block, rest))
        })
}

/// `to_q_ENDING`.
fn projection(text: &str) -> Option<(Projection, &str)> {
    let names = [
        ("to_q_", Projection::Q),
        ("to_k_", Projection::K),
        ("to_v_", Projection::V),
        ("to_out_0_", Projection::Out),
        ("to_out_", Projection::Out),
    ];
    names
        .into_iter()
        .find_map(|(name, projection)| Some((projection, text.strip_prefix(name)?)))
}

fn part(ending: &str) -> Part {
    match ending {
        "lora_down_weight" | "lora_linear_layer_down_weight" => Part::Down,
        "lora_up_weight" | "lora_linear_layer_up_weight" => Part::Up,
        "alpha" | "lora_alpha" => Part::Alpha,
        // Between the letter and the ending there may be the name of a peft adapter.
        _ if ending.ends_with("weight") && ending.starts_with("lora_A_") => Part::Down,
        _ if ending.ends_with("weight") && ending.starts_with("lora_B_") => Part::Up,
        _ => Part::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Place;

    fn key(place: Place, attention: Attention, projection: Projection, part: Part) -> Key {
        let block = Block {
            place,
            transformer: 3,
            attention,
        };
        Key {
            target: (block, projection),
            part,
        }
    }

    #[test]
    fn every_style_names_the_same_matrix() {
        let down = [
            "lora_unet_input_blocks_4_1_transformer_blocks_3_attn1_to_q.lora_down.weight",
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_3_attn1_to_q.lora_down.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora.down.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.3.attn1.processor.to_q_lora.down.weight",
            "down_blocks.1.attentions.0.transformer_blocks.3.attn1.processor.to_q_lora.down.weight",
            "down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora_linear_layer.down.weight",
            "base_model.model.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.weight",
            "base_model.model.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.default.weight",
            "unet.base_model.model.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.weight",
            "diffusion_model.input_blocks.4.1.transformer_blocks.3.attn1.to_q.lora_down.weight",
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.3.attn1.to_q.lora_down.weight",
        ];
        let expected = key(
            Place::Down(1, 0),
            Attention::Itself,
            Projection::Q,
            Part::Down,
        );
        for name in down {
            assert_eq!(Key::parse(name).as_ref(), Some(&expected), "{name}");
        }
    }

    #[test]
    fn outputs_and_alphas_are_found() {
        let at = |projection, part| Some(key(Place::Up(0, 2), Attention::Text, projection, part));
        let cases = [
            ("to_out.0.lora_B.weight", Projection::Out, Part::Up),
            ("to_out_0.lora_up.weight", Projection::Out, Part::Up),
            ("processor.to_out_lora.up.weight", Projection::Out, Part::Up),
            ("to_v.alpha", Projection::V, Part::Alpha),
            ("to_k_lora.alpha", Projection::K, Part::Alpha),
            ("to_k.dora_scale", Projection::K, Part::Other),
            ("to_k.lora_magnitude_vector", Projection::K, Part::Other),
            ("to_k.lora_B.bias", Projection::K, Part::Other),
            ("to_k.hada_w1_a", Projection::K, Part::Other),
            ("to_k.lora_mid.weight", Projection::K, Part::Other),
        ];
        for (end, projection, part) in cases {
            let name = format!("unet.up_blocks.0.attentions.2.transformer_blocks.3.attn2.{end}");
            assert_eq!(Key::parse(&name), at(projection, part), "{name}");
        }
    }

    #[test]
    fn what_is_no_attention_matrix_is_not_taken_for_one() {
        let others = [
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj.lora_down.weight",
            "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
            "lora_unet_input_blocks_4_0_in_layers_2.lora_down.weight",
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_qkv.lora_down.weight",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn3_to_q.lora_down.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.add_q_proj.lora_A.weight",
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "attn1_to_q",
            "",
        ];
        for name in others {
            assert_eq!(Key::parse(name), None, "{name}");
        }
    }
}
