//! From a photo's bytes to coefficients. One OS thread owns the models; callers send it photos and wait.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Context as _;
use candle_core::{Device, Tensor};
use likeness_bundle::Bundle;
use likeness_domain::{
    coefficients::StoredCoefficients,
    embedding::FaceEmbedding,
    photo::{
        FaceChoice, FaceQuality, LandmarkSource, Pose, QualityReport, Rejection, RejectionReason,
    },
};
use likeness_face::{
    ClipInput, ClipOptions, FaceModels, InspectError, Limits, Portrait, arcface_input, base_input,
    clip_input, pixel_values,
};
use likeness_hyperlora::{ClipVision, Encoder};
use likeness_models::face_files;
use tokio::sync::{mpsc, oneshot};

/// What became of a photo.
#[derive(Debug)]
pub enum Verdict {
    /// It can be enrolled.
    Accepted(Box<Enrolled>),
    /// It is refused for what it shows.
    Rejected {
        /// Why.
        rejection: Rejection,
        /// What was measured before, unless it could not be decoded.
        quality: Option<QualityReport>,
    },
}

/// What enrolment makes of a photo.
#[derive(Debug)]
pub struct Enrolled {
    /// What was measured.
    pub quality: QualityReport,
    /// What the resampler predicted, before the mean.
    pub coefficients: StoredCoefficients,
    /// What the recogniser said.
    pub embedding: FaceEmbedding,
    /// What the base resampler predicted, before the mean, where the bundle has one.
    pub base: Option<StoredCoefficients>,
}

struct Job {
    bytes: bytes::Bytes,
    face: FaceChoice,
    answer: oneshot::Sender<anyhow::Result<Verdict>>,
}

/// A handle on the thread that owns the models; it ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    jobs: mpsc::Sender<Job>,
}

impl Engine {
    /// Loads the bundle's face and encoder models and starts their thread.
    ///
    /// # Errors
    /// A section that the bundle lacks, or a file that does not fit.
    pub fn start(bundle: &Bundle) -> anyhow::Result<Self> {
        let models = Models::load(bundle)?;
        Self::answering(move |bytes, face| models.enroll(bytes, face))
    }

    /// A thread that answers by `enroll`, in the models' place: tests of the queue need none.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn answering(
        enroll: impl Fn(&[u8], FaceChoice) -> anyhow::Result<Verdict> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        std::thread::Builder::new()
            .name("enroll-models".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    // Whoever asked may have gone; the next photo is what counts.
                    // A photo that makes a model panic fails by itself: the models are only read.
                    let verdict = catch_unwind(AssertUnwindSafe(|| enroll(&job.bytes, job.face)))
                        .unwrap_or_else(|_| Err(anyhow::anyhow!("a model panicked")));
                    let _ = job.answer.send(verdict);
                }
            })
            .context("cannot start the models' thread")?;
        Ok(Self { jobs })
    }

    /// Enrols one photo.
    ///
    /// # Errors
    /// A fault of a model, not of the photo.
    pub async fn enroll(&self, bytes: bytes::Bytes, face: FaceChoice) -> anyhow::Result<Verdict> {
        let (answer, verdict) = oneshot::channel();
        let job = Job {
            bytes,
            face,
            answer,
        };
        self.jobs
            .send(job)
            .await
            .ok()
            .context("the models' thread has ended")?;
        verdict.await.context("the models' thread has ended")?
    }
}

struct Models {
    face: FaceModels,
    clip: ClipVision,
    encoder: Encoder,
    limits: Limits,
}

impl Models {
    fn load(bundle: &Bundle) -> anyhow::Result<Self> {
        let face = bundle.face()?;
        let hyperlora = bundle.hyperlora()?;
        let device = Device::Cpu;
        Ok(Self {
            face: FaceModels::load(&face_files(face))?,
            clip: ClipVision::load(&bundle.clip_vision()?, &device)?,
            encoder: Encoder::load(&hyperlora.dir, hyperlora.dim_head, &device)?,
            limits: Limits::default(),
        })
    }

