//! The paper's table.

use crate::Error;
use crate::clip::cosine;
use crate::eyes::Seen;
use crate::lab::{Condition, Lab, Who};
use crate::people::{PHOTOS, Person};
use crate::report::{Claim, Report, Table};
use crate::statistics::{Estimate, mean_difference, mean_of_some};

const ABOUT: &str = "CLIP-I fidelity: cosine of CLIP's embeddings of the whole render and the whole first photo; of faces: of the \
    faces' crops on grey. ID similarity: cosine of the recogniser's embeddings of the faces found in render and photo; first: \
    how often nobody enrolled is nearer. Both are of the renders in which the detector finds a face: the share of those is \
    beside them. CLIP-I editing: cosine of the whole render and the render of the same prompt and seed without any LoRA. \
    CLIP-T: cosine of render and prompt. One render per person; another's: the next person's coefficients.";

const COLUMNS: [&str; 7] = [
    "CLIP-I fidelity",
    "of faces",
    "ID similarity",
    "first",
    "faces found",
    "CLIP-I editing",
    "CLIP-T",
];

/// A condition's numbers, column by column, person by person.
struct Measured([Vec<Option<f64>>; 7]);

/// Measures all rows.
pub fn measure(lab: &Lab<'_>, report: &mut Report) -> Result<(), Error> {
    let mut table = Table::new("Similarity", ABOUT, &COLUMNS);
    let mut measured = Vec::new();
    for (name, condition) in rows(lab) {
        let numbers = of(lab, condition)?;
        table.row(name, numbers.estimates());
        measured.push((condition, numbers));
    }
    report.tables.push(table);
    let find = |wanted: &dyn Fn(&Condition) -> bool| {
        let found = measured.iter().find(|(condition, _)| wanted(condition));
        found.map(|(_, numbers)| numbers)
    };
    let usual = |who: Who| move |c: &Condition| c.who == who && c.base == 0.0 && c.photos == 1;
    if let (Some(own), Some(other)) = (find(&usual(Who::Own)), find(&usual(Who::Other))) {
        report.find(
            "renders are like the enrolled person",
            "ID similarity, own less another's",
            mean_difference(&own.0[2], &other.0[2]),
            Claim::Above(0.0),
        );
    }
    let most = lab.options.base_scales.iter().copied().fold(0.0, f64::max);
    let base = find(&|c: &Condition| c.who == Who::Own && c.base > 0.0 && c.base >= most);
    if let (Some(own), Some(base)) = (find(&usual(Who::Own)), base) {
        report.find(
            "the base scale adds fidelity",
            "CLIP-I fidelity, the largest base scale less ID only",
            mean_difference(&base.0[0], &own.0[0]),
            Claim::Above(0.0),
        );
        report.find(
            "the base scale costs editing",
            "CLIP-I editing, ID only less the largest base scale",
            mean_difference(&own.0[5], &base.0[5]),
            Claim::Above(0.0),
        );
    }
    Ok(())
}

fn rows(lab: &Lab<'_>) -> Vec<(String, Condition)> {
    let own = lab.usual(Who::Own);
    let mut rows = vec![
        ("no LoRA".to_owned(), lab.usual(Who::Nobody)),
        ("another's".to_owned(), lab.usual(Who::Other)),
        ("ID only, 1 photo".to_owned(), own),
    ];
    for &base in lab.options.base_scales.iter().filter(|_| lab.has_base()) {
        rows.push((format!("ID + Base {base}"), Condition { base, ..own }));
    }
    for photos in 2..=PHOTOS {
        rows.push((format!("{photos} photos"), Condition { photos, ..own }));
    }
    for &guidance in &lab.options.guidances {
        rows.push((
            format!("guidance {guidance}"),
            Condition { guidance, ..own },
        ));
    }
    rows
}

fn of(lab: &Lab<'_>, condition: Condition) -> Result<Measured, Error> {
    let renders = lab.renders(condition)?;
    let nobody = lab.renders(Condition {
        who: Who::Nobody,
        ..condition
    })?;
    let mut measured = Measured(Default::default());
    for (at, person) in lab.people().iter().enumerate() {
        let (seen, bare) = (&renders[at], &nobody[at]);
        let numbers = [
            Some(cosine(&seen.whole, &person.reference.whole)),
            faces(person, seen),
            person.likeness(seen),
            first(lab.people(), at, seen),
            Some(f64::from(u8::from(seen.face.is_some()))),
            (condition.who != Who::Nobody).then(|| cosine(&seen.whole, &bare.whole)),
            person
                .prompt_embedding
                .as_ref()
                .map(|text| cosine(&seen.whole, text)),
        ];
        for (column, number) in measured.0.iter_mut().zip(numbers) {
            column.push(number);
        }
    }
    Ok(measured)
}

fn faces(person: &Person, seen: &Seen) -> Option<f64> {
    let (own, found) = (person.reference.face.as_ref()?, seen.face.as_ref()?);
    Some(cosine(&own.crop, &found.crop))
}

/// 1 if nobody's photo is nearer than the person's own.
fn first(people: &[Person], at: usize, seen: &Seen) -> Option<f64> {
    let own = people[at].likeness(seen)?;
    let nearer = |other: &Person| other.likeness(seen).is_some_and(|cosine| cosine > own);
    Some(f64::from(u8::from(!people.iter().any(nearer))))
}

impl Measured {
    fn estimates(&self) -> Vec<Option<Estimate>> {
        let columns = self.0.iter();
        columns
            .map(|column| mean_of_some(column.iter().copied()))
            .collect()
    }
}
