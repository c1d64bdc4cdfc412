//! SDXL as a diffusers folder or as one checkpoint file.

use std::path::Path;

use super::compare::{Expected, Found, compare};
use super::header::Header;
use super::weights::Weights;
use super::{Component, PartReport, Problem};
use crate::layout::{TextConfig, UnetConfig, VaeConfig};
use crate::open::SdxlModel;

/// The files of a diffusers folder that hold no weights; `config.json`s are read where their weights are.
const WITHOUT_WEIGHTS: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_2/vocab.json",
    "tokenizer_2/merges.txt",
];

/// The models of a single-file checkpoint: how their tensors' names start, and SDXL's own counts.
const COMPONENTS: [(&str, &str, u64); 4] = [
    ("unet", "model.diffusion_model.", 2_567_463_684),
    ("text_encoder", "conditioner.embedders.0.", 123_060_480),
    ("text_encoder_2", "conditioner.embedders.1.", 694_659_840),
    ("vae", "first_stage_model.", 83_653_863),
];

/// Describes a model and lists what does not fit.
pub(super) fn inspect(section: &str, model: &SdxlModel) -> PartReport {
    match model {
        SdxlModel::Folder(dir) => folder(section, dir),
        SdxlModel::SingleFile(path) => single_file(section, path),
    }
}

fn folder(section: &str, dir: &Path) -> PartReport {
    let mut report = PartReport::new(section, "diffusers folder");
    for path in WITHOUT_WEIGHTS {
        report.has(dir, path);
    }
    text_encoder(&mut report, dir, "text_encoder/", false);
    text_encoder(&mut report, dir, "text_encoder_2/", true);
    unet(&mut report, dir);
    vae(&mut report, dir);
    report
}

fn text_encoder(report: &mut PartReport, dir: &Path, folder: &str, projected: bool) {
    let config: Option<TextConfig> = report.config(dir, &format!("{folder}config.json"));
    let weights = Weights::read(report, dir, folder, "model");
    let (Some(config), Some(weights)) = (config, weights) else {
        return;
    };
    let found = weights.found();
    let mut expected = config.layout(projected).shapes();
    if found.has("embeddings.token_embedding.weight") {
        expected = renamed(expected, |name| name.replacen("text_model.", "", 1));
    }
    compare(report, &found, &expected, |name| {
        name.ends_with("position_ids") || name == "text_projection.weight"
    });
}

fn unet(report: &mut PartReport, dir: &Path) {
    let config: Option<UnetConfig> = report.config(dir, "unet/config.json");
    let weights = Weights::read(report, dir, "unet/", "diffusion_pytorch_model");
    if let (Some(config), Some(weights)) = (config, weights) {
        compare(report, &weights.found(), &config.layout().shapes(), |_| {
            false
        });
    }
}

fn vae(report: &mut PartReport, dir: &Path) {
    let config: Option<VaeConfig> = report.config(dir, "vae/config.json");
    let weights = Weights::read(report, dir, "vae/", "diffusion_pytorch_model");
    if let (Some(config), Some(weights)) = (config, weights) {
        let found = weights.found();
        let expected = attention_as_found(config.layout().shapes(), &found);
        compare(report, &found, &expected, |_| false);
    }
}

/// Checkpoints from before diffusers 0.17 name the autoencoder's attention otherwise.
fn attention_as_found(expected: Expected, found: &Found<'_>) -> Expected {
    const OLD: [(&str, &str); 4] = [
        (".to_q.", ".query."),
        (".to_k.", ".key."),
        (".to_v.", ".value."),
        (".to_out.0.", ".proj_attn."),
    ];
    renamed(expected, |name| {
        let old = OLD
            .iter()
            .find(|(new, _)| name.contains(new))
            .map(|(new, old)| name.replacen(new, old, 1));
        match old {
            Some(old) if !found.has(name) && found.has(&old) => old,
            _ => name.to_owned(),
        }
    })
}

fn renamed(expected: Expected, rename: impl Fn(&str) -> String) -> Expected {
    expected
        .into_iter()
        .map(|(name, shape)| (rename(&name), shape))
        .collect()
}

fn single_file(section: &str, path: &Path) -> PartReport {
    let mut report = PartReport::new(section, "single-file checkpoint");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if let Some(header) = report.read(path.parent().unwrap_or(path), &name) {
        for (component, prefix, expected) in COMPONENTS {
            let found = count(&header, component, prefix);
            if found.parameters != expected {
                report.problems.push(Problem::WrongModel {
                    path: name.to_string(),
                    expected: format!(
                        "{expected} parameters under {prefix}, as SDXL's {component} has"
                    ),
                    found: format!("{} in {} tensors", found.parameters, found.tensors),
                });
            }
            report.components.push(found);
        }
    }
    report
}

/// What only indexes or scales is not counted: not every checkpoint has it.
fn count(header: &Header, name: &'static str, prefix: &'static str) -> Component {
    let of_component = header.tensors.iter().filter(|(tensor, _)| {
        tensor.starts_with(prefix)
            && !tensor.ends_with("position_ids")
            && !tensor.ends_with("logit_scale")
    });
    let (mut tensors, mut parameters) = (0, 0);
    for (_, tensor) in of_component {
        tensors += 1;
        parameters = tensor.parameters().saturating_add(parameters);
    }
    Component {
        name,
        prefix,
        tensors,
        parameters,
    }
}
