//! Weights, looked up by diffusers' names and checked by shape: from a diffusers part's files, from one
//! part of a single-file checkpoint, or at random.

mod files;
mod single_file;
mod variables;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use likeness_checkpoint::{Form, Part, Sizes, Source};
use safetensors::Dtype;

use self::files::{Files, Stored};
pub use self::single_file::SingleFile;
pub use self::variables::Variables;
use crate::Error;
use crate::random::Random;

/// A view of one part's weights below a name prefix. Clones share the mapping.
#[derive(Clone)]
pub struct Weights {
    origin: Origin,
    device: Device,
    dtype: DType,
    prefix: String,
}

#[derive(Clone)]
enum Origin {
    /// The names are the files' own.
    Files(Arc<Opened>),
    /// The names are looked up in one checkpoint of all parts.
    SingleFile(Arc<Opened>, Arc<Sizes>, Part),
    Random(Random),
    Variables(Variables),
    /// What was trained, and is no more.
    Frozen(Variables),
}

/// Mapped files, and what of them has been asked for.
struct Opened {
    /// The file, or the shards' folder: named in errors.
    path: PathBuf,
    files: Files,
    /// Leftovers are reported.
    used: Mutex<BTreeSet<String>>,
}

impl Weights {
    /// Opens `dir/stem.safetensors`, its fp16 variant, or its shards. Tensors are converted to
    /// `dtype` on `device` as they are asked for.
    ///
    /// # Errors
    /// No such file; a truncated or damaged one.
    pub fn open(dir: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Weights, Error> {
        let mut paths = files::weight_files(dir, stem)?;
        let files = Files::open(&paths)?;
        let path = match paths.len() {
            1 => paths.remove(0),
            _ => dir.to_path_buf(),
        };
        let origin = Origin::Files(Arc::new(Opened::new(path, files)));
        Ok(Weights::new(origin, device, dtype))
    }

    /// Weights of any name and shape, drawn when they are asked for.
    pub fn random(random: Random, device: &Device, dtype: DType) -> Weights {
        Weights::new(Origin::Random(random), device, dtype)
    }

    /// Weights that are trained, in f32.
    pub fn variables(variables: &Variables, device: &Device) -> Weights {
        Weights::new(Origin::Variables(variables.clone()), device, DType::F32)
    }

    /// What those weights are now and become by training, without a gradient of their own here.
    pub fn frozen(variables: &Variables, device: &Device) -> Weights {
        Weights::new(Origin::Frozen(variables.clone()), device, DType::F32)
    }

    fn new(origin: Origin, device: &Device, dtype: DType) -> Weights {
        Weights {
            origin,
            device: device.clone(),
            dtype,
            prefix: String::new(),
        }
    }

    /// The view one name level down.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Weights {
        Weights {
            prefix: self.full_name(name),
            ..self.clone()
        }
    }

    /// The view's own name, without a trailing dot.
    pub fn name(&self) -> &str {
        &self.prefix
    }

    /// The file or folder, for errors.
    pub fn path(&self) -> &Path {
        match &self.origin {
            Origin::Files(opened) | Origin::SingleFile(opened, ..) => &opened.path,
            Origin::Random(_) => Path::new("random weights"),
            Origin::Variables(_) | Origin::Frozen(_) => Path::new("trained weights"),
        }
    }

    /// Whether the tensor exists. Of random weights none does before it is asked for.
    pub fn contains(&self, name: &str) -> bool {
        match &self.origin {
            Origin::Files(opened) | Origin::SingleFile(opened, ..) => {
                opened.files.get(&self.source(name).tensor).is_some()
            }
            Origin::Random(_) => false,
            Origin::Variables(variables) | Origin::Frozen(variables) => {
                variables.contains(&self.full_name(name))
            }
        }
    }

