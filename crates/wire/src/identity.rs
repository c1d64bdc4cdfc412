//! Identities and photos, domain ↔ proto.

use likeness_domain::{
    Error, IdentityState, PhotoState,
    photo::{FaceChoice, LandmarkSource, QualityReport, Rejection, RejectionReason},
    states::PhotoCounts,
};

use crate::v1;

/// An identity's state as sent.
pub fn identity_state(state: IdentityState) -> v1::IdentityState {
    match state {
        IdentityState::Empty => v1::IdentityState::Empty,
        IdentityState::Enrolling => v1::IdentityState::Enrolling,
        IdentityState::Ready => v1::IdentityState::Ready,
    }
}

/// A photo's state as sent.
pub fn photo_state(state: PhotoState) -> v1::PhotoState {
    match state {
        PhotoState::Pending => v1::PhotoState::Pending,
        PhotoState::Running => v1::PhotoState::Running,
        PhotoState::Accepted => v1::PhotoState::Accepted,
        PhotoState::Rejected => v1::PhotoState::Rejected,
        PhotoState::Failed => v1::PhotoState::Failed,
    }
}

/// A refusal as sent.
pub fn rejection(rejection: &Rejection) -> v1::PhotoRejection {
    v1::PhotoRejection {
        reason: rejection_reason(rejection.reason).into(),
        message: rejection.message.clone(),
    }
}

fn rejection_reason(reason: RejectionReason) -> v1::PhotoRejectionReason {
    match reason {
        RejectionReason::NotAnImage => v1::PhotoRejectionReason::NotAnImage,
        RejectionReason::UnsupportedFormat => v1::PhotoRejectionReason::UnsupportedFormat,
        RejectionReason::TooLarge => v1::PhotoRejectionReason::TooLarge,
        RejectionReason::NoFace => v1::PhotoRejectionReason::NoFace,
        RejectionReason::SeveralFaces => v1::PhotoRejectionReason::SeveralFaces,
        RejectionReason::FaceTooSmall => v1::PhotoRejectionReason::FaceTooSmall,
        RejectionReason::TooBlurry => v1::PhotoRejectionReason::TooBlurry,
        RejectionReason::TooDark => v1::PhotoRejectionReason::TooDark,
        RejectionReason::SamePersonDoubtful => v1::PhotoRejectionReason::SamePersonDoubtful,
    }
}

/// A quality report as sent. Where no face could be chosen, its fields are left at zero and UNSPECIFIED.
pub fn quality(report: &QualityReport) -> v1::QualityReport {
    let sent = v1::QualityReport {
        width: signed(report.width),
        height: signed(report.height),
        faces_found: signed(report.faces_found),
        same_person: report.same_person,
        ..v1::QualityReport::default()
    };
    let Some(face) = &report.face else {
        return sent;
    };
    v1::QualityReport {
        face_size: face.size,
        detector_score: face.detector_score,
        sharpness: face.sharpness,
        brightness: face.brightness,
        overexposed: face.overexposed,
        landmarks: landmark_source(face.landmarks).into(),
        yaw: face.pose.map(|pose| pose.yaw),
        pitch: face.pose.map(|pose| pose.pitch),
        roll: face.pose.map(|pose| pose.roll),
        occlusion: face.occlusion,
        ..sent
    }
}

fn landmark_source(source: LandmarkSource) -> v1::LandmarkSource {
    match source {
        LandmarkSource::Template => v1::LandmarkSource::Template,
        LandmarkSource::Predicted => v1::LandmarkSource::Predicted,
    }
}

/// Photo counts as sent.
pub fn photo_counts(counts: PhotoCounts) -> v1::PhotoCounts {
    v1::PhotoCounts {
        pending: signed(counts.pending),
        accepted: signed(counts.accepted),
        rejected: signed(counts.rejected),
        failed: signed(counts.failed),
    }
}

/// Which face a request wants.
///
/// # Errors
/// A value that this version does not know.
pub fn face_choice(choice: i32) -> Result<FaceChoice, Error> {
    match v1::FaceChoice::try_from(choice) {
        Ok(v1::FaceChoice::Unspecified | v1::FaceChoice::Only) => Ok(FaceChoice::Only),
        Ok(v1::FaceChoice::Largest) => Ok(FaceChoice::Largest),
        Err(_) => Err(Error::invalid_field("face", "expected ONLY or LARGEST")),
    }
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
