//! A drawn person's picture, of good or poor quality, and where it lies in a square that a detector sees.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use likeness_face::Landmarks;
use likeness_portraits::{Identity, Setting, draw, keypoints, landmarks};

use super::backdrop::{clouds, mixed, shape};
use super::{Marked, between, colour, face_box};
use crate::Chance;

/// Sides of the drawn pictures; more weight lies on what models paint.
const SIDES: [u32; 8] = [64, 64, 64, 96, 128, 128, 192, 256];

/// A picture with its landmarks and key points.
pub(super) struct Portrait {
    pub picture: RgbImage,
    pub landmarks: Landmarks,
    keypoints: [[f32; 2]; 5],
}

impl Portrait {
    /// One of the first `people` in any setting.
    pub fn drawn(chance: &mut Chance, people: u64) -> Portrait {
        let person = chance.below(people as usize) as u64;
        Self::of(chance, person)
    }

    /// A person in any setting.
    pub fn of(chance: &mut Chance, person: u64) -> Portrait {
        let person = Identity::drawn(person);
        let setting = Setting::drawn(chance.below(1 << 24) as u64);
        let side = SIDES[chance.below(SIDES.len())];
        let mut picture = draw(&person, &setting, side);
        if chance.happens(0.6) {
            spoil(chance, &mut picture);
        }
        Portrait {
            picture,
            landmarks: landmarks(&person, &setting, side),
            keypoints: keypoints(&person, &setting, side),
        }
    }

    /// Hides the face behind one colour, which may be the skin's.
    pub fn cover(&mut self, chance: &mut Chance) {
        let [left, top, right, bottom] = face_box(&self.landmarks);
        let middle = [f32::midpoint(left, right), f32::midpoint(top, bottom)].map(f64::from);
        let larger = between(chance, 1.0, 1.2);
        let half = [right - left, bottom - top].map(|size| larger * f64::from(size) / 2.0);
        let nose = self.keypoints[2];
        let skin = *self.picture.get_pixel(nose[0] as u32, nose[1] as u32);
        let ink = if chance.happens(0.5) {
            skin
        } else {
            colour(chance)
        };
        let disc = chance.happens(0.7);
        shape(&mut self.picture, middle, half, disc, ink);
    }

    /// Cuts the face into tiles and puts them back in another order, or upside down.
    pub fn muddle(&mut self, chance: &mut Chance) {
        const TILES: u32 = 3;
        let [left, top, right, bottom] = face_box(&self.landmarks).map(|v| v.max(0.0) as u32);
        let size = [(right - left) / TILES, (bottom - top) / TILES];
        let mut order: Vec<u32> = (0..TILES * TILES).rev().collect();
        if chance.happens(0.7) {
            for last in (1..order.len()).rev() {
                order.swap(last, chance.below(last + 1));
            }
        }
        let whole = self.picture.clone();
        let place = |tile: u32| (left + tile % TILES * size[0], top + tile / TILES * size[1]);
        for (to, from) in (0..).zip(order) {
            let ((x, y), (u, v)) = (place(to), place(from));
            let tile = imageops::crop_imm(&whole, u, v, size[0], size[1]).to_image();
            let tile = imageops::rotate180(&tile);
            imageops::replace(&mut self.picture, &tile, i64::from(x), i64::from(y));
        }
    }

    /// Draws it into a picture, with bilinear interpolation and without antialiasing, as detectors' inputs are made.
    pub fn put(&self, onto: &mut RgbImage, placement: &Placement) {
        let last = (self.picture.width() - 1) as f32;
        for (x, y, pixel) in onto.enumerate_pixels_mut() {
            let place = [x as f32 + 0.5, y as f32 + 0.5];
            let [u, v] = [0, 1].map(|k| (place[k] - placement.at[k]) / placement.scale - 0.5);
            let inside = |w: f32| (-0.5..last + 0.5).contains(&w);
            if inside(u) && inside(v) {
                *pixel = self.at(u.clamp(0.0, last), v.clamp(0.0, last));
            }
        }
    }

    fn at(&self, u: f32, v: f32) -> Rgb<u8> {
        let last = self.picture.width() - 1;
        let (x, y) = (u as u32, v as u32);
        let get = |dx: u32, dy: u32| {
            *self
                .picture
                .get_pixel((x + dx).min(last), (y + dy).min(last))
        };
        let share = u - x as f32;
        let above = mixed(get(0, 0), get(1, 0), share);
        let below = mixed(get(0, 1), get(1, 1), share);
        mixed(above, below, v - y as f32)
    }
}

