//! `unet/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{OneOrEach, check_layers, config_of, read_config, require};
use crate::Error;

#[derive(Deserialize)]
struct RawUNet {
    #[serde(default = "four")]
    in_channels: usize,
    #[serde(default = "four")]
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    /// Absent is SDXL's own; null is no block at all.
    #[serde(default = "cross_attention")]
    mid_block_type: Option<String>,
    #[serde(default = "two")]
    layers_per_block: OneOrEach,
    #[serde(default = "one")]
    transformer_layers_per_block: OneOrEach,
    #[serde(default = "eight")]
    attention_head_dim: OneOrEach,
    cross_attention_dim: OneOrEach,
    #[serde(default)]
    use_linear_projection: bool,
    #[serde(default = "thirty_two")]
    norm_num_groups: usize,
    #[serde(default = "default_eps")]
    norm_eps: f64,
    addition_embed_type: Option<String>,
    addition_time_embed_dim: Option<usize>,
    projection_class_embeddings_input_dim: Option<usize>,
    #[serde(default = "yes")]
    flip_sin_to_cos: bool,
    #[serde(default)]
    freq_shift: f64,
    /// Everything else, to refuse variants that would change the result.
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

fn four() -> usize {
    4
}

fn two() -> OneOrEach {
    OneOrEach::One(2)
}

fn one() -> OneOrEach {
    OneOrEach::One(1)
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "serde's default has the field's type"
)]
fn cross_attention() -> Option<String> {
    Some(MIDDLE.to_owned())
}

fn eight() -> OneOrEach {
    OneOrEach::One(8)
}

fn thirty_two() -> usize {
    32
}

fn default_eps() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

/// One resolution level, on the way down or up.
#[derive(Clone, Debug)]
pub struct LevelConfig {
    /// Channels of its residual blocks.
    pub channels: usize,
    /// Residual blocks on the way down; the way up has one more.
    pub layers: usize,
    /// Transformer blocks behind each residual block; 0: the level has no attention.
    pub transformers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// The UNet's sizes.
#[derive(Clone, Debug)]
pub struct UNetConfig {
    /// Levels on the way down, from the full resolution.
    pub down: Vec<LevelConfig>,
    /// The level in the middle (its `layers` are not used).
    pub mid: LevelConfig,
    /// Levels on the way up, from the lowest resolution.
    pub up: Vec<LevelConfig>,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// Transformers project with linear layers rather than 1×1 convolutions.
    pub linear_projection: bool,
    /// Groups of the group norms.
    pub groups: usize,
    /// Epsilon of the residual blocks' group norms.
    pub norm_eps: f64,
    /// Numbers per time id.
    pub time_id_dim: usize,
    /// Width of pooled text and time ids together.
    pub added_dim: usize,
    /// Sinusoids are laid out as (cos, sin).
    pub flip_sin_to_cos: bool,
    /// Shift in the sinusoids' frequencies.
    pub freq_shift: f64,
}

/// Time ids of SDXL: original height and width, crop top and left, target height and width.
pub const TIME_IDS: usize = 6;
/// The refiner's: original height and width, crop top and left, aesthetic score.
const REFINER_TIME_IDS: usize = 5;

impl UNetConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Refuses inpainting and refiner UNets, other block types and variants, by name.
    pub fn read(path: &Path) -> Result<UNetConfig, Error> {
        UNetConfig::checked(&read_config(path)?, path)
    }

    /// As [`UNetConfig::read`], from JSON; `path` is for the errors.
    ///
    /// # Errors
    /// As [`UNetConfig::read`].
    pub fn parse(json: Value, path: &Path) -> Result<UNetConfig, Error> {
        UNetConfig::checked(&config_of(json, path)?, path)
    }

