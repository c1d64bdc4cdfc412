//! The weights of one model: one file, or shards with their index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::compare::Found;
use super::header::Header;
use super::{PartReport, Problem};

/// The headers of a model's files.
pub(super) struct Weights {
    files: Vec<(String, Header)>,
    /// The file in whose name tensors are missing: the only one, or the index.
    main: String,
}

/// A shard index: the file that holds each tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads the headers of the files that a loader would take: whole before half precision, one file
    /// before shards. `folder` ends with `/` unless it is empty.
    pub fn read(report: &mut PartReport, dir: &Path, folder: &str, stem: &str) -> Option<Self> {
        let one = [".safetensors", ".fp16.safetensors"].map(|end| format!("{folder}{stem}{end}"));
        let indices = [".safetensors.index.json", ".safetensors.index.fp16.json"]
            .map(|end| format!("{folder}{stem}{end}"));
        let there = |path: &&String| dir.join(path).is_file();
        if let Some(path) = one.iter().find(there) {
            let header = report.read(dir, path)?;
            let files = vec![(path.clone(), header)];
            let main = path.clone();
            return Some(Self { files, main });
        }
        match indices.iter().find(there) {
            Some(index) => Self::shards(report, dir, folder, index),
            None => {
                let path = one[0].clone();
                report.problems.push(Problem::MissingFile { path });
                None
            }
        }
    }

    fn shards(report: &mut PartReport, dir: &Path, folder: &str, index: &str) -> Option<Self> {
        let map = match read_index(&dir.join(index)) {
            Ok(map) => map,
            Err(reason) => {
                let path = index.to_owned();
                report.problems.push(Problem::BadFile { path, reason });
                return None;
            }
        };
        let names: BTreeSet<&String> = map.values().collect();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = format!("{folder}{name}");
            // A shard that cannot be read is a problem of its own; its tensors are not missing as well.
            files.push((path.clone(), report.read(dir, &path)?));
        }
        for (tensor, shard) in &map {
            let shard = format!("{folder}{shard}");
            let holds = |(path, header): &(String, Header)| {
                *path == shard && header.tensors.contains_key(tensor)
            };
            if !files.iter().any(holds) {
                let (file, tensor) = (shard, tensor.clone());
                report.problems.push(Problem::MissingTensor {
                    file,
                    tensor,
                    expected: None,
                });
            }
        }
        let main = index.to_owned();
        Some(Self { files, main })
    }

    /// The tensors of all files.
    pub fn found(&self) -> Found<'_> {
        let tensors = self.files.iter().flat_map(|(path, header)| {
            let of = |(name, tensor)| (String::as_str(name), (path.as_str(), tensor));
            header.tensors.iter().map(of)
        });
        Found {
            tensors: tensors.collect(),
            file: &self.main,
        }
    }
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if index.weight_map.is_empty() {
        return Err("it names no shard".to_owned());
    }
    match index
        .weight_map
        .values()
        .find(|name| name.contains(['/', '\\']))
    {
        Some(name) => Err(format!("shard {name:?} is not a plain file name")),
        None => Ok(index.weight_map),
    }
}
