//! Which files hold a part's weights, and reading them: memory-mapped, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use likeness_checkpoint::Shapes;
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use crate::Error;
use crate::config::read_json;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The files of one part, in the names that diffusers and transformers write: whole before half
/// precision, one file before shards.
pub fn weight_files(dir: &Path, stem: &str) -> Result<Vec<PathBuf>, Error> {
    let first = |ends: [&str; 2]| {
        let mut paths = ends.map(|end| dir.join(format!("{stem}{end}"))).into_iter();
        paths.find(|path| path.is_file())
    };
    if let Some(file) = first([".safetensors", ".fp16.safetensors"]) {
        return Ok(vec![file]);
    }
    match first([".safetensors.index.json", ".safetensors.index.fp16.json"]) {
        Some(index) => shards(dir, &index),
        None => Err(no_weights(dir, stem)),
    }
}

/// A pickle in their place gets a word of its own.
fn no_weights(dir: &Path, stem: &str) -> Error {
    let pickles = ["bin", "fp16.bin", "ckpt"].map(|end| dir.join(format!("{stem}.{end}")));
    let pickles = pickles.into_iter().chain([dir.join("pytorch_model.bin")]);
    if let Some(pickle) = pickles.into_iter().find(|path| path.is_file()) {
        return Error::Pickle { path: pickle };
    }
    Error::Io {
        path: dir.join(format!("{stem}.safetensors")),
        source: std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "there is no such file, nor its fp16 variant, nor the index of its shards",
        ),
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

/// Memory-mapped files that together hold one part, or a whole checkpoint.
pub struct Files {
    files: Vec<MappedFile>,
    /// The file that holds each tensor.
    holders: BTreeMap<String, usize>,
}

struct MappedFile {
    map: Mmap,
    metadata: Metadata,
    /// Where the numbers begin.
    start: usize,
}

/// A tensor as it lies in its file.
pub struct Stored<'a> {
    file: &'a MappedFile,
    /// Number type, shape and place.
    pub info: &'a TensorInfo,
}

impl Files {
    /// Maps the files and reads their headers.
    pub fn open(paths: &[PathBuf]) -> Result<Files, Error> {
        let files = paths.iter().map(|path| MappedFile::open(path));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let names = files.iter().enumerate().flat_map(|(index, file)| {
            let names = file.metadata.tensors().into_keys();
            names.map(move |name| (name, index))
        });
        Ok(Files {
            holders: names.collect(),
            files,
        })
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<Stored<'_>> {
        let file = &self.files[*self.holders.get(name)?];
        let info = file.metadata.info(name)?;
        Some(Stored { file, info })
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.holders.keys()
    }

    /// All names with their shapes.
    pub fn shapes(&self) -> Shapes {
        let of = |name: &String| Some((name.clone(), self.get(name)?.info.shape.clone()));
        self.names().filter_map(of).collect()
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<MappedFile, Error> {
        let io = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        let damaged = |reason| Error::Weights {
            path: path.to_path_buf(),
            reason,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read only; a file that is truncated while it is mapped would fault,
        // which is why bundles are unpacked to their own folder and never written in place.
        #[allow(
            unsafe_code,
            reason = "a 7 GB checkpoint is not read into memory twice"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        if is_pickle(&map) {
            let path = path.to_path_buf();
            return Err(Error::Pickle { path });
        }
        let read = SafeTensors::read_metadata(&map);
        let (length, metadata) = read.map_err(|error| damaged(error.to_string()))?;
        let start = 8 + length;
        let expected = start + metadata.data_len();
        if expected != map.len() {
            let reason = format!("its header asks for {expected} bytes, it has {}", map.len());
            return Err(damaged(reason));
        }
        Ok(MappedFile {
            map,
            metadata,
            start,
        })
    }
}

/// torch's files are zip archives, or bare pickles of protocol 2.
fn is_pickle(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 0x02, b'\x8a'])
}

impl Stored<'_> {
    /// The numbers, little-endian.
    pub fn bytes(&self) -> &[u8] {
        let (from, to) = self.info.data_offsets;
        // The header was checked against the file's length.
        self.file
            .map
            .get(self.file.start + from..self.file.start + to)
            .unwrap_or_default()
    }

    /// Gives the pages of numbers that have been copied back to the system, so that the memory of a
    /// load is that of the model and not also of its files. Best effort.
    pub fn release(&self) {
        let (from, to) = self.info.data_offsets;
        // SAFETY: a clean page of a file that is only read comes back from the file when touched again.
        #[allow(unsafe_code, reason = "a load's memory is the model's alone")]
        let _ = unsafe {
            self.file.map.unchecked_advise_range(
                UncheckedAdvice::DontNeed,
                self.file.start + from,
                to - from,
            )
        };
    }
}
