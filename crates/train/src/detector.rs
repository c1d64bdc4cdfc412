//! A face detector as it is trained, with SCRFD's outputs: at each position of three grids two anchors, one for the smaller and
//! one for the larger of the faces that the grid is for. A face belongs to one anchor size.

use candle_core::{Device, Result as Compute, Tensor};
use image::RgbImage;
use likeness_sdxl::parts::{Conv, ConvShape, Weights};

use crate::Error;
use crate::crops::planes;
use crate::layer::{HALVING, Layer};
use crate::scenes::Marked;

/// Side of the picture that it looks at.
pub const SIDE: usize = 128;
/// Pixels from one position of a grid to the next.
pub const STRIDES: [usize; 3] = [8, 16, 32];
/// Anchors of a position.
pub const ANCHORS: usize = 2;
/// Layers: channels before and after, and whether it halves the picture.
pub const LAYERS: [(usize, usize, bool); 8] = [
    (3, 12, true),
    (12, 24, true),
    (24, 32, true),
    (32, 32, false),
    (32, 48, true),
    (48, 48, false),
    (48, 64, true),
    (64, 64, false),
];
/// The layers that the grids' outputs are read from.
pub const READ: [usize; 3] = [3, 5, 7];
/// A grid's outputs: name, and numbers of an anchor.
pub const HEADS: [(&str, usize); 3] = [("score", 1), ("bbox", 4), ("kps", 10)];

/// The longer side of the box, in pixels, from which a face belongs to the next larger anchor.
const SIZES: [f32; 5] = [24.0, 36.0, 50.0, 68.0, 90.0];
/// A face of almost such a size is neither right nor wrong for the neighbouring anchor.
const ALMOST: f32 = 1.2;
/// Positions this near a face's middle belong to it, those up to the second distance are neither right nor wrong, in strides.
const NEAR: [f32; 2] = [0.75, 1.25];
/// Weights of the losses of boxes and key points.
const BOXES: f64 = 0.5;
const POINTS: f64 = 2.0;

/// The detector.
pub struct Detector {
    layers: Vec<Layer>,
    /// Score, box and key points of each grid.
    heads: Vec<[Conv; 3]>,
}

/// What it says of every anchor of a batch, smallest grid's stride first, row by row.
pub struct Told {
    /// Scores before the logistic function, [b, n, 1].
    pub scores: Tensor,
    /// Distances to left, top, right and bottom in strides, [b, n, 4].
    pub boxes: Tensor,
    /// Key points' places seen from the position, in strides, [b, n, 10].
    pub points: Tensor,
}

impl Detector {
    /// From the ONNX file's names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights) -> Result<Detector, Error> {
        let layers = LAYERS.iter().enumerate().map(|(n, &(from, to, halves))| {
            let shape = if halves { HALVING } else { ConvShape::SAME };
            Layer::load(weights, n, (from, to), shape)
        });
        let heads = STRIDES.iter().zip(READ).map(|(stride, layer)| {
            let [score, bbox, kps] = HEADS.map(|(name, numbers)| {
                let own = weights.pp(format!("{name}{stride}"));
                Conv::load(&own, LAYERS[layer].1, ANCHORS * numbers, ConvShape::SAME)
            });
            Ok([score?, bbox?, kps?])
        });
        Ok(Detector {
            layers: layers.collect::<Result<_, Error>>()?,
            heads: heads.collect::<Result<_, Error>>()?,
        })
    }

    /// Pictures [b, 3, 128, 128], each level v as (v − 127.5) / 128.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, pictures: &Tensor) -> Compute<Told> {
        let mut x = pictures.clone();
        let mut seen = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x)?;
            if READ.contains(&number) {
                seen.push(x.clone());
            }
        }
        let told = |head: usize| {
            let each = self.heads.iter().zip(&seen).map(|(heads, x)| {
                let y = heads[head].forward(x)?.permute((0, 2, 3, 1))?;
                y.reshape((y.dim(0)?, (), HEADS[head].1))
            });
            Tensor::cat(&each.collect::<Compute<Vec<_>>>()?, 1)
        };
        Ok(Told {
            scores: told(0)?,
            boxes: told(1)?,
            points: told(2)?,
        })
    }
}

/// Pictures of 128 × 128 as it looks at them.
///
/// # Errors
/// A failing device.
pub fn pictures(pictures: &[&RgbImage], device: &Device) -> Compute<Tensor> {
    planes(pictures, device, |level| (level - 127.5) / 128.0)
}

/// What is right for the anchors of a batch.
pub struct Wanted {
    /// 1 for an anchor that a face belongs to, [b, n, 1].
    faces: Tensor,
    /// 0 for one that is neither right nor wrong, [b, n, 1].
    counts: Tensor,
    boxes: Tensor,
    points: Tensor,
    /// How many anchors have a face.
    number: f64,
}

