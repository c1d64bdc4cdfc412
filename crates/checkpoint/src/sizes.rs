//! A model's sizes, read off the shapes of its tensors.
//!
//! What no shape tells is SDXL's own: attention heads 64 wide, 32 norm groups, the latents' scale.

use serde_json::{Value, json};

use crate::{NotSdxl, Part, Shapes, has};

/// Width of an attention head, in the UNet and in both text encoders.
const HEAD: usize = 64;
/// Numbers that SDXL adds to the time embedding beside the pooled text.
const TIME_IDS: usize = 6;

/// The sizes of a checkpoint's four models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    unet: Unet,
    text_encoder: Text,
    text_encoder_2: Text,
    vae: Vae,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Unet {
    out_channels: usize,
    /// From the full resolution inwards.
    levels: Vec<Level>,
    /// Transformer blocks in the middle.
    middle: usize,
    /// Width of the text states.
    context: usize,
    /// Width of pooled text and time ids together.
    added: usize,
    linear_projection: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    channels: usize,
    /// Residual blocks on the way down; the way up has one more.
    layers: usize,
    /// Transformer blocks behind each residual block on the way down, and on the way up.
    down: usize,
    up: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text {
    width: usize,
    inner: usize,
    layers: usize,
    positions: usize,
    vocabulary: usize,
    projection: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vae {
    channels: Vec<usize>,
    layers: usize,
    latents: usize,
    quant: bool,
    post_quant: bool,
    attention: bool,
}

/// The sizes as diffusers' configuration files hold them.
#[derive(Clone, Debug)]
pub struct Configs {
    /// `model_index.json`.
    pub index: Value,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Value,
    /// `text_encoder/config.json`.
    pub text_encoder: Value,
    /// `text_encoder_2/config.json`.
    pub text_encoder_2: Value,
    /// `unet/config.json`.
    pub unet: Value,
    /// `vae/config.json`.
    pub vae: Value,
}

impl Sizes {
    /// The sizes of SDXL base 1.0.
    pub fn base() -> Sizes {
        let level = |channels, down, up| Level {
            channels,
            layers: 2,
            down,
            up,
        };
        let text = |width, layers| Text {
            width,
            inner: 4 * width,
            layers,
            positions: 77,
            vocabulary: 49_408,
            projection: width,
        };
        Sizes {
            unet: Unet {
                out_channels: 4,
                levels: vec![level(320, 0, 0), level(640, 2, 2), level(1280, 10, 10)],
                middle: 10,
                context: 2048,
                added: 2816,
                linear_projection: true,
            },
            text_encoder: text(768, 12),
            text_encoder_2: text(1280, 32),
            vae: Vae {
                channels: vec![128, 256, 512, 512],
                layers: 2,
                latents: 4,
                quant: true,
                post_quant: true,
                attention: true,
            },
        }
    }

    /// The sizes of a file that [`crate::recognise`] has passed. Where the tensor that tells a size is
    /// missing it is SDXL base's.
    ///
    /// # Errors
    /// [`NotSdxl::Distilled`].
    pub fn read(shapes: &Shapes) -> Result<Sizes, NotSdxl> {
        let base = Sizes::base();
        let sizes = Sizes {
            unet: Unet::read(shapes, &base.unet),
            text_encoder: Text::read_clip(shapes, &base.text_encoder),
            text_encoder_2: Text::read_open_clip(shapes, &base.text_encoder_2),
            vae: Vae::read(shapes, &base.vae),
        };
        if sizes.unet.is_even() {
            Ok(sizes)
        } else {
            Err(NotSdxl::Distilled)
        }
    }

    /// What of the sizes does not fit together in words; none, if all do.
    pub fn contradiction(&self) -> Option<String> {
        let (states, context) = (
            self.text_encoder.width + self.text_encoder_2.width,
            self.unet.context,
        );
        let (pooled, added) = (self.text_encoder_2.projection, self.unet.added);
        let ids = added.saturating_sub(pooled);
        if self.unet.out_channels != 4 || self.vae.latents != 4 {
            let (unet, vae) = (self.unet.out_channels, self.vae.latents);
            return Some(format!(
                "the UNet has {unet} output channels and the autoencoder {vae} latent channels, expected 4"
            ));
        }
        if states != context {
            return Some(format!(
                "the UNet takes text states of width {context}, the text encoders give {states}"
            ));
        }
        if ids == 0 || !ids.is_multiple_of(2 * TIME_IDS) {
            return Some(format!(
                "label_emb takes {added} numbers, expected the pooled text's {pooled} and {TIME_IDS} time \
                 ids of an even width"
            ));
        }
        None
    }

    /// The sizes in diffusers' form. Attention heads are 64 wide.
    pub fn configs(&self) -> Configs {
        Configs {
            index: json!({
                "_class_name": "StableDiffusionXLPipeline",
                "text_encoder": ["transformers", "CLIPTextModel"],
                "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "tokenizer_2": ["transformers", "CLIPTokenizer"],
                "force_zeros_for_empty_prompt": true,
            }),
            scheduler: json!({
                "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "num_train_timesteps": 1000, "prediction_type": "epsilon",
                "timestep_spacing": "leading", "steps_offset": 1,
                "clip_sample": false, "set_alpha_to_one": false,
            }),
            text_encoder: self.text_encoder.config("quick_gelu"),
            text_encoder_2: self.text_encoder_2.config("gelu"),
            unet: self.unet.config(self.text_encoder_2.projection),
            vae: self.vae.config(),
        }
    }

    /// Residual blocks of a UNet level on the way down.
    pub(crate) fn layers(&self, level: usize) -> usize {
        self.unet.levels.get(level).map_or(0, |level| level.layers)
    }

    /// Where the UNet's counting of blocks on the way down has a residual block; behind a level's last
    /// stands its downsampling. Block 0 is the first convolution.
    pub(crate) fn input_block(&self, level: usize, layer: usize) -> usize {
        let before = self
            .unet
            .levels
            .iter()
            .take(level)
            .map(|level| level.layers + 1);
        1 + before.sum::<usize>() + layer
    }

    /// The same on the way up, whose levels are counted from the lowest resolution.
    pub(crate) fn output_block(&self, level: usize, layer: usize) -> usize {
        let before = self
            .unet
            .levels
            .iter()
            .rev()
            .take(level)
            .map(|level| level.layers + 1);
        before.sum::<usize>() + layer
    }

    /// Whether a level on the way up has attention.
    pub(crate) fn up_attends(&self, level: usize) -> bool {
        self.unet
            .levels
            .iter()
            .rev()
            .nth(level)
            .is_some_and(|level| level.up > 0)
    }

    /// Levels of the autoencoder, at least one.
    pub(crate) fn vae_levels(&self) -> usize {
        self.vae.channels.len().max(1)
    }
}

/// One dimension of a tensor.
fn size(shapes: &Shapes, name: &str, axis: usize) -> Option<usize> {
    shapes.get(name)?.get(axis).copied()
}

/// How many of `prefix0.`, `prefix1.`, … there are.
fn count(shapes: &Shapes, prefix: &str) -> usize {
    // No more than there are tensors.
    (0..shapes.len())
        .take_while(|i| has(shapes, &format!("{prefix}{i}.")))
        .count()
}

impl Unet {
    fn read(shapes: &Shapes, base: &Unet) -> Unet {
        let own = |name: &str| format!("{}{name}", Part::Unet.prefix());
        let mut levels = read_down(shapes);
        read_up(shapes, &mut levels);
        let projection = shapes
            .iter()
            .find(|(name, _)| name.ends_with(".1.proj_in.weight"));
        let context = shapes
            .iter()
            .find(|(name, _)| name.ends_with(".attn2.to_k.weight"));
        Unet {
            out_channels: size(shapes, &own("out.2.weight"), 0).unwrap_or(base.out_channels),
            levels,
            middle: count(shapes, &own("middle_block.1.transformer_blocks.")),
            context: context
                .and_then(|(_, shape)| shape.get(1).copied())
                .unwrap_or(base.context),
            added: size(shapes, &own("label_emb.0.0.weight"), 1).unwrap_or(base.added),
            linear_projection: projection.is_none_or(|(_, shape)| shape.len() == 2),
        }
    }

    /// Whether every level is as deep on the way up as on the way down, which one number per level in
    /// diffusers' configuration can say.
    fn is_even(&self) -> bool {
        let same = |level: &Level| level.down == 0 || level.up == 0 || level.down == level.up;
        let last = self.levels.last().map_or(0, Level::depth);
        self.levels.iter().all(same) && (self.middle == last || last == 0)
    }

    fn config(&self, pooled: usize) -> Value {
        let each = |of: &dyn Fn(&Level) -> usize| self.levels.iter().map(of).collect::<Vec<_>>();
        let block = |name: &str, attends: bool| {
            let cross = if attends { "CrossAttn" } else { "" };
            format!("{cross}{name}")
        };
        let down = self
            .levels
            .iter()
            .map(|level| block("DownBlock2D", level.down > 0));
        let up = self
            .levels
            .iter()
            .rev()
            .map(|level| block("UpBlock2D", level.up > 0));
        let mut depths = each(&Level::depth);
        if let Some(last) = depths.last_mut() {
            *last = self.middle;
        }
        json!({
            "in_channels": 4,
            "out_channels": self.out_channels,
            "block_out_channels": each(&|level| level.channels),
            "layers_per_block": each(&|level| level.layers),
            "down_block_types": down.collect::<Vec<_>>(),
            "up_block_types": up.collect::<Vec<_>>(),
            "transformer_layers_per_block": depths.iter().map(|n| (*n).max(1)).collect::<Vec<_>>(),
            // By this name diffusers means the number of heads.
            "attention_head_dim": each(&|level| (level.channels / HEAD).max(1)),
            "cross_attention_dim": self.context,
            "use_linear_projection": self.linear_projection,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": self.added.saturating_sub(pooled) / TIME_IDS,
            "projection_class_embeddings_input_dim": self.added,
        })
    }
}

impl Level {
    fn depth(&self) -> usize {
        self.down.max(self.up)
    }
}

/// Blocks are counted through all levels; a downsampling begins the next level.
fn read_down(shapes: &Shapes) -> Vec<Level> {
    let mut levels = vec![Level::default()];
    for index in 1.. {
        let block = format!("{}input_blocks.{index}.", Part::Unet.prefix());
        if has(shapes, &format!("{block}0.op.")) {
            levels.push(Level::default());
        } else if let Some(level) = levels.last_mut().filter(|_| has(shapes, &block)) {
            let channels = size(shapes, &format!("{block}0.out_layers.3.weight"), 0);
            level.channels = channels.unwrap_or(level.channels);
            level.layers += 1;
            level.down = count(shapes, &format!("{block}1.transformer_blocks."));
        } else {
            break;
        }
    }
    levels
}

fn read_up(shapes: &Shapes, levels: &mut [Level]) {
    let mut index = 0;
    for level in levels.iter_mut().rev() {
        let block = format!(
            "{}output_blocks.{index}.1.transformer_blocks.",
            Part::Unet.prefix()
        );
        level.up = count(shapes, &block);
        index += level.layers + 1;
    }
}

impl Text {
    fn read_clip(shapes: &Shapes, base: &Text) -> Text {
        let own = |name: &str| format!("{}text_model.{name}", Part::TextEncoder.prefix());
        let of = |name: &str, axis| size(shapes, &own(name), axis);
        let width = of("embeddings.token_embedding.weight", 1).unwrap_or(base.width);
        Text {
            width,
            inner: of("encoder.layers.0.mlp.fc1.weight", 0).unwrap_or(base.inner),
            layers: count(shapes, &own("encoder.layers.")),
            positions: of("embeddings.position_embedding.weight", 0).unwrap_or(base.positions),
            vocabulary: of("embeddings.token_embedding.weight", 0).unwrap_or(base.vocabulary),
            projection: width,
        }
    }

    fn read_open_clip(shapes: &Shapes, base: &Text) -> Text {
        let own = |name: &str| format!("{}{name}", Part::TextEncoder2.prefix());
        let of = |name: &str, axis| size(shapes, &own(name), axis);
        Text {
            width: of("token_embedding.weight", 1).unwrap_or(base.width),
            inner: of("transformer.resblocks.0.mlp.c_fc.weight", 0).unwrap_or(base.inner),
            layers: count(shapes, &own("transformer.resblocks.")),
            positions: of("positional_embedding", 0).unwrap_or(base.positions),
            vocabulary: of("token_embedding.weight", 0).unwrap_or(base.vocabulary),
            projection: of("text_projection", 1).unwrap_or(base.projection),
        }
    }

    fn config(&self, activation: &str) -> Value {
        json!({
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": (self.width / HEAD).max(1),
            "max_position_embeddings": self.positions,
            "projection_dim": self.projection,
            "vocab_size": self.vocabulary,
            "hidden_act": activation,
            // OpenCLIP pools where the id is largest, which is what 2 stands for in these files.
            "eos_token_id": 2,
        })
    }
}

impl Vae {
    fn read(shapes: &Shapes, base: &Vae) -> Vae {
        let own = |name: &str| format!("{}{name}", Part::Vae.prefix());
        let there = |name: &str| has(shapes, &own(name));
        let levels = count(shapes, &own("encoder.down."));
        let channels = (0..levels).map(|level| {
            let name = own(&format!("encoder.down.{level}.block.0.conv2.weight"));
            let same = base.channels.get(level).copied().unwrap_or_default();
            size(shapes, &name, 0).unwrap_or(same)
        });
        Vae {
            channels: channels.collect(),
            layers: count(shapes, &own("encoder.down.0.block.")),
            latents: size(shapes, &own("decoder.conv_in.weight"), 1).unwrap_or(base.latents),
            quant: there("quant_conv."),
            post_quant: there("post_quant_conv."),
            attention: there("decoder.mid.attn_1."),
        }
    }

    fn config(&self) -> Value {
        json!({
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "latent_channels": self.latents,
            "use_quant_conv": self.quant,
            "use_post_quant_conv": self.post_quant,
            "mid_block_add_attention": self.attention,
            "scaling_factor": 0.13025,
        })
    }
}
