//! How far draws of one person's photos are from each other, by the number of photos in a draw.

use likeness_domain::coefficients::{Coefficients, combine};
use likeness_train::judge::Told;

use crate::Error;
use crate::eyes::Enrolled;
use crate::lab::Lab;
use crate::paint::{Job, Shown};
use crate::people::{PHOTOS, enrol_once};
use crate::report::{Claim, Report, Table};
use crate::statistics::{mean_difference, mean_of_some};

/// Draws of each size, which share no photo.
const DRAWS: usize = 4;
/// People at most: each needs many photos and renders.
const PEOPLE: usize = 16;

const ABOUT: &str = "4 draws of so many photos of each person, no photo in two of them. Coefficients: 1 less the mean cosine of two \
    draws' tokens. Attributes, in renders of one prompt and seed: the levels' standard deviation as a share of their range, and how \
    often two draws' classes differ.";

/// Measures rows of 1 to 4 photos, if everybody is drawn.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    let Some(drawn) = lab.drawn() else {
        return Ok(());
    };
    let mut people = Vec::new();
    for person in drawn.iter().take(PEOPLE) {
        let photos = (0..(DRAWS * PHOTOS) as u64).map(|photo| {
            let faces = lab.options.faces;
            enrol_once(&person.identity, person.number, photo, &lab.eyes, faces)
        });
        people.push(photos.collect::<Result<Vec<Enrolled>, Error>>()?);
    }
    let columns = ["coefficients", "levels", "classes"];
    let mut table = Table::new("Spread over photos", ABOUT, &columns);
    let mut all: Vec<[Vec<Option<f64>>; 3]> = Vec::new();
    for count in 1..=PHOTOS {
        let spread = of(lab, &people, count)?;
        let name = format!("{count} photo{}", if count == 1 { "" } else { "s" });
        let cells = spread
            .iter()
            .map(|column| mean_of_some(column.iter().copied()));
        table.row(name, cells.collect());
        all.push(spread);
    }
    report.tables.push(table);
    for (at, name) in columns.into_iter().enumerate() {
        report.find(
            &format!("more photos bring the draws' {name} nearer to each other"),
            "spread, 1 photo less 4",
            mean_difference(&all[0][at], &all[PHOTOS - 1][at]),
            Claim::Above(0.0),
        );
    }
    Ok(())
}

fn of(
    lab: &Lab<'_>,
    people: &[Vec<Enrolled>],
    count: usize,
) -> Result<[Vec<Option<f64>>; 3], Error> {
    let mut columns: [Vec<Option<f64>>; 3] = Default::default();
    let (mut jobs, mut judged) = (Vec::new(), lab.eyes.judge.is_some());
    for (photos, person) in people.iter().zip(lab.people()) {
        let draws = photos.chunks(count).take(DRAWS).map(|photos| {
            let ids: Vec<_> = photos.iter().map(|photo| photo.id.clone()).collect();
            Ok(combine(&ids)?)
        });
        let draws = draws.collect::<Result<Vec<Coefficients>, Error>>()?;
        columns[0].push(mean_of_pairs(&draws, |a, b| 1.0 - token_cosine(a, b)));
        for draw in draws.iter().filter(|_| judged) {
            let shown = Shown {
                id: Some((draw, lab.options.id_scale)),
                ..Shown::default()
            };
            jobs.push(Job {
                shown: Some(lab.painter.terms(&shown)?),
                ..person.job(lab.options.guidance)
            });
        }
    }
    let told = match &lab.eyes.judge {
        Some(judge) => judge.tell(&lab.paint(&jobs)?)?,
        None => Vec::new(),
    };
    judged = !told.is_empty();
    for draws in told.chunks(DRAWS).filter(|_| judged) {
        columns[1].push(Some(level_spread(draws)));
        columns[2].push(mean_of_pairs(draws, class_difference));
    }
    Ok(columns)
}

fn mean_of_pairs<T>(all: &[T], of: impl Fn(&T, &T) -> f64) -> Option<f64> {
    let pairs = (0..all.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    let numbers: Vec<f64> = pairs.map(|(a, b)| of(&all[a], &all[b])).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

/// The mean cosine of the tokens of two normalised sets.
fn token_cosine(a: &Coefficients, b: &Coefficients) -> f64 {
    let products = a.values().iter().zip(b.values());
    let sum: f64 = products.map(|(a, b)| f64::from(a * b)).sum();
    sum / a.tokens() as f64
}

/// The levels' standard deviation over draws, as a share of their range, mean over the levels.
fn level_spread(draws: &[Told]) -> f64 {
    let count = draws.len() as f64;
    let deviation = |at: usize| {
        let levels = draws.iter().map(|told| f64::from(told.levels[at]) / 2.0);
        let mean = levels.clone().sum::<f64>() / count;
        let square: f64 = levels.map(|level| (level - mean).powi(2)).sum();
        (square / (count - 1.0).max(1.0)).sqrt()
    };
    (0..6).map(deviation).sum::<f64>() / 6.0
}

fn class_difference(a: &Told, b: &Told) -> f64 {
    let (a, b) = (a.classes(), b.classes());
    let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    differ as f64 / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_once() {
        let mean = mean_of_pairs(&[1.0, 2.0, 4.0], |a: &f64, b: &f64| (a - b).abs());
        assert_eq!(mean, Some(2.0));
        assert_eq!(mean_of_pairs(&[1.0], |_, _| 1.0), None);
    }

    #[test]
    fn equal_tokens_have_a_cosine_of_one() {
        let one = Coefficients::new(2, 2, vec![3.0, 4.0, 1.0, 0.0])
            .unwrap()
            .normalised();
        let other = Coefficients::new(2, 2, vec![3.0, 4.0, 0.0, 1.0])
            .unwrap()
            .normalised();
        assert!((token_cosine(&one, &one) - 1.0).abs() < 1e-6);
        assert!((token_cosine(&one, &other) - 0.5).abs() < 1e-6);
    }
}
