//! Blends of two people in equal parts.

use image::RgbImage;
use likeness_domain::coefficients::blend;
use likeness_portraits::Identity;
use likeness_train::judge::Told;

use crate::Error;
use crate::lab::{Lab, Who};
use crate::paint::{Job, Shown};
use crate::report::{Claim, Report, Table};
use crate::statistics::{Estimate, estimate, position};

/// Two people count for a level in which they differ by as much: a quarter of the range.
const APART: f32 = 0.5;

const ABOUT: &str = "Everybody blended with the next person in equal parts, with everybody's own prompt and seed. Position: where the \
    judge sees the blend between the render of the person (0) and of the next one (1), by least squares over the pairs that differ \
    by a quarter of the range or more. Between: how often it lies between the two. n is in the JSON.";

/// Measures all levels, if everybody is drawn and there is a judge.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    let (Some(drawn), Some(judge)) = (lab.drawn(), &lab.eyes.judge) else {
        return Ok(());
    };
    let people: Vec<Identity> = drawn.iter().map(|drawn| drawn.identity).collect();
    let blends = judge.tell(&paint(lab, lab.people().len())?)?;
    let (own, other) = (
        lab.renders(lab.usual(Who::Own))?,
        lab.renders(lab.usual(Who::Other))?,
    );
    let mut table = Table::new("Blends", ABOUT, &["position", "between"]);
    let mut all = Vec::new();
    for (level, name) in Identity::LEVELS.into_iter().enumerate() {
        let mut triples = Vec::new();
        for (at, blend) in blends.iter().enumerate() {
            let apart = people[at].levels()[level] - people[lab.other(at)].levels()[level];
            if apart.abs() < APART {
                continue;
            }
            let of = |told: &Option<Told>| told.as_ref().map(|told| f64::from(told.levels[level]));
            if let (Some(a), Some(b)) = (of(&own[at].told), of(&other[at].told)) {
                triples.push([a, f64::from(blend.levels[level]), b]);
            }
        }
        table.row(name, vec![positioned(&triples), between(&triples)]);
        all.extend(triples);
    }
    table.row("all levels", vec![positioned(&all), between(&all)]);
    report.tables.push(table);
    report.find(
        "a blend lies between the two",
        "position from 0 to 1, all levels",
        positioned(&all),
        Claim::Within(0.1, 0.9),
    );
    Ok(())
}

fn positioned(triples: &[[f64; 3]]) -> Option<Estimate> {
    estimate(triples.len(), |chosen| {
        let chosen: Vec<[f64; 3]> = chosen.iter().map(|&at| triples[at]).collect();
        position(&chosen)
    })
}

fn between(triples: &[[f64; 3]]) -> Option<Estimate> {
    let inside = |[from, between, to]: &[f64; 3]| {
        let (low, high) = (from.min(*to), from.max(*to));
        f64::from(u8::from((low..=high).contains(between)))
    };
    crate::statistics::mean(&triples.iter().map(inside).collect::<Vec<_>>())
}

/// The first people's blends with the next ones.
pub fn paint(lab: &Lab<'_>, count: usize) -> Result<Vec<RgbImage>, Error> {
    let jobs = lab
        .people()
        .iter()
        .take(count)
        .enumerate()
        .map(|(at, person)| {
            let next = &lab.people()[lab.other(at)];
            let mixed = blend(&[(person.coefficients(1)?, 0.5), (next.coefficients(1)?, 0.5)])?;
            let shown = Shown {
                id: Some((&mixed, lab.options.id_scale)),
                ..Shown::default()
            };
            Ok(Job {
                shown: Some(lab.painter.terms(&shown)?),
                ..person.job(lab.options.guidance)
            })
        });
    lab.paint(&jobs.collect::<Result<Vec<_>, Error>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_is_counted_in_either_order() {
        let found = between(&[
            [0.0, 0.5, 1.0],
            [1.0, 0.2, 0.0],
            [0.0, 1.5, 1.0],
            [0.0, -0.1, 1.0],
        ]);
        assert!((found.unwrap().mean - 0.5).abs() < 1e-12);
        let middle = positioned(&[[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]).unwrap();
        assert!((middle.mean - 0.5).abs() < 1e-12);
    }
}
