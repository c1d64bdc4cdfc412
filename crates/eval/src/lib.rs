//! What a bundle's identities are worth, in numbers: people are enrolled, rendered, and the renders measured.
//!
//! [`evaluate`] gives a [`Report`] with tables and findings, and a sheet of pictures. Similarities come from the bundle's own
//! CLIP and face recogniser; attributes of drawn people from a [judge](likeness_train::judge::Judge) that is no part of any
//! bundle. People are numbers here: no name, no path of a photo and no coefficient is in a report or an error.

mod blend;
mod clip;
mod error;
mod eyes;
mod judged;
mod lab;
mod leakage;
mod options;
mod paint;
mod people;
mod pictures;
mod report;
mod similarity;
mod slider;
mod spread;
pub mod statistics;

pub use error::Error;
pub use options::{Faces, Options, People, Section};
pub use report::{Finding, Report, Row, Table};

use std::path::Path;

use image::RgbImage;
use likeness_bundle::Bundle;

use lab::Lab;
use report::About;

/// What came of it.
pub struct Evaluation {
    /// The tables and findings.
    pub report: Report,
    /// The people beside their renders.
    pub sheet: RgbImage,
}

/// How far it is: what is being done, and how many of all pictures are.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What is being done.
    pub doing: &'a str,
    /// Done of it.
    pub done: usize,
    /// All of it.
    pub all: usize,
}

/// Whoever wants to see how far it is.
pub type Watch<'a> = dyn Fn(Progress<'_>) + 'a;

/// Evaluates a bundle.
///
/// # Errors
/// A part that the bundle lacks or that does not load, people who cannot be enrolled, a failing device.
pub fn evaluate(
    bundle: &Bundle,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Evaluation, Error> {
    let lab = Lab::open(bundle, options, watch)?;
    let mut report = Report::new(About::of(bundle), options, lab.notes());
    for section in &options.sections {
        match section {
            Section::Table => similarity::measure(&lab, &mut report)?,
            Section::Attributes => judged::measure(&lab, &mut report)?,
            Section::Spread => spread::measure(&lab, &mut report)?,
            Section::Slider => slider::measure(&lab, &mut report)?,
            Section::Blend => blend::measure(&lab, &mut report)?,
            Section::Leakage => leakage::measure(&lab, &mut report, watch)?,
        }
    }
    let sheet = pictures::sheet(&lab)?;
    Ok(Evaluation { report, sheet })
}

impl Evaluation {
    /// Writes `report.md`, `report.json` and `sheet.png` into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let wrong = |path: &Path, reason: String| Error::Write {
            path: path.to_owned(),
            reason,
        };
        std::fs::create_dir_all(folder).map_err(|e| wrong(folder, e.to_string()))?;
        for (name, text) in [
            ("report.md", self.report.markdown()),
            ("report.json", self.report.json()?),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| wrong(&path, e.to_string()))?;
        }
        let path = folder.join("sheet.png");
        self.sheet
            .save(&path)
            .map_err(|e| wrong(&path, e.to_string()))
    }
}
