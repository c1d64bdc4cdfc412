//! From a bundle to its loaded models: what the services, the command line and the evaluation all need.

use likeness_bundle::{Detector, FacePart, SdxlModel};
use likeness_face::{DetectorFile, FaceFiles};
use likeness_hyperlora::Stack;
use likeness_sdxl::{LoadOptions, LowRankUpdate, Sdxl};

/// Loads a bundle's model, whichever form it has.
///
/// # Errors
/// Those of [`Sdxl::load`] and [`Sdxl::load_single_file`].
pub fn load_sdxl(model: &SdxlModel, options: &LoadOptions) -> Result<Sdxl, likeness_sdxl::Error> {
    match model {
        SdxlModel::Folder(dir) => Sdxl::load(dir, options),
        SdxlModel::SingleFile { path, config } => {
            Sdxl::load_single_file(path, config.as_deref(), options)
        }
    }
}

/// The stacked LoRAs as SDXL takes them; their scales are in `up` already.
///
/// # Errors
/// A failing device.
pub fn low_rank_updates(stack: &Stack) -> Result<Vec<LowRankUpdate>, likeness_hyperlora::Error> {
    let updates = stack.updates()?.into_iter();
    Ok(updates
        .map(|update| LowRankUpdate {
            matrix: update.target(),
            down: update.down,
            up: update.up,
            scale: 1.0,
        })
        .collect())
}

/// A bundle's face models as the crate that runs them takes them.
pub fn face_files(part: FacePart) -> FaceFiles {
    FaceFiles {
        detector: match part.detector {
            Detector::Frontal => DetectorFile::Builtin,
            Detector::Onnx(path) => DetectorFile::Onnx(path),
            Detector::OnnxThenFrontal(path) => DetectorFile::OnnxThenBuiltin(path),
        },
        landmarks: part.landmarks,
        recognizer: part.recognizer,
    }
}
