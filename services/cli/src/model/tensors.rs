//! Safetensors files that people hand in and get back.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::Metadata, tensor::TensorView};

use crate::fail::{Failure, failed};

/// How many names of a file's tensors an error lists.
const NAMED: usize = 8;

/// A whole safetensors file in memory, its header checked.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    start: usize,
    header: Metadata,
}

impl TensorFile {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            Failure::new(format!(
                "{} is not a whole safetensors file ({error}); make it again",
                path.display()
            ))
        })?;
        Ok(Self {
            path: path.to_owned(),
            start: 8 + length,
            bytes,
            header,
        })
    }

    /// What the file says of itself under a key.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.header
            .metadata()
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }

    /// A tensor as f32 on the CPU, every value finite; `None` if the file has none of this name.
    pub fn find(&self, name: &str) -> Result<Option<Tensor>, Failure> {
        let Some(info) = self.header.info(name) else {
            return Ok(None);
        };
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(self.problem(
                    name,
                    &format!("is {other}, expected F32 (F16 and BF16 are read, too)"),
                ));
            }
        };
        let (from, to) = info.data_offsets;
        let bytes = self
            .bytes
            .get(self.start + from..self.start + to)
            .ok_or_else(|| self.problem(name, "is cut off; make the file again"))?;
        let tensor = Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(failed)?;
        if !is_finite(&tensor).map_err(failed)? {
            return Err(self.problem(name, "holds NaN or infinity"));
        }
        Ok(Some(tensor))
    }

    /// As [`TensorFile::find`]; a missing tensor is an error that says what was expected.
    pub fn tensor(&self, name: &str, expected: &str) -> Result<Tensor, Failure> {
        self.find(name)?
            .ok_or_else(|| self.missing(&format!("`{name}` {expected}")))
    }

    /// Says that something is missing, and what is there instead.
    pub fn missing(&self, expected: &str) -> Failure {
        let mut names = self.header.offset_keys();
        names.sort();
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let mut there = names.join(", ");
        if more > 0 {
            there = format!("{there} and {more} more");
        }
        if there.is_empty() {
            "no tensor".clone_into(&mut there);
        }
        Failure::new(format!(
            "{}: no {expected}; it has {there}",
            self.path.display()
        ))
    }

    /// A failure about one tensor of this file.
    pub fn problem(&self, tensor: &str, problem: &str) -> Failure {
        Failure::new(format!("{}: `{tensor}` {problem}", self.path.display()))
    }
}

fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().all(|value| value.is_finite()))
}

/// A safetensors file of f32 tensors with notes about itself.
pub fn to_file(
    tensors: &[(&str, Tensor)],
    notes: HashMap<String, String>,
) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        data.push((
            *name,
            tensor.dims().to_vec(),
            to_bytes(tensor).map_err(failed)?,
        ));
    }
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(failed)?;
    safetensors::serialize(views, Some(notes)).map_err(failed)
}

fn to_bytes(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let values = tensor
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    Ok(values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect())
}
