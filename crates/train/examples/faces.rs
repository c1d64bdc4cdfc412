//! Trains the face detector and the landmark model of a recipe, writes them as ONNX files, and measures them on people who were
//! held out: `faces RECIPE OUT PHOTO`.
#![allow(clippy::print_stdout, reason = "its output is the measurement")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use image::RgbImage;
use likeness_face::{Detector, DetectorFile, FaceFiles, FaceModels, LandmarkSource, Landmarks};
use likeness_portraits::{Identity, Setting, draw, keypoints, landmarks};
use likeness_sdxl::parts::{Variables, Weights};
use likeness_train::{
    Chance, base, export, recipe::Recipe, recognizer::Recognizer, run::Progress, scenes,
};

/// People and faceless pictures of each measurement.
const COUNT: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, out, photo] = args.as_slice() else {
        return Err("expected: faces RECIPE OUT PHOTO".into());
    };
    let (recipe, out) = (Recipe::read(Path::new(recipe))?, Path::new(out));
    let files = train(&recipe, out)?;
    let models = FaceModels::load(&files)?;
    for side in [64, 128, 256, 512] {
        println!("{side} px: {}", Measured::of(&models, &recipe, side)?);
    }
    faceless(&files, &recipe)?;
    real(&models, &image::open(photo)?.into_rgb8())
}

/// Trains what is not trained yet; the recogniser, which only has to be there, is left at random.
fn train(recipe: &Recipe, out: &Path) -> Result<FaceFiles, Box<dyn Error>> {
    let mut watch = |p: Progress<'_>| {
        if p.done.is_multiple_of(50) {
            println!(
                "{} {}/{} loss {:.4} {:.2}/s",
                p.stage, p.done, p.steps, p.loss, p.rate
            );
        }
        ControlFlow::Continue(())
    };
    let (trained, _) = base::train_faces(recipe, out, &Device::Cpu, &mut watch)?;
    let random = Variables::new(1, &Device::Cpu);
    Recognizer::load(&Weights::variables(&random, &Device::Cpu).pp("face"))?;
    let detector = export::detector(&export::below(&trained, "detector"))?;
    let landmarks = export::landmarks(&export::below(&trained, "landmarks"))?;
    let recognizer = export::recognizer(&export::below(&random.all(), "face"))?;
    let write = |name: &str, bytes: &[u8]| -> std::io::Result<PathBuf> {
        println!("{name}: {} bytes", bytes.len());
        let path = out.join(name);
        std::fs::write(&path, bytes).map(|()| path)
    };
    Ok(FaceFiles {
        detector: DetectorFile::OnnxThenBuiltin(write("detector.onnx", &detector)?),
        landmarks: Some(write("landmarks.onnx", &landmarks)?),
        recognizer: write("random-recognizer.onnx", &recognizer)?,
    })
}

/// Of pictures of one size.
#[derive(Default)]
struct Measured {
    found: u64,
    several: u64,
    stood_in: u64,
    keypoints: Vec<f32>,
    landmarks: Vec<f32>,
    milliseconds: f64,
}

impl Measured {
    fn of(models: &FaceModels, recipe: &Recipe, side: u32) -> Result<Measured, Box<dyn Error>> {
        let mut all = Measured::default();
        for n in 0..COUNT {
            let person = Identity::drawn(recipe.portraits.shown() + n % recipe.portraits.held_out);
            let setting = Setting::drawn((1 << 32) + n);
            let picture = draw(&person, &setting, side);
            let (points, marks) = (
                keypoints(&person, &setting, side),
                landmarks(&person, &setting, side),
            );
            let start = Instant::now();
            let faces = models.detector.detect(&picture)?;
            all.milliseconds += start.elapsed().as_secs_f64() * 1e3 / COUNT as f64;
            let Some(face) = faces.first() else { continue };
            all.several += u64::from(faces.len() > 1);
            let face = models.face(&picture, face)?;
            let extent = extent(&marks);
            let off = mean_distance(&face.keypoints, &points) / extent;
            if face.landmark_source == LandmarkSource::Template {
                all.stood_in += 1;
            } else if off < 0.5 {
                all.found += 1;
                all.keypoints.push(off);
                all.landmarks
                    .push(mean_distance(&face.landmarks, &marks) / extent);
            }
        }
        Ok(all)
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mean = |of: &[f32]| 100.0 * of.iter().sum::<f32>() / of.len().max(1) as f32;
        let worst = |of: &[f32]| 100.0 * of.iter().copied().fold(0.0, f32::max);
        write!(
            f,
            "{} of {COUNT} found ({} by the built-in detector besides, {} with more than one face), {:.1} ms; key points off by \
             {:.2} % (worst {:.2} %), landmarks by {:.2} % (worst {:.2} %) of the face's extent",
            self.found,
            self.stood_in,
            self.several,
            self.milliseconds,
            mean(&self.keypoints),
            worst(&self.keypoints),
            mean(&self.landmarks),
            worst(&self.landmarks),
        )
    }
}

/// The longer side of the landmarks' extent.
fn extent(marks: &Landmarks) -> f32 {
    let spread = |axis: usize| {
        let of = marks.iter().map(|p| p[axis]);
        of.clone().fold(f32::MIN, f32::max) - of.fold(f32::MAX, f32::min)
    };
    spread(0).max(spread(1))
}

fn mean_distance(found: &[[f32; 2]], points: &[[f32; 2]]) -> f32 {
    let off = found
        .iter()
        .zip(points)
        .map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
    off.sum::<f32>() / points.len() as f32
}

/// How often a face is seen where there is none.
fn faceless(files: &FaceFiles, recipe: &Recipe) -> Result<(), Box<dyn Error>> {
    let DetectorFile::OnnxThenBuiltin(path) = &files.detector else {
        return Ok(());
    };
    let (own, both) = (Detector::scrfd(path)?, Detector::scrfd_then_frontal(path)?);
    let (mut by_own, mut by_both) = (0, 0);
    for n in 0..COUNT {
        let mut chance = Chance::at(recipe.seed + 1, n, "faceless");
        let picture: RgbImage = scenes::faceless(&mut chance, recipe.portraits.people, 256);
        by_own += u64::from(!own.detect(&picture)?.is_empty());
        by_both += u64::from(!both.detect(&picture)?.is_empty());
    }
    println!(
        "faces seen in {COUNT} faceless pictures: in {by_own} by the file, in {by_both} with the built-in detector behind it"
    );
    Ok(())
}

/// Whether a real face is found, and by which of the two.
fn real(models: &FaceModels, photo: &RgbImage) -> Result<(), Box<dyn Error>> {
    let faces = models.detector.detect(photo)?;
    let Some(found) = faces.first() else {
        println!("the photo: no face");
        return Ok(());
    };
    let face = models.face(photo, found)?;
    println!("the photo: {} faces, the first {:?}", faces.len(), face);
    Ok(())
}