    fn checked(raw: &RawUNet, path: &Path) -> Result<UNetConfig, Error> {
        check_channels(raw, path)?;
        check_variants(raw, path)?;
        let (down, up) = levels(raw, path)?;
        let (time_id_dim, added_dim) = conditioning(raw, path)?;
        let mid = middle(raw, path)?;
        Ok(UNetConfig {
            cross_attention_dim: cross_attention_dim(raw, path)?,
            down,
            mid,
            up,
            linear_projection: raw.use_linear_projection,
            groups: raw.norm_num_groups,
            norm_eps: raw.norm_eps,
            time_id_dim,
            added_dim,
            flip_sin_to_cos: raw.flip_sin_to_cos,
            freq_shift: raw.freq_shift,
        })
    }

    /// Width of the pooled text embedding.
    pub fn pooled_dim(&self) -> usize {
        self.added_dim - TIME_IDS * self.time_id_dim
    }

    /// Whether the UNet takes the refiner's 5 time ids beside pooled text of this width.
    pub fn is_refiner(&self, pooled: usize) -> bool {
        self.added_dim == pooled + REFINER_TIME_IDS * self.time_id_dim
    }

    /// Whether another configuration has the same tensors of the same shapes.
    pub fn same_shapes(&self, other: &UNetConfig) -> bool {
        let level = |level: &LevelConfig| (level.channels, level.layers, level.transformers);
        let levels = |config: &UNetConfig| {
            let UNetConfig { down, mid, up, .. } = config;
            let all = down.iter().chain([mid]).chain(up);
            all.map(level).collect::<Vec<_>>()
        };
        let widths = |config: &UNetConfig| (config.cross_attention_dim, config.added_dim);
        levels(self) == levels(other)
            && widths(self) == widths(other)
            && self.linear_projection == other.linear_projection
    }
}

fn check_channels(raw: &RawUNet, path: &Path) -> Result<(), Error> {
    require(raw.in_channels == 4, path, || {
        let kind = if raw.in_channels == 9 {
            "an inpainting UNet"
        } else {
            "not a base UNet"
        };
        format!(
            "{} input channels: {kind}, SDXL's base UNet has 4",
            raw.in_channels
        )
    })?;
    require(raw.out_channels == 4, path, || {
        format!("{} output channels, SDXL's UNet has 4", raw.out_channels)
    })?;
    let n = raw.block_out_channels.len();
    let same = raw.down_block_types.len() == n && raw.up_block_types.len() == n;
    require((1..=8).contains(&n) && same, path, || {
        "`block_out_channels`, `down_block_types` and `up_block_types` must have the same length"
            .to_owned()
    })
}

/// The middle block that is supported.
const MIDDLE: &str = "UNetMidBlock2DCrossAttn";

