//! From a photo's file to the face in it and what the models see of that face.

use std::{fs, path::Path};

use candle_core::{Device, Tensor};
use clap::Args;
use image::RgbImage;
use likeness_bundle::Bundle;
use likeness_face::{
    ClipOptions, Face, FaceChoice, FaceModels, InspectError, Limits, QualityReport, Recognizer,
    Refused, Took, clip_input, decode, pixel_values,
};
use likeness_models::face_files;

use crate::fail::{Failure, failed};

/// The side of CLIP ViT-L/14's pictures, for bundles without a CLIP.
const USUAL_SIDE: u32 = 224;

/// How a face is taken out of a photo.
#[derive(Args)]
pub struct CropArgs {
    /// Which face: `largest`, `highest-score`, or a number, counted from 0 by falling score.
    #[arg(long, default_value = "largest", value_name = "WHICH", value_parser = which)]
    face: FaceChoice,
    /// Leave the background in CLIP's picture instead of painting it grey.
    #[arg(long)]
    keep_background: bool,
    /// Take the colours out of CLIP's picture.
    #[arg(long)]
    grey: bool,
    /// Go on with a face that enrolment would refuse as too small, too blurred, too dark or cut off.
    #[arg(long)]
    any_quality: bool,
}

/// Reads `--face`.
fn which(text: &str) -> Result<FaceChoice, String> {
    match text {
        "largest" => Ok(FaceChoice::Largest),
        "highest-score" => Ok(FaceChoice::HighestScore),
        number => number
            .parse()
            .map(FaceChoice::Index)
            .map_err(|_| "expected `largest`, `highest-score` or a number from 0".to_owned()),
    }
}

/// A face that was found in a photo.
pub struct Found {
    pub image: RgbImage,
    pub face: Face,
    pub quality: QualityReport,
    pub took: Took,
}

/// What finds faces.
pub struct Finder {
    models: FaceModels,
}

impl Finder {
    /// Loads a bundle's face models.
    pub fn load(bundle: &Bundle) -> Result<Self, Failure> {
        let part = bundle.face().map_err(failed)?;
        let models = FaceModels::load(&face_files(part)).map_err(failed)?;
        Ok(Self { models })
    }

    /// Recognises faces.
    pub fn recognizer(&self) -> &Recognizer {
        &self.models.recognizer
    }

    /// Finds the face that is meant in a photo's file.
    pub fn find(&self, path: &Path, args: &CropArgs) -> Result<Found, Failure> {
        let limits = if args.any_quality {
            no_limits()
        } else {
            Limits::default()
        };
        let bytes = read_bytes(path)?;
        let portrait = self
            .models
            .inspect(&bytes, args.face, &limits)
            .map_err(|error| {
                let hint = match &error {
                    InspectError::Refused(refused) if has_face(refused) => {
                        "; or go on with --any-quality"
                    }
                    _ => "",
                };
                Failure::new(format!("{}: {error}{hint}", path.display()))
            })?;
        Ok(Found {
            image: portrait.image,
            face: portrait.face,
            quality: portrait.report,
            took: portrait.took,
        })
    }
}

fn has_face(refused: &Refused) -> bool {
    refused
        .report
        .as_ref()
        .is_some_and(|report| report.face.is_some())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

/// Reads and decodes a photo.
pub fn read(path: &Path) -> Result<RgbImage, Failure> {
    decode(&read_bytes(path)?, &Limits::default())
        .map_err(|rejection| Failure::new(format!("{}: {rejection}", path.display())))
}

/// Limits that every face keeps.
fn no_limits() -> Limits {
    Limits {
        max_outside: 1.0,
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
pub fn clip_tensor(image: &RgbImage, face: &Face, options: ClipOptions) -> Result<Tensor, Failure> {
    to_tensor(&clip_input(image, face, &options).pixels)
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
