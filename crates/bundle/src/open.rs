//! An opened bundle: a directory, its manifest, and typed access to its parts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::layout::{Config as _, VisionConfig};
use crate::manifest::{Builtin, Defaults, Face, MANIFEST, Manifest, Model, Name};

/// A bundle on disk whose manifest has been read. Its files are not touched until they are asked for.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
}

/// One SDXL model of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdxlModel {
    /// A diffusers folder.
    Folder(PathBuf),
    /// One checkpoint file in ComfyUI's names.
    SingleFile {
        /// The file.
        path: PathBuf,
        /// Where tokenizers and configurations are that the file does not hold, in diffusers' layout.
        config: Option<PathBuf>,
    },
}

/// Where the HyperLoRA release lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HyperLoraPart {
    /// Folder in the released layout.
    pub dir: PathBuf,
    /// Width of one attention head of the resampler.
    pub dim_head: usize,
}

/// Which detector finds faces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detector {
    /// An SCRFD ONNX file.
    Onnx(PathBuf),
    /// The frontal detector that the program carries.
    Frontal,
    /// An SCRFD ONNX file, and the frontal detector for photos in which it finds nobody.
    OnnxThenFrontal(PathBuf),
}

/// Of ArcFace embeddings: different people are near 0, one person is mostly above 0.3.
const SAME_PERSON: f32 = 0.2;

/// The face models of a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct FacePart {
    /// Finds faces.
    pub detector: Detector,
    /// 106-point landmark ONNX file; without it a template stands in.
    pub landmarks: Option<PathBuf>,
    /// ArcFace-shaped ONNX file: [1,3,112,112] → [1,512].
    pub recognizer: PathBuf,
    /// The least cosine of a photo's face embedding to the mean of the identity's other photos.
    pub same_person: f32,
}

impl HyperLoraPart {
    /// Whether it predicts a Base-LoRA: there is a base resampler.
    pub fn has_base_resampler(&self) -> bool {
        self.dir.join("base_resampler.safetensors").is_file()
    }
}

