//! Loading a model's parts from its files.

use std::path::Path;

use candle_core::{DType, Device};

use super::{LoadOptions, Sdxl};
use crate::Error;
use crate::config::{IndexConfig, SchedulerConfig, UNetConfig, VaeConfig};
use crate::preview::PreviewMap;
use crate::prompt::TextStack;
use crate::unet::UNet;
use crate::vae::Vae;
use crate::weights::Weights;

impl Sdxl {
    /// Loads a diffusers folder. Weights are memory-mapped and converted as they are read.
    ///
    /// # Errors
    /// Missing, damaged or unsupported files, each by name.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Sdxl, Error> {
        let LoadOptions { device, dtype } = options;
        let index = IndexConfig::read(&dir.join("model_index.json"))?;
        let scheduler = SchedulerConfig::read(&dir.join("scheduler/scheduler_config.json"))?;
        let unet_config = UNetConfig::read(&dir.join("unet/config.json"))?;
        let vae_config = VaeConfig::read(&dir.join("vae/config.json"))?;
        let text = TextStack::load(dir, device, *dtype)?;
        check_widths(&unet_config, &text, dir)?;
        let unet = load_unet(&dir.join("unet"), &unet_config, options)?;
        let vae = load_vae(&dir.join("vae"), &vae_config, device)?;
        let factor = vae_config.factor();
        let preview = PreviewMap::fit(&vae, factor, device)?;
        let (device, dtype) = (device.clone(), *dtype);
        Ok(Sdxl {
            text,
            unet,
            vae,
            factor,
            scheduler,
            index,
            preview,
            device,
            dtype,
        })
    }
}

fn check_widths(unet: &UNetConfig, text: &TextStack, dir: &Path) -> Result<(), Error> {
    let (states, pooled) = text.widths();
    if (states, pooled) == (unet.cross_attention_dim, unet.pooled_dim()) {
        return Ok(());
    }
    let what = format!(
        "the UNet takes text states of width {} and pooled text of width {}, the text encoders give \
         {states} and {pooled}",
        unet.cross_attention_dim,
        unet.pooled_dim()
    );
    Err(Error::unsupported(&dir.join("unet/config.json"), what))
}

fn load_unet(dir: &Path, config: &UNetConfig, options: &LoadOptions) -> Result<UNet, Error> {
    let stem = "diffusion_pytorch_model";
    let weights = Weights::open(dir, stem, &options.device, options.dtype)?;
    let unet = UNet::load(&weights, config)?;
    weights.finish(|_| false)?;
    Ok(unet)
}

fn load_vae(dir: &Path, config: &VaeConfig, device: &Device) -> Result<Vae, Error> {
    let weights = Weights::open(dir, "diffusion_pytorch_model", device, DType::F32)?;
    let vae = Vae::load(&weights, config)?;
    weights.finish(|_| false)?;
    Ok(vae)
}
