//! Who is enrolled: two drawn people, whoever is on the photos, and the slider's two ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use likeness_portraits::{Identity, Setting, caption, draw};

/// Two people whom the pocket bundle's training was not shown, unlike at first sight.
const A: u64 = 5800;
const B: u64 = 5802;
/// Whose slider it is, and whose caption the photo's prompt is.
const ANOTHER: u64 = 5801;
/// What the noise of each row starts from.
pub const SEEDS: [u64; 3] = [1, 2, 3];
/// Side of a portrait, in pixels: large enough for the limits of enrolment.
const SIDE: u32 = 256;
/// The picture of a person whose caption is the prompt, so that it is none that is enrolled.
const PROMPTED: u64 = 63;

/// Somebody to enrol.
pub struct Person {
    /// What the sheet calls the person.
    pub name: &'static str,
    /// The files.
    pub photos: Vec<PathBuf>,
    /// What to show the person in.
    pub prompt: String,
}

/// Everybody.
pub struct Cast {
    /// A row of the sheet for each.
    pub shown: [Person; 3],
    /// The same drawn person without and with what the slider moves.
    pub slider: [Person; 2],
}

/// What the slider moves.
pub const SLIDER: &str = "glasses";

impl Cast {
    /// Draws them into `dir`; `photos` are the third person's.
    pub fn draw(dir: &Path, photos: Vec<PathBuf>) -> Result<Self> {
        let drawn = |name, number| {
            let identity = Identity::drawn(number);
            person(dir, name, &identity, number)
        };
        let slide = |name, glasses| {
            let identity = Identity {
                glasses,
                ..Identity::drawn(ANOTHER)
            };
            person(dir, name, &identity, ANOTHER)
        };
        Ok(Self {
            shown: [
                drawn("A", A)?,
                drawn("B", B)?,
                Person {
                    name: "photo",
                    photos,
                    prompt: prompt(ANOTHER),
                },
            ],
            slider: [slide("without", false)?, slide("with", true)?],
        })
    }
}

fn person(dir: &Path, name: &'static str, identity: &Identity, number: u64) -> Result<Person> {
    let path = dir.join(format!("portrait-{name}.png"));
    draw(identity, &Setting::held_out(number, 0), SIDE)
        .save(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Person {
        name,
        photos: vec![path],
        prompt: prompt(number),
    })
}

fn prompt(number: u64) -> String {
    caption(&Setting::held_out(number, PROMPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sliders_ends_differ_in_what_it_moves_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cast = Cast::draw(dir.path(), Vec::new()).unwrap();
        let [before, after] = cast.slider.map(|end| image::open(&end.photos[0]).unwrap());
        assert_eq!(before.width(), SIDE);
        assert_ne!(before, after);
        let corner = |picture: &image::DynamicImage| picture.crop_imm(0, 0, SIDE, SIDE / 4);
        assert_eq!(corner(&before), corner(&after));
    }
}
