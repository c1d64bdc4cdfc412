//! What enrolment says of a photo.

use serde::{Deserialize, Serialize};

use crate::states::text_enum;

text_enum! {
    /// Why a photo was refused.
    RejectionReason ("rejection reason") {
        /// The bytes are no picture, or a damaged one.
        NotAnImage = "NOT_AN_IMAGE",
        /// A picture, but not JPEG, PNG or WebP.
        UnsupportedFormat = "UNSUPPORTED_FORMAT",
        /// More bytes or pixels than allowed.
        TooLarge = "TOO_LARGE",
        /// No face was found.
        NoFace = "NO_FACE",
        /// More than one face, and the request did not say which.
        SeveralFaces = "SEVERAL_FACES",
        /// The face has too few pixels.
        FaceTooSmall = "FACE_TOO_SMALL",
        /// The face is not sharp enough.
        TooBlurry = "TOO_BLURRY",
        /// The face is too dark.
        TooDark = "TOO_DARK",
        /// The face may not be the person of the identity's other photos.
        SamePersonDoubtful = "SAME_PERSON_DOUBTFUL",
    }
}

text_enum! {
    /// Which face to enrol where a photo shows several.
    FaceChoice ("face choice") {
        /// Refuse a photo with several faces.
        Only = "ONLY",
        /// Take the largest.
        Largest = "LARGEST",
    }
}

text_enum! {
    /// Where the landmarks of a face come from.
    LandmarkSource ("landmark source") {
        /// A canonical face placed in the detector's box.
        Template = "TEMPLATE",
        /// Predicted from the picture.
        Predicted = "PREDICTED",
    }
}

/// A refusal: the reason and, for people, what was found, what was expected and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: RejectionReason,
    /// For people; numbers only, nothing personal.
    pub message: String,
}

/// What enrolment measured of a photo, accepted or refused, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualityReport {
    /// The picture's width in pixels, upright.
    pub width: u32,
    /// The picture's height in pixels, upright.
    pub height: u32,
    /// How many faces were found.
    pub faces_found: u32,
    /// The chosen face, if one could be chosen.
    pub face: Option<FaceQuality>,
    /// Cosine of its face embedding to the mean of the identity's other photos, where there are any.
    #[serde(default)]
    pub same_person: Option<f32>,
}

/// What enrolment measured of the chosen face.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceQuality {
    /// The shorter side of the face's box in pixels.
    pub size: f32,
    /// The detector's confidence, on its own scale.
    pub detector_score: f32,
    /// Detail in the face: variance of the Laplacian over the variance of the luma, at a fixed size.
    pub sharpness: f32,
    /// The luma that a tenth of the face exceeds, 0 to 1.
    pub brightness: f32,
    /// Share of the face that is blown out, 0 to 1.
    pub overexposed: f32,
    /// Where the landmarks come from.
    pub landmarks: LandmarkSource,
    /// How the head is turned, where it could be estimated.
    #[serde(default)]
    pub pose: Option<Pose>,
    /// How much of the face seems covered, 0 to 1, where it could be estimated.
    #[serde(default)]
    pub occlusion: Option<f32>,
}

/// How a head is turned, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// Above 0 it looks to the right of the picture.
    pub yaw: f32,
    /// Above 0 it looks up.
    pub pitch: f32,
    /// Above 0 it is turned clockwise in the picture.
    pub roll: f32,
}
