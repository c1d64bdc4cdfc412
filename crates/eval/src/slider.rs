//! Sliders: a pair of people who differ in one attribute, added to other people at several strengths.

use image::RgbImage;
use likeness_portraits::{Identity, Level};
use likeness_train::judge::Told;

use crate::Error;
use crate::lab::Lab;
use crate::paint::{Job, Shown};
use crate::people::{Drawn, enrol_once};
use crate::report::{Claim, Report, Table};
use crate::statistics::{Estimate, mean_difference, mean_of_some, rises};

pub const STRENGTHS: [f64; 5] = [-1.0, -0.5, 0.0, 0.5, 1.0];
/// People at most, each with the next one's pair.
const PEOPLE: usize = 24;
/// How far an attribute may fall, as a share of its range, and still count as rising: what the judge errs by.
const SLACK: f64 = 0.03;

const ABOUT: &str = "A pair is one drawn person twice in the same setting, once with the least and once with the most of the attribute \
    (glasses and beard: without and with). Its slider is added to the next person's ID-LoRA. Columns by strength: the attribute as \
    the judge sees it, from 0 to 1. Rises: how often a person's five numbers never fall by more than 0.03. Change: the last less the \
    first. Others' change: the mean over the ten other attributes of how far they move, as a share of the range or of probability.";

/// What a slider moves: the attribute's name, its place in levels and classes put together, and the pair.
struct Slide {
    name: &'static str,
    place: usize,
    set: fn(&mut Identity, bool),
}

const SLIDES: [Slide; 5] = [
    Slide {
        name: "skin",
        place: 0,
        set: |identity, most| identity.skin = end(most),
    },
    Slide {
        name: "face width",
        place: 1,
        set: |identity, most| identity.face_width = end(most),
    },
    Slide {
        name: "face height",
        place: 2,
        set: |identity, most| identity.face_height = end(most),
    },
    Slide {
        name: "glasses",
        place: 9,
        set: |identity, most| identity.glasses = most,
    },
    Slide {
        name: "beard",
        place: 10,
        set: |identity, most| identity.beard = most,
    },
];

fn end(most: bool) -> Level {
    if most { Level::MOST } else { Level::LEAST }
}

/// Measures all sliders, if everybody is drawn and there is a judge.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    let Some(drawn) = lab.drawn().filter(|_| lab.eyes.judge.is_some()) else {
        return Ok(());
    };
    let names: Vec<String> = STRENGTHS.iter().map(|s| format!("{s:+}")).collect();
    let mut columns: Vec<&str> = names.iter().map(String::as_str).collect();
    columns.extend(["rises", "change", "others' change"]);
    let mut table = Table::new("Sliders", ABOUT, &columns);
    for slide in &SLIDES {
        let moved = of(lab, &drawn, slide)?;
        table.row(slide.name, moved.estimates());
        let change = moved.column(|one| one.change);
        let others = moved.column(|one| one.others);
        report.find(
            &format!("the {} slider moves its attribute", slide.name),
            "change from -1 to 1",
            mean_of_some(change.iter().copied()),
            Claim::Above(0.0),
        );
        report.find(
            &format!("the {} slider moves others less", slide.name),
            "its own change less the others'",
            mean_difference(&change, &others),
            Claim::Above(0.0),
        );
    }
    report.tables.push(table);
    Ok(())
}

struct Moved(Vec<One>);

/// One person's numbers.
struct One {
    at: [f64; 5],
    change: f64,
    others: f64,
}

impl Moved {
    fn column(&self, of: impl Fn(&One) -> f64) -> Vec<Option<f64>> {
        self.0.iter().map(|one| Some(of(one))).collect()
    }

    fn estimates(&self) -> Vec<Option<Estimate>> {
        let of = |number: &dyn Fn(&One) -> f64| mean_of_some(self.column(number));
        let strengths = (0..STRENGTHS.len()).map(|at| of(&|one| one.at[at]));
        let rest = [
            of(&|one| f64::from(u8::from(rises(&one.at, SLACK)))),
            of(&|one| one.change),
            of(&|one| one.others),
        ];
        strengths.chain(rest).collect()
    }
}

fn of(lab: &Lab<'_>, drawn: &[Drawn], slide: &Slide) -> Result<Moved, Error> {
    let count = drawn.len().min(PEOPLE);
    let pictures = paint(lab, drawn, slide, count)?;
    let told = match &lab.eyes.judge {
        Some(judge) => judge.tell(&pictures)?,
        None => Vec::new(),
    };
    let people = told.chunks_exact(STRENGTHS.len());
    Ok(Moved(people.map(|told| one(told, slide.place)).collect()))
}

