//! Boxes and rectangles that the crops are made of. Coordinates are pixels of the upright photo, y downwards.

use image::{ImageBuffer, Pixel};
use serde::Serialize;

use crate::face::Landmarks;

/// A rectangle of whole pixels, right and bottom exclusive; it may reach outside the photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CropRect {
    /// First column.
    pub left: i32,
    /// First row.
    pub top: i32,
    /// Column after the last.
    pub right: i32,
    /// Row after the last.
    pub bottom: i32,
}

impl CropRect {
    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.right.saturating_sub(self.left).max(0) as u32
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.bottom.saturating_sub(self.top).max(0) as u32
    }

    /// All of a picture.
    pub(crate) fn whole(width: u32, height: u32) -> Self {
        Self {
            left: 0,
            top: 0,
            right: width as i32,
            bottom: height as i32,
        }
    }

    /// Whether a pixel lies within.
    pub(crate) fn contains(&self, x: i32, y: i32) -> bool {
        (self.left..self.right).contains(&x) && (self.top..self.bottom).contains(&y)
    }

    /// This part of `image`; black where it reaches outside.
    pub(crate) fn of<P>(&self, image: &ImageBuffer<P, Vec<u8>>) -> ImageBuffer<P, Vec<u8>>
    where
        P: Pixel<Subpixel = u8>,
    {
        let mut out = ImageBuffer::new(self.width(), self.height());
        image::imageops::replace(&mut out, image, -i64::from(self.left), -i64::from(self.top));
        out
    }
}

/// A square given by its centre and half its side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Square {
    pub cx: f32,
    pub cy: f32,
    pub half: f32,
}

impl Square {
    /// Edges rounded half to even.
    pub fn rounded(&self) -> CropRect {
        let edge = |v: f32| v.round_ties_even() as i32;
        CropRect {
            left: edge(self.cx - self.half),
            top: edge(self.cy - self.half),
            right: edge(self.cx + self.half),
            bottom: edge(self.cy + self.half),
        }
    }

    /// Upper left corner truncated towards zero.
    pub fn truncated_origin(&self) -> (i32, i32) {
        ((self.cx - self.half) as i32, (self.cy - self.half) as i32)
    }

    /// The same centre, `factor` times the size.
    pub fn scaled(self, factor: f32) -> Self {
        Self {
            half: self.half * factor,
            ..self
        }
    }
}

/// Least and greatest coordinates of some points.
pub(crate) fn extent(points: &[[f32; 2]]) -> ([f32; 2], [f32; 2]) {
    let start = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    points.iter().fold(start, |(low, high), [x, y]| {
        (
            [low[0].min(*x), low[1].min(*y)],
            [high[0].max(*x), high[1].max(*y)],
        )
    })
}

fn longer_side((low, high): ([f32; 2], [f32; 2])) -> f32 {
    (high[0] - low[0]).max(high[1] - low[1])
}

/// The square that CLIP sees: 1.5 times the landmarks' extent, moved up by an eighth of its half to take the forehead in.
pub(crate) fn face_square(landmarks: &Landmarks) -> Square {
    let (low, high) = extent(landmarks);
    let half = 0.75 * longer_side((low, high));
    Square {
        cx: f32::midpoint(low[0], high[0]),
        cy: f32::midpoint(low[1], high[1]) - 0.125 * half,
        half,
    }
}

/// The square around the face's outline in which its mask is softened.
pub(crate) fn outline_square(outline: &[[f32; 2]]) -> Square {
    let [cx, cy] = mean(outline);
    Square {
        cx,
        cy,
        half: 0.8 * longer_side(extent(outline)),
    }
}

/// The face's outline as a polygon: jaw from the left temple over the chin to the right one, then back along the brows.
pub(crate) fn outline(landmarks: &Landmarks) -> Vec<[f32; 2]> {
    let jaw = [1].into_iter().chain(9..=16).chain(2..=8).chain([0]);
    let jaw = jaw
        .chain((18..=24).rev())
        .chain((25..=32).rev())
        .chain([17]);
    let brows = [101, 105, 104, 103, 102, 50, 51, 49, 48, 43];
    jaw.chain(brows).map(|i| landmarks[i]).collect()
}

