//! Attributes of renders beside those of the people enrolled, as the judge tells them.

use likeness_portraits::{Identity, Setting};
use likeness_train::judge::Told;

use crate::Error;
use crate::eyes::Seen;
use crate::lab::{Lab, Who};
use crate::people::Drawn;
use crate::report::{Claim, Report, Table};
use crate::statistics::{mean_difference, mean_of_some};

const ABOUT: &str = "The first columns are errors, as a share of an attribute's whole range; the others say how often the judge \
    sees the enrolled person's option. Mean error and mean right are over these; first: how often nobody's attributes are nearer \
    to what the judge sees. Ceiling: the person drawn in the prompt's setting, encoded and decoded: nothing but the autoencoder \
    and the judge errs there. Another's: the next person's coefficients.";

/// How far what is told of somebody is from an identity.
pub struct Errors {
    pub levels: [f64; 6],
    pub wrong: [f64; 5],
}

impl Errors {
    pub fn of(told: &Told, identity: &Identity) -> Errors {
        let mut errors = Errors {
            levels: [0.0; 6],
            wrong: [0.0; 5],
        };
        for (at, level) in identity.levels().into_iter().enumerate() {
            errors.levels[at] = f64::from((told.levels[at] - level).abs()) / 2.0;
        }
        let classes = told.classes().into_iter().zip(identity.classes());
        for (wrong, (found, expected)) in errors.wrong.iter_mut().zip(classes) {
            *wrong = f64::from(u8::from(found != expected));
        }
        errors
    }

    fn level(&self) -> f64 {
        self.levels.iter().sum::<f64>() / 6.0
    }

    fn right(&self) -> f64 {
        1.0 - self.wrong.iter().sum::<f64>() / 5.0
    }
}

/// How unlikely it is that the judge sees this person: levels by distance, classes by the probability of their options.
fn distance(told: &Told, identity: &Identity) -> f64 {
    let levels = identity.levels().into_iter().zip(told.levels);
    let levels: f64 = levels.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let options = told.identity.iter().zip(identity.classes());
    let classes: f64 = options
        .map(|(options, own)| -f64::from(options[own]).max(1e-3).ln())
        .sum();
    // An error of a fifth of the range weighs as much as an option of a probability of 1/e.
    levels / 0.16 + classes
}

/// Measures all rows, if everybody is drawn and there is a judge.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    let (Some(drawn), Some(_)) = (lab.drawn(), &lab.eyes.judge) else {
        return Ok(());
    };
    let ceiling = lab.ceiling(&drawn)?;
    let (levels, classes) = (Identity::LEVELS, Identity::CLASSES.map(|class| class.name));
    let mut columns: Vec<&str> = levels.into_iter().chain(classes).collect();
    columns.extend(["mean error", "mean right", "first"]);
    let mut table = Table::new("Attributes", ABOUT, &columns);
    let mut setting = Table::new(
        "Prompts followed",
        "How often the judge sees what the prompt asked for.",
        &Setting::CLASSES.map(|class| class.name),
    );
    let mut rights = Vec::new();
    for (name, who) in [
        ("ceiling", None),
        ("own", Some(Who::Own)),
        ("another's", Some(Who::Other)),
        ("no LoRA", Some(Who::Nobody)),
    ] {
        let renders = who.map(|who| lab.renders(lab.usual(who))).transpose()?;
        let seen: &[Seen] = renders.as_deref().map_or(&ceiling, Vec::as_slice);
        let judged = judged(seen, &drawn);
        table.row(name, estimates(&judged));
        setting.row(name, prompts_followed(seen, &drawn));
        rights.push(judged);
    }
    report.tables.extend([table, setting]);
    let [_, own, other, _] = rights.as_slice() else {
        return Ok(());
    };
    let column = |judged: &[Judged], of: &dyn Fn(&Errors) -> f64| -> Vec<Option<f64>> {
        judged
            .iter()
            .map(|judged| Some(of(&judged.errors)))
            .collect()
    };
    for (at, name) in levels.into_iter().enumerate() {
        let of = |errors: &Errors| errors.levels[at];
        let less = mean_difference(&column(other, &of), &column(own, &of));
        let what = "error, another's less own";
        report.find(
            &format!("{name} is the enrolled person's"),
            what,
            less,
            Claim::Above(0.0),
        );
    }
    for (at, name) in classes.into_iter().enumerate() {
        let of = |errors: &Errors| errors.wrong[at];
        let less = mean_difference(&column(other, &of), &column(own, &of));
        let what = "share wrong, another's less own";
        report.find(
            &format!("{name} is the enrolled person's"),
            what,
            less,
            Claim::Above(0.0),
        );
    }
    Ok(())
}

