//! What the encoder looks at, from a file or from photos.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use indicatif::ProgressBar;
use likeness_bundle::Bundle;
use likeness_face::{arcface_input, base_input};
use likeness_hyperlora::{ClipVision, Encoder, Inputs as Sees};

use super::{
    crops::{self, CropArgs, Finder, Found},
    tensors::TensorFile,
    timings::Timings,
};
use crate::fail::{Failure, failed};

/// The encoder's inputs for n photos; what the model does not look at is `None`.
pub struct Inputs {
    /// CLIP states, [n, t, width].
    pub clip: Option<Tensor>,
    /// Face embeddings, [n, 512].
    pub arcface: Option<Tensor>,
    /// CLIP states of the photos with their faces blurred, [n, t, width].
    pub base: Option<Tensor>,
    /// How long loading the models in front of the encoder took.
    pub loading: Duration,
    /// How long the photos' stages took, photo by photo; empty for inputs from a file.
    pub timings: Vec<Timings>,
}

/// Reads the inputs that a model looks at from a file; pictures go through the bundle's CLIP.
pub fn from_file(path: &Path, bundle: &Bundle, encoder: &Encoder) -> Result<Inputs, Failure> {
    let file = TensorFile::open(path)?;
    let mut clip = LazyClip::new(bundle);
    let sees = encoder.inputs();
    let states = if sees == Sees::ArcFace {
        None
    } else {
        let states = hidden(&file, "clip_hidden", "pixel_values", &mut clip)?;
        let expected = "`clip_hidden` [n, t, width] or `pixel_values` [n, 3, h, w]";
        Some(states.ok_or_else(|| file.missing(expected))?)
    };
    let arcface = if sees == Sees::Clip {
        None
    } else {
        Some(flattened(file.tensor("arcface", "[n, 512]")?)?)
    };
    let base = hidden(&file, "base_clip_hidden", "base_pixel_values", &mut clip)?;
    Ok(Inputs {
        clip: states,
        arcface,
        base,
        loading: Duration::ZERO,
        timings: Vec::new(),
    })
}

/// States as they are in the file, or else of the pictures in it.
fn hidden(
    file: &TensorFile,
    states: &str,
    pictures: &str,
    clip: &mut LazyClip<'_>,
) -> Result<Option<Tensor>, Failure> {
    if let Some(states) = file.find(states)? {
        return Ok(Some(states));
    }
    match file.find(pictures)? {
        Some(pictures) => Ok(Some(clip.get()?.hidden_states(&pictures).map_err(failed)?)),
        None => Ok(None),
    }
}

/// Embeddings are also written as one token per photo, [n, 1, 512].
fn flattened(arcface: Tensor) -> Result<Tensor, Failure> {
    match *arcface.dims() {
        [_, 1, _] => arcface.squeeze(1).map_err(failed),
        _ => Ok(arcface),
    }
}

/// CLIP, loaded when it is first needed: states may be given, and then the bundle needs no CLIP.
struct LazyClip<'a> {
    bundle: &'a Bundle,
    loaded: Option<ClipVision>,
}

impl<'a> LazyClip<'a> {
    fn new(bundle: &'a Bundle) -> Self {
        Self {
            bundle,
            loaded: None,
        }
    }

    fn get(&mut self) -> Result<&ClipVision, Failure> {
        let clip = match self.loaded.take() {
            Some(clip) => clip,
            None => load_clip(self.bundle)?,
        };
        Ok(self.loaded.insert(clip))
    }
}

fn load_clip(bundle: &Bundle) -> Result<ClipVision, Failure> {
    ClipVision::load(&bundle.clip_vision().map_err(failed)?, &Device::Cpu).map_err(failed)
}

/// Finds the face in every photo and computes the inputs that a model looks at.
pub fn from_photos(
    photos: &[PathBuf],
    crop: &CropArgs,
    bundle: &Bundle,
    encoder: &Encoder,
    bar: &ProgressBar,
) -> Result<Inputs, Failure> {
    let start = Instant::now();
    let eyes = Eyes::load(bundle, encoder)?;
    let loading = start.elapsed();
    let mut seen = Seen::default();
    for photo in photos {
        let found = eyes.finder.find(photo, crop)?;
        eyes.look(&found, crop, encoder, &mut seen)?;
        bar.inc(1);
    }
    Ok(Inputs {
        clip: stacked(&seen.clip)?,
        arcface: stacked(&seen.arcface)?,
        base: stacked(&seen.base)?,
        loading,
        timings: seen.timings,
    })
}

fn stacked(photos: &[Tensor]) -> Result<Option<Tensor>, Failure> {
    if photos.is_empty() {
        return Ok(None);
    }
    Tensor::cat(photos, 0).map(Some).map_err(failed)
}

/// What was seen of each photo so far.
#[derive(Default)]
struct Seen {
    clip: Vec<Tensor>,
    arcface: Vec<Tensor>,
    base: Vec<Tensor>,
    timings: Vec<Timings>,
}

/// The models in front of the encoder, as far as it looks through them.
struct Eyes {
    finder: Finder,
    clip: Option<ClipVision>,
}

impl Eyes {
    fn load(bundle: &Bundle, encoder: &Encoder) -> Result<Self, Failure> {
        let clip = (encoder.inputs() != Sees::ArcFace || encoder.has_base())
            .then(|| load_clip(bundle))
            .transpose()?;
        Ok(Self {
            finder: Finder::load(bundle)?,
            clip,
        })
    }

    fn look(
        &self,
        found: &Found,
        crop: &CropArgs,
        encoder: &Encoder,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let mut timings = Timings::from(found.took);
        if encoder.inputs() != Sees::Clip {
            seen.arcface.push(self.recognise(found, &mut timings)?);
        }
        if let Some(clip) = &self.clip {
            let side = u32::try_from(clip.image_size()).map_err(failed)?;
            let Found { image, face, .. } = found;
            if encoder.inputs() != Sees::ArcFace {
                let options = crop.clip_options(side);
                let picture = || crops::clip_tensor(image, face, options);
                let pixels = timings.time("crops", picture)?;
                seen.clip.push(states(clip, &pixels, &mut timings)?);
            }
            if encoder.has_base() {
                let picture = || crops::to_tensor(&base_input(image, face, side).pixels);
                let pixels = timings.time("crops", picture)?;
                seen.base.push(states(clip, &pixels, &mut timings)?);
            }
        }
        seen.timings.push(timings);
        Ok(())
    }

    /// The face's embedding, [1, 512].
    fn recognise(&self, found: &Found, timings: &mut Timings) -> Result<Tensor, Failure> {
        let aligned = timings.time("crops", || arcface_input(&found.image, &found.face));
        let recognizer = self.finder.recognizer();
        let embedding = timings.time("arcface", || recognizer.embed(&aligned));
        let embedding = embedding.map_err(failed)?;
        let shape = (1, embedding.len());
        Tensor::from_slice(&embedding, shape, &Device::Cpu).map_err(failed)
    }
}

fn states(clip: &ClipVision, pixels: &Tensor, timings: &mut Timings) -> Result<Tensor, Failure> {
    let states = timings.time("clip", || clip.hidden_states(pixels));
    states.map_err(failed)
}
