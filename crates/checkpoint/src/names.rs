//! From diffusers' names to the tensor of the file that holds the same numbers.
//!
//! The two namings differ in more than words: the UNet's blocks are counted through all levels, the
//! decoder's levels run the other way, OpenCLIP stacks query, key and value, stores its projection
//! transposed, and the autoencoder's attention is made of 1×1 convolutions.

use crate::{Part, Sizes};

/// The tensor of the file, and how to read the wanted one from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tensor's name in the file.
    pub tensor: String,
    /// How the wanted tensor lies in it.
    pub form: Form,
}

/// How a tensor lies in the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Whole,
    /// Rows `i`/3 to `i + 1`/3: query, key and value are stacked.
    Third(usize),
    /// A matrix with rows and columns exchanged.
    Transposed,
    /// A matrix as a 1×1 convolution's weight [out, in, 1, 1], or as a matrix.
    Point,
}

impl Form {
    /// The shapes that the file's tensor may have where one of `shape` is wanted, the usual one first.
    pub fn file_shapes(self, shape: &[usize]) -> Vec<Vec<usize>> {
        let mut own = shape.to_vec();
        match self {
            Form::Whole => {}
            Form::Third(_) => own[0] *= 3,
            Form::Transposed => own.reverse(),
            Form::Point => {
                let plain = own.clone();
                own.extend([1, 1]);
                return vec![own, plain];
            }
        }
        vec![own]
    }
}

impl Sizes {
    /// Where the file has the tensor that diffusers calls `name` in this part. A name that diffusers
    /// does not have gives a name that the file does not have.
    pub fn source(&self, part: Part, name: &str) -> Source {
        let (tensor, form) = match part {
            Part::TextEncoder => (name.to_owned(), Form::Whole),
            Part::TextEncoder2 => open_clip(name),
            Part::Unet => (self.unet_name(name), Form::Whole),
            Part::Vae => self.vae_name(name),
        };
        let tensor = format!("{}{tensor}", part.prefix());
        Source { tensor, form }
    }

    fn unet_name(&self, name: &str) -> String {
        let parts: Vec<&str> = name.splitn(5, '.').collect();
        match parts[..] {
            ["down_blocks", level, "resnets", layer, rest] => {
                let block = self.input_block(number(level), number(layer));
                format!("input_blocks.{block}.0.{}", resnet(rest))
            }
            ["down_blocks", level, "attentions", layer, rest] => {
                let block = self.input_block(number(level), number(layer));
                format!("input_blocks.{block}.1.{rest}")
            }
            ["down_blocks", level, "downsamplers", _, rest] => {
                let level = number(level);
                let block = self.input_block(level, self.layers(level));
                format!("input_blocks.{block}.0.{}", rest.replacen("conv", "op", 1))
            }
            ["up_blocks", level, "resnets", layer, rest] => {
                let block = self.output_block(number(level), number(layer));
                format!("output_blocks.{block}.0.{}", resnet(rest))
            }
            ["up_blocks", level, "attentions", layer, rest] => {
                let block = self.output_block(number(level), number(layer));
                format!("output_blocks.{block}.1.{rest}")
            }
            ["up_blocks", level, "upsamplers", _, rest] => {
                let level = number(level);
                let block = self.output_block(level + 1, 0).saturating_sub(1);
                let place = if self.up_attends(level) { 2 } else { 1 };
                format!("output_blocks.{block}.{place}.{rest}")
            }
            _ => unet_rest(name),
        }
    }

    fn vae_name(&self, name: &str) -> (String, Form) {
        let parts: Vec<&str> = name.splitn(6, '.').collect();
        let levels = self.vae_levels();
        let renamed = match parts[..] {
            [side, "down_blocks", level, "resnets", layer, rest] => {
                format!("{side}.down.{level}.block.{layer}.{}", shortcut(rest))
            }
            [side, "down_blocks", level, "downsamplers", _, rest] => {
                format!("{side}.down.{level}.downsample.{rest}")
            }
            [side, "up_blocks", level, "resnets", layer, rest] => {
                let level = (levels - 1).saturating_sub(number(level));
                format!("{side}.up.{level}.block.{layer}.{}", shortcut(rest))
            }
            [side, "up_blocks", level, "upsamplers", _, rest] => {
                let level = (levels - 1).saturating_sub(number(level));
                format!("{side}.up.{level}.upsample.{rest}")
            }
            [side, "mid_block", "resnets", index, rest, last] => {
                format!("{side}.mid.block_{}.{rest}.{last}", number(index) + 1)
            }
            [side, "mid_block", "attentions", _, ..] => {
                let rest = name.splitn(5, '.').last().unwrap_or_default();
                return pixel_attention(side, rest);
            }
            _ => name.replacen("conv_norm_out", "norm_out", 1),
        };
        (renamed, Form::Whole)
    }
}

