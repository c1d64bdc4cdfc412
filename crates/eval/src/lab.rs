//! Where everything is measured: the models, the people, and the renders that several sections share.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use image::RgbImage;
use likeness_bundle::Bundle;
use likeness_domain::coefficients::{Coefficients, combine};
use likeness_portraits::draw;
use likeness_sdxl::Unmerged;

use crate::eyes::{Eyes, Seen};
use crate::paint::{Job, Painter, Shown};
use crate::people::{Crowd, Drawn, Person};
use crate::{Error, Options, Progress, Watch};

/// Whose coefficients a render has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Nobody,
    Own,
    /// The next person's.
    Other,
}

/// How everybody is rendered once.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    pub who: Who,
    /// Photos that the coefficients are the mean of, as far as there are so many.
    pub photos: usize,
    pub base: f64,
    pub guidance: f64,
    /// Whether the prompt says nothing of background and clothes.
    pub silent: bool,
}

/// A condition as a key: the numbers come from the command line, and equal ones are equal to the bit.
type Key = (Who, usize, u64, u64, bool);
/// The prompt that says nothing of background and clothes.
const SILENT: &str = "a person";

type Renders = Rc<Vec<Seen>>;

pub struct Lab<'a> {
    pub options: &'a Options,
    pub painter: Painter,
    pub eyes: Eyes,
    pub crowd: Crowd,
    watch: &'a Watch<'a>,
    renders: RefCell<BTreeMap<Key, Renders>>,
}

impl<'a> Lab<'a> {
    /// Loads all models and enrols everybody.
    pub fn open(
        bundle: &Bundle,
        options: &'a Options,
        watch: &'a Watch<'a>,
    ) -> Result<Lab<'a>, Error> {
        let painter = Painter::load(bundle, options)?;
        let eyes = Eyes::load(bundle, options)?;
        let told = |done, all| {
            watch(Progress {
                doing: "enrolling",
                done,
                all,
            });
        };
        Ok(Lab {
            crowd: Crowd::enrol(options, &eyes, &told)?,
            options,
            painter,
            eyes,
            watch,
            renders: RefCell::default(),
        })
    }

    /// Everybody.
    pub fn people(&self) -> &[Person] {
        &self.crowd.people
    }

    /// Everybody's drawing, if all are drawn.
    pub fn drawn(&self) -> Option<Vec<Drawn>> {
        self.people().iter().map(|person| person.drawn).collect()
    }

    /// Whether a Base-LoRA can be predicted and synthesised.
    pub fn has_base(&self) -> bool {
        self.eyes.has_base() && self.painter.has_base()
    }

    /// The condition that others differ from: one photo, no Base-LoRA, the usual guidance.
    pub fn usual(&self, who: Who) -> Condition {
        Condition {
            who,
            photos: 1,
            base: 0.0,
            guidance: self.options.guidance,
            silent: false,
        }
    }

    /// Everybody's render of a condition.
    pub fn renders(&self, condition: Condition) -> Result<Renders, Error> {
        let Condition {
            who,
            photos,
            base,
            guidance,
            silent,
        } = condition;
        let key = match who {
            Who::Nobody => (who, 0, 0, guidance.to_bits(), silent),
            _ => (who, photos, base.to_bits(), guidance.to_bits(), silent),
        };
        if let Some(renders) = self.renders.borrow().get(&key) {
            return Ok(Rc::clone(renders));
        }
        let jobs = self.people().iter().enumerate().map(|(at, person)| {
            let mut job = person.job(guidance);
            if silent {
                SILENT.clone_into(&mut job.prompt);
            }
            job.shown = self.shown(at, condition)?;
            Ok(job)
        });
        let jobs = jobs.collect::<Result<Vec<_>, Error>>()?;
        let renders = Rc::new(self.eyes.see(self.paint(&jobs)?)?);
        self.renders.borrow_mut().insert(key, Rc::clone(&renders));
        Ok(renders)
    }

    /// Paints and tells how far it is.
    pub fn paint(&self, jobs: &[Job]) -> Result<Vec<RgbImage>, Error> {
        let told = |done, all| {
            (self.watch)(Progress {
                doing: "painting",
                done,
                all,
            });
        };
        self.painter.paint(jobs, &told)
    }

    /// Everybody drawn in their prompt's setting, as the autoencoder gives it back: no render can be expected to be nearer.
    pub fn ceiling(&self, drawn: &[Drawn]) -> Result<Vec<Seen>, Error> {
        let pictures = drawn.iter().map(|drawn| {
            let picture = draw(&drawn.identity, &drawn.prompted, self.options.side);
            self.painter.through_the_autoencoder(&picture)
        });
        self.eyes.see(pictures.collect::<Result<_, _>>()?)
    }

    /// The person whom a condition shows in the place of the one at `at`.
    pub fn other(&self, at: usize) -> usize {
        (at + 1) % self.people().len()
    }

    fn shown(&self, at: usize, condition: Condition) -> Result<Option<Unmerged>, Error> {
        let person = match condition.who {
            Who::Nobody => return Ok(None),
            Who::Own => &self.people()[at],
            Who::Other => &self.people()[self.other(at)],
        };
        let id = person.coefficients(condition.photos)?;
        let base = person.base(condition.photos)?;
        let base = base.filter(|_| condition.base != 0.0 && self.has_base());
        let shown = Shown {
            id: Some((&id, self.options.id_scale)),
            base: base.as_ref().map(|base| (base, condition.base)),
            slider: None,
        };
        self.painter.terms(&shown).map(Some)
    }

    /// What everybody should know who reads the report.
    pub fn notes(&self) -> Vec<String> {
        let Crowd {
            found,
            photos,
            left_out,
            people,
        } = &self.crowd;
        let mut notes = vec![
            format!("{} people; the detector found a face in {found} of {photos} photos.", people.len()),
            "Numbers in brackets are 95 % bootstrap intervals over people (1000 draws with replacement).".to_owned(),
        ];
        if self.drawn().is_some() {
            notes.push("The people are drawn; where no face was found, the drawing's own landmarks were used.".to_owned());
        }
        if *left_out > 0 {
            notes.push(format!(
                "{left_out} people were left out: no face was found in any of their photos."
            ));
        }
        if !self.has_base() {
            notes.push(
                "The bundle has no Base-LoRA: rows with a base scale are left out.".to_owned(),
            );
        }
        if let Some(reason) = self.eyes.clip.no_text() {
            notes.push(format!("CLIP-T is empty: {reason}."));
        }
        if self.eyes.judge.is_none() {
            notes.push("No judge was given: attributes are not measured.".to_owned());
        }
        notes
    }
}

impl Person {
    /// The person's prompt and seed, with nobody shown.
    pub fn job(&self, guidance: f64) -> Job {
        Job {
            prompt: self.prompt.clone(),
            seed: self.seed,
            guidance,
            shown: None,
        }
    }

    /// The mean over the first photos, normalised.
    pub fn coefficients(&self, photos: usize) -> Result<Coefficients, Error> {
        let photos = self.photos.iter().take(photos.max(1));
        Ok(combine(
            &photos.map(|photo| photo.id.clone()).collect::<Vec<_>>(),
        )?)
    }

    /// The same of the Base-LoRA's coefficients.
    pub fn base(&self, photos: usize) -> Result<Option<Coefficients>, Error> {
        let photos = self.photos.iter().take(photos.max(1));
        let all: Option<Vec<_>> = photos.map(|photo| photo.base.clone()).collect();
        Ok(all.map(|all| combine(&all)).transpose()?)
    }
}
