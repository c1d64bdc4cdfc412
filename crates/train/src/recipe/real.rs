//! What a recipe says of a training over a base that is there already.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::DType;
use serde::{Deserialize, Serialize};

use super::Recipe;
use crate::Error;

/// A frozen base: UNet, autoencoder, text encoders, CLIP vision and face models of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// The bundle's folder, from the recipe's folder on.
    pub bundle: PathBuf,
    /// One of its models by name; its default model if left out.
    pub model: Option<String>,
    /// The number type of UNet and text encoders. What is trained is f32 in any case, and so are autoencoder, CLIP and loss.
    #[serde(default)]
    pub precision: Precision,
    /// Whether the UNet runs twice in a step, block by block the second time: slower by a third, in a fraction of the memory.
    #[serde(default)]
    pub recompute: bool,
}

/// A number type to compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits of which 8 are the exponent; on GPUs only.
    Bf16,
    /// 16 bits of which 5 are the exponent. For the CPU, to try what 16 bits do.
    F16,
}

impl Precision {
    /// The tensor library's.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// Pictures with captions, from WebDataset shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A folder of tar files, or a pattern such as `faces/{000..099}.tar`; from the recipe's folder on.
    pub shards: String,
    /// Height and width of what the model paints, in pixels: pictures are cut to a square around the face.
    pub side: u32,
    /// Smaller faces are left out: the least shorter side of a face's box, in pixels of the stored picture.
    #[serde(default)]
    pub smallest_face: u32,
    /// Samples among which the next one is drawn.
    #[serde(default = "thousands")]
    pub buffer: NonZeroUsize,
}

fn thousands() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(1999)
}

impl Recipe {
    /// Of what trains over a bundle's base.
    pub(super) fn check_real(&self) -> Result<(), Error> {
        let wrong = |reason: &str| {
            Err(Error::Recipe {
                reason: reason.to_owned(),
            })
        };
        let (Some(_), Some(data)) = (&self.from, &self.data) else {
            return wrong("[from] and [data] need each other");
        };
        if self.base.is_some() || self.portraits != super::Portraits::default() {
            return wrong("[from] and [data] stand in the place of [base] and [portraits]");
        }
        let Some(hyperlora) = &self.hyperlora else {
            return wrong(
                "[hyperlora] is missing: there is nothing else to train over a bundle's base",
            );
        };
        // Not a comparison of floats: it is the recipe's own 1.
        if hyperlora.same_picture < 1.0 {
            return wrong(
                "[hyperlora] `same_picture` must be 1 with [data], whose samples are not matched by person",
            );
        }
        if data.side == 0 || !data.side.is_multiple_of(64) || data.side > 2048 {
            return wrong("[data] `side` must be a multiple of 64 up to 2048");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::Recipe;

    fn config(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../configs")
            .join(name)
    }

    #[test]
    fn the_papers_recipe_is_the_papers() {
        let recipe = Recipe::read(&config("sdxl-paper.toml")).unwrap();
        let hyperlora = recipe.hyperlora.unwrap();
        assert_eq!(
            (hyperlora.rank, hyperlora.base_rank, hyperlora.k),
            (8, 4, 128)
        );
        let steps = [hyperlora.base.unwrap(), hyperlora.clip, hyperlora.face];
        let steps = steps.map(|plan| plan.rate.steps);
        assert_eq!(steps, [20_000, 15_000, 55_000]);
        // The released resampler's sizes.
        let sizes = [
            hyperlora.dim,
            hyperlora.depth,
            hyperlora.heads,
            hyperlora.dim_head,
        ];
        assert_eq!(sizes, [1024, 4, 12, 64]);
        assert_eq!((hyperlora.ff, hyperlora.id_tokens), (4096, 16));
        let (from, data) = (recipe.from.unwrap(), recipe.data.unwrap());
        assert_eq!(from.precision, Precision::Bf16);
        assert!(from.recompute && data.side == 1024);
    }

    #[test]
    fn paths_are_meant_from_the_recipes_folder_on() {
        let recipe = Recipe::read(&config("sdxl-paper.toml")).unwrap();
        let configs = config("");
        assert!(recipe.from.unwrap().bundle.starts_with(&configs));
        let shards = recipe.data.unwrap().shards;
        assert!(Path::new(&shards).starts_with(configs), "{shards}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let text = std::fs::read_to_string(config("sdxl-paper.toml")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        for (there, instead, said) in [
            ("same_picture = 1.0", "same_picture = 0.5", "same_picture"),
            ("side = 1024", "side = 1000", "side"),
            (
                "[from]",
                "[portraits]\nside = 64\npeople = 9\nheld_out = 1\npictures = 2\n[from]",
                "[portraits]",
            ),
            ("precision = \"bf16\"", "precision = \"int8\"", "int8"),
        ] {
            assert!(text.contains(there), "{there}");
            std::fs::write(&path, text.replacen(there, instead, 1)).unwrap();
            let error = Recipe::read(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
