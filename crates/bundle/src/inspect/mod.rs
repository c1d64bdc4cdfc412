//! What is in a bundle, from manifests, configurations and headers alone: no weight is read, so that
//! even a full-size bundle is described at once.

mod clip;
mod compare;
mod display;
mod face;
mod header;
mod hyperlora;
mod onnx;
mod report;
mod sdxl;
mod single_file;
mod weights;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::open::Bundle;

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
    /// The models within a single-file checkpoint; empty for other formats.
    pub components: Vec<Component>,
    /// Everything that does not fit.
    pub problems: Vec<Problem>,
}

/// One of the models within a single-file checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    /// What it is: `unet`, `text_encoder`, `text_encoder_2`, `vae`.
    pub name: &'static str,
    /// How the names of its tensors start.
    pub prefix: &'static str,
    /// Its tensors.
    pub tensors: usize,
    /// Numbers in all its tensors, but for those that only index.
    pub parameters: u64,
}

/// One model file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Path in the part's folder; the file's name where the part is one file.
    pub path: String,
    /// Size on disk.
    pub bytes: u64,
    /// Tensors in a safetensors file, weights in an ONNX file.
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
    /// A tensor has a number type that is not read.
    WrongDtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The number types that are read.
        expected: &'static str,
        /// The number type it has.
        found: String,
    },
    /// A model of the right format is another model than is needed.
    WrongModel {
        /// Path in the part's folder.
        path: String,
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Inspection {
    /// Whether nothing is missing, superfluous or misshapen.
    pub fn is_ok(&self) -> bool {
        self.parts.iter().all(|part| part.problems.is_empty())
    }
}

impl Bundle {
    /// Describes every part that the manifest names, from headers alone. What does not fit is in the
    /// report, not an error.
    pub fn inspect(&self) -> Inspection {
        let mut parts = Vec::new();
        if let Ok(model) = self.sdxl(None) {
            parts.push(sdxl::inspect("sdxl", &model));
        }
        for name in self.model_names() {
            if let Ok(model) = self.sdxl(Some(name)) {
                parts.push(sdxl::inspect(&format!("models.{name}"), &model));
            }
        }
        if let Ok(part) = self.hyperlora() {
            parts.push(hyperlora::inspect(&part.dir, part.dim_head));
        }
        if let Ok(dir) = self.clip_vision() {
            parts.push(clip::inspect(&dir));
        }
        if let Some(face) = &self.manifest().face {
            parts.push(face::inspect(self.dir(), face));
        }
        Inspection {
            name: self.name().to_owned(),
            version: self.version().to_owned(),
            digest: self.digest(),
            encoder_digest: self.encoder_digest().ok(),
            parts,
        }
    }
}
