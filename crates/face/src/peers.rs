//! The detector and the landmark model against what insightface makes of the same files (`tests/parity/face_models.py`).

use std::path::{Path, PathBuf};

use image::{RgbImage, imageops};
use serde::Deserialize;

use crate::face::{Detection, Keypoints};
use crate::landmarks::Landmarker;
use crate::recognizer::Recognizer;
use crate::scrfd::{Fit, Scrfd};
use crate::{arcface_input, template};

#[derive(Deserialize)]
struct Expected {
    detections: Vec<Detected>,
    landmarks: Vec<Placed>,
    embeddings: Vec<Embedded>,
}

#[derive(Deserialize)]
struct Detected {
    region: [u32; 4],
    side: u32,
    faces: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    bbox: [f32; 4],
    score: f32,
    keypoints: Keypoints,
}

#[derive(Deserialize)]
struct Placed {
    bbox: [f32; 4],
    points: Vec<[f32; 2]>,
}

#[derive(Deserialize)]
struct Embedded {
    keypoints: Keypoints,
    embedding: Vec<f32>,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(path("expected.json")).unwrap()).unwrap()
}

fn picture() -> RgbImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/astronaut.png");
    image::open(path).unwrap().into_rgb8()
}

fn farthest(found: &[f32], expected: &[f32]) -> f32 {
    let each = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

/// Greatest differences in pixels and in score.
fn difference(found: &Detection, expected: &Found) -> (f32, f32) {
    let keypoints = found.keypoints.unwrap();
    let pixels = farthest(&found.bbox, &expected.bbox).max(farthest(
        keypoints.as_flattened(),
        expected.keypoints.as_flattened(),
    ));
    (pixels, (found.score - expected.score).abs())
}

#[test]
fn boxes_and_key_points_are_insightface_s() {
    let (detector, picture) = (Scrfd::load(&path("scrfd.onnx")).unwrap(), picture());
    for case in expected().detections {
        let [left, top, right, bottom] = case.region;
        let part = imageops::crop_imm(&picture, left, top, right - left, bottom - top).to_image();
        let found = detector.detect_at(&part, case.side, Fit::Corner).unwrap();
        let name = format!("{:?} at {}", case.region, case.side);
        assert_eq!(found.len(), case.faces.len(), "{name}");
        for expected in &case.faces {
            // Not by their order: scores may be equal.
            let each = found.iter().map(|found| difference(found, expected));
            let (pixels, score) = each.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            assert!(
                pixels < 0.01 && score < 1e-3,
                "{name}: {pixels} px, {score}"
            );
        }
    }
}

#[test]
fn landmarks_are_insightface_s() {
    let (model, picture) = (
        Landmarker::load(&path("landmarks.onnx")).unwrap(),
        picture(),
    );
    for case in expected().landmarks {
        let found = model.predict(&picture, case.bbox).unwrap();
        let worst = farthest(found.as_flattened(), case.points.as_flattened());
        assert!(worst < 0.01, "{:?}: {worst} px", case.bbox);
    }
}

#[test]
fn embeddings_are_insightface_s() {
    let (model, picture) = (
        Recognizer::load(&path("recognizer.onnx")).unwrap(),
        picture(),
    );
    for case in expected().embeddings {
        let face = template::place(&Detection {
            bbox: [150.0, 50.0, 300.0, 180.0],
            score: 1.0,
            keypoints: Some(case.keypoints),
        });
        let found = model.embed(&arcface_input(&picture, &face)).unwrap();
        let cosine: f32 = found.iter().zip(&case.embedding).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999_99, "{cosine}");
    }
}
