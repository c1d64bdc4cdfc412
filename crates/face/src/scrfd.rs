//! The SCRFD face detector (Guo et al. 2021), from its ONNX file.

use std::path::Path;
use std::sync::OnceLock;

use image::{RgbImage, imageops};

use crate::error::FaceError;
use crate::face::{Detection, Keypoints};
use crate::onnx::{ModelRole, Network, OnnxFile, planar};
use crate::warp;

/// Sides of the square that a photo is fitted into, tried in turn until a face is found: the detector misses faces that
/// are large in its view.
pub(crate) const SIDES: [u32; 4] = [640, 512, 384, 256];
const STRIDES: [u32; 3] = [8, 16, 32];
/// Boxes predicted at each position.
const ANCHORS: usize = 2;
const MIN_SCORE: f32 = 0.5;
/// Intersection over union from which two boxes are one face.
const SAME_FACE: f32 = 0.4;

/// What the nine outputs hold: numbers per anchor.
const SCORE: usize = 1;
const BOX: usize = 4;
const KEYPOINTS: usize = 10;

/// The detector, with a network for each side, built when first needed. It may be shared between threads.
pub(crate) struct Scrfd {
    file: OnnxFile,
    /// Largest first.
    sizes: Vec<AtSide>,
}

/// The network for one side; `None` within if it could not be built.
struct AtSide {
    side: u32,
    network: OnceLock<Option<Ready>>,
}

/// A network, and for each stride which of its outputs are scores, boxes and key points.
struct Ready {
    network: Network,
    levels: Vec<Level>,
}

struct Level {
    stride: u32,
    scores: usize,
    boxes: usize,
    keypoints: usize,
}

impl Scrfd {
    /// Loads `scrfd_10g_bnkps.onnx` or a detector like it. Outputs are told apart by their shapes, whatever their order.
    ///
    /// # Errors
    /// [`FaceError::Load`], [`FaceError::Contract`].
    pub fn load(path: &Path) -> Result<Self, FaceError> {
        let file = OnnxFile::open(path, ModelRole::Detector, None)?;
        let sides = file.side.map_or(SIDES.to_vec(), |side| vec![side]);
        let largest = sides[0];
        if largest == 0 || largest % 32 != 0 || largest > 4096 {
            return Err(file.contract(format!("an input of side {largest}")));
        }
        // The first network shows whether the outputs are a detector's, and nearly every photo needs it.
        let first = Ready::build(&file, largest)?;
        let sizes: Vec<AtSide> = sides.into_iter().map(AtSide::new).collect();
        let _ = sizes[0].network.set(Some(first));
        Ok(Self { file, sizes })
    }

