//! The sheet: people beside their renders, sliders, and blends.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use likeness_chart as chart;

use crate::lab::{Condition, Lab, Who};
use crate::people::PHOTOS;
use crate::{Error, Section, blend, slider};

/// People on it.
const SHOWN: usize = 12;
/// Side of a picture on the sheet, in pixels.
const SIDE: u32 = 128;

/// Draws it.
pub fn sheet(lab: &Lab<'_>) -> Result<RgbImage, Error> {
    let mut parts = vec![people(lab)?];
    let asks = |section| lab.options.sections.contains(&section);
    if asks(Section::Slider) && lab.drawn().is_some() {
        let names = slider::STRENGTHS.map(|s| format!("{s:+}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let rows = slider::rows(lab)?.into_iter().map(sized);
        parts.push(chart::sheet(&names, &rows.collect::<Vec<_>>()));
    }
    if asks(Section::Blend) {
        parts.push(blends(lab)?);
    }
    Ok(chart::stacked(&parts))
}

/// The enrolled photo, and renders of every kind.
fn people(lab: &Lab<'_>) -> Result<RgbImage, Error> {
    let own = lab.usual(Who::Own);
    let most = lab.options.base_scales.iter().copied().fold(0.0, f64::max);
    let mut columns = vec![
        ("own", own),
        (
            "4 photos",
            Condition {
                photos: PHOTOS,
                ..own
            },
        ),
        ("another's", lab.usual(Who::Other)),
        ("no LoRA", lab.usual(Who::Nobody)),
    ];
    if lab.has_base() && most > 0.0 {
        columns.insert(1, ("own+base", Condition { base: most, ..own }));
    }
    let (names, conditions): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let renders = conditions
        .into_iter()
        .map(|condition| lab.renders(condition));
    let renders = renders.collect::<Result<Vec<_>, Error>>()?;
    let rows = lab
        .people()
        .iter()
        .take(SHOWN)
        .enumerate()
        .map(|(at, person)| {
            let renders = renders.iter().map(|renders| renders[at].picture.clone());
            let row = std::iter::once(person.reference.picture.clone()).chain(renders);
            sized(row.collect())
        });
    let names: Vec<&str> = std::iter::once("photo").chain(names).collect();
    Ok(chart::sheet(&names, &rows.collect::<Vec<_>>()))
}

fn blends(lab: &Lab<'_>) -> Result<RgbImage, Error> {
    let (own, other) = (
        lab.renders(lab.usual(Who::Own))?,
        lab.renders(lab.usual(Who::Other))?,
    );
    let blends = blend::paint(lab, SHOWN / 2)?;
    let rows = blends.into_iter().enumerate().map(|(at, blend)| {
        sized(vec![
            own[at].picture.clone(),
            blend,
            other[at].picture.clone(),
        ])
    });
    Ok(chart::sheet(
        &["own", "50/50", "the next"],
        &rows.collect::<Vec<_>>(),
    ))
}

fn sized(row: Vec<RgbImage>) -> Vec<RgbImage> {
    let one = |picture: RgbImage| resize(&picture, SIDE, SIDE, FilterType::CatmullRom);
    row.into_iter().map(one).collect()
}
