//! What of the enrolled photo gets into renders beside the person: its background and its clothes.

use likeness_bundle::Bundle;
use likeness_portraits::Setting;

use crate::lab::{Condition, Lab, Who};
use crate::report::{Claim, Report, Table};
use crate::statistics::{mean_difference, mean_of_some};
use crate::{Error, Options, Watch};

const ABOUT: &str = "Of the people whose enrolled photo differs from the prompt in the attribute: how often the judge sees what the \
    prompt asks for, and how often what the photo shows instead. Silent rows have the prompt \"a person\", which asks for nothing: \
    what is seen of the photo there is chance (1/8 for a colour, 1/3 for a pattern) or has leaked.";

/// More than chance by less than this counts as no leak: with some 60 people an interval is about as wide.
const NONE: f64 = 0.15;

/// Columns of each class of the setting: as the prompt asks for, as the photo shows.
type Followed = [[Vec<Option<f64>>; 2]; 3];

/// Measures all rows, if everybody is drawn and there is a judge.
pub fn measure(lab: &Lab<'_>, report: &mut Report, watch: &Watch<'_>) -> Result<(), Error> {
    if lab.eyes.judge.is_none() || lab.drawn().is_none() {
        return Ok(());
    }
    let names = Setting::CLASSES.map(|class| class.name);
    let columns = names.map(|name| ["prompt's", "photo's"].map(|whose| format!("{name}: {whose}")));
    let columns: Vec<&str> = columns.iter().flatten().map(String::as_str).collect();
    let mut table = Table::new("Leakage", ABOUT, &columns);
    let mut add = |name: &str, lab: &Lab<'_>, condition: Condition| {
        let followed = of(lab, condition)?;
        let cells = followed.iter().flatten();
        let cells = cells.map(|own| mean_of_some(own.iter().copied()));
        table.row(name, cells.collect());
        Ok::<_, Error>(followed)
    };
    let silent = |lab: &Lab<'_>, who| Condition {
        silent: true,
        ..lab.usual(who)
    };
    let own = lab.usual(Who::Own);
    add("no LoRA", lab, lab.usual(Who::Nobody))?;
    let asked = add("ID only", lab, own)?;
    let bare = add("no LoRA, silent", lab, silent(lab, Who::Nobody))?;
    let shown = add("ID only, silent", lab, silent(lab, Who::Own))?;
    for &base in lab.options.base_scales.iter().filter(|_| lab.has_base()) {
        add(&format!("ID + Base {base}"), lab, Condition { base, ..own })?;
        let silent = Condition {
            silent: true,
            base,
            ..own
        };
        add(&format!("ID + Base {base}, silent"), lab, silent)?;
    }
    let without = match &lab.options.without_base {
        Some(dir) => {
            let bundle = Bundle::open(dir)?;
            let options = Options {
                without_base: None,
                ..lab.options.clone()
            };
            let other = Lab::open(&bundle, &options, watch)?;
            add(
                "trained without Base, ID only",
                &other,
                other.usual(Who::Own),
            )?;
            Some(add(
                "trained without Base, ID only, silent",
                &other,
                silent(&other, Who::Own),
            )?)
        }
        None => None,
    };
    report.tables.push(table);
    for (class, name) in names.into_iter().enumerate() {
        report.find(
            &format!("{name} follows the prompt, not the photo"),
            "share of the prompt's less share of the photo's, ID only",
            mean_difference(&asked[class][0], &asked[class][1]),
            Claim::Above(0.0),
        );
        report.find(
            &format!("the ID-LoRA brings no {name} along (less than {NONE})"),
            "share of the photo's, silent, ID only less no LoRA",
            mean_difference(&shown[class][1], &bare[class][1]),
            Claim::Below(NONE),
        );
        if let Some(without) = &without {
            report.find(
                &format!("trained without Base-LoRA, more {name} leaks"),
                "share of the photo's, silent, without less with",
                mean_difference(&without[class][1], &shown[class][1]),
                Claim::Above(0.0),
            );
        }
    }
    Ok(())
}

fn of(lab: &Lab<'_>, condition: Condition) -> Result<Followed, Error> {
    let renders = lab.renders(condition)?;
    let mut followed = Followed::default();
    for (seen, person) in renders.iter().zip(lab.people()) {
        let (Some(told), Some(drawn)) = (&seen.told, person.drawn) else {
            continue;
        };
        let found = told.setting_classes();
        let (prompt, photo) = (drawn.prompted.classes(), drawn.enrolled.classes());
        for (class, columns) in followed.iter_mut().enumerate() {
            let differ = prompt[class] != photo[class];
            for (column, wanted) in columns.iter_mut().zip([&prompt, &photo]) {
                let same = f64::from(u8::from(found[class] == wanted[class]));
                column.push(differ.then_some(same));
            }
        }
    }
    Ok(followed)
}
