//! From what CLIP and ArcFace say of a photo to its coefficients.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use likeness_domain::coefficients::Coefficients;

use crate::error::Error;
use crate::files::{Layout, TensorFile};
use crate::ops::{LayerNorm, Linear};
use crate::resampler::{EPS, Resampler};
use crate::sizes::Sizes;

/// How far the length of a face embedding may be from one.
const UNIT_TOLERANCE: f32 = 1e-2;

/// What a model looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// CLIP states and a face embedding: the released models.
    Both,
    /// CLIP states alone: no `id_projector.safetensors`, a resampler with one condition.
    Clip,
    /// A face embedding alone: an id projector, a resampler with one condition.
    ArcFace,
}

/// The id projector and the resampler of a HyperLoRA model, and its base resampler if it has one.
pub struct Encoder {
    projector: Option<IdProjector>,
    resampler: Resampler,
    base: Option<Resampler>,
}

impl Encoder {
    /// Loads `resampler.safetensors`, and `id_projector.safetensors` and `base_resampler.safetensors`
    /// if they are there, from a model's directory. `dim_head` is the width of an attention head.
    ///
    /// # Errors
    /// If a file is missing or damaged, a tensor is missing, misshapen, not finite or too many, or the
    /// files do not fit each other.
    pub fn load(dir: &Path, dim_head: usize, device: &Device) -> Result<Self, Error> {
        let path = dir.join("resampler.safetensors");
        let resampler = Resampler::load(&path, dim_head, device)?;
        let projector_path = dir.join("id_projector.safetensors");
        // Two conditions need the projector: then its absence is an error that opening it reports.
        let projector = (resampler.second_width().is_some() || projector_path.exists())
            .then(|| IdProjector::load(&projector_path, device))
            .transpose()?;
        if let Some(projector) = &projector {
            projector.check_fits(&projector_path, &resampler)?;
        }
        let base_path = dir.join("base_resampler.safetensors");
        let base = base_path
            .exists()
            .then(|| Resampler::load(&base_path, dim_head, device));
        let base = base.transpose()?;
        if let Some(base) = &base {
            check_base(&base_path, base, &resampler)?;
        }
        Ok(Self {
            projector,
            resampler,
            base,
        })
    }

    /// An encoder of random numbers that looks at both, face and CLIP.
    ///
    /// # Errors
    /// If sizes do not go with each other, or memory is short.
    pub fn random(sizes: &Sizes, seed: u64, device: &Device) -> Result<Self, Error> {
        let sizes = &sizes.resampler;
        let (rows, width) = (sizes.id_tokens * sizes.dim, sizes.dim);
        let layout = IdProjector::layout(rows, sizes.embedding, width);
        let file = TensorFile::random(&layout, DType::F32, seed)?;
        Ok(Self {
            projector: Some(IdProjector::from_file(&file, device)?),
            resampler: Resampler::random(sizes, seed.wrapping_add(1), device)?,
            base: None,
        })
    }

    /// Tokens of the coefficients.
    pub fn tokens(&self) -> usize {
        self.resampler.tokens()
    }

    /// Numbers per token of the coefficients.
    pub fn k(&self) -> usize {
        self.resampler.k()
    }

    /// What the model looks at.
    pub fn inputs(&self) -> Inputs {
        match (&self.projector, self.resampler.second_width()) {
            (None, _) => Inputs::Clip,
            (Some(_), None) => Inputs::ArcFace,
            (Some(_), Some(_)) => Inputs::Both,
        }
    }

    /// Whether the model predicts a Base-LoRA too.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// Coefficients of each of n photos, as predicted: neither averaged nor normalised.
    ///
    /// `clip_hidden` is `[n, t, width]`, CLIP vision's penultimate hidden states; `arcface` is
    /// `[n, 512]` or `[n, 1, 512]`, of unit length. The one that the model does not look at may be `None`.
    ///
    /// # Errors
    /// If an input is missing or does not fit the model, or what is predicted is not finite.
    pub fn per_photo<'a>(
        &self,
        clip_hidden: impl Into<Option<&'a Tensor>>,
        arcface: impl Into<Option<&'a Tensor>>,
    ) -> Result<Vec<Coefficients>, Error> {
        let (clip_hidden, arcface) = (clip_hidden.into(), arcface.into());
        let id_tokens = match &self.projector {
            Some(projector) => Some(projector.forward(needed(arcface, "a face embedding")?)?),
            None => None,
        };
        let clip_width = match &self.projector {
            Some(_) => self.resampler.second_width(),
            None => Some(self.resampler.first_width()),
        };
        let clip = match clip_width {
            Some(width) => Some(check_clip(needed(clip_hidden, "CLIP states")?, width)?),
            None => None,
        };
        match (id_tokens, clip) {
            (Some(x), Some(y)) => per_photo(&self.resampler, &x, Some(&y)),
            (Some(x), None) | (None, Some(x)) => per_photo(&self.resampler, &x, None),
            (None, None) => Err(Error::InputMissing { what: "an input" }),
        }
    }

    /// Coefficients of the Base-LoRA of each of n photos, from CLIP states `[n, t, width]` of the
    /// picture with its face blurred.
    ///
    /// # Errors
    /// If the model has no Base-LoRA, the input does not fit it, or what is predicted is not finite.
    pub fn base_per_photo(&self, clip_hidden: &Tensor) -> Result<Vec<Coefficients>, Error> {
        let base = self.base.as_ref().ok_or(Error::NoBase)?;
        per_photo(base, &check_clip(clip_hidden, base.first_width())?, None)
    }
}

