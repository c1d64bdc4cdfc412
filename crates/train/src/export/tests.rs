//! What the candle networks compute, the files compute, too, when `likeness-face` runs them.

use std::path::Path;

use candle_core::{DType, Device};
use image::{Rgb, RgbImage};
use likeness_face::{Detector, LandmarkView, Landmarker, Recognizer};
use likeness_sdxl::parts::{Variables, Weights};

use super::*;
use crate::crops::face_pictures;
use crate::{Chance, detector, landmarker};

/// A network with random weights, biases and slopes among them but for those that are given, and its tensors.
fn random<T>(load: impl Fn(&Weights) -> T, given: &[(&str, Vec<f32>)]) -> (T, Trained) {
    let variables = Variables::new(5, &Device::Cpu);
    let network = load(&Weights::variables(&variables, &Device::Cpu).pp("own"));
    for (name, var) in variables.all() {
        let own = given.iter().find(|(own, _)| name == format!("own.{own}"));
        if let Some((_, numbers)) = own {
            let numbers = Tensor::from_slice(numbers, var.dims(), &Device::Cpu);
            var.set(&numbers.unwrap()).unwrap();
        } else if var.dims().len() == 1 {
            let drawn = Chance::at(5, 0, &name).normal(var.dims(), &Device::Cpu);
            var.set(&(drawn.unwrap() * 0.2).unwrap()).unwrap();
        }
        // The file keeps matrices in f16: what it cannot hold is not looked at here.
        if var.rank() > 1 {
            let half = var.to_dtype(DType::F16).unwrap().to_dtype(DType::F32);
            var.set(&half.unwrap()).unwrap();
        }
    }
    (network, below(&variables.all(), "own"))
}

fn written(bytes: &[u8]) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&file, bytes).unwrap();
    file
}

fn noise(side: u32) -> RgbImage {
    let mut chance = Chance::at(9, 0, "picture");
    RgbImage::from_fn(side, side, |_, _| {
        Rgb([0; 3].map(|_: u8| chance.below(256) as u8))
    })
}

#[test]
fn the_recogniser_s_file_computes_the_same() {
    let (network, trained) = random(|w| recognizer::Recognizer::load(w).unwrap(), &[]);
    let file = written(&super::recognizer(&trained).unwrap());
    let picture = noise(112);
    let expected = network.forward(&face_pictures(&[&picture], &Device::Cpu).unwrap());
    let expected = crate::contrast::unit(&expected.unwrap()).unwrap();
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let found = Recognizer::load(&file).unwrap().embed(&picture).unwrap();
    close(&found, &expected);
}

#[test]
fn the_landmark_model_s_file_computes_the_same() {
    // Points that could be a face: around the middle, not on one spot.
    let spread = (0..212).map(|n| n as f32 / 212.0 - 0.5).collect();
    let load = |w: &Weights| landmarker::Landmarker::load(w).unwrap();
    let (network, trained) = random(load, &[("fc.bias", spread)]);
    let file = written(&landmarks(&trained).unwrap());
    let (picture, face) = (noise(300), [50.0, 60.0, 150.0, 170.0]);
    let view = LandmarkView::of(&picture, face);
    let pixels = landmarker::views(&[&view.pixels], &Device::Cpu).unwrap();
    let expected = network.forward(&pixels).unwrap().flatten_all().unwrap();
    let found = Landmarker::load(&file).unwrap().predict(&picture, face);
    let found: Vec<f32> = found.unwrap().iter().flat_map(|&p| view.seen(p)).collect();
    close(&found, &expected.to_vec1::<f32>().unwrap());
}

#[test]
fn the_detector_s_file_computes_the_same() {
    // The first anchor of each of the coarsest grid's sixteen positions sees a face.
    let given = [
        ("score32.bias", vec![40.0, -40.0]),
        ("score16.bias", vec![-40.0; 2]),
        ("score8.bias", vec![-40.0; 2]),
        ("bbox32.bias", vec![1.0; 8]),
    ];
    let load = |w: &Weights| detector::Detector::load(w).unwrap();
    let (network, trained) = random(load, &given);
    let file = written(&super::detector(&trained).unwrap());
    let picture = noise(128);
    let told = network
        .forward(&detector::pictures(&[&picture], &Device::Cpu).unwrap())
        .unwrap();
    let found = Detector::scrfd(Path::new(&*file))
        .unwrap()
        .detect(&picture)
        .unwrap();
    assert!(!found.is_empty());
    let boxes = told.boxes.get(0).unwrap().to_vec2::<f32>().unwrap();
    let points = told.points.get(0).unwrap().to_vec2::<f32>().unwrap();
    for face in found {
        let near = |expected: &Vec<f32>, own: &[f32]| {
            expected.iter().zip(own).all(|(a, b)| (a - b).abs() < 1e-4)
        };
        let same = (0..32).step_by(2).any(|n| {
            let at = [n / 2 % 4, n / 8].map(|k| (k * 32) as f32);
            let [left, top, right, bottom] = face.bbox;
            let own = [at[0] - left, at[1] - top, right - at[0], bottom - at[1]];
            let kps = face.keypoints.unwrap();
            let kps: Vec<f32> = kps
                .iter()
                .flat_map(|p| [p[0] - at[0], p[1] - at[1]])
                .collect();
            let scaled = |v: &[f32]| v.iter().map(|v| v / 32.0).collect::<Vec<_>>();
            let row = boxes.len() - 32 + n;
            near(&boxes[row], &scaled(&own)) && near(&points[row], &scaled(&kps))
        });
        assert!(same, "{face:?}");
    }
}

#[test]
fn a_missing_weight_is_named() {
    let error = super::recognizer(&Trained::new()).unwrap_err();
    assert!(error.to_string().contains("conv0.weight"), "{error}");
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}