impl Bundle {
    /// Opens the bundle in `dir`: reads and checks its manifest.
    ///
    /// # Errors
    /// [`Error::NotABundle`] without a manifest, [`Error::Manifest`] for a wrong one, [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref().to_path_buf();
        let path = dir.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotABundle { path: dir });
            }
            other => other.map_err(Error::io("read", &path))?,
        };
        let manifest =
            Manifest::parse(&text).map_err(|message| Error::Manifest { path, message })?;
        Ok(Self { dir, manifest })
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest as read.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bundle's name.
    pub fn name(&self) -> &str {
        self.manifest.bundle.name.as_str()
    }

    /// The bundle's version.
    pub fn version(&self) -> &str {
        self.manifest.bundle.version.as_str()
    }

    /// What a render that leaves a parameter out gets.
    pub fn defaults(&self) -> &Defaults {
        &self.manifest.defaults
    }

    /// The names of the models beside the default one.
    pub fn model_names(&self) -> impl Iterator<Item = &str> {
        self.manifest.models.keys().map(Name::as_str)
    }

    /// The SDXL model called `name`, or the default one for `None`.
    ///
    /// # Errors
    /// [`Error::MissingSection`] without a default model, [`Error::UnknownModel`].
    pub fn sdxl(&self, name: Option<&str>) -> Result<SdxlModel, Error> {
        let model = match name {
            None => self
                .manifest
                .sdxl
                .as_ref()
                .ok_or_else(|| self.missing("[sdxl]"))?,
            Some(name) => self.model(name)?,
        };
        let path = model.path.below(&self.dir);
        let single = path.is_file() || (names_a_file(&path) && !path.is_dir());
        Ok(if single {
            let config = self.config_of(model, &path);
            SdxlModel::SingleFile { path, config }
        } else {
            SdxlModel::Folder(path)
        })
    }

    /// The folder that the manifest names, else one of the file's own name beside it, else the default
    /// model's.
    fn config_of(&self, model: &Model, path: &Path) -> Option<PathBuf> {
        let named = model.config.as_ref().map(|config| config.below(&self.dir));
        let beside = || Some(path.with_extension("")).filter(|dir| dir.is_dir());
        let default = || {
            let default = self.manifest.sdxl.as_ref()?.path.below(&self.dir);
            Some(default).filter(|dir| dir.is_dir())
        };
        named.or_else(beside).or_else(default)
    }

    fn model(&self, name: &str) -> Result<&Model, Error> {
        let found = self
            .manifest
            .models
            .iter()
            .find(|(key, _)| key.as_str() == name);
        found
            .map(|(_, model)| model)
            .ok_or_else(|| Error::UnknownModel {
                bundle: self.name().to_owned(),
                model: name.to_owned(),
                known: self.model_names().map(str::to_owned).collect(),
            })
    }

    /// The HyperLoRA release.
    ///
    /// # Errors
    /// [`Error::MissingSection`].
    pub fn hyperlora(&self) -> Result<HyperLoraPart, Error> {
        let part = self
            .manifest
            .hyperlora
            .as_ref()
            .ok_or_else(|| self.missing("[hyperlora]"))?;
        Ok(HyperLoraPart {
            dir: part.path.below(&self.dir),
            dim_head: part.dim_head,
        })
    }

    /// The CLIP vision folder.
    ///
    /// # Errors
    /// [`Error::MissingSection`].
    pub fn clip_vision(&self) -> Result<PathBuf, Error> {
        let part = self
            .manifest
            .clip_vision
            .as_ref()
            .ok_or_else(|| self.missing("[clip_vision]"))?;
        Ok(part.path.below(&self.dir))
    }

    /// Side in pixels of the pictures that the CLIP vision model looks at, from its configuration alone.
    ///
    /// # Errors
    /// [`Error::MissingSection`]; [`Error::Io`] and [`Error::BadJson`] for its `config.json`.
    pub fn clip_image_size(&self) -> Result<usize, Error> {
        let path = self.clip_vision()?.join("config.json");
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let config =
            VisionConfig::parse(&text).map_err(|reason| Error::BadJson { path, reason })?;
        Ok(config.image_size())
    }

    /// All face models.
    ///
    /// # Errors
    /// [`Error::MissingSection`] when the section, its detector or its recogniser is missing.
    pub fn face(&self) -> Result<FacePart, Error> {
        let face = self
            .manifest
            .face
            .as_ref()
            .ok_or_else(|| self.missing("[face]"))?;
        let recognizer = face
            .recognizer
            .as_ref()
            .ok_or_else(|| self.missing("[face] recognizer"))?;
        Ok(FacePart {
            detector: self.detector(face)?,
            landmarks: face.landmarks.as_ref().map(|path| path.below(&self.dir)),
            recognizer: recognizer.below(&self.dir),
            same_person: face.same_person.unwrap_or(SAME_PERSON),
        })
    }

    /// What finds faces in pictures: the detector of `[face]`, or the built-in one where there is no such section.
    ///
    /// # Errors
    /// [`Error::MissingSection`] if the section names no detector.
    pub fn face_detector(&self) -> Result<Detector, Error> {
        let face = self.manifest.face.as_ref();
        face.map_or(Ok(Detector::Frontal), |face| self.detector(face))
    }

    fn detector(&self, face: &Face) -> Result<Detector, Error> {
        match (&face.detector, face.builtin) {
            (Some(path), None) => Ok(Detector::Onnx(path.below(&self.dir))),
            (Some(path), Some(Builtin::Frontal)) => {
                Ok(Detector::OnnxThenFrontal(path.below(&self.dir)))
            }
            (None, Some(Builtin::Frontal)) => Ok(Detector::Frontal),
            (None, None) => Err(self.missing("[face] detector (or builtin = \"frontal\")")),
        }
    }

    pub(crate) fn missing(&self, what: &'static str) -> Error {
        Error::MissingSection {
            bundle: self.name().to_owned(),
            what,
        }
    }
}

/// Whether a path that may not be there yet names a checkpoint rather than a folder.
fn names_a_file(path: &Path) -> bool {
    let ends = ["safetensors", "ckpt", "pt", "bin"];
    path.extension()
        .is_some_and(|end| ends.iter().any(|own| end == *own))
}