/// Numbers in names are small; anything else leads to a name that no file has.
fn number(text: &str) -> usize {
    text.parse::<u16>()
        .map_or(usize::from(u16::MAX), usize::from)
}

fn resnet(rest: &str) -> String {
    const PARTS: [(&str, &str); 6] = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("time_emb_proj.", "emb_layers.1."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("conv_shortcut.", "skip_connection."),
    ];
    renamed(rest, &PARTS)
}

fn unet_rest(name: &str) -> String {
    const PARTS: [(&str, &str); 8] = [
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("mid_block.attentions.0.", "middle_block.1."),
    ];
    if let Some(rest) = name.strip_prefix("mid_block.resnets.0.") {
        return format!("middle_block.0.{}", resnet(rest));
    }
    if let Some(rest) = name.strip_prefix("mid_block.resnets.1.") {
        return format!("middle_block.2.{}", resnet(rest));
    }
    renamed(name, &PARTS)
}

fn shortcut(rest: &str) -> String {
    renamed(rest, &[("conv_shortcut.", "nin_shortcut.")])
}

/// The autoencoder's attention: matrices are 1×1 convolutions there.
fn pixel_attention(side: &str, rest: &str) -> (String, Form) {
    const PARTS: [(&str, &str); 5] = [
        ("group_norm.", "norm."),
        ("to_q.", "q."),
        ("to_k.", "k."),
        ("to_v.", "v."),
        ("to_out.0.", "proj_out."),
    ];
    let matrix = rest.starts_with("to_") && rest.ends_with("weight");
    let form = if matrix { Form::Point } else { Form::Whole };
    (format!("{side}.mid.attn_1.{}", renamed(rest, &PARTS)), form)
}

/// `rest` with the first fitting beginning exchanged.
fn renamed(rest: &str, parts: &[(&str, &str)]) -> String {
    let found = parts
        .iter()
        .find_map(|(from, to)| Some((rest.strip_prefix(from)?, to)));
    match found {
        Some((tail, to)) => format!("{to}{tail}"),
        None => rest.to_owned(),
    }
}

/// OpenCLIP's names for a transformers text model's tensors.
fn open_clip(name: &str) -> (String, Form) {
    let whole = |name: &str| (name.to_owned(), Form::Whole);
    match name {
        "text_model.embeddings.token_embedding.weight" => whole("token_embedding.weight"),
        "text_model.embeddings.position_embedding.weight" => whole("positional_embedding"),
        "text_model.final_layer_norm.weight" => whole("ln_final.weight"),
        "text_model.final_layer_norm.bias" => whole("ln_final.bias"),
        "text_projection.weight" => ("text_projection".to_owned(), Form::Transposed),
        _ => open_clip_layer(name),
    }
}

