//! `likeness eval`: what a bundle's identities are worth, in numbers.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use likeness_bundle::Bundle;
use likeness_eval::{Evaluation, Faces, Options, People, Progress, Section, evaluate};
use likeness_sdxl::{DeviceName, NumberType};

use crate::args::Output;
use crate::fail::{Failure, failed};
use crate::output::print_fields;

/// What to evaluate, and with what.
#[derive(Args)]
pub struct EvalArgs {
    /// The bundle.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: PathBuf,
    /// The folder for report.md, report.json and sheet.png.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Real people: a folder with one folder of photos for each. Without it, people are drawn.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["held_out", "faces"])]
    photos: Option<PathBuf>,
    /// Drawn people of these numbers: those whom the pocket recipe holds out, unless others are named.
    #[arg(long, value_name = "FIRST..END", default_value = "5800..6000", value_parser = range)]
    held_out: Range<u64>,
    /// How many people, at most.
    #[arg(long, default_value_t = 72, value_parser = at_least_two)]
    people: usize,
    /// Where the face of a drawn photo is.
    #[arg(long, value_enum, default_value_t = FacesArg::Detected)]
    faces: FacesArg,
    /// A prompt for people who are not drawn; may be repeated, and people take them in turn.
    #[arg(long = "prompt", value_name = "PROMPT")]
    prompts: Vec<String>,
    /// What tells attributes of drawn people: the file that `likeness train judge` writes.
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// A bundle that was trained without the stage of the Base-LoRA: what leaks from its enrolled photos is compared.
    #[arg(long, value_name = "DIR")]
    without_base: Option<PathBuf>,
    /// Parts of the report: table, attributes, spread, slider, blend, leakage.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    sections: Vec<Section>,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<u32>,
    /// Guidance everywhere but in the rows that vary it.
    #[arg(long)]
    guidance: Option<f64>,
    /// Guidance of the rows that vary it.
    #[arg(long, value_delimiter = ',', default_values_t = [3.0, 5.0, 7.0])]
    guidances: Vec<f64>,
    /// Weight of the ID-LoRA.
    #[arg(long)]
    id_scale: Option<f64>,
    /// Weights of the Base-LoRA, a row each.
    #[arg(long, value_delimiter = ',', default_values_t = [0.3, 0.6, 1.0])]
    base_scales: Vec<f64>,
    /// Width and height of the renders, in pixels.
    #[arg(long)]
    side: Option<u32>,
    /// The first person's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Renders that are painted together, as far as memory allows.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=512))]
    batch: u32,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// The number type of U-Net and text encoders: f32, f16 or bf16; by default f32 on the cpu, bf16 on a GPU.
    #[arg(long)]
    dtype: Option<NumberType>,
}

/// [`Faces`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum FacesArg {
    /// Where the detector finds it, or else where the drawing has it.
    Detected,
    /// Where the drawing has it.
    Drawn,
}

/// Evaluates, and writes the report.
pub fn eval(args: &EvalArgs, output: Output) -> Result<(), Failure> {
    let bundle = Bundle::open(&args.bundle).map_err(failed)?;
    let options = args.options(&bundle)?;
    let bar = bar();
    let watch = |progress: Progress<'_>| {
        bar.set_prefix(progress.doing.to_owned());
        bar.set_length(progress.all as u64);
        bar.set_position(progress.done as u64);
    };
    let evaluation = evaluate(&bundle, &options, &watch).map_err(failed)?;
    bar.finish_and_clear();
    evaluation.write(&args.out).map_err(failed)?;
    show(args, &evaluation, output)
}

impl EvalArgs {
    fn options(&self, bundle: &Bundle) -> Result<Options, Failure> {
        let usual = Options::of(bundle);
        let or = |given: &[_], usual: Vec<_>| {
            if given.is_empty() {
                usual
            } else {
                given.to_vec()
            }
        };
        let dtype = self.device.number_type(self.dtype);
        Ok(Options {
            people: match &self.photos {
                Some(folder) => People::Photos(folder.clone()),
                None => People::Drawn(self.held_out.clone()),
            },
            count: self.people,
            faces: match self.faces {
                FacesArg::Detected => Faces::Detected,
                FacesArg::Drawn => Faces::Drawn,
            },
            prompts: if self.prompts.is_empty() {
                usual.prompts
            } else {
                self.prompts.clone()
            },
            judge: self.judge.clone(),
            without_base: self.without_base.clone(),
            sections: or(&self.sections, usual.sections),
            steps: self.steps.unwrap_or(usual.steps),
            guidance: self.guidance.unwrap_or(usual.guidance),
            guidances: self.guidances.clone(),
            id_scale: self.id_scale.unwrap_or(usual.id_scale),
            base_scales: self.base_scales.clone(),
            side: self.side.unwrap_or(usual.side),
            seed: self.seed,
            batch: self.batch as usize,
            dtype: dtype
                .map_err(|error| Failure::usage(error.to_string()))?
                .into(),
            device: self.device.open().map_err(failed)?,
        })
    }
}

/// Reads `5800..6000`.
fn range(text: &str) -> Result<Range<u64>, String> {
    let expected = || "expected FIRST..END, such as 5800..6000".to_owned();
    let (first, end) = text.split_once("..").ok_or_else(expected)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| expected());
    let (first, end) = (number(first)?, number(end)?);
    if end < first.saturating_add(2) {
        return Err("at least 2 people are needed".to_owned());
    }
    Ok(first..end)
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count >= 2 => Ok(count),
        _ => Err("expected a number from 2".to_owned()),
    }
}

/// Hidden by itself where stderr is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{prefix:10} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}

fn show(args: &EvalArgs, evaluation: &Evaluation, output: Output) -> Result<(), Failure> {
    let findings = &evaluation.report.findings;
    let shown = findings.iter().filter(|finding| finding.shows).count();
    let missing: Vec<&str> = findings
        .iter()
        .filter(|finding| !finding.shows)
        .map(|finding| finding.claim.as_str())
        .collect();
    let fields = [
        ("report", args.out.join("report.md").display().to_string()),
        ("effects shown", format!("{shown} of {}", findings.len())),
        ("not shown", missing.join("; ")),
    ];
    let json = serde_json::json!({
        "out": args.out, "shown": shown, "not_shown": missing,
    });
    print_fields(output, &fields, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_people_or_more() {
        assert_eq!(range("5800..6000"), Ok(5800..6000));
        for wrong in ["", "5", "5..", "..5", "5..6", "9..3", "a..b"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
