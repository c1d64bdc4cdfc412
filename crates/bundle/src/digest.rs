//! Digests: what exactly a bundle is, and what exactly its encoder is.
//!
//! Both are formed from the hashes that the manifest lists, so that they cost nothing; that the files
//! have those hashes is for [`Bundle::verify`] to say.

use std::collections::BTreeSet;

use sha2::Digest;

use crate::error::Error;
use crate::manifest::{Builtin, Manifest, RelPath, Sha256};
use crate::open::Bundle;
use crate::verify::hash_file;

/// Version of the way from a photo to the encoder's two inputs. Raise it with every change that alters
/// them: stored coefficients then belong to another encoder.
pub const PREPROCESSING_VERSION: u32 = 1;

/// The files of a HyperLoRA release that decide its coefficients, and whether every release has them. The list of modules is one of them
/// because its order says which tokens belong to which matrix. The basis is not: the same basis in
/// another number type takes the same coefficients, and a basis that was trained anew comes with a
/// resampler that was.
const HYPERLORA_FILES: [(&str, bool); 4] = [
    ("hyper_lora_modules.json", true),
    ("resampler.safetensors", true),
    ("id_projector.safetensors", false),
    ("base_resampler.safetensors", false),
];
/// The files of a transformers folder that decide what a vision model computes, weights aside.
const CLIP_CONFIGS: [&str; 2] = ["config.json", "preprocessor_config.json"];

/// The digest of the bundle that has this manifest.
pub(crate) fn of_bundle(manifest: &Manifest) -> String {
    let mut hash = sha2::Sha256::new();
    hash.update(format!(
        "likeness bundle 1\n{}\n{}\n",
        manifest.bundle.name, manifest.bundle.version
    ));
    for (path, file) in &manifest.files {
        hash.update(line(path.as_str(), file));
    }
    hex::encode(hash.finalize())
}

impl Bundle {
    /// The bundle's digest in lower-case hexadecimal: sha-256 over name, version and the sorted
    /// `[files]`.
    pub fn digest(&self) -> String {
        of_bundle(self.manifest())
    }

    /// The encoder's digest in lower-case hexadecimal: sha-256 over everything that coefficients depend
    /// on. That is the HyperLoRA resampler, projector and list of modules, the CLIP vision model, the
    /// face models and [`PREPROCESSING_VERSION`], by content and part: where in the bundle a file lies
    /// does not matter.
    ///
    /// # Errors
    /// [`Error::MissingSection`] without one of these parts; [`Error::NotListed`] when `[files]` lacks
    /// one of their files.
    pub fn encoder_digest(&self) -> Result<String, Error> {
        let mut lines = vec![format!("preprocessing {PREPROCESSING_VERSION}\n")];
        lines.extend(self.hyperlora_lines(&|path| self.hash_of(path).cloned())?);
        self.clip_lines(&mut lines)?;
        self.face_lines(&mut lines)?;
        let mut hash = sha2::Sha256::new();
        hash.update(b"likeness encoder 1\n");
        for line in lines {
            hash.update(line);
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// The digest of the HyperLoRA model alone, in lower-case hexadecimal: which basis coefficients
    /// belong to, also for bundles without the encoder's other parts. A file without a checksum in
    /// `[files]` is read and hashed.
    ///
    /// # Errors
    /// [`Error::MissingSection`]; [`Error::Io`] for a file that is neither listed nor there.
    pub fn hyperlora_digest(&self) -> Result<String, Error> {
        let hash_of = |path: &str| match self.hash_of(path) {
            Ok(hash) => Ok(hash.clone()),
            Err(_) => hash_file(&self.dir().join(path), |_| {}).map(|(hash, _)| hash),
        };
        let mut hash = sha2::Sha256::new();
        hash.update(b"likeness hyperlora 1\n");
        for line in self.hyperlora_lines(&hash_of)? {
            hash.update(line);
        }
        Ok(hex::encode(hash.finalize()))
    }

    fn hyperlora_lines(
        &self,
        hash_of: &dyn Fn(&str) -> Result<Sha256, Error>,
    ) -> Result<Vec<String>, Error> {
        let missing = || self.missing("[hyperlora]");
        let part = self.manifest().hyperlora.as_ref().ok_or_else(missing)?;
        let mut lines = vec![format!("hyperlora dim_head {}\n", part.dim_head)];
        // An arcface-less model has no projector, and one without Base-LoRA no base resampler.
        for (file, needed) in HYPERLORA_FILES {
            let path = part.path.join(file);
            match hash_of(&path) {
                Ok(hash) => lines.push(line(&format!("hyperlora {file}"), &hash)),
                Err(error) if needed || self.dir().join(&path).exists() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(lines)
    }

    /// Configurations and weights, whatever else the folder holds.
    fn clip_lines(&self, lines: &mut Vec<String>) -> Result<(), Error> {
        let missing = || self.missing("[clip_vision]");
        let folder = &self
            .manifest()
            .clip_vision
            .as_ref()
            .ok_or_else(missing)?
            .path;
        for file in CLIP_CONFIGS {
            lines.push(line(
                &format!("clip {file}"),
                self.hash_of(&folder.join(file))?,
            ));
        }
        let prefix = folder.join("");
        let below = |path: &RelPath| path.as_str().strip_prefix(&prefix).map(str::to_owned);
        let weights: BTreeSet<String> = self
            .manifest()
            .files
            .keys()
            .filter_map(below)
            .filter(|file| file.ends_with(".safetensors") && !file.contains('/'))
            .collect();
        if weights.is_empty() {
            return Err(Error::NotListed {
                path: folder.join("model.safetensors"),
            });
        }
        for file in weights {
            lines.push(line(
                &format!("clip {file}"),
                self.hash_of(&folder.join(&file))?,
            ));
        }
        Ok(())
    }

    fn face_lines(&self, lines: &mut Vec<String>) -> Result<(), Error> {
        self.face()?;
        let face = self.manifest().face.clone().unwrap_or_default();
        if face.builtin == Some(Builtin::Frontal) {
            lines.push("face detector builtin frontal\n".to_owned());
        }
        let models = [
            ("detector", face.detector),
            ("landmarks", face.landmarks),
            ("recognizer", face.recognizer),
        ];
        for (role, path) in models {
            if let Some(path) = path {
                lines.push(line(&format!("face {role}"), self.hash_of(path.as_str())?));
            }
        }
        Ok(())
    }

    fn hash_of(&self, path: &str) -> Result<&Sha256, Error> {
        let listed = self
            .manifest()
            .files
            .iter()
            .find(|(file, _)| file.as_str() == path);
        listed
            .map(|(_, hash)| hash)
            .ok_or_else(|| Error::NotListed {
                path: path.to_owned(),
            })
    }
}

/// Neither part can hold a line break, so that no two lists give the same text.
fn line(what: &str, hash: &Sha256) -> String {
    format!("{what} {hash}\n")
}
