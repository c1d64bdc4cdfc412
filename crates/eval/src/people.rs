//! Who is enrolled: drawn people with all that is known of them, or photos from folders.

use std::ops::Range;
use std::path::{Path, PathBuf};

use image::RgbImage;
use likeness_face::{Face, Limits, decode};
use likeness_portraits::{Identity, Setting, caption, draw, landmarks};

use crate::clip::cosine;
use crate::eyes::{Enrolled, Eyes, Seen};
use crate::{Error, Faces, Options, People};

/// Side of a drawn photo, in pixels: as the encoders were trained.
const PHOTO: u32 = 128;
/// The picture of each person's whose caption is the prompt: none that is enrolled.
const PROMPTED: u64 = 63;
/// Photos that the tables need of each person, at most.
pub const PHOTOS: usize = 4;

/// A person who is enrolled.
pub struct Person {
    /// The photos that a render may be enrolled from, in order.
    pub photos: Vec<Enrolled>,
    /// The first photo, as a picture: what renders are compared with.
    pub reference: Seen,
    /// What to paint, without the trigger words.
    pub prompt: String,
    /// CLIP's embedding of the prompt, if it has any.
    pub prompt_embedding: Option<Vec<f32>>,
    /// Start of the noise.
    pub seed: u64,
    /// All that is known of a drawn person.
    pub drawn: Option<Drawn>,
}

#[derive(Clone, Copy)]
pub struct Drawn {
    pub number: u64,
    pub identity: Identity,
    /// Of the first photo.
    pub enrolled: Setting,
    /// Of the prompt.
    pub prompted: Setting,
}

/// Everybody, and how well faces were found.
pub struct Crowd {
    pub people: Vec<Person>,
    /// Photos in which the detector found a face, of all.
    pub found: usize,
    pub photos: usize,
    /// Folders without a photo that shows a face.
    pub left_out: usize,
}

impl Crowd {
    pub fn enrol(
        options: &Options,
        eyes: &Eyes,
        told: &dyn Fn(usize, usize),
    ) -> Result<Crowd, Error> {
        let mut crowd = Crowd {
            people: Vec::new(),
            found: 0,
            photos: 0,
            left_out: 0,
        };
        match &options.people {
            People::Drawn(range) => crowd.enrol_drawn(range, options, eyes, told)?,
            People::Photos(folder) => crowd.enrol_folders(folder, options, eyes, told)?,
        }
        if crowd.people.len() < 2 {
            let found = crowd.people.len();
            let problem = format!("at least 2 people are needed, {found} could be enrolled");
            return Err(Error::Unfit(problem));
        }
        Ok(crowd)
    }

    fn enrol_drawn(
        &mut self,
        range: &Range<u64>,
        options: &Options,
        eyes: &Eyes,
        told: &dyn Fn(usize, usize),
    ) -> Result<(), Error> {
        let numbers: Vec<u64> = range.clone().take(options.count).collect();
        for (at, &number) in numbers.iter().enumerate() {
            told(at, numbers.len());
            let drawn = Drawn {
                number,
                identity: Identity::drawn(number),
                enrolled: Setting::held_out(number, 0),
                prompted: Setting::held_out(number, PROMPTED),
            };
            let mut photos = Vec::with_capacity(PHOTOS);
            for photo in 0..PHOTOS as u64 {
                let setting = Setting::held_out(number, photo);
                let picture = draw(&drawn.identity, &setting, PHOTO);
                let (face, found) =
                    place(&drawn.identity, &setting, &picture, eyes, options.faces)?;
                self.photos += 1;
                self.found += usize::from(found);
                photos.push((picture, face));
            }
            let prompt = caption(&drawn.prompted);
            let person = Person::of(&photos, prompt, options.seed + at as u64, Some(drawn), eyes)?;
            self.people.push(person);
        }
        Ok(())
    }

    fn enrol_folders(
        &mut self,
        folder: &Path,
        options: &Options,
        eyes: &Eyes,
        told: &dyn Fn(usize, usize),
    ) -> Result<(), Error> {
        if options.prompts.is_empty() {
            return Err(Error::Unfit("at least one prompt is needed".to_owned()));
        }
        let mut folders = entries(folder)?;
        folders.retain(|path| path.is_dir());
        folders.truncate(options.count);
        for (at, person) in folders.iter().enumerate() {
            told(at, folders.len());
            let mut photos = Vec::with_capacity(PHOTOS);
            for path in entries(person)? {
                if photos.len() == PHOTOS {
                    break;
                }
                let bytes = std::fs::read(&path).map_err(|e| unreadable(&path, &e))?;
                let Ok(picture) = decode(&bytes, &Limits::default()) else {
                    continue;
                };
                self.photos += 1;
                if let Some(face) = eyes.find(&picture)? {
                    self.found += 1;
                    photos.push((picture, face));
                }
            }
            if photos.is_empty() {
                self.left_out += 1;
                continue;
            }
            let prompt = options.prompts[at % options.prompts.len()].clone();
            let seed = options.seed + at as u64;
            self.people
                .push(Person::of(&photos, prompt, seed, None, eyes)?);
        }
        Ok(())
    }
}

impl Person {
    fn of(
        photos: &[(RgbImage, Face)],
        prompt: String,
        seed: u64,
        drawn: Option<Drawn>,
        eyes: &Eyes,
    ) -> Result<Person, Error> {
        let (picture, face) = &photos[0];
        let enrolled = photos.iter().map(|(photo, face)| eyes.enrol(photo, face));
        Ok(Person {
            photos: enrolled.collect::<Result<_, _>>()?,
            // As it was enrolled, even where the detector would find no face.
            reference: Seen {
                whole: eyes.clip.whole(picture)?,
                face: Some(eyes.see_face(picture, face)?),
                picture: picture.clone(),
                told: None,
            },
            prompt_embedding: eyes.clip.text(&prompt)?,
            prompt,
            seed,
            drawn,
        })
    }

    /// How like the enrolled face a found one is.
    pub fn likeness(&self, seen: &Seen) -> Option<f64> {
        let (own, found) = (self.reference.face.as_ref()?, seen.face.as_ref()?);
        Some(cosine(&own.embedding, &found.embedding))
    }
}

/// Where the face is, and whether the detector found it.
fn place(
    identity: &Identity,
    setting: &Setting,
    picture: &RgbImage,
    eyes: &Eyes,
    faces: Faces,
) -> Result<(Face, bool), Error> {
    let found = match faces {
        Faces::Detected => eyes.find(picture)?,
        Faces::Drawn => None,
    };
    match found {
        Some(face) => Ok((face, true)),
        None => {
            let marks = landmarks(identity, setting, picture.width());
            Ok((Face::from_landmarks(marks, picture)?, false))
        }
    }
}

/// One more photo of a drawn identity, enrolled: of this number of the person whose settings are used.
pub fn enrol_once(
    identity: &Identity,
    number: u64,
    photo: u64,
    eyes: &Eyes,
    faces: Faces,
) -> Result<Enrolled, Error> {
    let setting = Setting::held_out(number, photo);
    let picture = draw(identity, &setting, PHOTO);
    let (face, _) = place(identity, &setting, &picture, eyes, faces)?;
    eyes.enrol(&picture, &face)
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let wrong = |e: std::io::Error| unreadable(folder, &e);
    let listed = std::fs::read_dir(folder).map_err(wrong)?;
    let mut paths = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(wrong)?;
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
