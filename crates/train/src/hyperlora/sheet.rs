//! Sheets of held-out people: enrolled, with their own LoRA, with another's, with none.

use candle_core::{Result as Compute, Tensor};
use image::RgbImage;
use likeness_sdxl::Unmerged;

use super::{Run, Which};
use crate::denoise::Noising;
use crate::hypernetwork::batch_terms;
use crate::pictures::{images, pictures};
use crate::{Chance, Error, chart};

/// People on a sheet.
const SHOWN: u64 = 8;
const STEPS: usize = 20;
const GUIDANCE: f64 = 3.0;

impl Run<'_> {
    /// The sheet of what the stage has learnt so far.
    pub(super) fn sheet(&self) -> Result<RgbImage, Error> {
        let portraits = self.world.recipe.portraits;
        let people = SHOWN.min(portraits.held_out);
        let who: Vec<(u64, u64)> = (0..people).map(|n| (portraits.shown() + n, n)).collect();
        let seen = super::seen::Seen::of(self.world, self.trained, &who)?;
        let drawn = pictures(&who, portraits.side, self.world.device)?;
        let mut rows = vec![images(&drawn)?];
        let network = self.network;
        let ones = Tensor::ones(who.len(), drawn.dtype(), drawn.device())?;
        let own = match (self.which, &network.base) {
            (Which::Base, Some([_, (resampler, basis)])) => {
                let tokens = resampler.forward(&seen.base, None)?;
                let tokens = crate::hypernetwork::normalised(&tokens)?;
                batch_terms(network.unet, &[(basis, &tokens, &ones)])?
            }
            _ => {
                let faces = (self.which == Which::Face).then_some(&seen.faces);
                let tokens = network.coefficients(&seen.clip, faces)?;
                let another = Tensor::cat(
                    &[tokens.narrow(0, 1, who.len() - 1)?, tokens.narrow(0, 0, 1)?],
                    0,
                )?;
                let another = batch_terms(network.unet, &[(&network.basis, &another, &ones)])?;
                rows.push(self.painted(&who, Some(&another))?);
                batch_terms(network.unet, &[(&network.basis, &tokens, &ones)])?
            }
        };
        rows.insert(1, self.painted(&who, Some(&own))?);
        rows.push(self.painted(&who, None)?);
        Ok(chart::sheet(&[], &rows))
    }

    /// Pictures of other captions than the enrolled ones', from the same noise every time.
    fn painted(&self, who: &[(u64, u64)], own: Option<&Unmerged>) -> Result<Vec<RgbImage>, Error> {
        let places = who
            .iter()
            .map(|&(_, s)| self.captions.place(s + 1000, true));
        let text = self.captions.conditioning(places.collect())?;
        let nothing = self
            .captions
            .conditioning(vec![self.captions.nothing(); who.len()])?;
        let all = &self.trained.latents.all;
        let (_, channels, h, w) = all.dims4()?;
        let shape = [who.len(), channels, h, w];
        let mut latents = Chance::at(1, 0, "sheet").normal(&shape, all.device())?;
        for step in 0..STEPS {
            let at = |step: usize| 999 - 999 * step / STEPS;
            let times = vec![at(step) as f32; who.len()];
            let told = |text| self.network.unet.forward(&latents, &times, text, &[own]);
            let (with, without) = (told(&text)?, told(&nothing)?);
            let noise = (&without + ((with - &without)? * GUIDANCE)?)?;
            let to = (step + 1 < STEPS).then(|| at(step + 1));
            latents = ddim(&self.noising, &latents, &noise, at(step), to)?.detach();
        }
        let found = self
            .trained
            .vae
            .pictures(&(latents / self.trained.latents.scaling)?)?;
        Ok(images(&found)?)
    }
}

/// One step of DDIM (Song, Meng and Ermon, 2021) without noise of its own; to the picture itself if there is no next timestep.
fn ddim(
    noising: &Noising,
    latents: &Tensor,
    noise: &Tensor,
    from: usize,
    to: Option<usize>,
) -> Compute<Tensor> {
    let kept = noising.kept(from);
    let picture = ((latents - (noise * (1.0 - kept).sqrt())?)? / kept.sqrt())?;
    let kept = to.map_or(1.0, |to| noising.kept(to));
    (picture * kept.sqrt())? + (noise * (1.0 - kept).sqrt())?
}
