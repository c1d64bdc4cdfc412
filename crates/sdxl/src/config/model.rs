//! The configuration of a whole model.

use std::path::Path;

use likeness_checkpoint::Sizes;

use super::{IndexConfig, SchedulerConfig, TextConfig, UNetConfig, VaeConfig, require};
use crate::Error;

/// Width of an attention head in SDXL's UNet and text encoders, which no tensor's shape tells.
const HEAD: usize = 64;

/// The sizes and constants of a whole SDXL model.
#[derive(Clone, Debug)]
pub struct SdxlConfig {
    pub(crate) index: IndexConfig,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) text_encoder: TextConfig,
    pub(crate) text_encoder_2: TextConfig,
    pub(crate) unet: UNetConfig,
    pub(crate) vae: VaeConfig,
}

impl SdxlConfig {
    /// Reads the configuration files of a diffusers folder; weights need not be there.
    ///
    /// # Errors
    /// Missing files; models that are not SDXL base, by name.
    pub fn read(dir: &Path) -> Result<SdxlConfig, Error> {
        Ok(SdxlConfig {
            index: IndexConfig::read(&dir.join("model_index.json"))?,
            scheduler: SchedulerConfig::read(&dir.join("scheduler/scheduler_config.json"))?,
            text_encoder: TextConfig::read(&dir.join("text_encoder/config.json"))?,
            text_encoder_2: TextConfig::read(&dir.join("text_encoder_2/config.json"))?,
            unet: UNetConfig::read(&dir.join("unet/config.json"))?,
            vae: VaeConfig::read(&dir.join("vae/config.json"))?,
        })
    }

    /// The sizes of SDXL base 1.0: a UNet of 2.57 G numbers, text encoders of 0.12 G and 0.69 G, an
    /// autoencoder of 0.08 G.
    ///
    /// # Errors
    /// None in practice: the same checks run as for a file.
    pub fn full_size() -> Result<SdxlConfig, Error> {
        SdxlConfig::of_sizes(&Sizes::base(), Path::new("SDXL base"))
    }

    /// What a single-file checkpoint's shapes say; the rest is SDXL's own.
    pub(crate) fn of_sizes(sizes: &Sizes, path: &Path) -> Result<SdxlConfig, Error> {
        let configs = sizes.configs();
        Ok(SdxlConfig {
            index: IndexConfig::parse(configs.index, path)?,
            scheduler: SchedulerConfig::parse(configs.scheduler, path)?,
            text_encoder: TextConfig::parse(configs.text_encoder, path)?,
            text_encoder_2: TextConfig::parse(configs.text_encoder_2, path)?,
            unet: UNetConfig::parse(configs.unet, path)?,
            vae: VaeConfig::parse(configs.vae, path)?,
        })
    }

    /// Takes over the configuration files of a folder, each where its sizes are this model's: they say
    /// what shapes do not, such as the number of attention heads.
    pub(crate) fn refine(&mut self, dir: &Path) -> Result<(), Error> {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        if let Some(path) = file("model_index.json") {
            self.index = IndexConfig::read(&path)?;
        }
        if let Some(path) = file("scheduler/scheduler_config.json") {
            self.scheduler = SchedulerConfig::read(&path)?;
        }
        if let Some(path) = file("unet/config.json") {
            let other = UNetConfig::read(&path)?;
            keep_fitting(&mut self.unet, other, UNetConfig::same_shapes);
        }
        if let Some(path) = file("vae/config.json") {
            let other = VaeConfig::read(&path)?;
            keep_fitting(&mut self.vae, other, VaeConfig::same_shapes);
        }
        for (own, name) in [
            (&mut self.text_encoder, "text_encoder/config.json"),
            (&mut self.text_encoder_2, "text_encoder_2/config.json"),
        ] {
            if let Some(path) = file(name) {
                keep_fitting(own, TextConfig::read(&path)?, TextConfig::same_shapes);
            }
        }
        Ok(())
    }

    /// Refuses widths that heads of 64 cannot divide, where no configuration said another number.
    pub(crate) fn check_heads(&self, path: &Path) -> Result<(), Error> {
        let texts = [&self.text_encoder, &self.text_encoder_2];
        let texts = texts.map(|text| (text.hidden_size, text.num_attention_heads));
        let UNetConfig { down, mid, up, .. } = &self.unet;
        let levels = down.iter().chain([mid]).chain(up);
        let levels = levels.filter(|level| level.transformers > 0);
        let unet = levels.map(|level| (level.channels, level.heads));
        for (width, heads) in texts.into_iter().chain(unet) {
            let guessed = heads == (width / HEAD).max(1);
            require(!guessed || width.is_multiple_of(HEAD), path, || {
                format!(
                    "its attention is {width} wide, which SDXL's heads of {HEAD} do not divide: give the \
                     configuration files of its diffusers folder beside it"
                )
            })?;
        }
        Ok(())
    }

    /// Refuses a UNet that other text encoders feed.
    pub(crate) fn check_widths(&self, path: &Path) -> Result<(), Error> {
        let (one, two) = (&self.text_encoder, &self.text_encoder_2);
        require(
            one.max_position_embeddings == two.max_position_embeddings,
            path,
            || {
                format!(
                    "`max_position_embeddings` of the text encoders is {} and {}, expected the same",
                    one.max_position_embeddings, two.max_position_embeddings
                )
            },
        )?;
        let (states, pooled) = (one.hidden_size + two.hidden_size, two.projection_dim);
        let unet = &self.unet;
        require(!unet.is_refiner(pooled), path, || {
            "the UNet takes 5 time ids and not 6: this is the SDXL refiner, give the SDXL base model"
                .to_owned()
        })?;
        let same = (states, pooled) == (unet.cross_attention_dim, unet.pooled_dim());
        require(same, path, || {
            format!(
                "the UNet takes text states of width {} and pooled text of width {}, the text encoders \
                 give {states} and {pooled}",
                unet.cross_attention_dim,
                unet.pooled_dim()
            )
        })
    }
}

/// Takes `other` if its tensors have the same shapes.
fn keep_fitting<T>(own: &mut T, other: T, same: impl Fn(&T, &T) -> bool) {
    if same(own, &other) {
        *own = other;
    }
}
