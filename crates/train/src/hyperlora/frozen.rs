//! HyperLoRA's stages over a bundle's base, with pictures from shards. The base computes in its own number type and learns
//! nothing; what it sees of a picture is computed in the step, since the pictures are too many to keep that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use likeness_bundle::Bundle;
use likeness_face::{FaceModels, pixel_values};
use likeness_hyperlora::ClipVision;
use likeness_models::{face_files, load_sdxl};
use likeness_sdxl::parts::Conditioning;
use likeness_sdxl::{LoadOptions, Sdxl, Unmerged, with_trigger};
use likeness_webdataset::Part as Worker;

use super::network::{Network, Over, Shown};
use super::prepared::{Prepared, Preparer};
use super::shards::ShardFeed;
use super::{DROPPED, DROPPED_ALONE, Which};
use crate::base::Watch;
use crate::crops::planes;
use crate::denoise::{Noised, Noising, descend, loss};
use crate::recipe::{Data, From, HyperLora, Recipe};
use crate::run::{Descent, Ended, Means, Part, Plan, Stage, run_with, unwritable};
use crate::{Chance, Error, Gradients, Ranks, export};

/// What is trained over, and on.
pub(super) struct Real<'a> {
    pub recipe: &'a Recipe,
    pub from: &'a From,
    pub data: &'a Data,
    pub plan: &'a HyperLora,
    pub out: &'a Path,
    pub device: &'a Device,
}

/// A bundle's models, loaded.
struct Frozen {
    bundle: Bundle,
    sdxl: Sdxl,
    clip: ClipVision,
    preparer: Arc<Preparer>,
}

impl Frozen {
    fn load(real: &Real<'_>) -> Result<Frozen, Error> {
        let Real {
            from, data, device, ..
        } = real;
        let bundle = Bundle::open(&from.bundle)?;
        let options = LoadOptions {
            device: (*device).clone(),
            dtype: from.precision.dtype(),
        };
        let sdxl = load_sdxl(&bundle.sdxl(from.model.as_deref())?, &options)?;
        let clip = ClipVision::load(&bundle.clip_vision()?, device)?;
        let preparer = Preparer {
            faces: FaceModels::load(&face_files(bundle.face()?))?,
            side: data.side,
            clip_side: clip.image_size() as u32,
            smallest_face: data.smallest_face,
        };
        Ok(Frozen {
            bundle,
            sdxl,
            clip,
            preparer: Arc::new(preparer),
        })
    }

    /// CLIP's states of pictures, [b, tokens, width].
    fn states<'p>(
        &self,
        views: impl Iterator<Item = &'p image::RgbImage>,
        device: &Device,
    ) -> Result<Tensor, Error> {
        let side = self.clip.image_size();
        let numbers: Vec<f32> = views.flat_map(pixel_values).collect();
        let count = numbers.len() / (3 * side * side).max(1);
        let pictures = Tensor::from_vec(numbers, (count, 3, side, side), device)?;
        Ok(self.clip.hidden_states(&pictures)?)
    }

    /// Latents of what is painted, [b, 4, h, w], as the UNet takes them, in f32.
    fn latents(&self, samples: &[Arc<Prepared>], device: &Device) -> Result<Tensor, Error> {
        let pictures: Vec<_> = samples.iter().map(|sample| &sample.picture).collect();
        let pictures = planes(&pictures, device, |level| level / 127.5 - 1.0)?;
        Ok(self.sdxl.vae().encode(&pictures)?.detach())
    }

    /// Of captions, each times `kept`: nothing stands for no caption.
    fn conditioning(
        &self,
        captions: &[String],
        kept: &[f32],
        side: u32,
    ) -> Result<Conditioning, Error> {
        let (states, pooled) = self.sdxl.captions(captions)?;
        let kept = Tensor::from_slice(kept, (kept.len(), 1), states.device())?;
        let kept = kept.to_dtype(states.dtype())?;
        let side = side as f32;
        Ok(Conditioning {
            text: states.broadcast_mul(&kept.unsqueeze(2)?)?,
            pooled: pooled.broadcast_mul(&kept)?,
            time_ids: [side, side, 0.0, 0.0, side, side],
        })
    }
}

/// Refuses a place among the base's own files: the new bundle links all of them.
fn check_place(bundle: &Path, out: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(out).map_err(|e| unwritable(out, &e))?;
    let place = out.canonicalize().map_err(|e| unwritable(out, &e))?;
    // A bundle that is not there has an error of its own.
    let inside = bundle.canonicalize().is_ok_and(|b| place.starts_with(b));
    if inside {
        let reason = format!("bundle {} holds {}", bundle.display(), out.display());
        return Err(Error::Recipe {
            reason: format!("{reason}: choose a folder elsewhere"),
        });
    }
    Ok(())
}

