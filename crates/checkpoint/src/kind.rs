//! Telling SDXL base from everything else that people have in the same format.

use crate::{Shapes, has};

/// Why a file is not a checkpoint that can be run, in words for its owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSdxl {
    /// The second stage of SDXL.
    #[error("this is the SDXL refiner (it has one text encoder): give the SDXL base model")]
    Refiner,
    /// A UNet that takes a mask, a picture or another latent beside the noise.
    #[error("{channels} input channels: {}, SDXL's base UNet has 4", channels_in_words(*.channels))]
    InputChannels {
        /// How many.
        channels: usize,
    },
    /// Stable Diffusion 1.x.
    #[error(
        "this is a Stable Diffusion 1.x checkpoint (cond_stage_model.transformer): give an SDXL one"
    )]
    StableDiffusion1,
    /// Stable Diffusion 2.x.
    #[error("this is a Stable Diffusion 2.x checkpoint (cond_stage_model.model): give an SDXL one")]
    StableDiffusion2,
    /// Stable Diffusion 3.x.
    #[error("this is a Stable Diffusion 3 checkpoint (joint_blocks): give an SDXL one")]
    StableDiffusion3,
    /// Flux.
    #[error("this is a Flux checkpoint (double_blocks): give an SDXL one")]
    Flux,
    /// A LoRA.
    #[error("this is a LoRA, not a checkpoint: give an SDXL checkpoint, and the LoRA beside it")]
    Lora,
    /// A ControlNet.
    #[error("this is a ControlNet, not a checkpoint: give an SDXL checkpoint")]
    ControlNet,
    /// Trained to predict something else than the noise, or on another noise schedule.
    #[error(
        "the tensor `{0}` marks a model that does not predict the noise of SDXL's schedule \
             (v-prediction, EDM or zero terminal SNR): only epsilon prediction is supported"
    )]
    Prediction(String),
    /// A UNet whose levels have other depths on the way up than on the way down.
    #[error(
        "the UNet's depths differ between down, middle and up: a distilled UNet (SSD-1B, Vega), \
             not SDXL's"
    )]
    Distilled,
    /// One of diffusers' files.
    #[error(
        "its tensors have diffusers' names: it is one part of a model; give the whole diffusers folder"
    )]
    DiffusersPart,
    /// Anything else.
    #[error(
        "this is no SDXL checkpoint: no tensor's name starts with model.diffusion_model.input_blocks."
    )]
    Unknown,
}

fn channels_in_words(channels: usize) -> &'static str {
    match channels {
        9 => "an inpainting UNet",
        8 => "a UNet that edits pictures (InstructPix2Pix)",
        _ => "not a base UNet",
    }
}

/// Marks of models that are not trained as SDXL base is: v-prediction, zero terminal SNR, EDM.
const OTHER_TRAINING: [&str; 5] = [
    "v_pred",
    "ztsnr",
    "edm_mean",
    "edm_std",
    "edm_vpred.sigma_max",
];
/// What a LoRA's names hold, in every convention.
const LORA: [&str; 7] = [
    "lora_up.",
    "lora_down.",
    "lora_A.",
    "lora_B.",
    ".lora.up.",
    ".hada_w1_",
    ".lokr_w1",
];

/// Refuses files that are something else than an SDXL base checkpoint in one file.
///
/// # Errors
/// What the file is.
pub fn recognise(shapes: &Shapes) -> Result<(), NotSdxl> {
    if shapes
        .keys()
        .any(|name| LORA.iter().any(|mark| name.contains(mark)))
    {
        return Err(NotSdxl::Lora);
    }
    if let Some(other) = foreign(shapes) {
        return Err(other);
    }
    if !has(shapes, "model.diffusion_model.input_blocks.") {
        return Err(NotSdxl::Unknown);
    }
    if let Some(mark) = OTHER_TRAINING
        .iter()
        .find(|mark| shapes.contains_key(**mark))
    {
        return Err(NotSdxl::Prediction((*mark).to_owned()));
    }
    if refiner(shapes) {
        return Err(NotSdxl::Refiner);
    }
    match input_channels(shapes) {
        Some(channels) if channels != 4 => Err(NotSdxl::InputChannels { channels }),
        _ => Ok(()),
    }
}