struct Judged {
    errors: Errors,
    first: f64,
}

fn judged(seen: &[Seen], drawn: &[Drawn]) -> Vec<Judged> {
    let all = seen.iter().zip(drawn).filter_map(|(seen, person)| {
        let told = seen.told.as_ref()?;
        let own = distance(told, &person.identity);
        let nearer = drawn
            .iter()
            .any(|other| distance(told, &other.identity) < own);
        Some(Judged {
            errors: Errors::of(told, &person.identity),
            first: f64::from(u8::from(!nearer)),
        })
    });
    all.collect()
}

fn estimates(judged: &[Judged]) -> Vec<Option<crate::statistics::Estimate>> {
    let of = |number: &dyn Fn(&Judged) -> f64| {
        mean_of_some(judged.iter().map(|judged| Some(number(judged))))
    };
    let levels = (0..6).map(|at| of(&|judged| judged.errors.levels[at]));
    let classes = (0..5).map(|at| of(&|judged| 1.0 - judged.errors.wrong[at]));
    let rest = [
        of(&|judged| judged.errors.level()),
        of(&|judged| judged.errors.right()),
        of(&|judged| judged.first),
    ];
    levels.chain(classes).chain(rest).collect()
}

fn prompts_followed(seen: &[Seen], drawn: &[Drawn]) -> Vec<Option<crate::statistics::Estimate>> {
    let column = |class: usize| {
        mean_of_some(seen.iter().zip(drawn).map(|(seen, drawn)| {
            let found = seen.told.as_ref()?.setting_classes();
            Some(f64::from(u8::from(
                found[class] == drawn.prompted.classes()[class],
            )))
        }))
    };
    (0..Setting::CLASSES.len()).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a perfect judge tells of somebody.
    pub fn perfect(identity: &Identity) -> Told {
        let sure = |count: usize, own: usize| (0..count).map(|at| f32::from(at == own)).collect();
        let options = Identity::CLASSES.iter().zip(identity.classes());
        Told {
            levels: identity.levels(),
            identity: options
                .map(|(class, own)| sure(class.options.len(), own))
                .collect(),
            setting: Vec::new(),
        }
    }

    #[test]
    fn a_perfect_picture_has_no_errors_and_its_person_is_first() {
        let people: Vec<Identity> = (0..40).map(Identity::drawn).collect();
        for person in &people {
            let told = perfect(person);
            let errors = Errors::of(&told, person);
            assert!(errors.level() < 1e-9 && (errors.right() - 1.0).abs() < 1e-9);
            let own = distance(&told, person);
            let nearer = people.iter().filter(|other| distance(&told, other) <= own);
            assert_eq!(nearer.count(), 1);
        }
    }

    #[test]
    fn errors_are_shares_of_the_range() {
        let person = Identity::drawn(3);
        let mut told = perfect(&person);
        told.levels[0] += 0.5;
        told.identity[4].reverse();
        let errors = Errors::of(&told, &person);
        assert!((errors.levels[0] - 0.25).abs() < 1e-6);
        assert!((errors.right() - 0.8).abs() < 1e-9);
    }
}