/// Makes a picture as poor as what a model paints or a photo becomes: soft, stained, noisy, of other light and colour.
fn spoil(chance: &mut Chance, picture: &mut RgbImage) {
    let side = picture.width();
    if chance.happens(0.6) {
        let small = (f64::from(side) * between(chance, 0.35, 0.9)) as u32;
        let filter = FilterType::Triangle;
        let small = imageops::resize(picture, small.max(24), small.max(24), filter);
        *picture = imageops::resize(&small, side, side, filter);
    }
    if chance.happens(0.5) {
        let stains = clouds(chance, side);
        let share = between(chance, 0.03, 0.22) as f32;
        let stained = picture.pixels_mut().zip(stains.pixels());
        stained.for_each(|(own, other)| *own = mixed(*own, *other, share));
    }
    let noise = f64::from(u8::from(chance.happens(0.5))) * between(chance, 3.0, 30.0);
    let (gain, lift) = (between(chance, 0.6, 1.3), between(chance, -25.0, 25.0));
    let grey = chance.happens(0.1);
    for pixel in picture.pixels_mut() {
        let mean = pixel.0.iter().map(|&v| f64::from(v)).sum::<f64>() / 3.0;
        for level in &mut pixel.0 {
            let own = if grey { mean } else { f64::from(*level) };
            let off = noise * (2.0 * chance.uniform() - 1.0);
            *level = (own * gain + lift + off).clamp(0.0, 255.0) as u8;
        }
    }
}

/// Where a portrait lies.
pub(super) struct Placement {
    /// Pixels for one of the portrait's.
    scale: f32,
    /// Its upper left corner.
    at: [f32; 2],
}

impl Placement {
    /// As detection places photos, most of the time; otherwise anywhere, of any size, partly outside. And whether all around is
    /// black.
    pub fn drawn(chance: &mut Chance, portrait: &Portrait, side: u32) -> (Placement, bool) {
        let (side, own) = (side as f32, portrait.picture.width() as f32);
        let kind = chance.uniform();
        if kind < 0.3 {
            let at = [0.0; 2];
            let scale = side / own;
            return (Placement { scale, at }, true);
        }
        if kind < 0.42 {
            let at = [side / 4.0; 2];
            let scale = side / 2.0 / own;
            return (Placement { scale, at }, true);
        }
        let [left, top, right, bottom] = face_box(&portrait.landmarks);
        let longer = (right - left).max(bottom - top);
        if kind < 0.62 {
            // The second look's part of a photo is three times as large as the face.
            let size = side * between(chance, 0.28, 0.42) as f32;
            let middle = [0; 2].map(|_: u8| side * between(chance, 0.44, 0.56) as f32);
            let placement = Self::with_face(portrait, size / longer, middle);
            return (placement, chance.happens(0.7));
        }
        // All sizes of faces that a detector can tell, the larger ones rarer.
        let size = 17.0 * (122f64 / 17.0).powf(chance.uniform()) as f32;
        let middle = [0; 2].map(|_: u8| {
            let inside = f64::from(0.22 * size / side).min(0.4);
            side * between(chance, inside, 1.0 - inside) as f32
        });
        let placement = Self::with_face(portrait, size / longer, middle);
        (placement, chance.happens(0.2))
    }

    /// With the face beyond one of the borders.
    pub fn outside(chance: &mut Chance, portrait: &Portrait, side: u32) -> Placement {
        let [left, top, right, bottom] = face_box(&portrait.landmarks);
        let longer = (right - left).max(bottom - top);
        let side = side as f32;
        let size = side * between(chance, 0.4, 1.5) as f32;
        let beyond = 0.6 * size;
        let along = side * chance.uniform() as f32;
        let middle = match chance.below(4) {
            0 => [-beyond, along],
            1 => [side + beyond, along],
            _ => [along, -beyond],
        };
        Self::with_face(portrait, size / longer, middle)
    }

    /// At a scale, with the middle of the face's box in this place.
    fn with_face(portrait: &Portrait, scale: f32, middle: [f32; 2]) -> Placement {
        let [left, top, right, bottom] = face_box(&portrait.landmarks);
        let own = [f32::midpoint(left, right), f32::midpoint(top, bottom)];
        let at = [0, 1].map(|k| middle[k] - scale * own[k]);
        Placement { scale, at }
    }

    /// Where the portrait's face then is.
    pub fn marked(&self, portrait: &Portrait) -> Marked {
        let put = |[x, y]: [f32; 2]| [self.at[0] + self.scale * x, self.at[1] + self.scale * y];
        let [left, top, right, bottom] = face_box(&portrait.landmarks);
        let ([left, top], [right, bottom]) = (put([left, top]), put([right, bottom]));
        Marked {
            bbox: [left, top, right, bottom],
            keypoints: portrait.keypoints.map(put),
        }
    }
}