/// Points moved away from their mean by a factor.
pub(crate) fn widened(points: &[[f32; 2]], factor: f32) -> Vec<[f32; 2]> {
    let [cx, cy] = mean(points);
    points
        .iter()
        .map(|[x, y]| [cx + factor * (x - cx), cy + factor * (y - cy)])
        .collect()
}

/// A similarity transform (x, y) ↦ (a·x − b·y + tx, b·x + a·y + ty): rotation, one scale, translation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Similarity {
    pub a: f64,
    pub b: f64,
    pub tx: f64,
    pub ty: f64,
}

impl Similarity {
    /// The least-squares similarity that takes `from` to `to`; the identity's scale 1 if all of `from` is one point.
    pub fn fit(from: &[[f32; 2]; 5], to: &[[f32; 2]; 5]) -> Self {
        let (from, to) = (from.map(precise), to.map(precise));
        let middle =
            |points: &[[f64; 2]; 5], k: usize| points.iter().map(|p| p[k]).sum::<f64>() / 5.0;
        let (p, q) = (
            [0, 1].map(|k| middle(&from, k)),
            [0, 1].map(|k| middle(&to, k)),
        );
        let (mut dot, mut cross, mut norm) = (0.0, 0.0, 0.0);
        for ([fx, fy], [gx, gy]) in from.iter().zip(to) {
            let (fx, fy, gx, gy) = (fx - p[0], fy - p[1], gx - q[0], gy - q[1]);
            dot += fx * gx + fy * gy;
            cross += fx * gy - fy * gx;
            norm += fx * fx + fy * fy;
        }
        let (a, b) = if norm > 0.0 {
            (dot / norm, cross / norm)
        } else {
            (1.0, 0.0)
        };
        Self {
            a,
            b,
            tx: q[0] - a * p[0] + b * p[1],
            ty: q[1] - b * p[0] - a * p[1],
        }
    }

    /// Where a point of the source goes.
    pub fn apply(&self, point: [f32; 2]) -> [f32; 2] {
        let [x, y] = precise(point);
        [
            (self.a * x - self.b * y + self.tx) as f32,
            (self.b * x + self.a * y + self.ty) as f32,
        ]
    }

    /// The way back.
    pub fn inverse(&self) -> Self {
        let norm = (self.a * self.a + self.b * self.b).max(f64::MIN_POSITIVE);
        let (a, b) = (self.a / norm, -self.b / norm);
        Self {
            a,
            b,
            tx: b * self.ty - a * self.tx,
            ty: -b * self.tx - a * self.ty,
        }
    }
}

fn precise(point: [f32; 2]) -> [f64; 2] {
    point.map(f64::from)
}

pub(crate) fn mean(points: &[[f32; 2]]) -> [f32; 2] {
    let sum = points
        .iter()
        .fold([0.0, 0.0], |[sx, sy], [x, y]| [sx + x, sy + y]);
    let n = points.len() as f32;
    [sum[0] / n, sum[1] / n]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similarity_is_recovered_from_its_points() {
        let from = [[1.0, 2.0], [5.0, 2.5], [3.0, 4.0], [2.0, 6.0], [4.0, 6.5]];
        let known = Similarity {
            a: 1.2,
            b: -0.7,
            tx: 10.0,
            ty: -3.0,
        };
        let to = from.map(|point| known.apply(point));
        let fitted = Similarity::fit(&from, &to);
        for (found, expected) in [
            (fitted.a, known.a),
            (fitted.b, known.b),
            (fitted.tx, known.tx),
            (fitted.ty, known.ty),
        ] {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let [x, y] = fitted.inverse().apply(to[2]);
        assert!((x - 3.0).abs() < 1e-4 && (y - 4.0).abs() < 1e-4);
    }

    #[test]
    fn a_crop_beyond_the_border_is_black_there() {
        let image = image::GrayImage::from_pixel(4, 4, image::Luma([9]));
        let crop = CropRect {
            left: -2,
            top: 1,
            right: 3,
            bottom: 6,
        }
        .of(&image);
        assert_eq!(crop.dimensions(), (5, 5));
        assert_eq!(crop.get_pixel(1, 0).0, [0]);
        assert_eq!(crop.get_pixel(2, 0).0, [9]);
        assert_eq!(crop.get_pixel(2, 3).0, [0]);
    }
}
