//! The built-in detector of frontal faces.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, RgbImage};

use crate::clip::to_grey;
use crate::error::FaceError;
use crate::face::Detection;

const FRONTAL_MODEL: &[u8] = include_bytes!("../models/seeta_fd_frontal_v1.0.bin");

/// Side to which a photo's longer side is scaled before detection. The detector's window has 40 pixels, so this finds
/// faces from a sixteenth of the longer side on.
const WORKING_SIDE: u32 = 640;
/// The scaled photo lies in the middle of a flat square of this side: faces that touch the photo's border are then seen
/// whole, and the detector always gets an image of one size, whatever the photo's.
const CANVAS_SIDE: u32 = 704;
const CANVAS: Luma<u8> = Luma([128]);
/// Enlarging further only invents pixels.
const MAX_ENLARGEMENT: f32 = 8.0;
/// A dark photo is brightened for the detector until its brightest hundredth reaches this luma, so that it can be refused
/// for being dark rather than for showing nobody.
const BRIGHT: f32 = 200.0;
const MAX_GAIN: f32 = 12.0;
/// The detector's score from which a window is a face.
const MIN_SCORE: f64 = 3.85;

/// The detector that is part of this crate: boxes only, no key points. It may be shared between threads.
pub(crate) struct Frontal {
    model: rustface::Model,
}

impl Frontal {
    /// Reads the model that this crate carries.
    ///
    /// # Errors
    /// [`FaceError::BuiltinModel`] if it is damaged.
    pub fn load() -> Result<Self, FaceError> {
        let model = catch_unwind(|| rustface::read_model(Cursor::new(FRONTAL_MODEL)))
            .map_err(|_| FaceError::BuiltinModel("not a detector".to_owned()))?
            .map_err(|e| FaceError::BuiltinModel(e.to_string()))?;
        Ok(Self { model })
    }

    /// All faces in an upright photo that has at least one pixel, best score first.
    pub fn detect(&self, image: &RgbImage) -> Vec<Detection> {
        let (canvas, placement) = placed_on_canvas(image);
        let found = self.run(&canvas);
        let mut faces: Vec<Detection> = found
            .iter()
            .map(|found| Detection {
                bbox: placement.to_photo(found.bbox()),
                score: found.score() as f32,
                keypoints: None,
            })
            .collect();
        faces.sort_by(|a, b| b.score.total_cmp(&a.score));
        faces
    }

    fn run(&self, canvas: &GrayImage) -> Vec<rustface::FaceInfo> {
        let mut detector = rustface::create_detector_with_model(self.model.clone());
        detector.set_score_thresh(MIN_SCORE);
        let view = rustface::ImageData::new(canvas.as_raw(), canvas.width(), canvas.height());
        // The detector asserts its own invariants; a photo that breaks one has no face for us.
        catch_unwind(AssertUnwindSafe(|| detector.detect(&view))).unwrap_or_default()
    }
}

/// How the photo lies on the canvas.
struct Placement {
    scale: f32,
    left: u32,
    top: u32,
}

impl Placement {
    fn to_photo(&self, bbox: &rustface::Rectangle) -> [f32; 4] {
        let x = (bbox.x() - self.left as i32) as f32 / self.scale;
        let y = (bbox.y() - self.top as i32) as f32 / self.scale;
        [
            x,
            y,
            x + bbox.width() as f32 / self.scale,
            y + bbox.height() as f32 / self.scale,
        ]
    }
}

fn placed_on_canvas(image: &RgbImage) -> (GrayImage, Placement) {
    let longer = image.width().max(image.height()) as f32;
    let scale = (WORKING_SIDE as f32 / longer).min(MAX_ENLARGEMENT);
    let side = |s: u32| ((s as f32 * scale).round() as u32).clamp(1, WORKING_SIDE);
    let (w, h) = (side(image.width()), side(image.height()));
    let mut scaled = if scale < 1.0 {
        to_grey(&imageops::thumbnail(image, w, h))
    } else {
        imageops::resize(&to_grey(image), w, h, FilterType::Triangle)
    };
    brighten(&mut scaled);
    let (left, top) = ((CANVAS_SIDE - w) / 2, (CANVAS_SIDE - h) / 2);
    let mut canvas = GrayImage::from_pixel(CANVAS_SIDE, CANVAS_SIDE, CANVAS);
    imageops::replace(&mut canvas, &scaled, i64::from(left), i64::from(top));
    (canvas, Placement { scale, left, top })
}

fn brighten(image: &mut GrayImage) {
    let mut levels = image.as_raw().clone();
    let rank = levels.len() * 99 / 100;
    let (_, bright, _) = levels.select_nth_unstable(rank);
    let gain = (BRIGHT / f32::from((*bright).max(1))).min(MAX_GAIN);
    if gain > 1.0 {
        image
            .iter_mut()
            .for_each(|l| *l = (f32::from(*l) * gain).min(255.0) as u8);
    }
}
