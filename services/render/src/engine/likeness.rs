//! How like a person a picture is, and which of several is the most.

use image::RgbImage;
use likeness_domain::embedding::FaceEmbedding;
use likeness_face::{FaceChoice, FaceError, FaceModels, arcface_input, choose};

use super::{Job, models::Models};

/// One of the pictures that may become an image.
pub struct Candidate {
    /// The picture.
    pub picture: RgbImage,
    /// What it was drawn from.
    pub seed: i64,
    /// Cosine to the person's face, where the picture shows a face and there is somebody to compare it with.
    pub likeness: Option<f32>,
}

impl Candidate {
    /// Of two, the one more like the person. A face beats none, and the earlier one stays where neither is better.
    pub fn better(self, later: Self) -> Self {
        if later.likeness > self.likeness {
            later
        } else {
            self
        }
    }
}

impl Models {
    /// Cosine of the picture's largest face to the person whom the render shows. A score is no reason to fail a render: what
    /// cannot be measured is absent.
    pub fn likeness(&self, job: &Job, picture: &RgbImage) -> Option<f32> {
        let reference = job.reference.as_ref()?;
        let measured = likeness(self.faces.recognizer().ok()?, picture, reference);
        measured.unwrap_or_else(|error| {
            tracing::warn!("LIKENESS_NOT_MEASURED: {error}");
            None
        })
    }
}

/// Cosine of the picture's largest face to `reference`; `None` where no face is found.
pub fn likeness(
    models: &FaceModels,
    picture: &RgbImage,
    reference: &FaceEmbedding,
) -> Result<Option<f32>, FaceError> {
    let found = models.detector.detect(picture)?;
    let Ok(largest) = choose(&found, FaceChoice::Largest) else {
        return Ok(None);
    };
    let face = models.face(picture, &largest)?;
    let embedding = models.recognizer.embed(&arcface_input(picture, &face))?;
    let embedding = FaceEmbedding::new(embedding.to_vec()).ok();
    Ok(embedding.and_then(|seen| seen.cosine_to_mean(std::slice::from_ref(reference))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_most_like_the_person_is_kept_and_of_equals_the_first() {
        let best = |likenesses: &[Option<f32>]| {
            let candidates = (0..).zip(likenesses).map(|(seed, likeness)| Candidate {
                picture: RgbImage::new(1, 1),
                seed,
                likeness: *likeness,
            });
            candidates.reduce(Candidate::better).map(|best| best.seed)
        };
        assert_eq!(best(&[Some(0.2), Some(0.7), Some(0.5)]), Some(1));
        assert_eq!(
            best(&[None, Some(-0.9), None]),
            Some(1),
            "a face before none"
        );
        assert_eq!(best(&[Some(0.5), Some(0.5), None]), Some(0));
        assert_eq!(best(&[None, None]), Some(0));
    }
}
