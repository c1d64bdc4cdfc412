//! The 106 landmarks of a face, from the `2d106det` ONNX file.

use std::fmt;
use std::path::Path;

use image::RgbImage;

use crate::error::FaceError;
use crate::face::Landmarks;
use crate::geometry::{Similarity, extent};
use crate::onnx::{ModelRole, Network, OnnxFile, planar};
use crate::warp::warp;

/// Side of the model's input.
const SIDE: u32 = 192;
const HALF: f32 = SIDE as f32 / 2.0;
/// The input shows this many times the box's longer side.
const WIDENING: f32 = 1.5;
const NUMBERS: usize = 212;

/// The landmark model. It may be shared between threads.
pub struct Landmarker {
    network: Network,
}

impl Landmarker {
    /// Loads `2d106det.onnx` or a model like it.
    ///
    /// # Errors
    /// [`FaceError::Load`], [`FaceError::Contract`].
    pub fn load(path: &Path) -> Result<Self, FaceError> {
        let file = OnnxFile::open(path, ModelRole::Landmarks, Some(SIDE))?;
        let network = file.network(SIDE)?;
        if network.outputs != [vec![1, NUMBERS]] {
            return Err(file.contract(format!("an output {:?}", network.outputs)));
        }
        Ok(Self { network })
    }

    /// The landmarks of the face in a box (left, top, right, bottom), pixels of the photo. RGB goes in as levels 0 to 255;
    /// −1 to 1 comes out, over the model's view.
    ///
    /// # Errors
    /// [`FaceError::Run`] if the model fails or its points make no face.
    pub fn predict(&self, image: &RgbImage, bbox: [f32; 4]) -> Result<Landmarks, FaceError> {
        let view = LandmarkView::of(image, bbox);
        let outputs = self.network.run(&planar(&view.pixels, |v| v))?;
        let (points, _) = outputs[0].as_chunks::<2>();
        let seen: Vec<[f32; 2]> = points
            .iter()
            .map(|[x, y]| [(x + 1.0) * HALF, (y + 1.0) * HALF])
            .collect();
        let seen: Landmarks = seen
            .try_into()
            .map_err(|_| self.network.meaningless("it gave no 106 points"))?;
        self.check(&seen)?;
        let back = view.placement.inverse();
        Ok(seen.map(|point| back.apply(point)))
    }

    /// Points that are no face would make crops of any size.
    fn check(&self, seen: &Landmarks) -> Result<(), FaceError> {
        let (low, high) = extent(seen);
        let reach = [-HALF, SIDE as f32 + HALF];
        if low.iter().any(|v| *v < reach[0]) || high.iter().any(|v| *v > reach[1]) {
            return Err(self
                .network
                .meaningless("its points lie far outside its view"));
        }
        if (high[0] - low[0]).max(high[1] - low[1]) < HALF / 8.0 {
            return Err(self.network.meaningless("its points lie on one spot"));
        }
        Ok(())
    }
}

/// What the landmark model sees of a face.
pub struct LandmarkView {
    /// The view: 192 × 192, black where it reaches beyond the photo.
    pub pixels: RgbImage,
    placement: Similarity,
}

impl LandmarkView {
    /// The view of the face in a box (left, top, right, bottom), pixels of the photo.
    pub fn of(image: &RgbImage, bbox: [f32; 4]) -> Self {
        let placement = view_of(bbox);
        Self {
            pixels: warp(image, &placement, SIDE),
            placement,
        }
    }

    /// A point of the photo as the model tells it, −1 to 1 over the view.
    pub fn seen(&self, point: [f32; 2]) -> [f32; 2] {
        self.placement.apply(point).map(|v| v / HALF - 1.0)
    }
}

impl fmt::Debug for LandmarkView {
    /// Leaves out the picture.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LandmarkView").finish_non_exhaustive()
    }
}

impl fmt::Debug for Landmarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Landmarker").finish_non_exhaustive()
    }
}

/// Brings the box's centre to the middle of the model's view.
fn view_of([left, top, right, bottom]: [f32; 4]) -> Similarity {
    let (cx, cy) = (f32::midpoint(left, right), f32::midpoint(top, bottom));
    let longer = (right - left).max(bottom - top).max(1.0);
    let scale = f64::from(SIDE) / f64::from(longer * WIDENING);
    Similarity {
        a: scale,
        b: 0.0,
        tx: f64::from(HALF) - scale * f64::from(cx),
        ty: f64::from(HALF) - scale * f64::from(cy),
    }
}