/// Other models by the names that only they have.
fn foreign(shapes: &Shapes) -> Option<NotSdxl> {
    let any = |prefixes: &[&str]| prefixes.iter().any(|prefix| has(shapes, prefix));
    // A merge may carry a text encoder of 1.x along; without SDXL's own it is 1.x.
    let conditioner = has(shapes, "conditioner.");
    if any(&["double_blocks.", "model.diffusion_model.double_blocks."]) {
        return Some(NotSdxl::Flux);
    }
    if any(&["joint_blocks.", "model.diffusion_model.joint_blocks."]) {
        return Some(NotSdxl::StableDiffusion3);
    }
    if any(&[
        "control_model.",
        "controlnet_cond_embedding.",
        "input_hint_block.",
    ]) {
        return Some(NotSdxl::ControlNet);
    }
    if !conditioner && has(shapes, "cond_stage_model.transformer.") {
        return Some(NotSdxl::StableDiffusion1);
    }
    if !conditioner && has(shapes, "cond_stage_model.model.") {
        return Some(NotSdxl::StableDiffusion2);
    }
    any(&["down_blocks.", "encoder.down_blocks.", "text_model."]).then_some(NotSdxl::DiffusersPart)
}

/// The refiner has OpenCLIP alone, in the first encoder's place.
fn refiner(shapes: &Shapes) -> bool {
    has(shapes, "conditioner.embedders.0.model.") && !has(shapes, "conditioner.embedders.1.")
}

fn input_channels(shapes: &Shapes) -> Option<usize> {
    let first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")?;
    (first.len() == 4).then(|| first[1])
}

/// What the training code keeps beside the weights: noise schedules by their own names.
const BUFFERS: [&str; 14] = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "denoiser.sigmas",
    "denoiser.log_sigmas",
];
/// Running averages, an older model's text encoder, a training loss.
const BESIDE: [&str; 4] = [
    "model_ema.",
    "cond_stage_model.",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
];
/// Of a whole CLIP what SDXL does not use; position ids are a mere count.
const UNUSED: [&str; 3] = [
    ".position_ids",
    ".logit_scale",
    "embedders.0.transformer.text_projection.weight",
];

/// Whether a tensor may be in a checkpoint without being part of the model.
pub fn ignorable(name: &str) -> bool {
    BUFFERS.contains(&name)
        || BESIDE.iter().any(|prefix| name.starts_with(prefix))
        || UNUSED.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "model.diffusion_model.input_blocks.0.0.weight";
    const CLIP: &str = "conditioner.embedders.0.transformer.text_model.x";
    const OPEN_CLIP: &str = "conditioner.embedders.1.model.ln_final.weight";

    fn kind(tensors: &[(&str, &[usize])]) -> Result<(), NotSdxl> {
        let named = tensors
            .iter()
            .map(|(name, shape)| ((*name).to_owned(), shape.to_vec()));
        recognise(&named.collect())
    }

    #[test]
    fn base_checkpoints_are_recognised() {
        let first: (&str, &[usize]) = (FIRST, &[320, 4, 3, 3]);
        assert_eq!(kind(&[first, (CLIP, &[]), (OPEN_CLIP, &[])]), Ok(()));
        let old = ("cond_stage_model.transformer.x", [].as_slice());
        assert_eq!(
            kind(&[first, (CLIP, &[]), old]),
            Ok(()),
            "a leftover of a merge"
        );
    }

    #[test]
    fn other_models_are_told_apart() {
        let first: (&str, &[usize]) = (FIRST, &[320, 4, 3, 3]);
        let name = |name| kind(&[first, (name, &[])]).unwrap_err();
        assert_eq!(
            name("cond_stage_model.transformer.x"),
            NotSdxl::StableDiffusion1
        );
        assert_eq!(name("cond_stage_model.model.x"), NotSdxl::StableDiffusion2);
        assert_eq!(
            name("model.diffusion_model.joint_blocks.0.x"),
            NotSdxl::StableDiffusion3
        );
        assert_eq!(name("double_blocks.0.img_attn.qkv.weight"), NotSdxl::Flux);
        assert_eq!(name("control_model.x"), NotSdxl::ControlNet);
        assert_eq!(
            name("lora_unet_input_blocks_4_1.lora_up.weight"),
            NotSdxl::Lora
        );
        assert_eq!(name("unet.x.lora_A.weight"), NotSdxl::Lora);
        assert_eq!(
            name("conditioner.embedders.0.model.ln_final.weight"),
            NotSdxl::Refiner
        );
        assert_eq!(name("v_pred"), NotSdxl::Prediction("v_pred".to_owned()));
        assert_eq!(
            kind(&[("down_blocks.0.x", &[])]),
            Err(NotSdxl::DiffusersPart)
        );
        assert_eq!(kind(&[("x", &[])]), Err(NotSdxl::Unknown));
        let inpainting = kind(&[(FIRST, &[320, 9, 3, 3])]).unwrap_err();
        assert!(
            inpainting.to_string().contains("inpainting"),
            "{inpainting}"
        );
    }
}
