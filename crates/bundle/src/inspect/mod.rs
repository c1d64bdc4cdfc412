//! What is in a bundle, from manifests, configurations and headers alone: no weight is read, so that
//! even a full-size bundle is described at once.

mod display;
mod header;
mod hyperlora;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::open::{Bundle, SdxlModel};
use header::{Header, read_header};

/// What [`Bundle::inspect`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// The bundle's digest.
    pub digest: String,
    /// The encoder's digest; absent when a part of the encoder is.
    pub encoder_digest: Option<String>,
    /// Every part that the manifest names, in its order.
    pub parts: Vec<PartReport>,
}

/// One part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// The manifest's section: `sdxl`, `models.realvis`, `hyperlora`, `clip_vision`, `face`.
    pub section: String,
    /// The format in words.
    pub format: &'static str,
    /// The safetensors and ONNX files of the part.
    pub files: Vec<FileReport>,
    /// Everything that does not fit.
    pub problems: Vec<Problem>,
}

/// One model file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Path in the part's folder; the file's name where the part is one file.
    pub path: String,
    /// Size on disk.
    pub bytes: u64,
    /// Tensors in a safetensors file; 0 for ONNX, which has no header to read.
    pub tensors: usize,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Tensors of each number type.
    pub dtypes: BTreeMap<String, usize>,
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Problem {
    /// A file or folder is not there.
    MissingFile {
        /// Path in the part's folder.
        path: String,
    },
    /// A file cannot be read or is damaged.
    BadFile {
        /// Path in the part's folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is not there.
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape; absent where the file says too little to tell.
        expected: Option<Vec<usize>>,
    },
    /// A tensor does not belong there.
    ExtraTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor has another shape than it should.
    WrongShape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
}

impl Inspection {
    /// Whether nothing is missing, superfluous or misshapen.
    pub fn is_ok(&self) -> bool {
        self.parts.iter().all(|part| part.problems.is_empty())
    }
}

impl PartReport {
    fn new(section: &str, format: &'static str) -> Self {
        Self {
            section: section.to_owned(),
            format,
            files: Vec::new(),
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

    /// Reads a safetensors header into the report; a damaged or missing file becomes a problem.
    fn read(&mut self, dir: &Path, path: &str) -> Option<Header> {
        if !dir.join(path).exists() {
            self.problems.push(Problem::MissingFile {
                path: path.to_owned(),
            });
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

    /// Notes a file of which only the size is of interest.
    fn note_size(&mut self, dir: &Path, path: &str) {
        match fs::metadata(dir.join(path)) {
            Ok(found) if found.is_file() => {
                let header = Header {
                    bytes: found.len(),
                    ..Header::default()
                };
                self.files.push(FileReport::of(path, &header));
            }
            _ => self.problems.push(Problem::MissingFile {
                path: path.to_owned(),
            }),
        }
    }
}

fn bad_file(path: &str, error: Error) -> Problem {
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
    fn of(path: &str, header: &Header) -> Self {
        let mut dtypes = BTreeMap::new();
        let mut parameters = 0;
        for tensor in header.tensors.values() {
            *dtypes.entry(tensor.dtype.clone()).or_default() += 1;
            parameters += tensor.shape.iter().map(|&d| d as u64).product::<u64>();
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

impl Bundle {
    /// Describes every part that the manifest names, from headers alone. What does not fit is in the
    /// report, not an error.
    pub fn inspect(&self) -> Inspection {
        let mut parts = Vec::new();
        if let Ok(model) = self.sdxl(None) {
            parts.push(sdxl("sdxl", &model));
        }
        for name in self.model_names() {
            if let Ok(model) = self.sdxl(Some(name)) {
                parts.push(sdxl(&format!("models.{name}"), &model));
            }
        }
        if let Ok(part) = self.hyperlora() {
            parts.push(hyperlora::inspect(&part.dir, part.dim_head));
        }
        if let Ok(dir) = self.clip_vision() {
            parts.push(clip_vision(&dir));
        }
        if self.manifest().face.is_some() {
            parts.push(self.inspect_face());
        }
        Inspection {
            name: self.name().to_owned(),
            version: self.version().to_owned(),
            digest: self.digest(),
            encoder_digest: self.encoder_digest().ok(),
            parts,
        }
    }

    fn inspect_face(&self) -> PartReport {
        let face = self.manifest().face.clone().unwrap_or_default();
        let builtin = face.builtin.is_some();
        let format = if builtin {
            "built-in detector and ONNX"
        } else {
            "ONNX"
        };
        let mut report = PartReport::new("face", format);
        for path in [face.detector, face.landmarks, face.recognizer]
            .into_iter()
            .flatten()
        {
            report.note_size(self.dir(), path.as_str());
        }
        report
    }
}

fn sdxl(section: &str, model: &SdxlModel) -> PartReport {
    match model {
        SdxlModel::Folder(dir) => sdxl_folder(section, dir),
        SdxlModel::SingleFile(path) => {
            let mut report = PartReport::new(section, "single-file checkpoint");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            report.read(path.parent().unwrap_or(path), &name);
            report
        }
    }
}

/// The folders of a diffusers SDXL checkpoint that hold weights, and the files that need none.
const WEIGHTS: [&str; 4] = ["text_encoder", "text_encoder_2", "unet", "vae"];
const WITHOUT_WEIGHTS: [&str; 10] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_2/vocab.json",
    "tokenizer_2/merges.txt",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "unet/config.json",
    "vae/config.json",
];

fn sdxl_folder(section: &str, dir: &Path) -> PartReport {
    let mut report = PartReport::new(section, "diffusers folder");
    let missing = WITHOUT_WEIGHTS
        .iter()
        .filter(|path| !dir.join(path).is_file());
    report
        .problems
        .extend(missing.map(|p| Problem::MissingFile {
            path: (*p).to_owned(),
        }));
    for folder in WEIGHTS {
        read_weights(&mut report, dir, folder);
    }
    report
}

fn clip_vision(dir: &Path) -> PartReport {
    let mut report = PartReport::new("clip_vision", "transformers folder");
    for path in ["config.json", "preprocessor_config.json"] {
        if !dir.join(path).is_file() {
            report.problems.push(Problem::MissingFile {
                path: path.to_owned(),
            });
        }
    }
    read_weights(&mut report, dir, "");
    report
}

/// Reads every safetensors header of one folder: whole files, shards and variants alike.
fn read_weights(report: &mut PartReport, dir: &Path, folder: &str) {
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let names = safetensors_in(&dir.join(folder));
    if names.is_empty() {
        report.problems.push(Problem::MissingFile {
            path: format!("{prefix}*.safetensors"),
        });
    }
    for name in names {
        report.read(dir, &format!("{prefix}{name}"));
    }
}

fn safetensors_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    names.sort_unstable();
    names
}
