//! Everything that looks at pictures: at photos to enrol people, and at renders to measure them.

use candle_core::{Device, Tensor};
use image::RgbImage;
use likeness_bundle::Bundle;
use likeness_domain::coefficients::Coefficients;
use likeness_face::{
    ClipOptions, Face, FaceChoice, FaceModels, arcface_input, base_input, choose, clip_input,
};
use likeness_hyperlora::{Encoder, Inputs};
use likeness_models::face_files;
use likeness_train::judge::{Judge, Told};

use crate::clip::{Clip, pixels};
use crate::{Error, Options};

pub struct Eyes {
    face: FaceModels,
    pub clip: Clip,
    encoder: Encoder,
    pub judge: Option<Judge>,
}

/// One photo, enrolled.
#[derive(Clone)]
pub struct Enrolled {
    pub id: Coefficients,
    pub base: Option<Coefficients>,
}

/// What is seen of a picture.
pub struct Seen {
    pub picture: RgbImage,
    /// CLIP's embedding of all of it.
    pub whole: Vec<f32>,
    /// The largest face, if any is found.
    pub face: Option<SeenFace>,
    /// What the judge tells, if there is one.
    pub told: Option<Told>,
}

pub struct SeenFace {
    /// The recogniser's embedding.
    pub embedding: Vec<f32>,
    /// CLIP's embedding of the face's crop on grey.
    pub crop: Vec<f32>,
}

impl Eyes {
    /// The encoder's side of a bundle, and the judge.
    pub fn load(bundle: &Bundle, options: &Options) -> Result<Eyes, Error> {
        let (part, device) = (bundle.hyperlora()?, Device::Cpu);
        let judge = options.judge.as_deref();
        Ok(Eyes {
            face: FaceModels::load(&face_files(bundle.face()?))?,
            clip: Clip::load(bundle, &device)?,
            encoder: Encoder::load(&part.dir, part.dim_head, &device)?,
            judge: judge.map(|path| Judge::read(path, &device)).transpose()?,
        })
    }

    /// Whether the encoder predicts a Base-LoRA too.
    pub fn has_base(&self) -> bool {
        self.encoder.has_base()
    }

    /// The largest face of a picture.
    pub fn find(&self, picture: &RgbImage) -> Result<Option<Face>, Error> {
        let found = self.face.detector.detect(picture)?;
        match choose(&found, FaceChoice::Largest) {
            Ok(largest) => Ok(Some(self.face.face(picture, &largest)?)),
            Err(_) => Ok(None),
        }
    }

    /// The coefficients of a photo.
    pub fn enrol(&self, photo: &RgbImage, face: &Face) -> Result<Enrolled, Error> {
        let tower = self.clip.image.tower();
        let clip = match self.encoder.inputs() {
            Inputs::ArcFace => None,
            _ => Some(tower.hidden_states(&pixels(&self.crop(photo, face))?)?),
        };
        let arcface = match self.encoder.inputs() {
            Inputs::Clip => None,
            _ => {
                let embedding = self.recognise(photo, face)?;
                let shape = (1, embedding.len());
                Some(Tensor::from_vec(embedding, shape, &Device::Cpu)?)
            }
        };
        let base = self.encoder.has_base().then(|| {
            let view = base_input(photo, face, self.clip.side()).pixels;
            let states = tower.hidden_states(&pixels(&view)?)?;
            first(self.encoder.base_per_photo(&states)?)
        });
        let id = self.encoder.per_photo(clip.as_ref(), arcface.as_ref())?;
        Ok(Enrolled {
            id: first(id)?,
            base: base.transpose()?,
        })
    }

    /// What is seen of pictures.
    pub fn see(&self, pictures: Vec<RgbImage>) -> Result<Vec<Seen>, Error> {
        let told = match &self.judge {
            Some(judge) => judge.tell(&pictures)?.into_iter().map(Some).collect(),
            None => vec![None; pictures.len()],
        };
        let each = pictures.into_iter().zip(told);
        each.map(|(picture, told)| {
            let face = self.find(&picture)?;
            let face = face.map(|face| self.see_face(&picture, &face));
            Ok(Seen {
                whole: self.clip.whole(&picture)?,
                face: face.transpose()?,
                picture,
                told,
            })
        })
        .collect()
    }

    /// What is seen of a face whose place is known.
    pub fn see_face(&self, picture: &RgbImage, face: &Face) -> Result<SeenFace, Error> {
        Ok(SeenFace {
            embedding: self.recognise(picture, face)?,
            crop: self.clip.crop(&self.crop(picture, face))?,
        })
    }

    fn crop(&self, picture: &RgbImage, face: &Face) -> RgbImage {
        let options = ClipOptions {
            size: self.clip.side(),
            ..ClipOptions::default()
        };
        clip_input(picture, face, &options).pixels
    }

    fn recognise(&self, picture: &RgbImage, face: &Face) -> Result<Vec<f32>, Error> {
        let aligned = arcface_input(picture, face);
        Ok(self.face.recognizer.embed(&aligned)?.to_vec())
    }
}

fn first(coefficients: Vec<Coefficients>) -> Result<Coefficients, Error> {
    let first = coefficients.into_iter().next();
    first.ok_or_else(|| Error::Unfit("the encoder gave no coefficients for a photo".to_owned()))
}
