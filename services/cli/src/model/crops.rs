//! From a photo's file to the face in it and what the models see of that face.

use std::{fs, path::Path, str::FromStr};

use candle_core::{Device, Tensor};
use clap::Args;
use image::RgbImage;
use likeness_bundle::{Bundle, Detector as DetectorPart};
use likeness_face::{
    ClipOptions, Detector, Face, FaceChoice, Limits, QualityReport, assess, choose, clip_input,
    decode, pixel_values,
};

use crate::fail::{Failure, failed};

/// The side of CLIP ViT-L/14's pictures, for bundles without a CLIP.
const USUAL_SIDE: u32 = 224;

/// How a face is taken out of a photo.
#[derive(Args)]
pub struct CropArgs {
    /// Which face: `largest`, `highest-score`, or a number, counted from 0 by falling score.
    #[arg(long, default_value = "largest", value_name = "WHICH")]
    face: Which,
    /// Leave the background in CLIP's picture instead of painting it grey.
    #[arg(long)]
    keep_background: bool,
    /// Take the colours out of CLIP's picture.
    #[arg(long)]
    grey: bool,
    /// Go on with a face that enrolment would refuse as too small, too blurred or too dark.
    #[arg(long)]
    any_quality: bool,
}

/// Which face of a photo is meant.
#[derive(Clone, Copy)]
enum Which {
    Largest,
    HighestScore,
    Number(usize),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "largest" => Ok(Self::Largest),
            "highest-score" => Ok(Self::HighestScore),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "expected `largest`, `highest-score` or a number from 0".to_owned()),
        }
    }
}

/// A face that was found in a photo.
pub struct Found {
    pub image: RgbImage,
    pub face: Face,
    pub quality: QualityReport,
}

/// What finds faces.
pub struct Finder {
    detector: Detector,
}

impl Finder {
    /// Loads a bundle's detector.
    pub fn load(bundle: &Bundle) -> Result<Self, Failure> {
        let detector = match bundle.face().map_err(failed)?.detector {
            DetectorPart::Frontal => Detector::builtin_frontal().map_err(failed)?,
            DetectorPart::Onnx(path) => {
                return Err(Failure::new(format!(
                    "{}: ONNX detectors are not built yet; use builtin = \"frontal\"",
                    path.display()
                )));
            }
        };
        Ok(Self { detector })
    }

    /// Finds the face that is meant in a photo's file.
    pub fn find(&self, path: &Path, args: &CropArgs) -> Result<Found, Failure> {
        let refused =
            |reason: &dyn std::fmt::Display| Failure::new(format!("{}: {reason}", path.display()));
        let image = read(path)?;
        let faces = self.detector.detect(&image);
        let face = pick(&faces, args.face).map_err(|reason| refused(&reason))?;
        let limits = if args.any_quality {
            no_limits()
        } else {
            Limits::default()
        };
        let quality = assess(&image, &face, faces.len(), &limits)
            .map_err(|rejection| refused(&format!("{rejection}; or go on with --any-quality")))?;
        Ok(Found {
            image,
            face,
            quality,
        })
    }
}

/// Reads and decodes a photo.
pub fn read(path: &Path) -> Result<RgbImage, Failure> {
    let bytes = fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    decode(&bytes, &Limits::default())
        .map_err(|rejection| Failure::new(format!("{}: {rejection}", path.display())))
}

fn pick(faces: &[Face], which: Which) -> Result<Face, String> {
    let largest = choose(faces, FaceChoice::Largest).map_err(|rejection| rejection.to_string())?;
    match which {
        Which::Largest => Ok(largest),
        Which::HighestScore => Ok(faces.first().cloned().unwrap_or(largest)),
        Which::Number(number) => faces.get(number).cloned().ok_or_else(|| {
            format!(
                "there is no face {number}: {} found, numbered from 0",
                faces.len()
            )
        }),
    }
}

/// Limits that every face keeps.
pub fn no_limits() -> Limits {
    Limits {
        min_face: 0,
        min_sharpness: 0.0,
        min_brightness: 0.0,
        ..Limits::default()
    }
}

impl CropArgs {
    /// How CLIP's picture is made.
    pub fn clip_options(&self, side: u32) -> ClipOptions {
        ClipOptions {
            remove_background: !self.keep_background,
            grey: self.grey,
            size: side,
        }
    }
}

/// CLIP's picture of a face as numbers, [1, 3, side, side].
pub fn clip_tensor(
    image: &RgbImage,
    face: &Face,
    options: &ClipOptions,
) -> Result<Tensor, Failure> {
    to_tensor(&clip_input(image, face, options).pixels)
}

/// A picture as CLIP's `pixel_values`, [1, 3, height, width].
pub fn to_tensor(picture: &RgbImage) -> Result<Tensor, Failure> {
    let shape = (1, 3, picture.height() as usize, picture.width() as usize);
    Tensor::from_vec(pixel_values(picture), shape, &Device::Cpu).map_err(failed)
}

/// The side of the pictures that a bundle's CLIP looks at; that of ViT-L/14 for a bundle without one.
pub fn clip_side(bundle: &Bundle) -> Result<u32, Failure> {
    match bundle.clip_image_size() {
        Ok(side) => u32::try_from(side).map_err(failed),
        Err(likeness_bundle::Error::MissingSection { .. }) => Ok(USUAL_SIDE),
        Err(error) => Err(failed(error)),
    }
}
