//! `bundle.toml`, exactly as people write it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// File name of a bundle's manifest.
pub const MANIFEST: &str = "bundle.toml";

/// The whole manifest. Unknown keys are refused, so that a misspelt one cannot pass unnoticed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `[bundle]`: what the bundle is.
    pub bundle: About,
    /// `[sdxl]`: the default model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdxl: Option<Model>,
    /// `[models.NAME]`: further models, by the name that a render gives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<Name, Model>,
    /// `[hyperlora]`: resampler, projector and basis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hyperlora: Option<HyperLora>,
    /// `[clip_vision]`: a transformers folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_vision: Option<Part>,
    /// `[face]`: detector, landmarks, recogniser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub face: Option<Face>,
    /// `[defaults]`: everything that a request may leave out.
    #[serde(default)]
    pub defaults: Defaults,
    /// `[files]`: sha-256 of every file of the bundle but the manifest itself.
    #[serde(default)]
    pub files: BTreeMap<RelPath, Sha256>,
}

/// `[bundle]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The bundle's name.
    pub name: Name,
    /// The bundle's version.
    pub version: Name,
    /// SPDX identifiers or names of the licences that the bundle's files are under.
    #[serde(default)]
    pub licences: Vec<String>,
}

/// `[sdxl]` and `[models.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A diffusers folder, or one `.safetensors` checkpoint.
    pub path: RelPath,
    /// For a checkpoint of one file: a diffusers folder, which needs no weights, with what the file does
    /// not hold: tokenizers, and configurations where they differ from SDXL's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RelPath>,
}

/// A section that only names a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// A folder or file of the bundle.
    pub path: RelPath,
}

/// `[hyperlora]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyperLora {
    /// A folder in the released layout.
    pub path: RelPath,
    /// Width of one attention head of the resampler: the one size that no tensor's shape tells.
    #[serde(default = "released_dim_head")]
    pub dim_head: usize,
}

fn released_dim_head() -> usize {
    64
}

/// `[face]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Face {
    /// An SCRFD ONNX file. Beside `builtin` it looks first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<RelPath>,
    /// A detector that the program carries. Beside `detector` it looks at photos in which that finds nobody, and its faces get a
    /// canonical face's landmarks: those of `landmarks` belong to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Builtin>,
    /// A 106-point landmark ONNX file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landmarks: Option<RelPath>,
    /// An ArcFace-shaped ONNX file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recognizer: Option<RelPath>,
    /// The least cosine of a photo's face embedding to the mean of the identity's other photos; below it the photo is
    /// refused as doubtful. It belongs to the recogniser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_person: Option<f32>,
}

/// The face detectors that the program carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// A detector of upright frontal faces, without landmarks.
    Frontal,
}

/// `[defaults]`: what a render that leaves a parameter out gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Words put before every prompt; the LoRA was trained with them and fades without.
    pub trigger: String,
    /// Sampling schedule: `ddim`, `euler`, `euler_karras`, `euler_ancestral`, `dpmpp_2m`,
    /// `dpmpp_2m_karras` or `lcm`.
    pub scheduler: String,
    /// Sampling steps.
    pub steps: u32,
    /// Classifier-free guidance scale; 1 turns it off.
    pub guidance: f64,
    /// Weight of the ID-LoRA.
    pub id_scale: f64,
    /// Weight of the optional Base-LoRA.
    pub base_scale: f64,
    /// Text encoder layers left out at the end, counted as ComfyUI counts: 2 is the penultimate.
    pub clip_skip: u32,
    /// Width of an image in pixels.
    pub width: u32,
    /// Height of an image in pixels.
    pub height: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            trigger: "fcsks fxhks fhyks, ".to_owned(),
            scheduler: "dpmpp_2m_karras".to_owned(),
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            base_scale: 0.0,
            clip_skip: 2,
            width: 1024,
            height: 1024,
        }
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// A sentence that names line, key and expectation.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|e| one_line(text, &e))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What the types cannot say by themselves.
    fn check(&self) -> Result<(), String> {
        if self.hyperlora.as_ref().is_some_and(|h| h.dim_head == 0) {
            return Err("[hyperlora] dim_head must be at least 1".to_owned());
        }
        let threshold = self.face.as_ref().and_then(|face| face.same_person);
        if threshold.is_some_and(|cosine| !(-1.0..=1.0).contains(&cosine)) {
            return Err("[face] same_person is a cosine, from -1 to 1".to_owned());
        }
        self.defaults.check()
    }
}

impl Defaults {
    fn check(&self) -> Result<(), String> {
        for (key, value) in [("steps", self.steps), ("clip_skip", self.clip_skip)] {
            if value == 0 {
                return Err(format!("[defaults] {key} must be at least 1"));
            }
        }
        for (key, value) in [("width", self.width), ("height", self.height)] {
            if value == 0 || value % 8 != 0 {
                return Err(format!("[defaults] {key} must be a positive multiple of 8"));
            }
        }
        let scales = [
            ("guidance", self.guidance),
            ("id_scale", self.id_scale),
            ("base_scale", self.base_scale),
        ];
        match scales.iter().find(|(_, value)| !value.is_finite()) {
            Some((key, _)) => Err(format!("[defaults] {key} must be a finite number")),
            None => Ok(()),
        }
    }
}

/// toml's errors are drawings of several lines; a command's error is one.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// A name in digests, on command lines and in requests: letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=100).contains(&name.len()) && name.chars().all(good) {
            return Ok(Self(name));
        }
        Err(format!(
            "{name:?} must be 1 to 100 letters, digits, '.', '_' or '-'"
        ))
    }
}

/// A path below the bundle's directory, `/` between its names: never absolute, no `.`, no `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);

impl RelPath {
    /// The path as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a file below this one.
    pub fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// The path below `dir`.
    pub fn below(&self, dir: &Path) -> PathBuf {
        dir.join(&self.0)
    }
}

impl TryFrom<String> for RelPath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let normal = Path::new(&path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        let tidy = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
        let odd = path.chars().any(|c| c == '\\' || c.is_control());
        if normal && tidy && !odd {
            return Ok(Self(path));
        }
        Err(format!(
            "path {path:?} must be relative and stay inside the bundle's directory"
        ))
    }
}

/// A sha-256 in 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(String);

impl Sha256 {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From the 32 bytes of a hash.
    pub fn of_bytes(bytes: &[u8; 32]) -> Self {
        Self(hex::encode(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(digits: String) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if digits.len() == 64 && digits.chars().all(good) {
            return Ok(Self(digits));
        }
        Err(format!(
            "{digits:?} must be a sha-256 in 64 lower-case hexadecimal digits"
        ))
    }
}

macro_rules! text {
    ($($type:ty),*) => {$(
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text!(Name, RelPath, Sha256);
