//! What the stages look at, computed once: the base is frozen, so it is the same in every step.

use std::collections::HashMap;

use candle_core::{Result as Compute, Tensor};
use likeness_portraits::{Colour, Pattern, Setting, caption};
use likeness_sdxl::parts::{Conditioning, Weights};

use crate::Error;
use crate::base::captions::TRIGGER;
use crate::base::painter::Text;
use crate::base::{Trained, World};
use crate::contrast::unit;
use crate::crops::{Crops, clip_pictures, crops_with_base, face_pictures};
use crate::recognizer::Recognizer;
use crate::vision::{Vision, VisionConfig};

/// Pictures that go through an encoder at once.
const AT_ONCE: usize = 64;

/// Pictures as the encoders see them, [n, …] each.
pub(super) struct Seen {
    /// CLIP's states of the face, [n, tokens, width].
    pub clip: Tensor,
    /// CLIP's states of the picture with the face blurred, [n, tokens, width].
    pub base: Tensor,
    /// Face embeddings of unit length, [n, 512].
    pub faces: Tensor,
}

impl Seen {
    /// Of these pictures (person and setting).
    pub fn of(world: &World<'_>, trained: &Trained, who: &[(u64, u64)]) -> Result<Seen, Error> {
        let (mut config, _) = world.config("clip.json")?;
        let config = VisionConfig::parse(config["vision_config"].take(), "clip.json")?;
        let device = world.device;
        let weights = Weights::frozen(&trained.clip, device);
        let tower = Vision::load(&weights.pp("clip"), &config)?;
        let weights = Weights::frozen(&trained.face, device);
        let embedder = Recognizer::load(&weights.pp("face"))?;
        let side = config.image_size as u32;
        let (mut clip, mut base, mut faces) = (Vec::new(), Vec::new(), Vec::new());
        for (number, who) in who.chunks(AT_ONCE).enumerate() {
            let seen = crops_with_base(who, side, world.recipe.seed ^ (number as u64 + 1));
            let pictures: Vec<_> = seen.iter().map(Crops::clip).collect();
            clip.push(tower.states(&clip_pictures(&pictures, device)?)?);
            let pictures: Vec<_> = seen.iter().filter_map(Crops::base).collect();
            base.push(tower.states(&clip_pictures(&pictures, device)?)?);
            let pictures: Vec<_> = seen.iter().map(Crops::face).collect();
            faces.push(unit(
                &embedder.forward(&face_pictures(&pictures, device)?)?,
            )?);
        }
        Ok(Seen {
            clip: Tensor::cat(&clip, 0)?,
            base: Tensor::cat(&base, 0)?,
            faces: Tensor::cat(&faces, 0)?,
        })
    }
}

/// All captions, with and without the trigger words, and none.
pub(super) struct Captioned {
    places: HashMap<String, u32>,
    /// [captions and one, tokens, width], the last for no caption.
    states: Tensor,
    /// [captions and one, width].
    pooled: Tensor,
    side: f32,
}

impl Captioned {
    /// By the base's text encoders.
    pub fn of(world: &World<'_>, trained: &Trained) -> Result<Captioned, Error> {
        let weights = Weights::frozen(&trained.painter, world.device);
        let text = Text::load(world, &weights)?;
        let side = world.recipe.portraits.side as f32;
        let mut texts = Vec::new();
        for pattern in Pattern::ALL {
            for background in Colour::ALL {
                for shirt in Colour::ALL {
                    let setting = Setting {
                        pattern,
                        background,
                        shirt,
                        ..Setting::drawn(0)
                    };
                    let text = caption(&setting);
                    texts.push(format!("{TRIGGER}{text}"));
                    texts.push(text);
                }
            }
        }
        let parts = texts
            .chunks(AT_ONCE)
            .map(|texts| text.conditioning(texts, &vec![1.0; texts.len()], side));
        let parts = parts.collect::<Result<Vec<_>, Error>>()?;
        let whole = |of: fn(&Conditioning) -> &Tensor| -> Compute<Tensor> {
            let mut tensors: Vec<Tensor> = parts.iter().map(|part| of(part).clone()).collect();
            tensors.push(tensors[0].narrow(0, 0, 1)?.zeros_like()?);
            Tensor::cat(&tensors, 0)
        };
        Ok(Captioned {
            states: whole(|part| &part.text)?,
            pooled: whole(|part| &part.pooled)?,
            places: texts.into_iter().zip(0..).collect(),
            side,
        })
    }

    /// Where a setting's caption stands, with the trigger words or without.
    pub fn place(&self, setting: u64, trigger: bool) -> u32 {
        let text = caption(&Setting::drawn(setting));
        let text = if trigger {
            format!("{TRIGGER}{text}")
        } else {
            text
        };
        self.places.get(&text).copied().unwrap_or(self.nothing())
    }

    /// Where no caption stands.
    pub fn nothing(&self) -> u32 {
        self.places.len() as u32
    }

    /// Of these places.
    pub fn conditioning(&self, places: Vec<u32>) -> Compute<Conditioning> {
        let count = places.len();
        let at = Tensor::from_vec(places, count, self.states.device())?;
        let side = self.side;
        Ok(Conditioning {
            text: self.states.index_select(&at, 0)?,
            pooled: self.pooled.index_select(&at, 0)?,
            time_ids: [side, side, 0.0, 0.0, side, side],
        })
    }
}
