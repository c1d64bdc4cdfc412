//! From an uploaded photo to what the encoder sees of a face: decoding, detection, crops, recognition, quality.
//!
//! The path of a photo: [`FaceModels::inspect`], which is [`decode`] → [`Detector::detect`] → [`choose`] → landmarks and
//! key points → [`FaceQuality::check`]; then [`clip_input`] with [`pixel_values`] for CLIP, and [`arcface_input`] with
//! [`Recognizer::embed`] for ArcFace. A photo that is not good enough ends in [`Refused`], with what was measured; a model
//! that does not work ends in a [`FaceError`].
//!
//! The crops are HyperLoRA's preprocessing, to the pixel. Nothing here keeps a photo, a landmark or an embedding in an
//! error or in a `Debug` text.

mod arcface;
mod blur;
mod clip;
mod crops;
mod decode;
mod detect;
mod error;
mod face;
mod frontal;
mod geometry;
mod inspect;
mod landmarks;
mod mask;
mod models;
mod occlusion;
mod onnx;
mod pose;
mod quality;
mod recognizer;
mod resample;
mod scrfd;
mod template;
mod warp;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod peers;

pub use arcface::{ARCFACE_SIDE, arcface_input};
pub use clip::{ClipInput, ClipOptions, base_input, clip_input, pixel_values};
pub use crops::{CropRectangles, crop_rectangles};
pub use decode::decode;
pub use detect::Detector;
pub use error::{FaceError, Limits, Rejection};
pub use face::{Detection, Face, FaceChoice, Keypoints, LandmarkSource, Landmarks, choose};
pub use geometry::CropRect;
pub use inspect::{InspectError, Portrait, Refused, Took};
pub use landmarks::{LandmarkView, Landmarker};
pub use likeness_picture::Excess;
pub use models::{DetectorFile, FaceFiles, FaceModels};
pub use onnx::ModelRole;
pub use pose::Pose;
pub use quality::{FaceQuality, QualityReport};
pub use recognizer::Recognizer;
