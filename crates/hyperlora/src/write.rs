//! Writing safetensors files. The safetensors crate writes metadata in the order of a hash map; here the
//! same content gives the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use candle_core::Tensor;
use serde::Serialize;

use crate::error::Error;

/// The header's length is rounded up to this, so that the data is aligned.
const ALIGNMENT: usize = 8;

#[derive(Serialize)]
struct Header<'a> {
    __metadata__: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, Info<'a>>,
}

#[derive(Serialize)]
struct Info<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes f32 tensors in the order of their names, with metadata. The file appears whole or not at all.
pub(crate) fn write_safetensors(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let io = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let written = write(partial, path, metadata, tensors)
        .and_then(|()| std::fs::rename(partial, path).map_err(io));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(partial);
    }
    written
}

fn write(
    partial: &Path,
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), Error> {
    let io = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let header = header(metadata, tensors).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    let mut out = BufWriter::new(File::create(partial).map_err(io)?);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for tensor in tensors.values() {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        out.write_all(&bytes).map_err(io)?;
    }
    let file = out
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .map_err(io)?;
    file.sync_all().map_err(io)
}

fn header(
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor>,
) -> serde_json::Result<Vec<u8>> {
    let mut end = 0;
    let mut infos = BTreeMap::new();
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * size_of::<f32>();
        let info = Info {
            dtype: "F32",
            shape: tensor.dims(),
            data_offsets: [start, end],
        };
        infos.insert(name.as_str(), info);
    }
    let mut header = serde_json::to_vec(&Header {
        __metadata__: metadata,
        tensors: infos,
    })?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(header)
}