/// The first people at all strengths, person by person.
fn paint(
    lab: &Lab<'_>,
    drawn: &[Drawn],
    slide: &Slide,
    count: usize,
) -> Result<Vec<RgbImage>, Error> {
    let mut jobs = Vec::with_capacity(count * STRENGTHS.len());
    for (at, person) in lab.people().iter().take(count).enumerate() {
        let donor = drawn[lab.other(at)];
        let pair = [false, true].map(|most| {
            let mut identity = donor.identity;
            (slide.set)(&mut identity, most);
            enrol_once(&identity, donor.number, 0, &lab.eyes, lab.options.faces)
        });
        let [before, after] = pair;
        let (before, after) = (before?.id.normalised(), after?.id.normalised());
        let id = person.coefficients(1)?;
        for strength in STRENGTHS {
            let shown = Shown {
                id: Some((&id, lab.options.id_scale)),
                slider: Some((&before, &after, strength)),
                base: None,
            };
            jobs.push(Job {
                shown: Some(lab.painter.terms(&shown)?),
                ..person.job(lab.options.guidance)
            });
        }
    }
    lab.paint(&jobs)
}

/// The sheet's rows: every slider on the first person.
pub fn rows(lab: &Lab<'_>) -> Result<Vec<Vec<RgbImage>>, Error> {
    let Some(drawn) = lab.drawn() else {
        return Ok(Vec::new());
    };
    SLIDES
        .iter()
        .map(|slide| paint(lab, &drawn, slide, 1))
        .collect()
}

/// An attribute from 0 to 1: a level as a share of its range, or the probability of "yes".
fn value(told: &Told, place: usize) -> f64 {
    match told.levels.get(place) {
        Some(level) => f64::from(level + 1.0) / 2.0,
        None => f64::from(told.identity[place - told.levels.len()][1]),
    }
}

/// How far an attribute has moved: as a share of the range, or of the probability of all options.
fn distance(from: &Told, to: &Told, place: usize) -> f64 {
    if let (Some(a), Some(b)) = (from.levels.get(place), to.levels.get(place)) {
        return f64::from((a - b).abs()) / 2.0;
    }
    let class = place - from.levels.len();
    let options = from.identity[class].iter().zip(&to.identity[class]);
    options.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / 2.0
}

fn one(told: &[Told], place: usize) -> One {
    let mut at = [0.0; 5];
    for (at, told) in at.iter_mut().zip(told) {
        *at = value(told, place);
    }
    let (first, last) = (&told[0], &told[STRENGTHS.len() - 1]);
    let all = first.levels.len() + first.identity.len();
    let others = (0..all).filter(|other| *other != place);
    let moved: f64 = others.map(|other| distance(first, last, other)).sum();
    One {
        change: at[STRENGTHS.len() - 1] - at[0],
        at,
        others: moved / (all - 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(skin: f32, glasses: f32) -> Told {
        let mut told = Told {
            levels: [0.0; 6],
            identity: vec![
                vec![1.0],
                vec![1.0],
                vec![1.0],
                vec![1.0 - glasses, glasses],
                vec![1.0, 0.0],
            ],
            setting: Vec::new(),
        };
        told.levels[0] = skin;
        told
    }

    #[test]
    fn a_slider_of_one_attribute_leaves_the_others() {
        let glasses = [0.0, 0.2, 0.5, 0.9, 1.0].map(|p| told(0.0, p));
        let moved = one(&glasses, 9);
        assert!((moved.change - 1.0).abs() < 1e-6 && moved.others < 1e-6);
        assert!(rises(&moved.at, SLACK));
        let skin = [-1.0, -0.5, 0.0, 0.5, 1.0].map(|level| told(level, 0.5 + 0.5 * level));
        let moved = one(&skin, 0);
        assert!((moved.change - 1.0).abs() < 1e-6 && (moved.others - 0.1).abs() < 1e-6);
    }

    #[test]
    fn every_slide_sets_the_attribute_at_its_place() {
        for slide in &SLIDES {
            let pair = [false, true].map(|most| {
                let mut identity = Identity::drawn(5);
                (slide.set)(&mut identity, most);
                identity
            });
            let all = |identity: &Identity| -> Vec<i32> {
                let levels = identity
                    .levels()
                    .map(|level| (level * 1e3) as i32)
                    .into_iter();
                let classes = identity.classes().map(|class| class as i32);
                levels.chain(classes).collect()
            };
            let (before, after) = (all(&pair[0]), all(&pair[1]));
            let differ: Vec<usize> = (0..11).filter(|&at| before[at] != after[at]).collect();
            assert_eq!(differ, [slide.place], "{}", slide.name);
            assert!(after[slide.place] > before[slide.place]);
        }
    }
}
