//! The face models' file contracts, and the way of a photo through all three ONNX files.
//!
//! `tests/peers` has the graphs of SCRFD and 2d106det with random weights, and a detector made by hand whose faces are red
//! spots (`tests/parity/face_models.py`).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::{ImageFormat, Rgb, RgbImage};
use likeness_face::{
    Detector, DetectorFile, FaceChoice, FaceError, FaceFiles, FaceModels, InspectError,
    LandmarkSource, Limits, Portrait, Recognizer, Rejection, arcface_input,
};
use prost::Message;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_shape_proto::dimension::Value, type_proto};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

fn changed(name: &str, change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = ModelProto::decode(bytes(name).as_slice()).unwrap();
    change(&mut model);
    model.encode_to_vec()
}

/// Loads the bytes in the place of one of the three files; the detector is that of spots otherwise.
fn load(role: &str, bytes: &[u8]) -> Result<FaceModels, FaceError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let own = |name: &str, other: &str| {
        if name == role {
            file.path().to_owned()
        } else {
            path(other)
        }
    };
    FaceModels::load(&FaceFiles {
        detector: DetectorFile::Onnx(own("scrfd", "spots.onnx")),
        landmarks: Some(own("landmarks", "landmarks.onnx")),
        recognizer: own("recognizer", "recognizer.onnx"),
    })
}

/// The role's name in an error, for each of the files.
const ROLES: [(&str, &str); 3] = [
    ("scrfd", "face detector"),
    ("landmarks", "landmark model"),
    ("recognizer", "face recogniser"),
];

#[test]
fn the_three_files_load() {
    for (role, _) in ROLES {
        assert!(load(role, &bytes(&format!("{role}.onnx"))).is_ok());
    }
}

