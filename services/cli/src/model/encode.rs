//! From photos, or what the encoder sees of them, to coefficients.

use std::{path::PathBuf, time::Instant};

use candle_core::{Device, Tensor};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use likeness_bundle::Bundle;
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::Encoder;

use super::{
    coefficients::{self, Encoded, Origin},
    crops::CropArgs,
    inputs::{self, Inputs},
    timings::{self, Timings},
    whole::{self, Outputs},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::print_fields,
};

/// From what to what.
#[derive(Args)]
pub struct EncodeArgs {
    /// The bundle whose encoder is used.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: PathBuf,
    /// A safetensors file with `arcface` [n, 512], and `clip_hidden` [n, t, width] or `pixel_values`
    /// [n, 3, h, w]; for a Base-LoRA `base_clip_hidden` or `base_pixel_values`, too.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "photos",
        conflicts_with = "photos"
    )]
    inputs: Option<PathBuf>,
    /// A photo of the person; may be repeated.
    #[arg(long = "photo", id = "photos", value_name = "IMG")]
    photos: Vec<PathBuf>,
    /// The coefficients file to write: `per_photo` [n, T, K], before the mean, and `coefficients` [T, K].
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    crop: CropArgs,
}

/// Writes the coefficients.
pub fn encode(args: &EncodeArgs, output: Output) -> Result<(), Failure> {
    whole::check(&args.out)?;
    let bundle = Bundle::open(&args.bundle).map_err(failed)?;
    let part = bundle.hyperlora().map_err(failed)?;
    let start = Instant::now();
    let encoder = Encoder::load(&part.dir, part.dim_head, &Device::Cpu).map_err(failed)?;
    let loading = start.elapsed();
    let bar = bar();
    let mut inputs = match &args.inputs {
        Some(path) => inputs::from_file(path, &bundle, &encoder)?,
        None => {
            bar.set_length(2 * args.photos.len() as u64);
            inputs::from_photos(&args.photos, &args.crop, &bundle, &encoder, &bar)?
        }
    };
    let id = Encoded::new(predict(&encoder, &mut inputs, &bar)?)?;
    let base = match &inputs.base {
        Some(states) => Some(Encoded::new(
            encoder.base_per_photo(states).map_err(failed)?,
        )?),
        None => None,
    };
    bar.finish_and_clear();
    let origin = Origin::of(&bundle);
    let mut outputs = Outputs::default();
    outputs.add(&args.out, coefficients::write(&id, base.as_ref(), &origin)?);
    outputs.commit()?;
    inputs.loading += loading;
    show(args, &id, &inputs, &origin, output)
}

/// Photo by photo, so that somebody who waits sees it go on.
fn predict(
    encoder: &Encoder,
    inputs: &mut Inputs,
    bar: &ProgressBar,
) -> Result<Vec<Coefficients>, Failure> {
    let count = [&inputs.clip, &inputs.arcface]
        .into_iter()
        .flatten()
        .filter_map(|input| input.dims().first().copied())
        .collect::<Vec<_>>();
    // Inputs of different counts are refused where the encoder sees them together.
    let [first, rest @ ..] = count.as_slice() else {
        return encoder.per_photo(None, None).map_err(failed);
    };
    if *first == 0 || rest.iter().any(|other| other != first) {
        return encoder
            .per_photo(inputs.clip.as_ref(), inputs.arcface.as_ref())
            .map_err(failed);
    }
    inputs.timings.resize(*first, Timings::default());
    let mut all = Vec::with_capacity(*first);
    for (photo, timings) in inputs.timings.iter_mut().enumerate() {
        let clip = row(inputs.clip.as_ref(), photo)?;
        let arcface = row(inputs.arcface.as_ref(), photo)?;
        let one = || encoder.per_photo(clip.as_ref(), arcface.as_ref());
        all.extend(timings.time("resampler", one).map_err(failed)?);
        bar.inc(1);
    }
    Ok(all)
}

fn row(input: Option<&Tensor>, photo: usize) -> Result<Option<Tensor>, Failure> {
    input
        .map(|input| input.narrow(0, photo, 1))
        .transpose()
        .map_err(failed)
}

/// Hidden by itself where stderr is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("encoding {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}

fn show(
    args: &EncodeArgs,
    id: &Encoded,
    inputs: &Inputs,
    origin: &Origin,
    output: Output,
) -> Result<(), Failure> {
    let (photos, tokens, k) = (id.per_photo.len(), id.combined.tokens(), id.combined.k());
    let (encoder, base) = (origin.encoder.clone(), inputs.base.is_some());
    let timings = &inputs.timings;
    let fields = [
        ("coefficients", args.out.display().to_string()),
        ("photos", photos.to_string()),
        ("shape", format!("{tokens} x {k}")),
        ("base", if base { "yes" } else { "no" }.to_owned()),
        ("encoder", encoder.clone().unwrap_or_default()),
        ("took", timings::line(timings)),
    ];
    let json = serde_json::json!({
        "out": args.out, "photos": photos, "tokens": tokens, "k": k, "base": base,
        "encoder": encoder, "hyperlora": origin.hyperlora,
        "loading_ms": timings::milliseconds(inputs.loading),
        "timings_ms": timings.iter().map(Timings::to_json).collect::<Vec<_>>(),
    });
    print_fields(output, &fields, &json)
}