impl Wanted {
    /// For pictures with these faces.
    ///
    /// # Errors
    /// A failing device.
    pub fn of(faces: &[Option<Marked>], device: &Device) -> Compute<Wanted> {
        let (mut is, mut counts) = (Vec::new(), Vec::new());
        let (mut boxes, mut points) = (Vec::new(), Vec::new());
        for face in faces {
            for anchor in anchors() {
                let fit = face.as_ref().map_or(Fit::No, |face| anchor.fit(face));
                is.push(f32::from(u8::from(fit == Fit::Yes)));
                counts.push(f32::from(u8::from(fit != Fit::Almost)));
                let [own, kps] = face
                    .as_ref()
                    .map_or([vec![0.0; 4], vec![0.0; 10]], |f| anchor.numbers(f));
                boxes.extend(own);
                points.extend(kps);
            }
        }
        let number = is.iter().map(|&v| f64::from(v)).sum();
        let (batch, each) = (faces.len(), is.len() / faces.len().max(1));
        let tensor = |numbers, width| Tensor::from_vec(numbers, (batch, each, width), device);
        Ok(Wanted {
            faces: tensor(is, 1)?,
            counts: tensor(counts, 1)?,
            boxes: tensor(boxes, 4)?,
            points: tensor(points, 10)?,
            number,
        })
    }

    /// How far off the detector is: the focal loss of scores (Lin et al. 2017, power 2), and the mean distance of boxes and key
    /// points where there are faces.
    ///
    /// # Errors
    /// A failing device.
    pub fn loss(&self, told: &Told) -> Compute<Tensor> {
        let number = self.number.max(1.0);
        let (scores, faces) = (&told.scores, &self.faces);
        // ln(1 + e^x) − x · face, without large exponents.
        let soft = (scores.abs()?.neg()?.exp()? + 1.0)?.log()?;
        let each = ((scores.relu()? + soft)? - (scores * faces)?)?;
        let sure = (scores.detach().neg()?.exp()? + 1.0)?.recip()?;
        let wrong = (faces - sure)?.sqr()?;
        let scored = (each * (wrong * &self.counts)?)?.sum_all()?;
        let off = |told: &Tensor, wanted: &Tensor| {
            let width = wanted.dim(2)? as f64;
            let off = (told - wanted)?.abs()?.broadcast_mul(faces)?;
            off.sum_all()? / width
        };
        let boxes = (off(&told.boxes, &self.boxes)? * BOXES)?;
        let points = (off(&told.points, &self.points)? * POINTS)?;
        ((scored + boxes)? + points)? / number
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Fit {
    Yes,
    Almost,
    No,
}

#[derive(Clone, Copy)]
struct Anchor {
    /// Among all sizes, smallest first.
    size: usize,
    stride: f32,
    at: [f32; 2],
}

/// All of a picture, in the order of the outputs.
fn anchors() -> impl Iterator<Item = Anchor> {
    STRIDES.into_iter().enumerate().flat_map(|(level, stride)| {
        let per_row = SIDE / stride;
        (0..per_row * per_row * ANCHORS).map(move |n| {
            let position = n / ANCHORS;
            let at = [position % per_row, position / per_row].map(|k| (k * stride) as f32);
            Anchor {
                size: level * ANCHORS + n % ANCHORS,
                stride: stride as f32,
                at,
            }
        })
    })
}

impl Anchor {
    fn fit(self, face: &Marked) -> Fit {
        let [left, top, right, bottom] = face.bbox;
        let middle = [f32::midpoint(left, right), f32::midpoint(top, bottom)];
        let last = SIDE as f32 - self.stride;
        // A face beyond the last position belongs to that.
        let far = [0, 1].map(|k| (self.at[k] - middle[k].clamp(0.0, last)).abs() / self.stride);
        let far = far[0].max(far[1]);
        let longer = (right - left).max(bottom - top);
        let class = |longer: f32| SIZES.iter().filter(|from| longer >= **from).count();
        let almost = (class(longer / ALMOST)..=class(longer * ALMOST)).contains(&self.size);
        match far {
            _ if far > NEAR[1] || !almost => Fit::No,
            _ if far <= NEAR[0] && class(longer) == self.size => Fit::Yes,
            _ => Fit::Almost,
        }
    }

    fn numbers(self, face: &Marked) -> [Vec<f32>; 2] {
        let [x, y] = self.at;
        let [left, top, right, bottom] = face.bbox;
        let bbox = [x - left, y - top, right - x, bottom - y];
        let points = face.keypoints.iter().flat_map(|p| [p[0] - x, p[1] - y]);
        [
            bbox.iter().map(|v| v / self.stride).collect(),
            points.map(|v| v / self.stride).collect(),
        ]
    }
}
