//! Running an ArcFace recogniser from its ONNX file.

use std::path::Path;

use image::RgbImage;

use crate::arcface::ARCFACE_SIDE;
use crate::error::FaceError;
use crate::onnx::{ModelRole, Network, OnnxFile, planar};

/// Numbers in an embedding.
const EMBEDDING: usize = 512;

/// A face recogniser: an aligned face in, an embedding out. It may be shared between threads.
pub struct Recognizer {
    network: Network,
}

impl std::fmt::Debug for Recognizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recognizer")
    }
}

impl Recognizer {
    /// Loads an ONNX file such as `glintr100.onnx`: input [1,3,112,112], output [1,512] (the 1 may be free).
    ///
    /// # Errors
    /// [`FaceError::Load`] if it cannot be read, [`FaceError::Contract`] if it is another model.
    pub fn load(path: &Path) -> Result<Self, FaceError> {
        let file = OnnxFile::open(path, ModelRole::Recognizer, Some(ARCFACE_SIDE))?;
        let network = file.network(ARCFACE_SIDE)?;
        if network.outputs != [vec![1, EMBEDDING]] {
            return Err(file.contract(format!("an output {:?}", network.outputs)));
        }
        Ok(Self { network })
    }

    /// The embedding of an aligned face, divided by its length. RGB goes in as −1 to 1.
    ///
    /// # Errors
    /// [`FaceError::AlignedSize`] unless the face has 112 × 112 pixels; [`FaceError::Run`] if the model fails or gives
    /// numbers without a length.
    pub fn embed(&self, aligned: &RgbImage) -> Result<[f32; EMBEDDING], FaceError> {
        if aligned.dimensions() != (ARCFACE_SIDE, ARCFACE_SIDE) {
            let (width, height) = aligned.dimensions();
            return Err(FaceError::AlignedSize { width, height });
        }
        let outputs = self
            .network
            .run(&planar(aligned, |v| (v - 127.5) / 127.5))?;
        unit_length(&outputs[0])
            .ok_or_else(|| self.network.meaningless("its embedding has no length"))
    }
}

fn unit_length(values: &[f32]) -> Option<[f32; EMBEDDING]> {
    let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let embedding: [f32; EMBEDDING] = values.try_into().ok()?;
    norm.is_normal().then(|| embedding.map(|v| v / norm))
}
