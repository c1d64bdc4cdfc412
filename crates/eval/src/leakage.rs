//! What of the enrolled photo gets into renders beside the person: its background and its clothes.

use likeness_portraits::Setting;

use crate::Error;
use crate::lab::{Condition, Lab, Who};
use crate::report::{Claim, Report, Table};
use crate::statistics::{mean_difference, mean_of_some};

const ABOUT: &str = "Of the people whose enrolled photo differs from the prompt in the attribute: how often the judge sees what the \
    prompt asks for, and how often what the photo shows instead. Chance is 1/8 for a colour and 1/3 for a pattern. To see what the \
    stage of the Base-LoRA is for, compare this table with that of a bundle trained without it.";

/// A class of the setting, person by person: follows the prompt, follows the photo.
type Followed = [Vec<Option<f64>>; 2];

/// Measures all rows, if everybody is drawn and there is a judge.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    if lab.eyes.judge.is_none() || lab.drawn().is_none() {
        return Ok(());
    }
    let names = Setting::CLASSES.map(|class| class.name);
    let columns: Vec<String> = names
        .iter()
        .flat_map(|name| ["prompt's", "photo's"].map(|whose| format!("{name}: {whose}")))
        .collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("Leakage", ABOUT, &columns);
    let own = lab.usual(Who::Own);
    let mut rows = vec![
        ("no LoRA".to_owned(), lab.usual(Who::Nobody)),
        ("ID only".to_owned(), own),
    ];
    for &base in lab.options.base_scales.iter().filter(|_| lab.has_base()) {
        rows.push((format!("ID + Base {base}"), Condition { base, ..own }));
    }
    let mut all = Vec::new();
    for (name, condition) in rows {
        let followed = of(lab, condition)?;
        let cells = followed.iter().flatten();
        table.row(
            name,
            cells.map(|own| mean_of_some(own.iter().copied())).collect(),
        );
        all.push(followed);
    }
    report.tables.push(table);
    for (class, name) in names.into_iter().enumerate() {
        let shown = mean_difference(&all[1][class][0], &all[1][class][1]);
        report.find(
            &format!("{name} follows the prompt, not the photo"),
            "share of the prompt's less share of the photo's, ID only",
            shown,
            Claim::Above(0.0),
        );
        report.find(
            &format!("the ID-LoRA brings no {name} along"),
            "share of the photo's, no LoRA less ID only, plus 0.1",
            mean_difference(&all[0][class][1], &all[1][class][1]).map(|mut less| {
                less.mean += 0.1;
                less.low += 0.1;
                less.high += 0.1;
                less
            }),
            Claim::Above(0.0),
        );
    }
    Ok(())
}

fn of(lab: &Lab<'_>, condition: Condition) -> Result<[Followed; 3], Error> {
    let renders = lab.renders(condition)?;
    let mut followed: [Followed; 3] = Default::default();
    for (seen, person) in renders.iter().zip(lab.people()) {
        let (Some(told), Some(drawn)) = (&seen.told, person.drawn) else {
            continue;
        };
        let found = told.setting_classes();
        let (prompt, photo) = (drawn.prompted.classes(), drawn.enrolled.classes());
        for class in 0..followed.len() {
            let differ = prompt[class] != photo[class];
            for (column, wanted) in followed[class].iter_mut().zip([&prompt, &photo]) {
                let same = f64::from(u8::from(found[class] == wanted[class]));
                column.push(differ.then_some(same));
            }
        }
    }
    Ok(followed)
}
