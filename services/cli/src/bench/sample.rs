//! `likeness bench sample`.

use std::{
    cell::RefCell,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use candle_core::{DType, Tensor};
use clap::Args;
use likeness_bundle::{Bundle, SdxlModel, pocket};
use likeness_sdxl::{
    LoadOptions, LowRankUpdate, NumberType, Sample, SampleRequest, Scheduler, Sdxl, SdxlConfig,
    Unmerged, Work,
};
use serde_json::json;

use super::{
    Common, Place, Size,
    report::{Report, Stage},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
};

/// Of the random identities, as of released ones.
const RANK: usize = 8;
/// Text states of a prompt.
const TOKENS: usize = 77;

/// What to sample.
#[derive(Args)]
pub struct SampleArgs {
    #[command(flatten)]
    common: Common,
    /// Pixels; by default 1024, or 64 at pocket size.
    #[arg(long)]
    width: Option<u32>,
    /// Pixels; by default 1024, or 64 at pocket size.
    #[arg(long)]
    height: Option<u32>,
    /// Denoising steps, of which the first is not measured.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1000))]
    steps: u32,
    /// Pictures that are sampled together.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: u32,
    /// With classifier-free guidance: the U-Net sees two latents for each picture.
    #[arg(long)]
    guided: bool,
    /// One identity for all, merged into the weights.
    #[arg(long)]
    merged: bool,
    /// An identity for each picture, beside the weights.
    #[arg(long, conflicts_with = "merged")]
    unmerged: bool,
    /// The number type of U-Net and text encoders: f32, f16 or bf16; by default f32 on the cpu, bf16 on a GPU.
    #[arg(long)]
    dtype: Option<NumberType>,
}

/// Measures steps and decoding. `--runs` counts whole pictures.
pub fn sample(args: &SampleArgs, output: Output) -> Result<(), Failure> {
    let (common, place) = (&args.common, args.common.place(args.dtype)?);
    let begun = Instant::now();
    let (mut model, config) = load(common, &place)?;
    let identities = args.identities(&mut model)?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    let (width, height) = args.sides();
    let sides = (height as usize, width as usize);
    let (step_work, decode_work) = args.work(&config, sides, place.dtype);
    let mut step = Stage::new("unet_step", step_work);
    let mut decode = Stage::new("decode", decode_work);
    for run in 0..=common.runs {
        let times = args.run(&model, &identities, &place)?;
        if run > 0 {
            times.steps.iter().for_each(|seconds| step.add(*seconds));
            decode.add(times.decode);
        }
    }
    let report = Report {
        bench: "sample",
        settings: vec![
            ("width", json!(width)),
            ("height", json!(height)),
            ("steps", json!(args.steps)),
            ("batch", json!(args.batch)),
            ("guided", json!(args.guided)),
            ("identities", json!(args.identities_name())),
        ],
        prepare_seconds,
        stages: vec![step, decode],
    };
    report.print(common, &place, output)
}

/// Random weights: at full size made on the device, at pocket size those of the pocket bundle.
fn load(common: &Common, place: &Place) -> Result<(Sdxl, SdxlConfig), Failure> {
    let options = LoadOptions {
        device: place.device.clone(),
        dtype: place.dtype,
    };
    if common.size == Size::Full {
        let config = SdxlConfig::full_size().map_err(failed)?;
        let model = Sdxl::random(config.clone(), &options, common.seed).map_err(failed)?;
        return Ok((model, config));
    }
    let scratch = tempfile::tempdir()?;
    pocket::make(scratch.path(), common.seed).map_err(failed)?;
    let bundle = Bundle::open(scratch.path()).map_err(failed)?;
    match bundle.sdxl(None).map_err(failed)? {
        SdxlModel::Folder(dir) => Ok((
            Sdxl::load(&dir, &options).map_err(failed)?,
            SdxlConfig::read(&dir).map_err(failed)?,
        )),
        SdxlModel::SingleFile { path, .. } => Err(Failure::new(format!(
            "{}: the pocket bundle holds a single file now",
            path.display()
        ))),
    }
}

/// What one run took, in seconds.
struct Times {
    /// From the second step on; a step of all pictures.
    steps: Vec<f64>,
    /// The last picture's decoding.
    decode: f64,
}

impl SampleArgs {
    fn sides(&self) -> (u32, u32) {
        let side = match self.common.size {
            Size::Pocket => 64,
            Size::Full => 1024,
        };
        (self.width.unwrap_or(side), self.height.unwrap_or(side))
    }

    fn work(&self, config: &SdxlConfig, sides: (usize, usize), dtype: DType) -> (Work, Work) {
        let rows = self.batch as usize * if self.guided { 2 } else { 1 };
        let step = config.unet_work(rows, sides, TOKENS, dtype);
        (step, config.decode_work(1, sides))
    }

    fn identities_name(&self) -> &'static str {
        match (self.merged, self.unmerged) {
            (true, _) => "merged",
            (_, true) => "unmerged",
            _ => "none",
        }
    }

    /// The identities beside the weights, one for each picture; one that is merged is in the model afterwards.
    fn identities(&self, model: &mut Sdxl) -> Result<Vec<Unmerged>, Failure> {
        if self.merged {
            let updates = random_updates(model)?;
            model.merge(&updates).map_err(failed)?;
        }
        let count = if self.unmerged { self.batch } else { 0 };
        (0..count)
            .map(|_| model.unmerged(&random_updates(model)?).map_err(failed))
            .collect()
    }

    fn request(&self, index: u32) -> SampleRequest {
        let (width, height) = self.sides();
        SampleRequest {
            prompt: "a portrait".to_owned(),
            negative_prompt: None,
            width,
            height,
            steps: self.steps,
            guidance: if self.guided { 3.5 } else { 1.0 },
            guidance_rescale: 0.0,
            scheduler: Scheduler::Euler,
            seed: self.common.seed + u64::from(index),
            clip_skip: 2,
            init: None,
        }
    }

    /// Samples one batch and looks at the clock whenever the last picture has done a step.
    fn run(&self, model: &Sdxl, identities: &[Unmerged], place: &Place) -> Result<Times, Failure> {
        let requests: Vec<_> = (0..self.batch).map(|index| self.request(index)).collect();
        let seen = RefCell::new(Vec::new());
        let (last, clock) = (requests.len() - 1, &seen);
        let samples = requests.iter().enumerate().map(|(index, request)| Sample {
            unmerged: identities.get(index),
            ..Sample::new(
                request,
                Box::new(move |_| {
                    if index == last {
                        // A failing device shows in the sampling itself.
                        let _ = place.wait();
                        clock.borrow_mut().push(Instant::now());
                    }
                    ControlFlow::Continue(())
                }),
            )
        });
        let pictures = model.sample_batch(samples.collect());
        let ended = Instant::now();
        for picture in pictures {
            picture.map_err(failed)?;
        }
        let seen = seen.into_inner();
        let between = |pair: &[Instant]| (pair[1] - pair[0]).as_secs_f64();
        let decode = seen.last().map_or(Duration::ZERO, |step| ended - *step);
        Ok(Times {
            steps: seen.windows(2).map(between).collect(),
            decode: decode.as_secs_f64(),
        })
    }
}

/// A LoRA of the rank of an identity's for every attention matrix, small beside the weights.
fn random_updates(model: &Sdxl) -> Result<Vec<LowRankUpdate>, Failure> {
    let random = |shape: (usize, usize)| {
        Tensor::randn(0_f32, 0.01, shape, &candle_core::Device::Cpu).map_err(failed)
    };
    let matrices = model.attention_matrices().into_iter();
    matrices
        .map(|matrix| {
            Ok(LowRankUpdate {
                down: random((RANK, matrix.cols))?,
                up: random((matrix.rows, RANK))?,
                matrix: matrix.name,
                scale: 1.0,
            })
        })
        .collect()
}
