//! The crops of faces at a picture's edges against what Pillow makes of them (`tests/parity/face_crops.py`).

use std::path::{Path, PathBuf};

use image::{RgbImage, imageops};
use serde::Deserialize;

use crate::face::{Face, Landmarks};
use crate::{ClipOptions, base_input, clip_input};

#[derive(Deserialize)]
struct Case {
    name: String,
    region: [u32; 4],
    crop: [i32; 4],
    landmarks: Vec<[f32; 2]>,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/edges")
        .join(name)
}

fn open(path: &Path) -> RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// All views of a face, side by side.
fn views(image: &RgbImage, face: &Face, side: u32) -> RgbImage {
    let clip = |remove_background, grey| {
        let opts = ClipOptions {
            remove_background,
            grey,
            size: side,
        };
        clip_input(image, face, &opts).pixels
    };
    let views = [
        clip(false, false),
        clip(false, true),
        clip(true, false),
        clip(true, true),
        base_input(image, face, side).pixels,
    ];
    let mut row = RgbImage::new(5 * side, side);
    for (i, view) in (0..).zip(&views) {
        imageops::replace(&mut row, view, i64::from(i * side), 0);
    }
    row
}

#[test]
fn crops_at_the_edges_are_pillow_s() {
    let picture =
        open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/astronaut.png"));
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(path("cases.json")).unwrap()).unwrap();
    for case in cases {
        let [left, top, right, bottom] = case.region;
        let image = imageops::crop_imm(&picture, left, top, right - left, bottom - top).to_image();
        let landmarks: Landmarks = case.landmarks.try_into().unwrap();
        let face = Face::from_landmarks(landmarks, &image).unwrap();
        let expected = open(&path(&format!("{}.png", case.name)));
        let crop = clip_input(&image, &face, &ClipOptions::default()).crop;
        let found = views(&image, &face, expected.height());
        let differing = found.iter().zip(expected.iter()).filter(|(a, b)| a != b);
        let worst = differing.clone().map(|(a, b)| a.abs_diff(*b)).max();
        assert_eq!(
            [crop.left, crop.top, crop.right, crop.bottom],
            case.crop,
            "{}",
            case.name
        );
        assert_eq!(differing.count(), 0, "{}: {worst:?}", case.name);
    }
}