/// Fields that must be absent, null or at the value given here.
const VARIANTS: [(&str, &[&str]); 24] = [
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &[]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &[]),
    ("downsample_padding", &["1"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &[]),
    ("encoder_hid_dim_type", &[]),
    ("mid_block_only_cross_attention", &["false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("num_attention_heads", &[]),
    ("num_class_embeds", &[]),
    ("only_cross_attention", &["false"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("reverse_transformer_layers_per_block", &[]),
    ("time_cond_proj_dim", &[]),
    ("time_embedding_dim", &[]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &[]),
];

fn check_variants(raw: &RawUNet, path: &Path) -> Result<(), Error> {
    for (field, allowed) in VARIANTS {
        let value = raw.others.get(field).unwrap_or(&Value::Null);
        // What a list says of each level is as good as one value.
        let each = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        let known = each
            .iter()
            .all(|value| value.is_null() || allowed.contains(&value.to_string().as_str()));
        require(known, path, || {
            format!("`{field}` = {value} is not supported")
        })?;
    }
    let mid = raw.mid_block_type.as_deref().unwrap_or("null");
    require(mid == MIDDLE, path, || {
        format!("middle block `{mid}`, expected {MIDDLE}")
    })
}

/// (numbers per time id, width of everything that is added to the time embedding).
fn conditioning(raw: &RawUNet, path: &Path) -> Result<(usize, usize), Error> {
    let kind = raw.addition_embed_type.as_deref();
    require(kind == Some("text_time"), path, || {
        format!("`addition_embed_type` is {kind:?}, SDXL has \"text_time\": another architecture")
    })?;
    match (
        raw.addition_time_embed_dim,
        raw.projection_class_embeddings_input_dim,
    ) {
        (Some(ids), Some(all)) if ids >= 2 && ids % 2 == 0 && all > TIME_IDS * ids => {
            Ok((ids, all))
        }
        sizes => Err(Error::unsupported(
            path,
            format!(
                "`addition_time_embed_dim` and `projection_class_embeddings_input_dim` are \
                 {sizes:?}, expected an even n and more than {TIME_IDS} n (a refiner has 5 n)"
            ),
        )),
    }
}

fn levels(raw: &RawUNet, path: &Path) -> Result<(Vec<LevelConfig>, Vec<LevelConfig>), Error> {
    let n = raw.block_out_channels.len();
    let layers = raw.layers_per_block.expand(n, "layers_per_block", path)?;
    check_layers("layers_per_block", &layers, path)?;
    let transformers = transformer_layers(raw, path)?;
    check_layers("transformer_layers_per_block", &transformers, path)?;
    let heads = raw
        .attention_head_dim
        .expand(n, "attention_head_dim", path)?;
    let level = |i: usize, attention: bool| {
        let positive = layers[i] > 0 && (!attention || (transformers[i] > 0 && heads[i] > 0));
        require(positive && raw.block_out_channels[i] > 0, path, || {
            format!("level {i} has no channels, layers, transformer layers or heads")
        })?;
        Ok::<_, Error>(LevelConfig {
            channels: raw.block_out_channels[i],
            layers: layers[i],
            transformers: if attention { transformers[i] } else { 0 },
            heads: heads[i],
        })
    };
    let mut down = Vec::with_capacity(n);
    let mut up = Vec::with_capacity(n);
    for i in 0..n {
        let types = ["DownBlock2D", "CrossAttnDownBlock2D"];
        down.push(level(
            i,
            has_attention(&raw.down_block_types[i], types, path)?,
        )?);
        let types = ["UpBlock2D", "CrossAttnUpBlock2D"];
        up.push(level(
            n - 1 - i,
            has_attention(&raw.up_block_types[i], types, path)?,
        )?);
    }
    Ok((down, up))
}

fn transformer_layers(raw: &RawUNet, path: &Path) -> Result<Vec<usize>, Error> {
    let n = raw.block_out_channels.len();
    raw.transformer_layers_per_block
        .expand(n, "transformer_layers_per_block", path)
}

fn middle(raw: &RawUNet, path: &Path) -> Result<LevelConfig, Error> {
    let n = raw.block_out_channels.len();
    let heads = raw
        .attention_head_dim
        .expand(n, "attention_head_dim", path)?;
    Ok(LevelConfig {
        channels: raw.block_out_channels[n - 1],
        layers: 1,
        transformers: transformer_layers(raw, path)?[n - 1],
        heads: heads[n - 1],
    })
}

fn has_attention(name: &str, [plain, cross]: [&str; 2], path: &Path) -> Result<bool, Error> {
    require(name == plain || name == cross, path, || {
        format!("block `{name}`, expected {plain} or {cross}")
    })?;
    Ok(name == cross)
}

fn cross_attention_dim(raw: &RawUNet, path: &Path) -> Result<usize, Error> {
    let n = raw.block_out_channels.len();
    let widths = raw
        .cross_attention_dim
        .expand(n, "cross_attention_dim", path)?;
    require(widths.iter().all(|&width| width == widths[0]), path, || {
        format!("`cross_attention_dim` {widths:?} differs between levels")
    })?;
    Ok(widths[0])
}
