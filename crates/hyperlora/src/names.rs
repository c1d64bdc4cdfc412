//! The names of SDXL's attention blocks, in the two namings that people use for them.

use std::fmt;

/// Residual blocks per level of SDXL's U-Net: what connects the running numbers of sgm naming with
/// the levels of diffusers naming.
const LAYERS_PER_BLOCK: usize = 2;

const KOHYA_PREFIX: &str = "lora_unet_";

/// The two namings of SDXL's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Running numbers, as in the original checkpoints: `input_blocks_4_1_…`.
    Sgm,
    /// Levels, as in a diffusers folder: `down_blocks_1_attentions_0_…`.
    Diffusers,
}

impl Naming {
    /// The program whose code has these names, as `modelspec.implementation` knows it.
    pub(crate) fn implementation(self) -> &'static str {
        match self {
            Self::Sgm => "https://github.com/Stability-AI/generative-models",
            Self::Diffusers => "diffusers",
        }
    }
}

/// `sgm` or `diffusers`.
impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sgm => "sgm",
            Self::Diffusers => "diffusers",
        })
    }
}

/// Where in the U-Net a stack of transformer blocks sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On the way down: level and number within the level.
    Down(usize, usize),
    /// In the middle.
    Mid,
    /// On the way up: level and number within the level.
    Up(usize, usize),
}

/// Self-attention or cross-attention of a transformer block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attention {
    /// `attn1`: the image attends to itself.
    Itself,
    /// `attn2`: the image attends to the text.
    Text,
}

/// One attention module of the U-Net. Displays as its diffusers path,
/// `down_blocks.1.attentions.0.transformer_blocks.0.attn1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The stack it belongs to.
    pub place: Place,
    /// The transformer block within the stack.
    pub transformer: usize,
    /// Which of the transformer block's two attentions.
    pub attention: Attention,
}

/// The four matrices of an attention module, in the order that coefficients have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output.
    Out,
}

impl Projection {
    /// All four, in the order that coefficients have.
    pub const ALL: [Self; 4] = [Self::Q, Self::K, Self::V, Self::Out];

    /// The name in a HyperLoRA file.
    pub(crate) fn basis_name(self) -> &'static str {
        match self {
            Self::Q => "to_q",
            Self::K => "to_k",
            Self::V => "to_v",
            Self::Out => "to_out",
        }
    }

    /// The name in a diffusers U-Net: the output matrix is the first of a list.
    pub fn diffusers_name(self) -> &'static str {
        match self {
            Self::Out => "to_out.0",
            other => other.basis_name(),
        }
    }

    /// The name in a kohya file.
    pub(crate) fn kohya_name(self) -> &'static str {
        match self {
            Self::Out => "to_out_0",
            other => other.basis_name(),
        }
    }
}

impl Block {
    /// Reads a kohya name, `lora_unet_…_attn1`, in either naming, and says in which it was. `None` if
    /// it is not the name of an attention module of SDXL.
    pub fn parse(name: &str) -> Option<(Self, Naming)> {
        let (place, rest) = name
            .strip_prefix(KOHYA_PREFIX)?
            .split_once("_transformer_blocks_")?;
        let (transformer, attention) = rest.split_once("_attn")?;
        let attention = match attention {
            "1" => Attention::Itself,
            "2" => Attention::Text,
            _ => return None,
        };
        let (place, naming) = Place::parse(place)?;
        Some((
            Self {
                place,
                transformer: number(transformer)?,
                attention,
            },
            naming,
        ))
    }

    /// The kohya name without a matrix, `lora_unet_…_attn1`. `None` if the naming has none for it.
    pub fn kohya_name(&self, naming: Naming) -> Option<String> {
        let place = self.place.name(naming)?;
        let Self {
            transformer,
            attention,
            ..
        } = self;
        Some(format!(
            "{KOHYA_PREFIX}{place}_transformer_blocks_{transformer}_{attention}"
        ))
    }
}

