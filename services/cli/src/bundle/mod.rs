//! Bundles on disk.

mod pull;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use likeness_bundle::{Bundle, Inspection, Verification, pocket};

use crate::{
    args::Output,
    fail::{Failure, failed},
    output::{line, print, print_fields, print_json},
};

use pull::PullArgs;

/// What to do with bundles.
#[derive(Subcommand)]
pub enum BundleCommand {
    /// Write the pocket bundle: tiny, in the real formats, trained on drawn portraits.
    MakePocket {
        /// A new or empty folder.
        dir: PathBuf,
        /// Random weights instead, for tests: its pictures mean nothing.
        #[arg(long)]
        random: bool,
        /// The same seed makes the same random weights everywhere.
        #[arg(long, default_value_t = 0, requires = "random")]
        seed: u64,
    },
    /// Show what a bundle holds, from its files' headers alone.
    Inspect {
        /// The bundle.
        dir: PathBuf,
    },
    /// Compare every file with its checksum in the manifest.
    Verify {
        /// The bundle.
        dir: PathBuf,
    },
    /// Write the checksums of the files on disk into the manifest.
    Hash {
        /// The bundle: a folder with files and a `bundle.toml`.
        dir: PathBuf,
    },
    /// Download a bundle from the Hugging Face hub; what was interrupted goes on where it stopped.
    Pull(PullArgs),
}

/// Runs a command.
pub fn run(command: BundleCommand, output: Output) -> Result<(), Failure> {
    match command {
        BundleCommand::MakePocket { dir, random, seed } => {
            make_pocket(&dir, random.then_some(seed), output)
        }
        BundleCommand::Inspect { dir } => inspect(&dir, output),
        BundleCommand::Verify { dir } => verify(&dir, output),
        BundleCommand::Hash { dir } => hash(&dir, output),
        BundleCommand::Pull(args) => pull::pull(&args, output),
    }
}

/// The trained one, or one of random weights.
fn make_pocket(dir: &Path, random: Option<u64>, output: Output) -> Result<(), Failure> {
    let made = match random {
        None => pocket::trained(dir),
        Some(seed) => pocket::make(dir, seed),
    };
    made.map_err(failed)?;
    let bundle = Bundle::open(dir).map_err(failed)?;
    let note = match random {
        None => "trained on drawn portraits: it knows drawn people, not photos",
        Some(_) => "random weights: its pictures mean nothing",
    };
    let fields = [
        ("bundle", dir.display().to_string()),
        ("digest", bundle.digest()),
        ("note", note.to_owned()),
    ];
    let json = serde_json::json!({ "dir": dir, "digest": bundle.digest() });
    print_fields(output, &fields, &json)
}

fn verify(dir: &Path, output: Output) -> Result<(), Failure> {
    let bundle = Bundle::open(dir).map_err(failed)?;
    let bar = bar("{wide_bar} {bytes}/{total_bytes}");
    let verification = bundle
        .verify(|progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        })
        .map_err(failed)?;
    bar.finish_and_clear();
    show(&verification, output)?;
    if verification.is_ok() {
        return Ok(());
    }
    Err(Failure::new(
        "the bundle is not what its manifest says; fetch or make it again",
    ))
}

/// Hidden by itself where stderr is no terminal.
pub fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn hash(dir: &Path, output: Output) -> Result<(), Failure> {
    let bar = bar("{wide_bar} {bytes}/{total_bytes}");
    let hashed = Bundle::open(dir)
        .and_then(|bundle| {
            bundle.write_hashes(|progress| {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            })
        })
        .map_err(failed)?;
    bar.finish_and_clear();
    let digest = Bundle::open(dir).map_err(failed)?.digest();
    let fields = [
        ("bundle", dir.display().to_string()),
        ("files", hashed.files.to_string()),
        ("bytes", hashed.bytes.to_string()),
        ("digest", digest.clone()),
    ];
    let json = serde_json::json!({
        "dir": dir, "files": hashed.files, "bytes": hashed.bytes, "digest": digest,
    });
    print_fields(output, &fields, &json)
}

fn show(verification: &Verification, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        let json = serde_json::to_value(verification).map_err(failed)?;
        return print_json(&json);
    }
    for path in &verification.missing {
        line(&format!("missing  {path}"))?;
    }
    for path in &verification.extra {
        line(&format!("extra    {path}"))?;
    }
    for changed in &verification.changed {
        line(&format!("changed  {}", changed.path))?;
    }
    line(&format!(
        "{} files, {} bytes read",
        verification.files, verification.bytes
    ))
}

fn inspect(dir: &Path, output: Output) -> Result<(), Failure> {
    let inspection = Bundle::open(dir).map_err(failed)?.inspect();
    let problems = inspection
        .parts
        .iter()
        .map(|part| part.problems.len())
        .sum::<usize>();
    if output == Output::Json {
        print_json(&serde_json::to_value(&inspection).map_err(failed)?)?;
    } else {
        show_inspection(&inspection)?;
    }
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new("1 thing does not fit; see above")),
        count => Err(Failure::new(format!(
            "{count} things do not fit; see above"
        ))),
    }
}

fn show_inspection(inspection: &Inspection) -> Result<(), Failure> {
    line(&format!(
        "{} {}  digest {}",
        inspection.name, inspection.version, inspection.digest
    ))?;
    let rows = inspection.parts.iter().flat_map(|part| {
        part.files.iter().map(|file| {
            let dtypes: Vec<&str> = file.dtypes.keys().map(String::as_str).collect();
            vec![
                part.section.clone(),
                file.path.clone(),
                file.tensors.to_string(),
                file.parameters.to_string(),
                dtypes.join(" "),
                file.bytes.to_string(),
            ]
        })
    });
    let header = ["PART", "FILE", "TENSORS", "PARAMETERS", "TYPE", "BYTES"];
    print(
        Output::Human,
        &header,
        rows.collect(),
        &serde_json::Value::Null,
    )?;
    let components: Vec<Vec<String>> = inspection
        .parts
        .iter()
        .flat_map(|part| {
            part.components.iter().map(|component| {
                vec![
                    part.section.clone(),
                    component.name.to_owned(),
                    component.tensors.to_string(),
                    component.parameters.to_string(),
                ]
            })
        })
        .collect();
    if !components.is_empty() {
        let header = ["PART", "COMPONENT", "TENSORS", "PARAMETERS"];
        print(Output::Human, &header, components, &serde_json::Value::Null)?;
    }
    for part in &inspection.parts {
        for problem in &part.problems {
            line(&format!("{}: {problem}", part.section))?;
        }
    }
    Ok(())
}
