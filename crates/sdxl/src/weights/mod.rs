//! Weight files: memory-mapped safetensors, looked up by name and checked by shape.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::Error;
use crate::config::read_json;

/// A view of one part's weights below a name prefix. Clones share the mapping.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
}

struct Shared {
    /// The file, or the first shard's folder: named in errors.
    path: PathBuf,
    tensors: MmapedSafetensors,
    device: Device,
    dtype: DType,
    /// What has been asked for, so that leftovers can be reported.
    used: Mutex<BTreeSet<String>>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Weights {
    /// Opens `dir/stem.safetensors`, its fp16 variant, or its shards. Tensors are converted to
    /// `dtype` on `device` as they are asked for.
    ///
    /// # Errors
    /// No such file; a truncated or damaged one.
    pub fn open(dir: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Weights, Error> {
        let files = weight_files(dir, stem)?;
        let path = if files.len() == 1 {
            files[0].clone()
        } else {
            dir.to_path_buf()
        };
        let tensors = map_files(&files)?;
        let shared = Shared {
            path,
            tensors,
            device: device.clone(),
            dtype,
            used: Mutex::new(BTreeSet::new()),
        };
        Ok(Weights {
            shared: Arc::new(shared),
            prefix: String::new(),
        })
    }

    /// The view one name level down.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Weights {
        Weights {
            shared: Arc::clone(&self.shared),
            prefix: self.full_name(name),
        }
    }

    /// The view's own name, without a trailing dot.
    pub fn name(&self) -> &str {
        &self.prefix
    }

    /// The file or folder, for errors.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether the tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        self.shared.tensors.get(&self.full_name(name)).is_ok()
    }

    /// The tensor `name` below this prefix.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let tensor = self.full_name(name);
        let path = || self.shared.path.clone();
        let view = self.shared.tensors.get(&tensor);
        let view = view.map_err(|_| Error::MissingTensor {
            path: path(),
            tensor: tensor.clone(),
        })?;
        if view.shape() != shape {
            let (expected, found) = (shape.to_vec(), view.shape().to_vec());
            return Err(Error::TensorShape {
                path: path(),
                tensor,
                expected,
                found,
            });
        }
        let loaded = self.shared.tensors.load(&tensor, &self.shared.device)?;
        self.mark_used(tensor);
        Ok(loaded.to_dtype(self.shared.dtype)?)
    }

    /// Checks that every tensor has been asked for, but for those that `ignored` accepts.
    ///
    /// # Errors
    /// [`Error::UnknownTensors`].
    pub fn finish(&self, ignored: impl Fn(&str) -> bool) -> Result<(), Error> {
        let names: BTreeSet<String> = self
            .shared
            .tensors
            .tensors()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let used = self
            .shared
            .used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut unknown = names.difference(&used).filter(|name| !ignored(name));
        let Some(first) = unknown.next().cloned() else {
            return Ok(());
        };
        let count = 1 + unknown.count();
        Err(Error::UnknownTensors {
            path: self.shared.path.clone(),
            count,
            first,
        })
    }

    fn full_name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    fn mark_used(&self, tensor: String) {
        let mut used = self
            .shared
            .used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        used.insert(tensor);
    }
}

/// The files of one part, in the names that diffusers and transformers write.
fn weight_files(dir: &Path, stem: &str) -> Result<Vec<PathBuf>, Error> {
    let single = [
        format!("{stem}.safetensors"),
        format!("{stem}.fp16.safetensors"),
    ];
    if let Some(file) = single
        .iter()
        .map(|name| dir.join(name))
        .find(|file| file.is_file())
    {
        return Ok(vec![file]);
    }
    let indices = [
        format!("{stem}.safetensors.index.json"),
        format!("{stem}.safetensors.index.fp16.json"),
    ];
    match indices
        .iter()
        .map(|name| dir.join(name))
        .find(|file| file.is_file())
    {
        Some(index) => shards(dir, &index),
        None => Err(Error::Io {
            path: dir.join(&single[0]),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        }),
    }
}

fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    let names: ShardIndex = read_json(index)?;
    let names: BTreeSet<String> = names.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(Error::unsupported(
            index,
            format!("shard `{name}` is not a plain file name"),
        ));
    }
    if names.is_empty() {
        return Err(Error::unsupported(index, "the index names no shard"));
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn map_files(files: &[PathBuf]) -> Result<MmapedSafetensors, Error> {
    for file in files {
        check_file(file)?;
    }
    // SAFETY: the mapping is read only; a file that is truncated while it is mapped would fault,
    // which is why bundles are unpacked to their own folder and never written in place.
    #[allow(
        unsafe_code,
        reason = "a 7 GB checkpoint is not read into memory twice"
    )]
    let mapped = unsafe { MmapedSafetensors::multi(files) };
    Ok(mapped?)
}

/// Opens one file by itself, so that an error names it.
fn check_file(file: &Path) -> Result<(), Error> {
    std::fs::File::open(file).map_err(|source| Error::Io {
        path: file.to_path_buf(),
        source,
    })?;
    // SAFETY: as in `map_files`; only the header is looked at.
    #[allow(unsafe_code, reason = "only the header is read")]
    let mapped = unsafe { MmapedSafetensors::new(file) };
    let reason = match mapped {
        Ok(_) => return Ok(()),
        Err(error) => header_reason(error),
    };
    Err(Error::Weights {
        path: file.to_path_buf(),
        reason,
    })
}

/// The reason without the path, which the error carries already.
fn header_reason(error: candle_core::Error) -> String {
    match error {
        candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::WithBacktrace { inner, .. } => header_reason(*inner),
        other => other.to_string(),
    }
}
