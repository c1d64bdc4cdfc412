//! Filling in the report of one part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::header::{Header, read_header};
use super::{FileReport, PartReport, Problem};
use crate::error::Error;
use crate::layout::Config;

impl PartReport {
    pub(super) fn new(section: &str, format: &'static str) -> Self {
        Self {
            section: section.to_owned(),
            format,
            files: Vec::new(),
            components: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Tensors of all files.
    pub fn tensors(&self) -> usize {
        self.files.iter().map(|file| file.tensors).sum()
    }

    /// Numbers in all tensors of all files.
    pub fn parameters(&self) -> u64 {
        self.files.iter().map(|file| file.parameters).sum()
    }

    /// Size of all files on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether a file is there; notes it as missing where it is not.
    pub(super) fn has(&mut self, dir: &Path, path: &str) -> bool {
        let there = dir.join(path).is_file();
        if !there {
            self.problems.push(Problem::MissingFile {
                path: path.to_owned(),
            });
        }
        there
    }

    /// Reads and checks a `config.json`; a missing or unusable one becomes a problem.
    pub(super) fn config<T: Config>(&mut self, dir: &Path, path: &str) -> Option<T> {
        if !self.has(dir, path) {
            return None;
        }
        let full = dir.join(path);
        let parsed = fs::read(&full)
            .map_err(|error| error.to_string())
            .and_then(|text| T::parse(&text));
        match parsed {
            Ok(config) => Some(config),
            Err(reason) => {
                let path = path.to_owned();
                self.problems.push(Problem::BadFile { path, reason });
                None
            }
        }
    }

    /// Reads a safetensors header into the report; a damaged or missing file becomes a problem.
    pub(super) fn read(&mut self, dir: &Path, path: &str) -> Option<Header> {
        if !self.has(dir, path) {
            return None;
        }
        match read_header(&dir.join(path)) {
            Ok(header) => {
                self.files.push(FileReport::of(path, &header));
                Some(header)
            }
            Err(error) => {
                self.problems.push(bad_file(path, error));
                None
            }
        }
    }
}

pub(super) fn bad_file(path: &str, error: Error) -> Problem {
    let reason = match error {
        Error::BadHeader { reason, .. } | Error::BadJson { reason, .. } => reason,
        other => other.to_string(),
    };
    Problem::BadFile {
        path: path.to_owned(),
        reason,
    }
}

impl FileReport {
    pub(super) fn of(path: &str, header: &Header) -> Self {
        let mut dtypes = BTreeMap::new();
        let mut parameters = 0;
        for tensor in header.tensors.values() {
            *dtypes.entry(tensor.dtype.clone()).or_default() += 1;
            parameters = tensor.parameters().saturating_add(parameters);
        }
        let tensors = header.tensors.len();
        Self {
            path: path.to_owned(),
            bytes: header.bytes,
            tensors,
            parameters,
            dtypes,
        }
    }
}