    /// The tensor `name` below this prefix.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::TensorType`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let tensor = match &self.origin {
            Origin::Files(opened) | Origin::SingleFile(opened, ..) => {
                opened.load(self.source(name), shape, &self.device)?
            }
            Origin::Random(random) => random.draw(&self.full_name(name), shape, &self.device)?,
            Origin::Variables(variables) => variables.get(&self.full_name(name), shape)?,
            Origin::Frozen(variables) => variables.get(&self.full_name(name), shape)?.detach(),
        };
        Ok(tensor.to_dtype(self.dtype)?)
    }

    /// Checks that every tensor of a part's own files has been asked for, but for those that `ignored`
    /// accepts. A single file's tensors are checked when all parts have been loaded:
    /// [`SingleFile::finish`].
    ///
    /// # Errors
    /// [`Error::UnknownTensors`].
    pub fn finish(&self, ignored: impl Fn(&str) -> bool) -> Result<(), Error> {
        match &self.origin {
            Origin::Files(opened) => opened.finish(ignored),
            Origin::SingleFile(..)
            | Origin::Random(_)
            | Origin::Variables(_)
            | Origin::Frozen(_) => Ok(()),
        }
    }

    /// Where the tensor `name` below this prefix lies.
    fn source(&self, name: &str) -> Source {
        let name = self.full_name(name);
        match &self.origin {
            Origin::SingleFile(_, sizes, part) => sizes.source(*part, &name),
            Origin::Files(_) | Origin::Random(_) | Origin::Variables(_) | Origin::Frozen(_) => {
                Source {
                    tensor: name,
                    form: Form::Whole,
                }
            }
        }
    }

    fn full_name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}

impl Opened {
    fn new(path: PathBuf, files: Files) -> Opened {
        Opened {
            path,
            files,
            used: Mutex::default(),
        }
    }

    /// The tensor of `shape` that `source` names, in the file's number type.
    fn load(&self, source: Source, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        let Source { tensor, form } = source;
        let Some(stored) = self.files.get(&tensor) else {
            let path = self.path.clone();
            return Err(Error::MissingTensor { path, tensor });
        };
        self.check_shape(&tensor, &stored, form, shape)?;
        let dtype = self.number_type(&tensor, stored.info.dtype)?;
        let loaded = read(&stored, form, shape, dtype, device)?;
        stored.release();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(tensor);
        Ok(loaded)
    }

    fn check_shape(
        &self,
        tensor: &str,
        stored: &Stored<'_>,
        form: Form,
        shape: &[usize],
    ) -> Result<(), Error> {
        let mut expected = form.file_shapes(shape);
        if expected.contains(&stored.info.shape) {
            return Ok(());
        }
        Err(Error::TensorShape {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected: expected.swap_remove(0),
            found: stored.info.shape.clone(),
        })
    }

    fn number_type(&self, tensor: &str, found: Dtype) -> Result<DType, Error> {
        match found {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(Error::TensorType {
                path: self.path.clone(),
                tensor: tensor.to_owned(),
                found: other.to_string(),
            }),
        }
    }

    fn finish(&self, ignored: impl Fn(&str) -> bool) -> Result<(), Error> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.files.names();
        let mut unknown = names.filter(|name| !used.contains(*name) && !ignored(name));
        let Some(first) = unknown.next().cloned() else {
            return Ok(());
        };
        let count = 1 + unknown.count();
        Err(Error::UnknownTensors {
            path: self.path.clone(),
            count,
            first,
        })
    }
}

/// Copies one tensor out of its file; its shape has been checked.
fn read(
    stored: &Stored<'_>,
    form: Form,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let bytes = stored.bytes();
    match form {
        Form::Whole | Form::Point => Tensor::from_raw_buffer(bytes, dtype, shape, device),
        Form::Third(index) => {
            let third = bytes.len() / 3;
            let rows = &bytes[index * third..][..third];
            Tensor::from_raw_buffer(rows, dtype, shape, device)
        }
        Form::Transposed => {
            let own: Vec<usize> = shape.iter().rev().copied().collect();
            Tensor::from_raw_buffer(bytes, dtype, &own, device)?
                .t()?
                .contiguous()
        }
    }
}