fn open_clip_layer(name: &str) -> (String, Form) {
    const PARTS: [(&str, &str); 5] = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("self_attn.out_proj.", "attn.out_proj."),
    ];
    const STACKED: [&str; 3] = [
        "self_attn.q_proj.",
        "self_attn.k_proj.",
        "self_attn.v_proj.",
    ];
    let layer = name.strip_prefix("text_model.encoder.layers.");
    let Some((index, rest)) = layer.and_then(|layer| layer.split_once('.')) else {
        return (name.to_owned(), Form::Whole);
    };
    let block = format!("transformer.resblocks.{index}.");
    let stacked = STACKED
        .iter()
        .enumerate()
        .find_map(|(third, prefix)| Some((third, rest.strip_prefix(prefix)?)));
    match stacked {
        Some((third, kind)) => (format!("{block}attn.in_proj_{kind}"), Form::Third(third)),
        None => (format!("{block}{}", renamed(rest, &PARTS)), Form::Whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_named(part: Part, name: &str, expected: &str) {
        let source = Sizes::base().source(part, name);
        assert_eq!(source.tensor, format!("{}{expected}", part.prefix()));
    }

    // What the released checkpoint's tensors are called.
    #[test]
    fn the_unet_is_counted_through_its_levels() {
        let unet = |name, expected| assert_named(Part::Unet, name, expected);
        unet("conv_in.weight", "input_blocks.0.0.weight");
        unet(
            "down_blocks.0.downsamplers.0.conv.bias",
            "input_blocks.3.0.op.bias",
        );
        unet(
            "down_blocks.1.resnets.0.conv_shortcut.weight",
            "input_blocks.4.0.skip_connection.weight",
        );
        unet(
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
        );
        unet(
            "mid_block.resnets.1.time_emb_proj.bias",
            "middle_block.2.emb_layers.1.bias",
        );
        unet(
            "mid_block.attentions.0.proj_in.weight",
            "middle_block.1.proj_in.weight",
        );
        unet(
            "up_blocks.0.upsamplers.0.conv.weight",
            "output_blocks.2.2.conv.weight",
        );
        unet(
            "up_blocks.1.attentions.2.norm.bias",
            "output_blocks.5.1.norm.bias",
        );
        unet(
            "up_blocks.2.resnets.2.conv2.weight",
            "output_blocks.8.0.out_layers.3.weight",
        );
        unet("conv_norm_out.weight", "out.0.weight");
        unet("add_embedding.linear_2.bias", "label_emb.0.2.bias");
    }

    #[test]
    fn the_decoder_runs_the_other_way() {
        let vae = |name, expected| assert_named(Part::Vae, name, expected);
        vae(
            "decoder.up_blocks.0.resnets.2.conv1.weight",
            "decoder.up.3.block.2.conv1.weight",
        );
        vae(
            "decoder.up_blocks.2.upsamplers.0.conv.bias",
            "decoder.up.1.upsample.conv.bias",
        );
        vae(
            "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
            "encoder.down.1.block.0.nin_shortcut.bias",
        );
        vae(
            "encoder.mid_block.resnets.1.norm2.bias",
            "encoder.mid.block_2.norm2.bias",
        );
        vae(
            "decoder.mid_block.attentions.0.to_out.0.bias",
            "decoder.mid.attn_1.proj_out.bias",
        );
        vae("encoder.conv_norm_out.weight", "encoder.norm_out.weight");
        vae("post_quant_conv.weight", "post_quant_conv.weight");
        let source = Sizes::base().source(Part::Vae, "encoder.mid_block.attentions.0.to_q.weight");
        assert_eq!(source.form.file_shapes(&[512, 512])[0], [512, 512, 1, 1]);
    }

    #[test]
    fn open_clip_stacks_and_transposes() {
        let source = |name| Sizes::base().source(Part::TextEncoder2, name);
        let keys = source("text_model.encoder.layers.31.self_attn.k_proj.bias");
        let name = "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias";
        assert_eq!((keys.tensor.as_str(), keys.form), (name, Form::Third(1)));
        assert_eq!(keys.form.file_shapes(&[1280]), [[3840]]);
        let projection = source("text_projection.weight");
        assert_eq!(projection.form.file_shapes(&[4, 3]), [[3, 4]]);
        let clip = Sizes::base().source(Part::TextEncoder, "text_model.final_layer_norm.bias");
        assert_eq!(
            clip.tensor,
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"
        );
    }

    #[test]
    fn names_that_diffusers_does_not_have_lead_nowhere_and_do_not_fail() {
        for name in [
            "",
            "down_blocks.x.resnets.y.z",
            "up_blocks.99.upsamplers.0.conv.weight",
            "a.b.c.d.e.f.g",
        ] {
            for part in Part::ALL {
                assert!(
                    Sizes::base()
                        .source(part, name)
                        .tensor
                        .starts_with(part.prefix())
                );
            }
        }
    }
}
