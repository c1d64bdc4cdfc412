//! SDXL as a diffusers folder.

use std::path::Path;

use super::compare::{Expected, Found, compare};
use super::weights::Weights;
use super::{PartReport, single_file};
use crate::layout::{TextConfig, UnetConfig, VaeConfig};
use crate::open::SdxlModel;

/// The files of a diffusers folder that hold no weights; `config.json`s are read where their weights are.
const WITHOUT_WEIGHTS: [&str; 2] = ["model_index.json", "scheduler/scheduler_config.json"];
/// The tokenizers' folders.
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// Describes a model and lists what does not fit.
pub(super) fn inspect(section: &str, model: &SdxlModel) -> PartReport {
    match model {
        SdxlModel::Folder(dir) => folder(section, dir),
        SdxlModel::SingleFile { path, .. } => single_file::inspect(section, path),
    }
}

fn folder(section: &str, dir: &Path) -> PartReport {
    let mut report = PartReport::new(section, "diffusers folder");
    for path in WITHOUT_WEIGHTS {
        report.has(dir, path);
    }
    for part in TOKENIZERS {
        tokenizer(&mut report, dir, part);
    }
    text_encoder(&mut report, dir, "text_encoder/", false);
    text_encoder(&mut report, dir, "text_encoder_2/", true);
    unet(&mut report, dir);
    vae(&mut report, dir);
    report
}

/// Vocabulary and merges, or both in the one file that newer versions of transformers write.
fn tokenizer(report: &mut PartReport, dir: &Path, part: &str) {
    if dir.join(part).join("tokenizer.json").is_file() {
        return;
    }
    report.has(dir, &format!("{part}/vocab.json"));
    report.has(dir, &format!("{part}/merges.txt"));
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
