//! From a sample of the data to what the stages look at: the square that is painted, and the crops of enrolment.

use std::fmt;

use image::RgbImage;
use image::imageops::{self, FilterType};
use likeness_face::{
    ClipOptions, Face, FaceChoice, FaceError, FaceModels, Landmarks, Rejection, arcface_input,
    base_input, choose, clip_input,
};
use likeness_webdataset::Sample;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::recognizer::EMBEDDING;

/// A sample with its face.
pub(super) struct Prepared {
    /// What is painted, a square.
    pub picture: RgbImage,
    /// CLIP's view of the face.
    pub clip: RgbImage,
    /// CLIP's view with the face blurred.
    pub base: RgbImage,
    /// The face's embedding, of unit length.
    pub face: [f32; EMBEDDING],
    pub caption: String,
}

/// Samples that were read and left out, by what is the matter with their faces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    faceless: u64,
    several: u64,
    small: u64,
    /// Landmarks that make no face, theirs or a model's.
    misplaced: u64,
}

/// Why one was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Faceless,
    Several,
    Small,
    Misplaced,
}

impl Left {
    pub fn add(&mut self, why: Why) {
        *match why {
            Why::Faceless => &mut self.faceless,
            Why::Several => &mut self.several,
            Why::Small => &mut self.small,
            Why::Misplaced => &mut self.misplaced,
        } += 1;
    }

    pub fn total(&self) -> u64 {
        self.faceless + self.several + self.small + self.misplaced
    }
}

impl fmt::Display for Left {
    /// A line for each reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = [
            ("no face", self.faceless),
            ("several faces", self.several),
            ("face too small", self.small),
            ("landmarks that make no face", self.misplaced),
        ];
        for (reason, count) in reasons {
            writeln!(f, "{reason}: {count}")?;
        }
        Ok(())
    }
}

/// What samples are prepared with.
pub(super) struct Preparer {
    pub faces: FaceModels,
    /// Side of what is painted, in pixels.
    pub side: u32,
    /// Side of CLIP's views.
    pub clip_side: u32,
    /// The least shorter side of a face's box, in pixels of the stored picture.
    pub smallest_face: u32,
}

impl Preparer {
    /// A sample's crops, or why it is left out.
    ///
    /// # Errors
    /// A face model that fails whatever the picture.
    pub fn prepare(&self, sample: &Sample) -> Result<Result<Prepared, Why>, Error> {
        let image = &sample.image;
        let face = match self.face(image, sample.landmarks.as_deref())? {
            Ok(face) => face,
            Err(why) => return Ok(Err(why)),
        };
        if face.size() < self.smallest_face as f32 {
            return Ok(Err(Why::Small));
        }
        let options = ClipOptions {
            size: self.clip_side,
            ..ClipOptions::default()
        };
        let aligned = arcface_input(image, &face);
        let Some(embedding) = of_picture(self.faces.recognizer.embed(&aligned))? else {
            return Ok(Err(Why::Misplaced));
        };
        Ok(Ok(Prepared {
            picture: square(image, &face, self.side),
            clip: clip_input(image, &face, &options).pixels,
            base: base_input(image, &face, self.clip_side).pixels,
            face: embedding,
            caption: sample.caption.clone(),
        }))
    }

    /// The one face of a picture: where the sample says, or where the detector finds it.
    fn face(
        &self,
        image: &RgbImage,
        landmarks: Option<&Landmarks>,
    ) -> Result<Result<Face, Why>, Error> {
        if let Some(landmarks) = landmarks {
            return Ok(Face::from_landmarks(*landmarks, image).map_err(|_| Why::Misplaced));
        }
        let Some(found) = of_picture(self.faces.detector.detect(image))? else {
            return Ok(Err(Why::Misplaced));
        };
        match choose(&found, FaceChoice::Only) {
            Ok(found) => Ok(of_picture(self.faces.face(image, &found))?.ok_or(Why::Misplaced)),
            Err(Rejection::SeveralFaces { .. }) => Ok(Err(Why::Several)),
            Err(_) => Ok(Err(Why::Faceless)),
        }
    }
}

/// Nothing where a model gives no meaningful numbers for this one picture; that is no reason to stop.
fn of_picture<T>(result: Result<T, FaceError>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(FaceError::Run { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The largest square of a picture, as near to the face as it can be, at this side.
fn square(image: &RgbImage, face: &Face, side: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let shorter = width.min(height);
    let [left, top, right, bottom] = face.bbox;
    // Casts of floats stop at the ends: a face may lie partly outside.
    let start = |first: f32, last: f32, length: u32| {
        let middle = f32::midpoint(first, last) - shorter as f32 / 2.0;
        (middle.round() as u32).min(length - shorter)
    };
    let (x, y) = (start(left, right, width), start(top, bottom, height));
    let cut = imageops::crop_imm(image, x, y, shorter, shorter).to_image();
    imageops::resize(&cut, side, side, FilterType::CatmullRom)
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use likeness_face::LandmarkSource;

    use super::*;

    fn face(bbox: [f32; 4]) -> Face {
        Face {
            bbox,
            score: 1.0,
            landmarks: [[0.0; 2]; 106],
            keypoints: [[0.0; 2]; 5],
            landmark_source: LandmarkSource::Predicted,
        }
    }

    #[test]
    fn the_square_is_as_near_to_the_face_as_it_can_be() {
        // A column's level is its number.
        let wide = RgbImage::from_fn(40, 10, |x, _| Rgb([x as u8; 3]));
        let first = |bbox| square(&wide, &face(bbox), 10).get_pixel(0, 0).0[0];
        assert_eq!(first([18.0, 2.0, 22.0, 6.0]), 15);
        assert_eq!(first([-9.0, 2.0, 1.0, 6.0]), 0);
        assert_eq!(first([38.0, 2.0, 48.0, 6.0]), 30);
        assert_eq!(first([f32::NAN, 0.0, 1.0, 1.0]), 0);
        let small = square(&wide, &face([18.0, 2.0, 22.0, 6.0]), 4);
        assert_eq!(small.dimensions(), (4, 4));
    }

    #[test]
    fn every_reason_is_counted() {
        let mut left = Left::default();
        for why in [
            Why::Faceless,
            Why::Several,
            Why::Small,
            Why::Misplaced,
            Why::Small,
        ] {
            left.add(why);
        }
        assert_eq!(left.total(), 5);
        assert!(left.to_string().contains("face too small: 2\n"));
    }
}