#[test]
fn each_file_in_the_place_of_another_is_named_with_what_was_expected() {
    for (role, name) in ROLES {
        for (other, _) in ROLES.iter().filter(|(other, _)| *other != role) {
            let error = load(role, &bytes(&format!("{other}.onnx"))).unwrap_err();
            assert!(matches!(error, FaceError::Contract { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(name) && text.contains("expected") && text.contains("found"),
                "{text}"
            );
        }
    }
}

#[test]
fn damaged_files_are_errors_and_no_panics() {
    for (role, name) in ROLES {
        let whole = bytes(&format!("{role}.onnx"));
        let lengths = [
            0,
            1,
            7,
            100,
            whole.len() / 3,
            whole.len() / 2,
            whole.len() - 40,
        ];
        let cut = lengths.iter().map(|length| whole[..*length].to_vec());
        for damaged in cut.chain([b"not onnx at all".to_vec(), vec![0xff; 4096]]) {
            let length = damaged.len();
            let error = load(role, &damaged).map(|_| ()).unwrap_err();
            assert!(
                matches!(error, FaceError::Load { .. } | FaceError::Contract { .. }),
                "{role} cut to {length}: {error}"
            );
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

/// The detector of spots with the built-in one behind it.
fn spots_then_frontal() -> FaceModels {
    FaceModels::load(&FaceFiles {
        detector: DetectorFile::OnnxThenBuiltin(path("spots.onnx")),
        landmarks: Some(path("landmarks.onnx")),
        recognizer: path("recognizer.onnx"),
    })
    .unwrap()
}

#[test]
fn the_built_in_detector_looks_where_the_file_s_finds_nobody() {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/astronaut.png");
    // In grey, so that nothing of it is a red spot.
    let photo = image::open(photo).unwrap().into_luma8();
    let photo = image::DynamicImage::from(photo).into_rgb8();
    let models = spots_then_frontal();
    let found = models.detector.detect(&photo).unwrap();
    let alone = Detector::builtin_frontal().unwrap().detect(&photo).unwrap();
    assert!(!alone.is_empty() && found == alone);
    let face = models.face(&photo, &found[0]).unwrap();
    assert_eq!(face.landmark_source, LandmarkSource::Template);
}

#[test]
fn the_built_in_detector_is_not_asked_where_the_file_s_finds_somebody() {
    let models = spots_then_frontal();
    let picture = with_spots(640, 480, &[(304, 208, 48)]);
    let found = models.detector.detect(&picture).unwrap();
    let alone = Detector::scrfd(&path("spots.onnx")).unwrap();
    assert!(!found.is_empty() && found == alone.detect(&picture).unwrap());
    let face = models.face(&picture, &found[0]).unwrap();
    assert_eq!(face.landmark_source, LandmarkSource::Predicted);
    let nobody = RgbImage::from_pixel(320, 240, Rgb([90, 120, 200]));
    assert!(models.detector.detect(&nobody).unwrap().is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let error = Detector::scrfd(Path::new("/nowhere/scrfd.onnx")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/scrfd.onnx"), "{error}");
}

/// Sets all weights of the given shape, or the largest ones, to one value.
fn set_weights(model: &mut ModelProto, shape: &[i64], value: f32) {
    let weights = &mut model.graph.as_mut().unwrap().initializer;
    let largest = weights.iter().map(|w| w.raw_data.len()).max();
    let meant = |w: &TensorProto| {
        w.dims == shape || (shape.is_empty() && Some(w.raw_data.len()) == largest)
    };
    for weight in weights.iter_mut().filter(|w| meant(w)) {
        for number in weight.raw_data.as_chunks_mut::<4>().0 {
            *number = value.to_le_bytes();
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused_when_loaded() {
    for (role, name) in ROLES {
        for value in [f32::NAN, f32::INFINITY] {
            let file = format!("{role}.onnx");
            let error = load(role, &changed(&file, |m| set_weights(m, &[], value))).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("NaN or infinity") && text.contains(name),
                "{text}"
            );
        }
    }
}

#[test]
fn outputs_that_are_no_numbers_are_the_model_s_fault() {
    for (role, name) in ROLES {
        let file = format!("{role}.onnx");
        // The detector's boxes come straight from weights of this shape.
        let shape: &[i64] = if role == "scrfd" { &[8, 12, 3, 3] } else { &[] };
        let overflowing = changed(&file, |m| set_weights(m, shape, f32::MAX));
        let models = load(role, &overflowing).unwrap();
        let image = RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 9]));
        let failed = match role {
            "scrfd" => models.detector.detect(&image).map(|_| ()),
            "landmarks" => models
                .face(
                    &image,
                    &likeness_face::Detection {
                        bbox: [10.0, 10.0, 50.0, 50.0],
                        score: 1.0,
                        keypoints: None,
                    },
                )
                .map(|_| ()),
            _ => models
                .recognizer
                .embed(&RgbImage::new(112, 112))
                .map(|_| ()),
        };
        let text = failed.unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("NaN"), "{text}");
    }
}

#[test]
fn outputs_that_are_no_detector_s_are_refused() {
    let eight = changed("scrfd.onnx", |m| {
        m.graph.as_mut().unwrap().output.pop();
    });
    // A box output twice, and no key points at stride 8.
    let doubled = changed("scrfd.onnx", |m| {
        let outputs = &mut m.graph.as_mut().unwrap().output;
        outputs[6] = outputs[3].clone();
    });
    for wrong in [eight, doubled] {
        let error = load("scrfd", &wrong).unwrap_err();
        assert!(matches!(error, FaceError::Contract { .. }), "{error}");
        assert!(error.to_string().contains("nine f32 outputs"), "{error}");
    }
}

#[test]
fn the_order_of_the_detector_s_outputs_does_not_matter() {
    let shuffled = changed("scrfd.onnx", |m| m.graph.as_mut().unwrap().output.reverse());
    let picture = RgbImage::from_fn(320, 200, |x, y| {
        Rgb([(x * y) as u8, x as u8, (x ^ y) as u8])
    });
    let detect = |models: FaceModels| models.detector.detect(&picture).unwrap();
    let (plain, shuffled) = (
        detect(load("scrfd", &bytes("scrfd.onnx")).unwrap()),
        detect(load("scrfd", &shuffled).unwrap()),
    );
    assert!(!plain.is_empty() && plain == shuffled);
}

/// Fixes the sides of a detector's input, as some exports do.
fn fixed_to(side: i64) -> Vec<u8> {
    changed("spots.onnx", |model| {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let r#type = input.r#type.as_mut().unwrap().value.as_mut().unwrap();
        let type_proto::Value::TensorType(tensor) = r#type;
        for dim in &mut tensor.shape.as_mut().unwrap().dim[2..] {
            dim.value = Some(Value::DimValue(side));
        }
    })
}

#[test]
fn a_detector_of_one_fixed_size_runs_at_that_size() {
    let models = load("scrfd", &fixed_to(320)).unwrap();
    let picture = with_spots(640, 640, &[(304, 304, 48)]);
    assert_eq!(models.detector.detect(&picture).unwrap().len(), 1);
    for side in [100, 8192, 1 << 40] {
        let error = load("scrfd", &fixed_to(side)).map(|_| ()).unwrap_err();
        assert!(
            error.to_string().contains("face detector"),
            "{side}: {error}"
        );
    }
}

/// The detector of spots with the two other files.
fn models() -> &'static FaceModels {
    static MODELS: OnceLock<FaceModels> = OnceLock::new();
    MODELS.get_or_init(|| load("scrfd", &bytes("spots.onnx")).unwrap())
}

/// Red discs (middle, radius) with darker rings on grey: faces, for the detector of spots.
fn with_spots(width: u32, height: u32, spots: &[(i32, i32, i32)]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let distance = |(cx, cy, _): &(i32, i32, i32)| {
            f64::from((x as i32 - cx).pow(2) + (y as i32 - cy).pow(2)).sqrt()
        };
        let spot = spots.iter().find(|spot| distance(spot) < f64::from(spot.2));
        spot.map_or(Rgb([128; 3]), |spot| {
            let ring = (distance(spot) as u32 / 4) % 2;
            Rgb([255 - 25 * ring as u8, 0, 0])
        })
    })
}

fn inspect(image: &RgbImage, choice: FaceChoice) -> Result<Portrait, InspectError> {
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).unwrap();
    let limits = Limits {
        min_face: 20,
        ..Limits::default()
    };
    models().inspect(png.get_ref(), choice, &limits)
}

fn reason(image: &RgbImage, choice: FaceChoice) -> Option<Rejection> {
    match inspect(image, choice) {
        Ok(_) => None,
        Err(InspectError::Refused(refused)) => Some(refused.reason),
        Err(InspectError::Model(error)) => panic!("{error}"),
    }
}

#[test]
fn a_photo_goes_through_all_three_files() {
    let portrait = inspect(&with_spots(640, 480, &[(304, 208, 48)]), FaceChoice::Only).unwrap();
    assert_eq!(portrait.face.landmark_source, LandmarkSource::Predicted);
    let quality = portrait.report.face.unwrap();
    assert!((80..=110).contains(&quality.size), "{quality:?}");
    assert!(quality.detector_score > 0.5);
    let aligned = arcface_input(&portrait.image, &portrait.face);
    let embedding = models().recognizer.embed(&aligned).unwrap();
    let length: f32 = embedding.iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-5);
}

