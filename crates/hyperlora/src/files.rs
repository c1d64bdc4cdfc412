//! Reading safetensors files: mapped into memory, checked against a list of names and shapes, and
//! converted tensor by tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Problem};
use crate::random;

/// The names and shapes that a file must have.
pub(crate) type Layout = BTreeMap<String, Vec<usize>>;

/// How PyTorch's own files start: a zip archive, or a bare pickle.
const PICKLES: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02"];

/// A safetensors file mapped into memory. Nothing is read before it is asked for.
pub(crate) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    data: usize,
    metadata: Metadata,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        Self::read(path, map(&file).map_err(io)?)
    }

    /// What a mapped file holds; `path` is its name in errors.
    fn read(path: &Path, map: Mmap) -> Result<Self, Error> {
        if PICKLES.iter().any(|start| map.starts_with(start)) {
            return Err(Error::Content {
                path: path.to_owned(),
                problem: "a PyTorch pickle, which is not read because it can run code; \
                          convert it to safetensors"
                    .into(),
            });
        }
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|source| Error::Safetensors {
                path: path.to_owned(),
                source,
            })?;
        // The file is eight bytes of header length, the header, the data.
        Ok(Self {
            path: path.to_owned(),
            data: 8 + header,
            map,
            metadata,
        })
    }

    /// Random numbers of this layout, in memory only.
    pub(crate) fn random(layout: &Layout, dtype: DType, seed: u64) -> Result<Self, Error> {
        let path = Path::new("(random numbers)");
        let map = random::image(layout, dtype, seed).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        Self::read(path, map)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The shape of a tensor that must be there and have `N` sizes.
    pub(crate) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], Error> {
        let found = &self.info(name)?.shape;
        <[usize; N]>::try_from(found.as_slice()).map_err(|_| {
            self.content(format!(
                "tensor {name} has shape {found:?}, expected {N} sizes"
            ))
        })
    }

    /// How many different numbers follow `prefix` in the names: `layers.0.…`, `layers.1.…` are two.
    pub(crate) fn count_numbered(&self, prefix: &str) -> usize {
        let number = |name: &String| {
            let rest = name.strip_prefix(prefix)?;
            rest.split('.').next()?.parse::<u32>().ok()
        };
        self.names()
            .iter()
            .filter_map(number)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Checks names, shapes and number types. Names for which `ignore` holds may also be there.
    pub(crate) fn check(&self, layout: &Layout, ignore: fn(&str) -> bool) -> Result<(), Error> {
        let mut problems: Vec<Problem> = layout
            .iter()
            .filter_map(|(name, shape)| self.problem(name, shape))
            .collect();
        let mut extra = self.names();
        extra.retain(|name| !layout.contains_key(name) && !ignore(name));
        extra.sort();
        problems.extend(extra.into_iter().map(|tensor| {
            let found = self
                .metadata
                .info(&tensor)
                .map_or_else(Vec::new, |info| info.shape.clone());
            Problem::Extra { tensor, found }
        }));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(self.tensors(problems))
        }
    }

    fn problem(&self, name: &str, expected: &[usize]) -> Option<Problem> {
        let (tensor, expected) = (name.to_owned(), expected.to_vec());
        let Some(info) = self.metadata.info(name) else {
            return Some(Problem::Missing { tensor, expected });
        };
        if info.shape != expected {
            return Some(Problem::Shape {
                tensor,
                found: info.shape.clone(),
                expected,
            });
        }
        let found = format!("{:?}", info.dtype);
        dtype(info.dtype)
            .is_none()
            .then_some(Problem::Dtype { tensor, found })
    }

    /// A tensor as f32 on `device`, every value finite.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> Result<Tensor, Error> {
        let (dtype, bytes) = self.bytes(name)?;
        let shape = self.info(name)?.shape.as_slice();
        let raw = Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?;
        let tensor = raw.to_dtype(DType::F32)?;
        if tensor
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .any(|value| !value.is_finite())
        {
            return Err(self.not_finite(name));
        }
        Ok(tensor.to_device(device)?)
    }

    /// A single finite number of any common type.
    pub(crate) fn scalar(&self, name: &str) -> Result<f64, Error> {
        let info = self.info(name)?;
        let bytes = self.raw(name, info)?;
        let value = match (info.dtype, bytes) {
            (Dtype::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
            (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
            (Dtype::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (Dtype::F64, _) if let Ok(bytes) = bytes.try_into() => f64::from_le_bytes(bytes),
            (Dtype::I64, _) if let Ok(bytes) = bytes.try_into() => i64::from_le_bytes(bytes) as f64,
            (dtype, _) => {
                let shape = &info.shape;
                return Err(self.content(format!(
                    "tensor {name} is {dtype:?} {shape:?}, expected one number"
                )));
            }
        };
        if value.is_finite() {
            Ok(value)
        } else {
            Err(self.not_finite(name))
        }
    }

    /// A tensor's number type and its bytes in the map.
    pub(crate) fn bytes(&self, name: &str) -> Result<(DType, &[u8]), Error> {
        let info = self.info(name)?;
        let found = || Problem::Dtype {
            tensor: name.into(),
            found: format!("{:?}", info.dtype),
        };
        let dtype = dtype(info.dtype).ok_or_else(|| self.tensors(vec![found()]))?;
        Ok((dtype, self.raw(name, info)?))
    }

    fn raw(&self, name: &str, info: &TensorInfo) -> Result<&[u8], Error> {
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data + start..self.data + end);
        bytes.ok_or_else(|| self.content(format!("tensor {name} is cut off")))
    }

    /// A line of the file's own metadata.
    pub(crate) fn metadata_value(&self, key: &str) -> Option<&str> {
        let lines = self.metadata.metadata().as_ref()?;
        lines.get(key).map(String::as_str)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        let missing = || Problem::Missing {
            tensor: name.to_owned(),
            expected: vec![],
        };
        self.metadata
            .info(name)
            .ok_or_else(|| self.tensors(vec![missing()]))
    }

    fn tensors(&self, problems: Vec<Problem>) -> Error {
        Error::Tensors {
            path: self.path.clone(),
            problems,
        }
    }

    pub(crate) fn content(&self, problem: String) -> Error {
        Error::Content {
            path: self.path.clone(),
            problem,
        }
    }

    pub(crate) fn not_finite(&self, tensor: &str) -> Error {
        Error::NotFinite {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
        }
    }
}

/// Maps a file for reading.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is only read, and model files are replaced by renaming, never written in place
    // while a process serves them. That is the contract of a bundle's directory.
    unsafe { Mmap::map(file) }
}

fn dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// Reads a JSON file into `T`.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}
