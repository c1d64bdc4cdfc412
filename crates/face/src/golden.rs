//! The preprocessing against the worked example in `tests/golden`.

use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use serde_json::Value;

use crate::clip::faceless;
use crate::face::{Face, Landmarks};
use crate::geometry::{CropRect, face_square, outline, outline_square};
use crate::{ClipOptions, base_input, clip_input, mask, pixel_values};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The numbers of a little-endian f32 `.npy` file of version 1.
fn npy(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(path(name)).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

fn rgb(name: &str) -> RgbImage {
    image::open(path(name)).unwrap().into_rgb8()
}

fn grey(name: &str) -> GrayImage {
    image::open(path(name)).unwrap().into_luma8()
}

fn landmarks() -> Landmarks {
    let points: Vec<[f32; 2]> = npy("centre_landmarks.npy").as_chunks::<2>().0.to_vec();
    points.try_into().unwrap()
}

fn crops() -> Value {
    let text = std::fs::read_to_string(path("crops.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["centre"].clone()
}

fn corners(rect: CropRect) -> Value {
    serde_json::json!([rect.left, rect.top, rect.right, rect.bottom])
}

/// Mean and greatest difference in levels.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = each.clone().map(u64::from).sum();
    (sum as f64 / a.len() as f64, each.max().unwrap())
}

#[test]
fn crop_rectangles_are_exact() {
    let (landmarks, expected) = (landmarks(), crops());
    let face = face_square(&landmarks);
    assert_eq!(corners(face.rounded()), expected["clip_crop"]);
    assert_eq!(
        corners(face.scaled(2.0).rounded()),
        expected["arcface_crop"]
    );
    let square = outline_square(&outline(&landmarks));
    let rect = square.rounded();
    let expected = &expected["face_crop"];
    assert_eq!(
        serde_json::json!([rect.left, rect.top]),
        expected["crop_origin"]
    );
    assert_eq!(
        serde_json::json!([rect.width(), rect.height()]),
        expected["crop_size"]
    );
    assert_eq!(
        serde_json::json!(square.truncated_origin()),
        expected["paste_origin"]
    );
    for (found, name) in [(square.cx, "cx"), (square.cy, "cy"), (square.half, "half")] {
        assert!(
            (f64::from(found) - expected[name].as_f64().unwrap()).abs() < 1e-4,
            "{name}"
        );
    }
}

#[test]
fn masks_are_exact() {
    let outline = outline(&landmarks());
    let mask = mask::fill(
        &outline,
        outline_square(&outline).rounded(),
        CropRect::whole(4096, 4096),
    );
    assert_eq!(
        difference(&mask, &grey("centre_mask_polygon.png")),
        (0.0, 0)
    );
    assert_eq!(
        difference(&mask::soften(&mask), &grey("centre_mask_soft.png")),
        (0.0, 0)
    );
}

#[test]
fn clip_crops_are_exact() {
    let image = rgb("centre_image.png");
    let face = Face::from_landmarks(landmarks(), &image).unwrap();
    for (remove_background, grey) in [(false, false), (false, true), (true, false), (true, true)] {
        let opts = ClipOptions {
            remove_background,
            grey,
            ..ClipOptions::default()
        };
        let found = clip_input(&image, &face, &opts);
        let name = format!(
            "centre_clip224_nobg{}_gray{}.png",
            u8::from(remove_background),
            u8::from(grey)
        );
        assert_eq!(difference(&found.pixels, &rgb(&name)), (0.0, 0), "{name}");
        assert_eq!(corners(found.crop), crops()["clip_crop"]);
    }
}

#[test]
fn the_base_input_is_exact() {
    let image = rgb("centre_image.png");
    let face = Face::from_landmarks(landmarks(), &image).unwrap();
    let crop = face_square(&face.landmarks).rounded();
    let found = faceless(&image, &face, crop);
    assert_eq!(difference(&found, &rgb("centre_base_cond.png")), (0.0, 0));
    assert_eq!(
        base_input(&image, &face, 224).pixels.dimensions(),
        (224, 224)
    );
}

#[test]
fn pixel_values_are_the_reference_s() {
    let image = rgb("centre_image.png");
    let face = Face::from_landmarks(landmarks(), &image).unwrap();
    let found = pixel_values(&clip_input(&image, &face, &ClipOptions::default()).pixels);
    let expected = npy("centre_clip_pixel_values.npy");
    assert_eq!(found.len(), expected.len());
    let worst = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-6, "{worst}");
}
