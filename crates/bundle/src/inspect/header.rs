//! The headers of safetensors files: what is in a file, without reading its numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

use crate::error::Error;

/// The longest header that is read; the safetensors library's own limit.
const LONGEST: u64 = 100_000_000;

/// A tensor as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorHeader {
    pub shape: Vec<usize>,
    pub dtype: String,
}

impl TensorHeader {
    /// Its numbers; the largest count for a shape that no file could hold.
    pub fn parameters(&self) -> u64 {
        let sizes = self.shape.iter().map(|&size| size as u64);
        sizes.fold(1, u64::saturating_mul)
    }
}

/// The tensors of one file by name, and the file's size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub tensors: BTreeMap<String, TensorHeader>,
    pub bytes: u64,
}

/// Reads the header of one file.
///
/// # Errors
/// [`Error::Io`]; [`Error::BadHeader`] when the header is damaged or the file is shorter or longer than
/// its header says.
pub(crate) fn read_header(path: &Path) -> Result<Header, Error> {
    let bad = |reason: String| Error::BadHeader {
        path: path.to_path_buf(),
        reason,
    };
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let mut length = [0_u8; 8];
    if bytes < 8 {
        return Err(bad(format!("it has only {bytes} bytes")));
    }
    file.read_exact(&mut length)
        .map_err(Error::io("read", path))?;
    if is_pickle(length) {
        let reason = "it is a pickle (.ckpt, .bin, .pt), which may run code when it is opened: convert it \
                      to .safetensors";
        return Err(bad(reason.to_owned()));
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST || length > bytes - 8 {
        return Err(bad(format!(
            "its header would take {length} of its {bytes} bytes"
        )));
    }
    let mut text = vec![0_u8; length as usize];
    file.read_exact(&mut text)
        .map_err(Error::io("read", path))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let expected = (8 + length).saturating_add(metadata.data_len() as u64);
    if expected != bytes {
        return Err(bad(format!(
            "its header asks for {expected} bytes, it has {bytes}"
        )));
    }
    Ok(Header {
        tensors: tensors_of(&metadata),
        bytes,
    })
}

/// torch's files are zip archives, or bare pickles of protocol 2.
fn is_pickle(start: [u8; 8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(&[0x80, 0x02, b'\x8a'])
}

fn tensors_of(metadata: &Metadata) -> BTreeMap<String, TensorHeader> {
    let describe = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let dtype = info.dtype.to_string();
        (
            name,
            TensorHeader {
                shape: info.shape.clone(),
                dtype,
            },
        )
    };
    metadata.tensors().into_iter().map(describe).collect()
}
