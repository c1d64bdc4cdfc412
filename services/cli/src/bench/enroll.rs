//! `likeness bench enroll`.

use std::time::Instant;

use candle_core::{DType, Tensor};
use clap::Args;
use likeness_hyperlora::{ClipVision, Encoder};
use serde_json::json;

use super::{
    Common, count,
    report::{Report, Stage},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
};

/// What to enrol.
#[derive(Args)]
pub struct EnrollArgs {
    #[command(flatten)]
    common: Common,
}

/// Measures what a photo's crops go through. The encoder computes in f32 on every device.
pub fn enroll(args: &EnrollArgs, output: Output) -> Result<(), Failure> {
    let common = &args.common;
    let mut place = common.place(None)?;
    place.dtype = DType::F32;
    let begun = Instant::now();
    let sizes = common.size.hyperlora();
    let tower = ClipVision::random(&sizes.clip, common.seed, &place.device).map_err(failed)?;
    let encoder = Encoder::random(&sizes, common.seed, &place.device).map_err(failed)?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    let (side, width) = (tower.image_size(), sizes.resampler.embedding);
    let numbers = Tensor::randn(0_f32, 1.0, (1, 3, side, side), &place.device);
    let picture = numbers.map_err(failed)?;
    let unit = (width as f32).sqrt().recip();
    let face = Tensor::full(unit, (1, width), &place.device).map_err(failed)?;
    let tokens = (side / sizes.clip.patch_size).pow(2) + 1;
    let mut clip = Stage::new("clip", count::clip(&sizes.clip));
    let mut resampler = Stage::new("resampler", count::resampler(&sizes.resampler, tokens));
    for run in 0..=common.runs {
        let states = clip.time(&place, run > 0, || {
            tower.hidden_states(&picture).map_err(failed)
        })?;
        resampler.time(&place, run > 0, || {
            encoder.per_photo(&states, &face).map_err(failed)
        })?;
    }
    let report = Report {
        bench: "enroll",
        settings: vec![("photos", json!(1)), ("clip_tokens", json!(tokens))],
        prepare_seconds,
        stages: vec![clip, resampler],
    };
    report.print(common, &place, output)
}
