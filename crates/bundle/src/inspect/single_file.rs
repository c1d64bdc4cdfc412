//! SDXL as one checkpoint file: every tensor by the name that it has there.

use std::path::Path;

use likeness_checkpoint::{Configs, Part, Shapes, Sizes, ignorable, recognise};

use super::compare::{Expected, Found, compare};
use super::header::Header;
use super::{Component, PartReport, Problem};
use crate::layout::{Config, TextConfig, UnetConfig, VaeConfig};

/// Describes the file and lists what does not fit.
pub(super) fn inspect(section: &str, path: &Path) -> PartReport {
    let mut report = PartReport::new(section, "single-file checkpoint");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if let Some(header) = report.read(path.parent().unwrap_or(path), &name) {
        describe(&mut report, &name, &header);
    }
    report
}

fn describe(report: &mut PartReport, name: &str, header: &Header) {
    report.components = Part::ALL.map(|part| count(header, part)).into();
    let tensors = header.tensors.iter();
    let shapes: Shapes = tensors
        .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
        .collect();
    let sizes = recognise(&shapes).and_then(|()| Sizes::read(&shapes));
    match sizes {
        Ok(sizes) => report.problems.extend(problems(name, header, &sizes)),
        Err(kind) => report.problems.push(Problem::BadFile {
            path: name.to_owned(),
            reason: kind.to_string(),
        }),
    }
}

/// What does not fit the sizes that the tensors themselves say, or SDXL base's where less does not fit
/// those: a misshapen tensor may be the very one that a size was read off.
fn problems(name: &str, header: &Header, read: &Sizes) -> Vec<Problem> {
    let found = Found::one(name, &header.tensors);
    let against = |sizes: &Sizes| Some(misfits(&found, &expected(sizes, &found)?));
    let base = against(&Sizes::base()).unwrap_or_default();
    let contradiction = read.contradiction().map(|reason| Problem::BadFile {
        path: name.to_owned(),
        reason,
    });
    match against(read) {
        Some(mut own) if own.len() + usize::from(contradiction.is_some()) < base.len() => {
            own.extend(contradiction);
            own
        }
        _ => base,
    }
}

fn misfits(found: &Found<'_>, expected: &Expected) -> Vec<Problem> {
    let mut scratch = PartReport::new("", "");
    compare(&mut scratch, found, expected, ignorable);
    scratch.problems
}

/// Every tensor of a model of these sizes; none, if no model has such sizes.
fn expected(sizes: &Sizes, found: &Found<'_>) -> Option<Expected> {
    let configs = sizes.configs();
    let mut expected = Expected::new();
    for part in Part::ALL {
        for (name, shape) in layout(part, &configs).ok()? {
            let source = sizes.source(part, &name);
            let mut shapes = source.form.file_shapes(&shape);
            let there = found.tensors.get(source.tensor.as_str());
            let fitting = there.and_then(|(_, t)| shapes.iter().position(|s| *s == t.shape));
            expected.insert(source.tensor, shapes.swap_remove(fitting.unwrap_or(0)));
        }
    }
    Some(expected)
}

/// A part's tensors in diffusers' names.
fn layout(part: Part, configs: &Configs) -> Result<Expected, String> {
    let text = |json: &serde_json::Value| TextConfig::parse(json.to_string().as_bytes());
    let layout = match part {
        Part::TextEncoder => text(&configs.text_encoder)?.layout(false),
        Part::TextEncoder2 => text(&configs.text_encoder_2)?.layout(true),
        Part::Unet => UnetConfig::parse(configs.unet.to_string().as_bytes())?.layout(),
        Part::Vae => VaeConfig::parse(configs.vae.to_string().as_bytes())?.layout(),
    };
    Ok(layout.shapes())
}

/// What is no part of the model is not counted: not every checkpoint has it.
fn count(header: &Header, part: Part) -> Component {
    let prefix = part.prefix();
    let of_part = header
        .tensors
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && !ignorable(name));
    let (mut tensors, mut parameters) = (0, 0);
    for (_, tensor) in of_part {
        tensors += 1;
        parameters = tensor.parameters().saturating_add(parameters);
    }
    Component {
        name: part.folder(),
        prefix,
        tensors,
        parameters,
    }
}