    /// The faces seen at the first side that shows any which is `plausible`, best score first.
    ///
    /// If none does, the photo is tried once more in the middle of a black square of twice its size: a face that fills
    /// the photo then has surroundings.
    pub fn detect(
        &self,
        image: &RgbImage,
        plausible: impl Fn(&Detection) -> bool,
    ) -> Result<Vec<Detection>, FaceError> {
        let sides = self.sizes.iter().map(|size| (size.side, Fit::Corner));
        let padded = self.sizes.first().map(|size| (size.side, Fit::Padded));
        for (side, fit) in sides.chain(padded) {
            let mut found = self.detect_at(image, side, fit)?;
            found.retain(&plausible);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The faces seen with the photo fitted into one side, best score first; at the file's own side if that is fixed.
    pub fn detect_at(
        &self,
        image: &RgbImage,
        side: u32,
        fit: Fit,
    ) -> Result<Vec<Detection>, FaceError> {
        let size = self.sizes.iter().find(|size| size.side == side);
        let Some(size) = size.or(self.sizes.first()) else {
            return Ok(Vec::new());
        };
        let Some((canvas, placement)) = on_canvas(image, size.side, fit) else {
            return Ok(Vec::new());
        };
        let ready = size.ready(&self.file)?;
        let outputs = ready
            .network
            .run(&planar(&canvas, |v| (v - 127.5) / 128.0))?;
        let found = decode(&ready.levels, &outputs, size.side);
        let in_photo = found.iter().map(|d| placement.to_photo(d)).collect();
        Ok(without_repeats(in_photo))
    }
}

impl AtSide {
    fn new(side: u32) -> Self {
        Self {
            side,
            network: OnceLock::new(),
        }
    }

    fn ready(&self, file: &OnnxFile) -> Result<&Ready, FaceError> {
        let built = self
            .network
            .get_or_init(|| Ready::build(file, self.side).ok());
        let unbuilt = || file.contract(format!("no detector at side {}", self.side));
        built.as_ref().ok_or_else(unbuilt)
    }
}

impl Ready {
    fn build(file: &OnnxFile, side: u32) -> Result<Self, FaceError> {
        let network = file.network(side)?;
        let levels = STRIDES.map(|stride| level(&network.outputs, side, stride));
        let levels: Option<Vec<Level>> = levels.into_iter().collect();
        let found = || format!("outputs of the shapes {:?} at side {side}", network.outputs);
        let levels = levels.ok_or_else(|| file.contract(found()))?;
        Ok(Self { network, levels })
    }
}

/// The three outputs of one stride, known by their shapes: [n, k] or [1, n, k].
fn level(outputs: &[Vec<usize>], side: u32, stride: u32) -> Option<Level> {
    let anchors = ANCHORS * ((side / stride) as usize).pow(2);
    let find = |numbers: usize| {
        let shapes = [vec![anchors, numbers], vec![1, anchors, numbers]];
        outputs.iter().position(|shape| shapes.contains(shape))
    };
    Some(Level {
        stride,
        scores: find(SCORE)?,
        boxes: find(BOX)?,
        keypoints: find(KEYPOINTS)?,
    })
}

/// Where the photo lies in the detector's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// As large as fits, in the upper left corner.
    Corner,
    /// Half as large, in the middle.
    Padded,
}

struct Placement {
    /// Pixels of the square for one of the photo.
    scale: f32,
    left: u32,
    top: u32,
}

impl Placement {
    fn to_photo(&self, found: &Detection) -> Detection {
        let x = |v: f32| (v - self.left as f32) / self.scale;
        let y = |v: f32| (v - self.top as f32) / self.scale;
        let [left, top, right, bottom] = found.bbox;
        let keypoints = found
            .keypoints
            .map(|points| points.map(|[px, py]| [x(px), y(py)]));
        Detection {
            bbox: [x(left), y(top), x(right), y(bottom)],
            score: found.score,
            keypoints,
        }
    }
}

/// The photo on a black square; `None` if it is so narrow that nothing of it is left.
fn on_canvas(image: &RgbImage, side: u32, fit: Fit) -> Option<(RgbImage, Placement)> {
    let room = match fit {
        Fit::Corner => side,
        Fit::Padded => side / 2,
    };
    let (width, height) = fitted(image, room);
    if width == 0 || height == 0 {
        return None;
    }
    let (left, top) = match fit {
        Fit::Corner => (0, 0),
        Fit::Padded => ((side - width) / 2, (side - height) / 2),
    };
    let mut canvas = RgbImage::new(side, side);
    let resized = warp::resize(image, width, height);
    imageops::replace(&mut canvas, &resized, i64::from(left), i64::from(top));
    let scale = (f64::from(height) / f64::from(image.height())) as f32;
    Some((canvas, Placement { scale, left, top }))
}

/// The photo's size when its longer side becomes `room`; the shorter one is truncated.
fn fitted(image: &RgbImage, room: u32) -> (u32, u32) {
    let (w, h) = (f64::from(image.width()), f64::from(image.height()));
    if w == 0.0 || h == 0.0 {
        return (0, 0);
    }
    let ratio = h / w;
    if ratio > 1.0 {
        ((f64::from(room) / ratio) as u32, room)
    } else {
        (room, (f64::from(room) * ratio) as u32)
    }
}

/// All boxes whose score suffices, in pixels of the detector's square.
fn decode(levels: &[Level], outputs: &[Vec<f32>], side: u32) -> Vec<Detection> {
    levels
        .iter()
        .flat_map(|level| {
            let scores = outputs[level.scores].iter().enumerate();
            scores
                .filter(|(_, score)| **score >= MIN_SCORE)
                .map(|(anchor, score)| level.detection(outputs, anchor, *score, side))
        })
        .collect()
}

impl Level {
    /// Distances and key points are predicted in strides, from the position of the anchor.
    fn detection(&self, outputs: &[Vec<f32>], anchor: usize, score: f32, side: u32) -> Detection {
        let (position, per_row) = (anchor / ANCHORS, (side / self.stride) as usize);
        let stride = self.stride as f32;
        let (x, y) = (
            (position % per_row) as f32 * stride,
            (position / per_row) as f32 * stride,
        );
        let reach = |i: usize| outputs[self.boxes][anchor * BOX + i] * stride;
        let point = |i: usize| {
            let at = anchor * KEYPOINTS + 2 * i;
            let predicted = &outputs[self.keypoints];
            [x + predicted[at] * stride, y + predicted[at + 1] * stride]
        };
        let keypoints: Keypoints = std::array::from_fn(point);
        Detection {
            bbox: [x - reach(0), y - reach(1), x + reach(2), y + reach(3)],
            score,
            keypoints: Some(keypoints),
        }
    }
}

/// Keeps the best of boxes that overlap, best score first.
fn without_repeats(mut found: Vec<Detection>) -> Vec<Detection> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in found {
        let repeats = |other: &Detection| overlap(&other.bbox, &candidate.bbox) > SAME_FACE;
        if !kept.iter().any(repeats) {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union of two boxes whose right and bottom edges are inclusive pixels.
pub(crate) fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |[l, t, r, b]: [f32; 4]| (r - l + 1.0) * (b - t + 1.0);
    let width = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
    let shared = width * height;
    shared / (area(*a) + area(*b) - shared)
}