    fn enroll(&self, bytes: &[u8], choice: FaceChoice) -> anyhow::Result<Verdict> {
        match self.face.inspect(bytes, wanted(choice), &self.limits) {
            Ok(portrait) => Ok(Verdict::Accepted(Box::new(self.encode(&portrait)?))),
            Err(InspectError::Refused(refused)) => Ok(Verdict::Rejected {
                rejection: rejection(&refused.reason)?,
                quality: refused.report.as_ref().map(report),
            }),
            Err(InspectError::Model(error)) => Err(error.into()),
        }
    }

    fn encode(&self, portrait: &Portrait) -> anyhow::Result<Enrolled> {
        let embedding = self.embedding(portrait)?;
        let clip_hidden = self.clip_hidden(portrait)?;
        let arcface = Tensor::from_slice(&embedding, (1, embedding.len()), &Device::Cpu)?;
        let per_photo = self.encoder.per_photo(&clip_hidden, &arcface)?;
        let coefficients = per_photo
            .first()
            .context("the encoder gave no coefficients")?;
        Ok(Enrolled {
            quality: report(&portrait.report),
            coefficients: StoredCoefficients::from_coefficients(coefficients),
            embedding: FaceEmbedding::new(embedding.to_vec())?,
            base: self.base(portrait)?,
        })
    }

    /// Everything around the person, if the bundle has a Base-LoRA: the encoder sees the photo with the face blurred.
    fn base(&self, portrait: &Portrait) -> anyhow::Result<Option<StoredCoefficients>> {
        if !self.encoder.has_base() {
            return Ok(None);
        }
        let size = u32::try_from(self.clip.image_size())?;
        let view = base_input(&portrait.image, &portrait.face, size);
        let per_photo = self.encoder.base_per_photo(&self.states(&view)?)?;
        let coefficients = per_photo
            .first()
            .context("the base resampler gave no coefficients")?;
        Ok(Some(StoredCoefficients::from_coefficients(coefficients)))
    }

    fn embedding(&self, portrait: &Portrait) -> anyhow::Result<[f32; 512]> {
        let aligned = arcface_input(&portrait.image, &portrait.face);
        Ok(self.face.recognizer.embed(&aligned)?)
    }

    fn clip_hidden(&self, portrait: &Portrait) -> anyhow::Result<Tensor> {
        let options = ClipOptions {
            size: u32::try_from(self.clip.image_size())?,
            ..ClipOptions::default()
        };
        self.states(&clip_input(&portrait.image, &portrait.face, &options))
    }

    fn states(&self, view: &ClipInput) -> anyhow::Result<Tensor> {
        let side = self.clip.image_size();
        let pixels =
            Tensor::from_vec(pixel_values(&view.pixels), (1, 3, side, side), &Device::Cpu)?;
        Ok(self.clip.hidden_states(&pixels)?)
    }
}

fn wanted(choice: FaceChoice) -> likeness_face::FaceChoice {
    match choice {
        FaceChoice::Only => likeness_face::FaceChoice::Only,
        FaceChoice::Largest => likeness_face::FaceChoice::Largest,
    }
}

fn rejection(refused: &likeness_face::Rejection) -> anyhow::Result<Rejection> {
    let reason: RejectionReason = refused
        .as_str()
        .parse()
        .context("the face crate's reason is none of the domain's")?;
    Ok(Rejection {
        reason,
        message: refused.to_string(),
    })
}

fn report(quality: &likeness_face::QualityReport) -> QualityReport {
    QualityReport {
        width: quality.image_width,
        height: quality.image_height,
        faces_found: u32::try_from(quality.faces_found).unwrap_or(u32::MAX),
        face: quality.face.as_ref().map(face_report),
        same_person: None,
    }
}

fn face_report(face: &likeness_face::FaceQuality) -> FaceQuality {
    FaceQuality {
        size: face.size as f32,
        detector_score: face.detector_score,
        sharpness: face.sharpness,
        brightness: face.brightness / 255.0,
        overexposed: face.overexposed,
        landmarks: match face.landmarks {
            likeness_face::LandmarkSource::Template => LandmarkSource::Template,
            likeness_face::LandmarkSource::Predicted => LandmarkSource::Predicted,
        },
        pose: face.pose.map(|pose| Pose {
            yaw: pose.yaw,
            pitch: pose.pitch,
            roll: pose.roll,
        }),
        occlusion: Some(face.occlusion),
    }
}
