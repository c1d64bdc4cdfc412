//! The trained pocket bundle, which the program carries.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Made, folder};
use crate::digest;
use crate::error::Error;
use crate::manifest::{MANIFEST, Manifest};

macro_rules! carried {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../assets/trained/", $name)))),+]
    };
}

/// Every file by its path in the bundle, as `likeness train hyperlora` and `likeness bundle hash` left them.
static FILES: &[(&str, &[u8])] = carried![
    "README.txt",
    "bundle.toml",
    "clip-vision/config.json",
    "clip-vision/model.safetensors",
    "clip-vision/preprocessor_config.json",
    "face/detector.onnx",
    "face/landmarks.onnx",
    "face/recognizer.onnx",
    "hyperlora/base_resampler.safetensors",
    "hyperlora/hyper_lora_modules.json",
    "hyperlora/hyper_lora_modules.safetensors",
    "hyperlora/id_projector.safetensors",
    "hyperlora/resampler.safetensors",
    "sdxl/model_index.json",
    "sdxl/scheduler/scheduler_config.json",
    "sdxl/text_encoder/config.json",
    "sdxl/text_encoder/model.safetensors",
    "sdxl/text_encoder_2/config.json",
    "sdxl/text_encoder_2/model.safetensors",
    "sdxl/tokenizer/merges.txt",
    "sdxl/tokenizer/special_tokens_map.json",
    "sdxl/tokenizer/tokenizer_config.json",
    "sdxl/tokenizer/vocab.json",
    "sdxl/tokenizer_2/merges.txt",
    "sdxl/tokenizer_2/special_tokens_map.json",
    "sdxl/tokenizer_2/tokenizer_config.json",
    "sdxl/tokenizer_2/vocab.json",
    "sdxl/unet/config.json",
    "sdxl/unet/diffusion_pytorch_model.safetensors",
    "sdxl/vae/config.json",
    "sdxl/vae/diffusion_pytorch_model.safetensors",
];

/// Writes the trained pocket bundle into `dir`, which must be new, empty or exactly this bundle already.
///
/// The files are written into a sibling directory that is renamed at the end: `dir` never holds half a
/// bundle.
///
/// # Errors
/// [`Error::NotEmpty`] when `dir` holds anything else; [`Error::Io`].
pub fn trained(dir: impl AsRef<Path>) -> Result<Made, Error> {
    let files: BTreeMap<&str, &[u8]> = FILES.iter().copied().collect();
    folder::fill(dir.as_ref(), &files)
}

/// The digest of the bundle that [`trained`] writes, as [`Bundle::digest`](crate::Bundle::digest) tells it.
///
/// # Errors
/// [`Error::Manifest`] where the bundle that was built in is none.
pub fn trained_digest() -> Result<String, Error> {
    let text = FILES.iter().find(|(name, _)| *name == MANIFEST);
    let text = text.map_or(Ok(""), |(_, bytes)| std::str::from_utf8(bytes));
    let manifest = text
        .map_err(|error| error.to_string())
        .and_then(Manifest::parse);
    let manifest = manifest.map_err(|message| Error::Manifest {
        path: MANIFEST.into(),
        message,
    })?;
    Ok(digest::of_bundle(&manifest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::{Bundle, Detector};
    use crate::verify::walk;

    /// What may be added to the repository and to every program.
    const MOST: usize = 12 << 20;

    fn written() -> (tempfile::TempDir, Bundle) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("pocket");
        assert_eq!(trained(&dir).unwrap(), Made::Written);
        assert_eq!(trained(&dir).unwrap(), Made::AlreadyThere);
        (scratch, Bundle::open(&dir).unwrap())
    }

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/trained");
        let carried: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(walk(&folder).unwrap(), carried);
    }

    #[test]
    fn what_is_carried_is_what_its_manifest_says() {
        let (_scratch, bundle) = written();
        let verified = bundle.verify(|_| {}).unwrap();
        assert!(verified.is_ok(), "{verified:?}");
        assert_eq!(verified.files + 1, FILES.len());
        assert_eq!(bundle.digest(), trained_digest().unwrap());
    }

    #[test]
    fn it_is_small() {
        let size: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size <= MOST, "{size} bytes");
    }

    #[test]
    fn it_has_every_part_in_shape() {
        let (_scratch, bundle) = written();
        let inspection = bundle.inspect();
        assert!(inspection.is_ok(), "{inspection:?}");
        assert_eq!(bundle.name(), super::super::NAME);
        assert!(bundle.hyperlora().unwrap().has_base_resampler());
        let face = bundle.face().unwrap();
        assert!(matches!(face.detector, Detector::OnnxThenFrontal(_)));
        assert!(face.landmarks.is_some());
    }

    #[test]
    fn another_bundle_is_not_written_over() {
        let (_scratch, bundle) = written();
        let refused = super::super::make(bundle.dir(), 0);
        assert!(matches!(refused, Err(Error::NotEmpty { .. })));
        assert!(bundle.verify(|_| {}).unwrap().is_ok());
    }
}
