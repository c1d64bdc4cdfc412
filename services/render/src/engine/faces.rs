//! A second pass over small faces, at the model's own resolution.

use std::{cell::OnceCell, sync::Arc};

use image::RgbImage;
use likeness_bundle::{Bundle, Detector as DetectorPart, FacePart};
use likeness_domain::render::Strength;
use likeness_face::{Detector, FaceError, FaceModels};
use likeness_models::face_files;
use likeness_sdxl::{Init, Sample, SampleRequest, Sdxl, Unmerged};

use super::{
    Failure, Order,
    detail::crops,
    models::Models,
    paint::{failure_of, model_fault},
};

/// Finds faces in what was painted, and recognises them. The models are loaded when the first render asks for them.
pub struct FaceFinder {
    part: Option<DetectorPart>,
    detector: OnceCell<Option<Detector>>,
    all: Option<FacePart>,
    models: OnceCell<Option<FaceModels>>,
}

impl FaceFinder {
    /// With the bundle's detector, or the built-in one where it names none.
    pub fn of(bundle: &Bundle) -> Self {
        let part = bundle.face_detector();
        let part = part.map_err(|error| tracing::warn!("no face detail: {error}"));
        let all = bundle.face();
        let all = all.map_err(|error| tracing::warn!("no likeness: {error}"));
        Self {
            part: part.ok(),
            detector: OnceCell::new(),
            all: all.ok(),
            models: OnceCell::new(),
        }
    }

    /// All that it takes to recognise a face.
    ///
    /// # Errors
    /// Models that cannot be loaded: this worker then never can.
    pub fn recognizer(&self) -> Result<&FaceModels, Failure> {
        let models = self.models.get_or_init(|| {
            let loaded = FaceModels::load(&face_files(self.all.clone()?));
            loaded
                .map_err(|error| tracing::error!("FACE_MODELS_NOT_LOADED: {error}"))
                .ok()
        });
        models.as_ref().ok_or_else(|| Failure::Permanent {
            reason: "FACE_MODELS_NOT_LOADED",
            message: "the worker has no face models, which best_of needs".to_owned(),
        })
    }

    /// The detector.
    ///
    /// # Errors
    /// One that cannot be loaded: this worker then never can.
    pub fn detector(&self) -> Result<&Detector, Failure> {
        let detector = self.detector.get_or_init(|| {
            let loaded = load(self.part.as_ref()?);
            loaded
                .map_err(|error| tracing::error!("FACE_DETECTOR_NOT_LOADED: {error}"))
                .ok()
        });
        detector.as_ref().ok_or_else(|| Failure::Permanent {
            reason: "FACE_DETECTOR_NOT_LOADED",
            message: "the worker has no face detector, which face detail needs".to_owned(),
        })
    }
}

fn load(part: &DetectorPart) -> Result<Detector, FaceError> {
    match part {
        DetectorPart::Frontal => Detector::builtin_frontal(),
        DetectorPart::Onnx(path) => Detector::scrfd(path),
        DetectorPart::OnnxThenFrontal(path) => Detector::scrfd_then_frontal(path),
    }
}

/// A picture that was painted, and how.
pub struct Painting<'a> {
    /// For whom.
    pub order: &'a Order,
    /// As what it was painted.
    pub request: &'a SampleRequest,
    /// The person, where the weights do not show them.
    pub unmerged: Option<&'a Unmerged>,
}

impl Models {
    /// Gives the small faces of a picture a second pass, if its render asks for it: each is enlarged to the model's own
    /// resolution and painted again with the same prompt, person, seed and schedule. Without such faces the picture
    /// stays as it is. These steps are not told as progress: how many there will be shows only now.
    ///
    /// # Errors
    /// [`Failure`], as of the first pass.
    pub fn detail_faces(
        &self,
        painting: &Painting<'_>,
        picture: RgbImage,
    ) -> Result<RgbImage, Failure> {
        let Some(strength) = painting.order.job.spec.face_strength else {
            return Ok(picture);
        };
        let found = self.faces.detector()?.detect(&picture);
        let boxes: Vec<_> = found
            .map_err(model_fault)?
            .iter()
            .map(|face| face.bbox)
            .collect();
        let resolution = self.resolution();
        let mut picture = picture;
        for crop in crops(&boxes, picture.dimensions(), resolution) {
            let face = crop.enlarge(&picture, resolution);
            let again = self.paint_again(painting, face, strength)?;
            crop.blend(&mut picture, &again);
        }
        Ok(picture)
    }

    fn paint_again(
        &self,
        painting: &Painting<'_>,
        face: RgbImage,
        strength: Strength,
    ) -> Result<RgbImage, Failure> {
        let order = painting.order;
        let request = SampleRequest {
            width: face.width(),
            height: face.height(),
            init: Some(Init {
                picture: Arc::new(face),
                strength: strength.get(),
            }),
            ..painting.request.clone()
        };
        let sample = Sample {
            unmerged: painting.unmerged,
            ..Sample::new(&request, Box::new(|_| order.heed_stop()))
        };
        let mut pictures = self.sdxl.sample_batch(vec![sample]);
        let picture = pictures
            .pop()
            .unwrap_or(Err(likeness_sdxl::Error::Cancelled));
        picture.map_err(|error| failure_of(&order.job, error))
    }

    /// Side of the square with as many pixels as the bundle's default size, which the model was trained for.
    fn resolution(&self) -> u32 {
        square_side(self.default_size(), &self.sdxl)
    }
}

fn square_side((width, height): (u32, u32), sdxl: &Sdxl) -> u32 {
    let limits = sdxl.size_limits();
    let side = (f64::from(width) * f64::from(height)).sqrt() as u32;
    let side = side - side % limits.multiple_of;
    side.clamp(limits.multiple_of, limits.max_side)
}
