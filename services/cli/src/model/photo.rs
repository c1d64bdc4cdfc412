//! From a photo to what CLIP and ArcFace see of it.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use clap::Args;
use image::{ImageFormat, RgbImage};
use likeness_bundle::Bundle;
use likeness_face::{
    Face, FaceQuality, Landmarks, QualityReport, Took, arcface_input, base_input, clip_input,
    crop_rectangles,
};
use serde_json::{Value, json};

use super::{
    crops::{self, CropArgs, Finder, Found},
    tensors::to_file,
    whole::{self, Outputs},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::print_fields,
};

/// Which photo, and where to write what is seen of it.
#[derive(Args)]
pub struct PhotoArgs {
    /// The bundle whose face models and CLIP size are used.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: PathBuf,
    /// JPEG, PNG or WebP.
    #[arg(value_name = "IMG")]
    photo: PathBuf,
    /// The folder for `report.json`, `clip.png`, `clip.safetensors` and `arcface.png`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Take these 106 landmarks, `[[x, y], …]` in JSON, and detect nothing; `arcface.png` is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "face")]
    landmarks: Option<PathBuf>,
    /// Write the Base-LoRA's input, too: `base.png`, and `base_pixel_values` in `clip.safetensors`.
    #[arg(long)]
    base: bool,
    #[command(flatten)]
    crop: CropArgs,
}

/// Writes what the models see.
pub fn photo(args: &PhotoArgs, output: Output) -> Result<(), Failure> {
    let bundle = Bundle::open(&args.bundle).map_err(failed)?;
    let side = crops::clip_side(&bundle)?;
    let found = match &args.landmarks {
        Some(landmarks) => placed(&args.photo, landmarks)?,
        None => Finder::load(&bundle)?.find(&args.photo, &args.crop)?,
    };
    let mut outputs = Outputs::default();
    let report = report(&found);
    let text = serde_json::to_vec_pretty(&report).map_err(failed)?;
    outputs.add(args.out.join("report.json"), text);
    add_clip(&mut outputs, args, &found, side)?;
    if args.landmarks.is_none() {
        let aligned = arcface_input(&found.image, &found.face);
        outputs.add(args.out.join("arcface.png"), png(&aligned)?);
    }
    whole::folder(&args.out)?;
    outputs.commit()?;
    show(&found.quality, report, &args.out, output)
}

fn add_clip(
    outputs: &mut Outputs,
    args: &PhotoArgs,
    found: &Found,
    side: u32,
) -> Result<(), Failure> {
    let Found { image, face, .. } = found;
    let clip = clip_input(image, face, &args.crop.clip_options(side)).pixels;
    outputs.add(args.out.join("clip.png"), png(&clip)?);
    let mut tensors = vec![("pixel_values", crops::to_tensor(&clip)?)];
    if args.base {
        let base = base_input(image, face, side).pixels;
        outputs.add(args.out.join("base.png"), png(&base)?);
        tensors.push(("base_pixel_values", crops::to_tensor(&base)?));
    }
    let file = to_file(&tensors, std::collections::HashMap::new())?;
    outputs.add(args.out.join("clip.safetensors"), file);
    Ok(())
}

/// A face whose landmarks somebody else measured. Nothing was detected, and no quality is asked for.
fn placed(photo: &Path, landmarks: &Path) -> Result<Found, Failure> {
    let image = crops::read(photo)?;
    let landmarks_of = read_landmarks(landmarks)?;
    let face = Face::from_landmarks(landmarks_of, &image)
        .map_err(|error| Failure::new(format!("{}: {error}", landmarks.display())))?;
    let quality = QualityReport {
        image_width: image.width(),
        image_height: image.height(),
        faces_found: 1,
        face: Some(FaceQuality::measure(&image, &face)),
    };
    Ok(Found {
        image,
        face,
        quality,
        took: Took::default(),
    })
}

fn read_landmarks(path: &Path) -> Result<Landmarks, Failure> {
    let wrong = |reason: String| {
        Failure::new(format!(
            "{}: expected 106 landmarks as [[x, y], …]: {reason}",
            path.display()
        ))
    };
    let text = fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    let points: Vec<[f32; 2]> =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let count = points.len();
    points
        .try_into()
        .map_err(|_| wrong(format!("there are {count}")))
}

fn report(found: &Found) -> Value {
    let Found {
        image,
        face,
        quality,
        ..
    } = found;
    json!({
        "image": { "width": image.width(), "height": image.height() },
        "box": face.bbox,
        "score": face.score,
        "landmark_source": face.landmark_source,
        "landmarks": face.landmarks.as_slice(),
        "keypoints": face.keypoints,
        "crops": crop_rectangles(face),
        "quality": quality,
    })
}

/// A picture as a PNG file.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>, Failure> {
    let mut file = Cursor::new(Vec::new());
    picture
        .write_to(&mut file, ImageFormat::Png)
        .map_err(failed)?;
    Ok(file.into_inner())
}

/// The report without the landmarks, which are in its file.
fn show(
    quality: &QualityReport,
    mut report: Value,
    out: &Path,
    output: Output,
) -> Result<(), Failure> {
    if let Some(report) = report.as_object_mut() {
        report.remove("landmarks");
        report.insert("out".to_owned(), json!(out));
    }
    let face = |text: fn(&FaceQuality) -> String| quality.face.as_ref().map(text);
    let fields = [
        ("written to", Some(out.display().to_string())),
        ("faces found", Some(quality.faces_found.to_string())),
        ("face size", face(|face| format!("{} px", face.size))),
        ("sharpness", face(|face| format!("{:.3}", face.sharpness))),
        (
            "brightness",
            face(|face| format!("{:.0} of 255", face.brightness)),
        ),
        ("occlusion", face(|face| format!("{:.2}", face.occlusion))),
    ];
    let fields = fields.map(|(name, value)| (name, value.unwrap_or_default()));
    print_fields(output, &fields, &report)
}
