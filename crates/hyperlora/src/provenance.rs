//! What an exported LoRA file says of itself.

use std::collections::BTreeMap;

use crate::basis::Kind;
use crate::lora::Lora;
use crate::names::Naming;

const SOFTWARE: &str = concat!("likeness ", env!("CARGO_PKG_VERSION"));

/// Where a LoRA comes from, for the metadata of its file. There is no room for a person in it: no
/// identity, no name, no photo, no coefficients, no date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The bundle's name.
    pub bundle: String,
    /// The bundle's version.
    pub bundle_version: String,
    /// The bundle's digest, in hexadecimal.
    pub bundle_digest: String,
    /// The bundle's licences: what is made with a model falls under its terms.
    pub licences: Vec<String>,
    /// Which LoRA it is.
    pub kind: Kind,
}

impl Provenance {
    /// Our own lines, and those by which other programs tell what a LoRA is for: `modelspec.*` (the
    /// model metadata standard of Stability AI) and `ss_*` (kohya's scripts).
    pub(crate) fn metadata(&self, lora: &Lora, naming: Naming) -> BTreeMap<String, String> {
        let title = format!(
            "{} LoRA by {} {}",
            self.kind, self.bundle, self.bundle_version
        );
        let mut lines: BTreeMap<String, String> = [
            ("format", "pt"),
            ("likeness.software", SOFTWARE),
            ("likeness.bundle", &self.bundle),
            ("likeness.bundle_version", &self.bundle_version),
            ("likeness.bundle_digest", &self.bundle_digest),
            ("likeness.kind", &self.kind.to_string()),
            ("likeness.naming", &naming.to_string()),
            ("modelspec.sai_model_spec", "1.0.0"),
            ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora"),
            ("modelspec.implementation", naming.implementation()),
            ("modelspec.title", &title),
            ("ss_base_model_version", "sdxl_base_v1-0"),
            ("ss_network_module", "networks.lora"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        if !self.licences.is_empty() {
            lines.insert("modelspec.license".to_owned(), self.licences.join("; "));
        }
        if let Some((rank, alpha)) = common_rank(lora) {
            lines.insert("ss_network_dim".to_owned(), rank.to_string());
            lines.insert("ss_network_alpha".to_owned(), alpha.to_string());
        }
        lines
    }
}

/// Rank and alpha, if all matrices have the same.
fn common_rank(lora: &Lora) -> Option<(usize, f64)> {
    let mut all = lora
        .matrices
        .iter()
        .map(|matrix| (matrix.rank(), matrix.alpha));
    let first = all.next()?;
    all.all(|(rank, alpha)| rank == first.0 && alpha.to_bits() == first.1.to_bits())
        .then_some(first)
}