fn needed<'a>(input: Option<&'a Tensor>, what: &'static str) -> Result<&'a Tensor, Error> {
    input.ok_or(Error::InputMissing { what })
}

/// Runs photo by photo: the attention's scores are what takes memory, and they would grow with n.
fn per_photo(
    resampler: &Resampler,
    first: &Tensor,
    second: Option<&Tensor>,
) -> Result<Vec<Coefficients>, Error> {
    let photos = first.dim(0)?;
    if let Some(second) = second
        && second.dim(0)? != photos
    {
        let expected = format!("[{photos}, t, width]: as many photos as face embeddings");
        return Err(Error::Input {
            what: "CLIP states",
            found: second.dims().to_vec(),
            expected,
        });
    }
    (0..photos)
        .map(|photo| {
            let second = second.map(|second| second.get(photo)).transpose()?;
            let tokens = resampler.forward(&first.get(photo)?, second.as_ref())?;
            let values = tokens.flatten_all()?.to_vec1()?;
            Ok(Coefficients::new(
                resampler.tokens(),
                resampler.k(),
                values,
            )?)
        })
        .collect()
}

fn check_clip(clip_hidden: &Tensor, width: usize) -> Result<Tensor, Error> {
    match *clip_hidden.dims() {
        [n, tokens, found] if n > 0 && tokens > 0 && found == width => {}
        _ => {
            let (found, expected) = (clip_hidden.dims().to_vec(), format!("[n, t, {width}]"));
            return Err(Error::Input {
                what: "CLIP states",
                found,
                expected,
            });
        }
    }
    Ok(clip_hidden.to_dtype(DType::F32)?)
}

fn check_base(path: &Path, base: &Resampler, id: &Resampler) -> Result<(), Error> {
    let (found, expected) = ((base.tokens(), base.k()), (id.tokens(), id.k()));
    if base.second_width().is_none() && found == expected {
        return Ok(());
    }
    let problem = format!(
        "a base resampler has one condition and the tokens and K of resampler.safetensors, \
         {expected:?}; found {found:?} and a second condition: {}",
        base.second_width().is_some()
    );
    Err(Error::Content {
        path: path.to_owned(),
        problem,
    })
}

/// A face embedding to a few tokens: a matrix, then LayerNorm over each token.
struct IdProjector {
    linear: Linear,
    norm: LayerNorm,
    embedding: usize,
    tokens: usize,
    width: usize,
}

impl IdProjector {
    fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_file(&TensorFile::open(path)?, device)
    }

    fn layout(rows: usize, embedding: usize, width: usize) -> Layout {
        let mut layout = Layout::new();
        Linear::names(&mut layout, "0", rows, embedding);
        LayerNorm::names(&mut layout, "2", width);
        layout
    }

    fn from_file(file: &TensorFile, device: &Device) -> Result<Self, Error> {
        let [rows, embedding] = file.shape("0.weight")?;
        let [width] = file.shape("2.weight")?;
        file.check(&Self::layout(rows, embedding, width), |_| false)?;
        if width == 0 || rows == 0 || !rows.is_multiple_of(width) {
            let problem = format!("the {rows} rows of 0.weight are not whole tokens of {width}");
            return Err(file.content(problem));
        }
        let linear = Linear::load(file, "0", device)?;
        let norm = LayerNorm::load(file, "2", EPS, device)?;
        Ok(Self {
            linear,
            norm,
            embedding,
            tokens: rows / width,
            width,
        })
    }

    fn check_fits(&self, path: &Path, resampler: &Resampler) -> Result<(), Error> {
        let (found, expected) = (self.width, resampler.first_width());
        if found == expected {
            return Ok(());
        }
        let problem = format!("tokens of {found} numbers, but the resampler takes {expected}");
        Err(Error::Content {
            path: path.to_owned(),
            problem,
        })
    }

    /// `[n, embedding]` or `[n, 1, embedding]` to `[n, tokens, width]`.
    fn forward(&self, arcface: &Tensor) -> Result<Tensor, Error> {
        let input = |found: &str| Error::Input {
            what: "face embeddings",
            found: arcface.dims().to_vec(),
            expected: format!("[n, {}] of unit length{found}", self.embedding),
        };
        let n = match *arcface.dims() {
            [n, width] | [n, 1, width] if n > 0 && width == self.embedding => n,
            _ => return Err(input("")),
        };
        let arcface = arcface.to_dtype(DType::F32)?.reshape((n, self.embedding))?;
        let lengths = arcface.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1::<f32>()?;
        if !lengths
            .iter()
            .all(|length| (length - 1.0).abs() < UNIT_TOLERANCE)
        {
            return Err(input("; divide each by its length"));
        }
        let tokens = self
            .linear
            .forward(&arcface)?
            .reshape((n, self.tokens, self.width))?;
        Ok(self.norm.forward(&tokens)?)
    }
}