/// All stages, and a bundle with what they learnt.
///
/// # Errors
/// A bundle or shards that cannot be read; whatever stops a stage.
pub(super) fn train(real: &Real<'_>, ranks: &Ranks, watch: &mut Watch<'_>) -> Result<Ended, Error> {
    check_place(&real.from.bundle, real.out)?;
    let worker = Worker::new(ranks.rank(), ranks.world())?;
    let frozen = Frozen::load(real)?;
    let over = Over {
        unet: frozen.sdxl.unet(),
        clip_width: frozen.clip.width(),
        device: real.device,
    };
    let network = Network::start(over, real.plan, real.recipe.seed)?;
    for (number, (which, plan)) in network.stages().into_iter().enumerate() {
        let seed = real.recipe.seed.wrapping_add(number as u64);
        let preparer = &frozen.preparer;
        let feed = ShardFeed::new(real.data, seed, worker, plan.batch, preparer)?;
        let run = Run {
            network: &network,
            frozen: &frozen,
            feed: &feed,
            real,
            noising: Noising::scaled_linear(),
            which,
            plan,
        };
        if run.stage(ranks, watch)? == Ended::Stopped {
            return Ok(Ended::Stopped);
        }
    }
    if ranks.rank() == 0 {
        export::over::bundle(&frozen.bundle, &network, &real.out.join("bundle"))?;
    }
    Ok(Ended::Done)
}

/// One stage at work.
struct Run<'a> {
    network: &'a Network<'a>,
    frozen: &'a Frozen,
    feed: &'a ShardFeed,
    real: &'a Real<'a>,
    noising: Noising,
    which: Which,
    plan: &'a Plan,
}

/// What is drawn for a sample, and what follows from the pictures.
struct Seen {
    latents: Tensor,
    noise: Tensor,
    timesteps: Vec<usize>,
    conditioning: Conditioning,
    terms: Unmerged,
}

impl Seen {
    fn noised(&self) -> Noised<'_> {
        Noised {
            latents: &self.latents,
            noise: &self.noise,
            timesteps: &self.timesteps,
        }
    }
}

impl Run<'_> {
    fn stage(&self, ranks: &Ranks, watch: &mut Watch<'_>) -> Result<Ended, Error> {
        let stage = Stage {
            name: self.which.name(),
            variables: self.network.trained_in(self.which),
            group: &|name, var| self.network.group(name, var),
            loss: &|part| self.loss(part),
            sheet: None,
        };
        let variables = &stage.variables;
        let descent = |part: Part| self.descend(part, variables);
        let recompute = self.real.from.recompute;
        let means = Means {
            feed: Some(self.feed),
            descent: recompute.then_some(&descent as &Descent<'_>),
            ranks: Some(ranks),
        };
        run_with(&stage, means, self.plan, self.real.out, watch)
    }

    fn loss(&self, part: Part) -> Result<Tensor, Error> {
        let seen = self.seen(part)?;
        let unet = self.network.unet;
        let own = [Some(&seen.terms)];
        loss(
            unet,
            &seen.conditioning,
            &seen.noised(),
            &own,
            &self.noising,
        )
    }

    /// A part's loss and gradients.
    fn descend(
        &self,
        part: Part,
        variables: &BTreeMap<String, Var>,
    ) -> Result<(f64, Gradients), Error> {
        if !self.real.from.recompute {
            let loss = self.loss(part)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            return Ok((value, Gradients::of(&loss, variables)?));
        }
        let seen = self.seen(part)?;
        descend(
            self.network.unet,
            &seen.conditioning,
            &seen.noised(),
            &seen.terms,
            &self.noising,
            variables,
        )
    }

    /// The three scenarios are those of [`super::Run::draw`]. A picture is what is painted and what enrols its person: nobody
    /// else's pictures are known to be of that person.
    fn seen(&self, part: Part) -> Result<Seen, Error> {
        let Real {
            recipe,
            data,
            device,
            ..
        } = *self.real;
        let samples = self.feed.samples(part.place * part.samples, part.samples);
        let mut chance = Chance::at(recipe.seed, part.number, self.which.name());
        let dropped = if self.which == Which::Base {
            DROPPED_ALONE
        } else {
            DROPPED
        };
        let trigger = &self.frozen.bundle.defaults().trigger;
        let (mut captions, mut kept, mut with_base) = (Vec::new(), Vec::new(), Vec::new());
        for sample in &samples {
            let scenario = chance.below(3);
            kept.push(f32::from(!chance.happens(dropped)));
            with_base.push(f32::from(scenario != 1));
            captions.push(if scenario < 2 {
                with_trigger(trigger, &sample.caption)
            } else {
                sample.caption.clone()
            });
        }
        let timesteps = Noising::draw(&mut chance, samples.len());
        let latents = self.frozen.latents(&samples, device)?;
        let noise = chance.normal(latents.dims(), device)?;
        let with_base = Tensor::from_vec(with_base, samples.len(), device)?;
        let shown = Shown {
            clip: &|| {
                self.frozen
                    .states(samples.iter().map(|one| &one.clip), device)
            },
            base: &|| {
                self.frozen
                    .states(samples.iter().map(|one| &one.base), device)
            },
            faces: &|| embeddings(&samples, device),
            with_base: &with_base,
        };
        Ok(Seen {
            terms: self.network.terms(self.which, &shown)?,
            conditioning: self.frozen.conditioning(&captions, &kept, data.side)?,
            latents,
            noise,
            timesteps,
        })
    }
}

/// Face embeddings [b, 512].
fn embeddings(samples: &[Arc<Prepared>], device: &Device) -> Result<Tensor, Error> {
    let numbers: Vec<f32> = samples.iter().flat_map(|sample| sample.face).collect();
    Ok(Tensor::from_vec(numbers, (samples.len(), ()), device)?)
}

#[cfg(test)]
mod tests;
