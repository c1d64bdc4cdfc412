//! Coefficients as a file, with a note of the encoder that they belong to.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use likeness_bundle::Bundle;
use likeness_domain::coefficients::{Coefficients, combine};
use likeness_hyperlora::{Basis, Kind};

use super::tensors::{TensorFile, to_file};
use crate::fail::{Failure, failed};

/// Says that the file is one of ours, and in which version.
const FORMAT_KEY: &str = "likeness";
const FORMAT: &str = "coefficients 1";
const ENCODER_KEY: &str = "encoder";
const HYPERLORA_KEY: &str = "hyperlora";

/// What is in a file for the id and for the base.
const ID: Names = Names {
    per_photo: "per_photo",
    combined: "coefficients",
};
const BASE: Names = Names {
    per_photo: "base_per_photo",
    combined: "base_coefficients",
};

struct Names {
    per_photo: &'static str,
    combined: &'static str,
}

/// Which encoder coefficients come from, as far as a bundle can tell.
pub struct Origin {
    /// The encoder's digest; none where the bundle lacks a part of the encoder or its checksum.
    pub encoder: Option<String>,
    /// The digest of the HyperLoRA model alone.
    pub hyperlora: Option<String>,
}

impl Origin {
    /// The encoder of a bundle.
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            encoder: bundle.encoder_digest().ok(),
            hyperlora: bundle.hyperlora_digest().ok(),
        }
    }

    fn notes(&self) -> HashMap<String, String> {
        let digests = [
            (ENCODER_KEY, &self.encoder),
            (HYPERLORA_KEY, &self.hyperlora),
        ];
        let digests = digests
            .into_iter()
            .filter_map(|(key, digest)| Some((key.to_owned(), digest.clone()?)));
        let format = [(FORMAT_KEY.to_owned(), FORMAT.to_owned())];
        format.into_iter().chain(digests).collect()
    }

    /// Refuses a file whose notes name another encoder; what is not noted cannot be compared.
    fn check(&self, file: &TensorFile, path: &Path) -> Result<(), Failure> {
        let parts = [
            ("encoder", &self.encoder, file.note(ENCODER_KEY)),
            ("HyperLoRA model", &self.hyperlora, file.note(HYPERLORA_KEY)),
        ];
        for (what, own, noted) in parts {
            if let (Some(own), Some(noted)) = (own, noted)
                && own != noted
            {
                return Err(Failure::new(format!(
                    "{}: coefficients of another bundle: they come from {what} {}, this bundle's is {}; \
                     encode the photos again with this bundle",
                    path.display(),
                    short(noted),
                    short(own)
                )));
            }
        }
        Ok(())
    }
}

/// The start of a digest, which is enough for people.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// The coefficients of some photos: each photo's, and what they are together.
pub struct Encoded {
    /// As predicted, before the mean.
    pub per_photo: Vec<Coefficients>,
    /// The mean, then normalised.
    pub combined: Coefficients,
}

impl Encoded {
    /// Combines at least one photo's coefficients of one shape.
    pub fn new(per_photo: Vec<Coefficients>) -> Result<Self, Failure> {
        Ok(Self {
            combined: combine(&per_photo).map_err(failed)?,
            per_photo,
        })
    }

    fn tensors(&self, names: &Names) -> candle_core::Result<[(&'static str, Tensor); 2]> {
        let (tokens, k) = (self.combined.tokens(), self.combined.k());
        let all: Vec<f32> = self
            .per_photo
            .iter()
            .flat_map(|photo| photo.values().iter().copied())
            .collect();
        let per_photo = Tensor::from_vec(all, (self.per_photo.len(), tokens, k), &Device::Cpu)?;
        let combined = Tensor::from_slice(self.combined.values(), (tokens, k), &Device::Cpu)?;
        Ok([(names.per_photo, per_photo), (names.combined, combined)])
    }
}

/// The bytes of a coefficients file.
pub fn write(id: &Encoded, base: Option<&Encoded>, origin: &Origin) -> Result<Vec<u8>, Failure> {
    let mut tensors = id.tensors(&ID).map_err(failed)?.to_vec();
    if let Some(base) = base {
        tensors.extend(base.tensors(&BASE).map_err(failed)?);
    }
    to_file(&tensors, origin.notes())
}

/// Reads the coefficients of a kind, for the basis of the bundle that `origin` is of.
///
/// A file made elsewhere has no notes: its `coefficients` are taken for the kind that is asked for, and
/// only their shape is checked.
pub fn read(
    path: &Path,
    kind: Kind,
    basis: &Basis,
    origin: &Origin,
) -> Result<Coefficients, Failure> {
    let file = TensorFile::open(path)?;
    origin.check(&file, path)?;
    let own = file.note(FORMAT_KEY).is_some();
    let name = match kind {
        Kind::Base if own || file.find(BASE.combined)?.is_some() => BASE.combined,
        _ => ID.combined,
    };
    let (tokens, k) = (basis.tokens(), basis.k());
    let tensor = file.tensor(name, &format!("[{tokens}, {k}]"))?;
    if tensor.dims() != [tokens, k] {
        let problem = format!(
            "has shape {:?}, this bundle's basis takes [{tokens}, {k}]: coefficients of another bundle",
            tensor.dims()
        );
        return Err(file.problem(name, &problem));
    }
    let values = tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(failed)?;
    Coefficients::new(tokens, k, values).map_err(failed)
}