impl Place {
    fn parse(name: &str) -> Option<(Self, Naming)> {
        match name {
            "middle_block_1" => return Some((Self::Mid, Naming::Sgm)),
            "mid_block_attentions_0" => return Some((Self::Mid, Naming::Diffusers)),
            _ => {}
        }
        if let Some(n) = name.strip_prefix("input_blocks_") {
            // Block 0 is the input convolution; each level ends with a block that shrinks the image.
            let at = number(n.strip_suffix("_1")?)?.checked_sub(1)?;
            let (level, inner) = (at / (LAYERS_PER_BLOCK + 1), at % (LAYERS_PER_BLOCK + 1));
            return (inner < LAYERS_PER_BLOCK).then_some((Self::Down(level, inner), Naming::Sgm));
        }
        if let Some(n) = name.strip_prefix("output_blocks_") {
            let at = number(n.strip_suffix("_1")?)?;
            let (level, inner) = (at / (LAYERS_PER_BLOCK + 1), at % (LAYERS_PER_BLOCK + 1));
            return Some((Self::Up(level, inner), Naming::Sgm));
        }
        let (side, level_and_inner) = name.split_once("_blocks_")?;
        let (level, inner) = level_and_inner.split_once("_attentions_")?;
        let (level, inner) = (number(level)?, number(inner)?);
        match side {
            "down" => Some((Self::Down(level, inner), Naming::Diffusers)),
            "up" => Some((Self::Up(level, inner), Naming::Diffusers)),
            _ => None,
        }
    }

    fn name(self, naming: Naming) -> Option<String> {
        match (naming, self) {
            (Naming::Sgm, Self::Mid) => Some("middle_block_1".into()),
            (Naming::Sgm, Self::Down(level, inner)) => (inner < LAYERS_PER_BLOCK).then(|| {
                format!(
                    "input_blocks_{}_1",
                    level * (LAYERS_PER_BLOCK + 1) + inner + 1
                )
            }),
            (Naming::Sgm, Self::Up(level, inner)) => (inner <= LAYERS_PER_BLOCK)
                .then(|| format!("output_blocks_{}_1", level * (LAYERS_PER_BLOCK + 1) + inner)),
            (Naming::Diffusers, place) => Some(place.to_string().replace('.', "_")),
        }
    }
}

/// A number as names write it: digits without a sign or leading zeros, small enough to count with.
fn number(text: &str) -> Option<usize> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    let number = text.parse::<u16>().ok()?;
    canonical.then_some(usize::from(number))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(level, inner) => write!(f, "down_blocks.{level}.attentions.{inner}"),
            Self::Mid => write!(f, "mid_block.attentions.0"),
            Self::Up(level, inner) => write!(f, "up_blocks.{level}.attentions.{inner}"),
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "attn1",
            Self::Text => "attn2",
        })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.transformer_blocks.{}.{}",
            self.place, self.transformer, self.attention
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_namings_of_sdxl_meet_in_one_block() {
        let pairs = [
            ("input_blocks_4_1", "down_blocks_1_attentions_0"),
            ("input_blocks_5_1", "down_blocks_1_attentions_1"),
            ("input_blocks_7_1", "down_blocks_2_attentions_0"),
            ("input_blocks_8_1", "down_blocks_2_attentions_1"),
            ("middle_block_1", "mid_block_attentions_0"),
            ("output_blocks_0_1", "up_blocks_0_attentions_0"),
            ("output_blocks_2_1", "up_blocks_0_attentions_2"),
            ("output_blocks_3_1", "up_blocks_1_attentions_0"),
            ("output_blocks_5_1", "up_blocks_1_attentions_2"),
        ];
        for (sgm, diffusers) in pairs {
            let name = |place: &str| format!("lora_unet_{place}_transformer_blocks_9_attn2");
            let (block, naming) = Block::parse(&name(sgm)).unwrap();
            assert_eq!(naming, Naming::Sgm);
            assert_eq!(
                Block::parse(&name(diffusers)),
                Some((block, Naming::Diffusers))
            );
            assert_eq!(block.kohya_name(Naming::Sgm), Some(name(sgm)));
            assert_eq!(block.kohya_name(Naming::Diffusers), Some(name(diffusers)));
        }
    }

    #[test]
    fn a_block_displays_as_its_diffusers_path() {
        let (block, _) =
            Block::parse("lora_unet_output_blocks_3_1_transformer_blocks_1_attn1").unwrap();
        assert_eq!(
            block.to_string(),
            "up_blocks.1.attentions.0.transformer_blocks.1.attn1"
        );
    }

    #[test]
    fn other_names_are_refused() {
        let refused = [
            "input_blocks_4_1_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_0_1_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_4_0_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_04_1_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_99999999_1_transformer_blocks_0_attn1",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn3",
            "lora_unet_side_blocks_1_attentions_0_transformer_blocks_0_attn1",
            "lora_unet_down_blocks_1_attentions_-1_transformer_blocks_0_attn1",
            "lora_unet_middle_block_1_transformer_blocks__attn1",
            "",
        ];
        for name in refused {
            assert_eq!(Block::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_third_block_on_the_way_down_has_no_sgm_name() {
        let name = "lora_unet_down_blocks_1_attentions_2_transformer_blocks_0_attn1";
        let (block, _) = Block::parse(name).unwrap();
        assert_eq!(block.kohya_name(Naming::Sgm), None);
    }
}