#[test]
fn ten_faces_need_a_choice() {
    let places: Vec<(i32, i32, i32)> = (0..10)
        .map(|i| (56 + 112 * (i % 5), 152 + 256 * (i / 5), 24))
        .collect();
    let ten = with_spots(640, 640, &places);
    assert_eq!(
        reason(&ten, FaceChoice::Only),
        Some(Rejection::SeveralFaces { found: 10 })
    );
    assert_eq!(reason(&ten, FaceChoice::Largest), None);
    assert_eq!(reason(&ten, FaceChoice::HighestScore), None);
    let of = |i| inspect(&ten, FaceChoice::Index(i)).unwrap();
    for i in 0..10 {
        assert_eq!(
            of(i).face.bbox.map(f32::to_bits),
            of(i).faces[i].bbox.map(f32::to_bits)
        );
    }
    let beyond = Some(Rejection::NoSuchFace {
        index: 10,
        found: 10,
    });
    assert_eq!(reason(&ten, FaceChoice::Index(10)), beyond);
}

#[test]
fn the_largest_is_not_always_the_surest() {
    let two = with_spots(640, 480, &[(150, 200, 46), (440, 200, 24)]);
    let largest = inspect(&two, FaceChoice::Largest).unwrap();
    assert_eq!(largest.faces.len(), 2);
    assert!(largest.face.size() > 90.0);
    let surest = inspect(&two, FaceChoice::HighestScore).unwrap();
    assert!(largest.faces.iter().all(|f| f.score <= surest.face.score));
}

#[test]
fn nobody_is_no_face() {
    let nobody = RgbImage::from_pixel(320, 240, Rgb([90, 120, 200]));
    assert_eq!(
        reason(&nobody, FaceChoice::Largest),
        Some(Rejection::NoFace)
    );
    assert_eq!(
        reason(&RgbImage::new(3000, 2), FaceChoice::Largest),
        Some(Rejection::NoFace)
    );
    assert_eq!(
        reason(&RgbImage::new(1, 1), FaceChoice::Only),
        Some(Rejection::NoFace)
    );
}

#[test]
fn large_faces_are_found_at_smaller_sides_and_amid_black() {
    // Boxes have three cells of 32 pixels, a cell being larger in the photo the smaller the side is.
    let width = |side: f32| 96.0 * 640.0 / side;
    let found = |radius| {
        let image = with_spots(640, 640, &[(320, 320, radius)]);
        let faces = models().detector.detect(&image).unwrap();
        let largest = faces
            .iter()
            .map(likeness_face::Detection::size)
            .fold(0.0, f32::max);
        (!faces.is_empty()).then_some(largest)
    };
    for (radius, expected) in [(60, width(640.0)), (80, width(512.0)), (104, width(384.0))] {
        let size = found(radius).unwrap();
        assert!(
            (size - expected).abs() < 0.1,
            "{radius}: {size}, not {expected}"
        );
    }
    // At 256 it lies between cells, in the middle of a square of twice the photo's size it does not.
    let size = found(120).unwrap();
    assert!((size - width(320.0)).abs() < 0.1, "{size}");
    assert_eq!(found(300), None);
}

#[test]
fn a_recogniser_alone_checks_its_input() {
    let recognizer = Recognizer::load(&path("recognizer.onnx")).unwrap();
    assert!(recognizer.embed(&RgbImage::new(111, 112)).is_err());
}
