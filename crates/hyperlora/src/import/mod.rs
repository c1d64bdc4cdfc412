//! Reading LoRA files that other programs wrote: kohya's scripts, diffusers, peft.

mod keys;
mod peft;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Problem};
use crate::files::TensorFile;
use crate::lora::{Lora, LoraMatrix};
use crate::names::{Block, Projection};
use keys::{Key, Part};
use peft::Scaling;

/// What a LoRA file held.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The updates of attention matrices, in the order of their blocks.
    pub lora: Lora,
    /// Every key of the file that is not in `lora`, sorted: text encoders, convolutions, feed-forward
    /// layers, and modules that are more than a plain LoRA (DoRA, LoHa, LoKr, biases). The picture will
    /// lack what they do, so whoever asked for the LoRA has to be told.
    pub unknown: Vec<String>,
}

/// One attention matrix of the U-Net.
type Target = (Block, Projection);

impl Lora {
    /// Reads the attention layers of any SDXL LoRA in safetensors: kohya keys in sgm or diffusers
    /// naming, and the keys of diffusers and peft, present and past. Numbers may be f32, f16 or bf16 and
    /// become f32; ranks may differ between matrices. A missing alpha is what peft's configuration says
    /// if there is one (in the file's metadata, or `adapter_config.json` beside `adapter_model.safetensors`),
    /// and the rank otherwise.
    ///
    /// Nothing is left out in silence: see [`Imported::unknown`]. Whether the matrices fit a model is for
    /// [`Lora::check_fits`] to say.
    ///
    /// # Errors
    /// If the file is missing or damaged, holds no attention layer of SDXL, names one twice, or a pair of
    /// factors is incomplete, misshapen or not finite.
    pub fn load(path: &Path) -> Result<Imported, Error> {
        let file = TensorFile::open(path)?;
        let (entries, mut unknown) = sort(&file)?;
        let scaling = Scaling::read(&file, path)?;
        let mut matrices = Vec::new();
        for (target, entry) in entries {
            match entry.plain() {
                Some((down, up)) => {
                    matrices.push(matrix(&file, target, &entry, down, up, &scaling)?);
                }
                None => unknown.extend(entry.keys.into_values().flatten()),
            }
        }
        unknown.sort();
        if matrices.is_empty() {
            return Err(nothing(&file, &unknown));
        }
        Ok(Imported {
            lora: Lora { matrices },
            unknown,
        })
    }
}

/// The keys that a file has for one matrix.
#[derive(Default)]
struct Entry {
    keys: BTreeMap<Part, Vec<String>>,
}

impl Entry {
    fn key(&self, part: Part) -> Option<&str> {
        self.keys.get(&part)?.first().map(String::as_str)
    }

    /// Both factors of a plain LoRA; at least one key for them is there. A key beyond factors and alpha
    /// makes the update something else, which two factors alone would get wrong.
    fn plain(&self) -> Option<(Option<&str>, Option<&str>)> {
        let (down, up) = (self.key(Part::Down), self.key(Part::Up));
        let plain = !self.keys.contains_key(&Part::Other) && (down.is_some() || up.is_some());
        plain.then_some((down, up))
    }
}

/// The file's keys by the matrix that they belong to, and those that belong to none.
fn sort(file: &TensorFile) -> Result<(BTreeMap<Target, Entry>, Vec<String>), Error> {
    let mut entries: BTreeMap<Target, Entry> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut names = file.names();
    names.sort();
    for name in names {
        let Some(Key { target, part }) = Key::parse(&name) else {
            unknown.push(name);
            continue;
        };
        let keys = entries
            .entry(target)
            .or_default()
            .keys
            .entry(part)
            .or_default();
        if let (Some(first), true) = (keys.first(), part != Part::Other) {
            return Err(file.content(format!(
                "{first} and {name} are two names of one tensor; expected one"
            )));
        }
        keys.push(name);
    }
    Ok((entries, unknown))
}

fn matrix(
    file: &TensorFile,
    (block, projection): Target,
    entry: &Entry,
    down: Option<&str>,
    up: Option<&str>,
    scaling: &Scaling,
) -> Result<LoraMatrix, Error> {
    let (Some(down_key), Some(up_key)) = (down, up) else {
        let (there, side) = if let Some(down) = down {
            (down, "up")
        } else {
            (up.unwrap_or_default(), "down")
        };
        return Err(file.content(format!(
            "{there} has no {side} factor beside it; a LoRA needs both"
        )));
    };
    let (down, up) = (factor(file, down_key)?, factor(file, up_key)?);
    let (rank, input) = down.dims2()?;
    let (out, columns) = up.dims2()?;
    if rank == 0 || input == 0 || out == 0 || columns != rank {
        return Err(file.content(format!(
            "{up_key} is {:?} and {down_key} {:?}; expected [out, r] and [r, in] of one rank r >= 1",
            up.dims(),
            down.dims()
        )));
    }
    let alpha = match entry.key(Part::Alpha) {
        Some(alpha) => file.scalar(alpha)?,
        None => scaling.alpha(&format!("{block}.{}", projection.diffusers_name()), rank),
    };
    Ok(LoraMatrix {
        block,
        projection,
        down,
        up,
        alpha,
    })
}

/// A factor as a matrix; some trainers write one as a convolution of one pixel.
fn factor(file: &TensorFile, key: &str) -> Result<Tensor, Error> {
    let tensor = file.tensor(key, &Device::Cpu)?;
    match *tensor.dims() {
        [_, _] => Ok(tensor),
        [rows, columns, 1, 1] => Ok(tensor.reshape((rows, columns))?),
        ref found => Err(file.content(format!("{key} has shape {found:?}, expected 2 sizes"))),
    }
}

fn nothing(file: &TensorFile, unknown: &[String]) -> Error {
    let first = unknown
        .first()
        .map_or_else(String::new, |name| format!(", such as {name}"));
    file.content(format!(
        "no plain LoRA of an attention layer of SDXL's U-Net among its {} tensors{first}; \
         expected keys such as lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight \
         or unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
        unknown.len()
    ))
}

impl Lora {
    /// Checks the matrices against a model's: `shape_of` gives `(out, in)` of a matrix by the name that
    /// [`LoraMatrix::target`] gives, or `None` if the model has no such matrix.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] with every matrix that the model lacks or that has another shape.
    pub fn check_fits(
        &self,
        shape_of: impl Fn(&str) -> Option<(usize, usize)>,
    ) -> Result<(), Error> {
        let problem = |matrix: &LoraMatrix| {
            let tensor = matrix.target();
            let found = matrix.shape();
            match shape_of(&tensor) {
                Some((out, input)) if found == [out, input] => None,
                Some((out, input)) => Some(Problem::Shape {
                    tensor,
                    found,
                    expected: vec![out, input],
                }),
                None => Some(Problem::Extra { tensor, found }),
            }
        };
        let problems: Vec<_> = self.matrices.iter().filter_map(problem).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::DoesNotFit { problems })
    }
}

/// The number of keys only: a list of hundreds is for whoever asks for it.
impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (matrices, unknown) = (self.lora.matrices.len(), self.unknown.len());
        write!(
            f,
            "LoRA of {matrices} attention matrices; {unknown} other tensors are not used"
        )
    }
}
