//! From a prompt, and whom to show, to a picture.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use candle_core::{Device, Tensor};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use likeness_bundle::{Bundle, Defaults};
use likeness_hyperlora::{Basis, Kind, Lora, Stack};
use likeness_models::{load_sdxl, low_rank_updates};
use likeness_sdxl::{
    DeviceName, Init, LoadOptions, LowRankUpdate, NumberType, SampleRequest, Scheduler, Sdxl, Step,
    has_trigger,
};

use super::{
    coefficients::{self, Origin},
    photo::png,
    tensors::{TensorFile, to_file},
    whole::{self, Outputs},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::{note, print_fields},
};

/// What to paint, and where to write it. What is left out is the bundle's default.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct SampleArgs {
    /// The bundle whose model is used.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: PathBuf,
    /// One of the bundle's further models, by its name.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What to show, taken as it is: no trigger words are added. (word:1.2), (word) and [word] weigh words, \( is a
    /// plain bracket.
    #[arg(long)]
    prompt: String,
    /// What to avoid; leaving it out is not the same as "".
    #[arg(long)]
    negative: Option<String>,
    /// Pixels.
    #[arg(long)]
    width: Option<u32>,
    /// Pixels.
    #[arg(long)]
    height: Option<u32>,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<u32>,
    /// Classifier-free guidance; 1 turns it off.
    #[arg(long)]
    guidance: Option<f64>,
    /// Bring the guided noise back to the spread of the unguided: 0 (not at all) to 1.
    #[arg(long, default_value_t = 0.0)]
    guidance_rescale: f64,
    /// ddim, euler, euler_karras, euler_ancestral, dpmpp_2m, dpmpp_2m_karras or lcm.
    #[arg(long)]
    scheduler: Option<String>,
    /// Start of the noise, as in torch.manual_seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The text encoders' layer that is used, counted from the end as ComfyUI counts: 1 is the last, 2 the
    /// one before.
    #[arg(long, value_name = "N")]
    clip_skip: Option<u32>,
    /// Start from this noise: a safetensors file with `noise` [1, 4, height/8, width/8] of unit variance.
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Start from this picture, of the size asked for; that size may then be left out.
    #[arg(long, value_name = "IMG")]
    init: Option<PathBuf>,
    /// How much of the picture to start from may change, above 0 and up to 1.
    #[arg(long, value_name = "S", default_value_t = 0.7, requires = "init")]
    strength: f64,
    /// Show this person: what `model encode` wrote, and the LoRA's weight. May be repeated: the LoRAs
    /// stack.
    #[arg(long, value_name = "FILE[=SCALE]")]
    coefficients: Vec<Scaled>,
    /// Add this LoRA file with this weight (1 if left out). May be repeated.
    #[arg(long, value_name = "FILE[=SCALE]")]
    lora: Vec<Scaled>,
    /// The number type of U-Net and text encoders: f32, f16 or bf16; by default f32 on the cpu, bf16 on a GPU.
    #[arg(long)]
    dtype: Option<NumberType>,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Write every step: `latents` [steps, 4, h, w], `timesteps` [steps], and `sigmas` [steps] where the
    /// scheduler has noise levels.
    #[arg(long, value_name = "FILE")]
    trajectory: Option<PathBuf>,
    /// Write what the prompts become: `prompt_embeds`, `pooled`, `negative_prompt_embeds` and
    /// `negative_pooled`.
    #[arg(long, value_name = "FILE")]
    dump_text: Option<PathBuf>,
    /// The PNG file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A file and the weight that it is used with.
#[derive(Clone)]
struct Scaled {
    path: PathBuf,
    scale: Option<f64>,
}

impl FromStr for Scaled {
    type Err = String;

    /// The part behind the last `=` is a weight if it reads as a number: paths may hold `=`, too.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, scale) = match text.rsplit_once('=') {
            Some((path, number)) => match number.parse::<f64>() {
                Ok(scale) if !scale.is_finite() => {
                    return Err("the scale must be finite".to_owned());
                }
                Ok(scale) => (path, Some(scale)),
                Err(_) => (text, None),
            },
            None => (text, None),
        };
        if path.is_empty() {
            return Err("expected FILE or FILE=SCALE".to_owned());
        }
        Ok(Self {
            path: path.into(),
            scale,
        })
    }
}

/// Writes the picture.
pub fn sample(args: &SampleArgs, output: Output) -> Result<(), Failure> {
    for path in [
        Some(&args.out),
        args.trajectory.as_ref(),
        args.dump_text.as_ref(),
    ] {
        path.map_or(Ok(()), |path| whole::check(path))?;
    }
    let bundle = Bundle::open(&args.bundle).map_err(failed)?;
    let request = args.request(bundle.defaults())?;
    request.check().map_err(failed)?;
    let noise = match &args.noise {
        Some(path) => Some(TensorFile::open(path)?.tensor("noise", "[1, 4, h, w]")?),
        None => None,
    };
    // What may be refused without the model comes before the model.
    let source = bundle.sdxl(args.model.as_deref()).map_err(failed)?;
    let options = args.options()?;
    let stack = args.persons(&bundle)?;
    let loras = args.loras()?;
    let mut model = load_sdxl(&source, &options).map_err(failed)?;
    let updates = updates(stack, &loras, &model)?;
    model.merge(&updates).map_err(failed)?;
    args.warn_without_trigger(bundle.defaults());
    let bar = bar(request.steps);
    let mut trajectory = Trajectory::default();
    let picture = trajectory.follow(&model, &request, noise.as_ref(), &bar)?;
    bar.finish_and_clear();
    let mut outputs = Outputs::default();
    outputs.add(&args.out, png(&picture)?);
    if let Some(path) = &args.trajectory {
        outputs.add(path, trajectory.to_file()?);
    }
    if let Some(path) = &args.dump_text {
        outputs.add(path, text_file(&model, &request)?);
    }
    outputs.commit()?;
    show(args, &request, updates.len(), output)
}

impl SampleArgs {
    fn request(&self, defaults: &Defaults) -> Result<SampleRequest, Failure> {
        let scheduler = self.scheduler.as_ref().unwrap_or(&defaults.scheduler);
        let scheduler: Scheduler = scheduler
            .parse()
            .map_err(|error: likeness_sdxl::Error| Failure::usage(error.to_string()))?;
        let init = self.init()?;
        let picture = init.as_ref().map(|init| init.picture.dimensions());
        let (width, height) = picture.unwrap_or((defaults.width, defaults.height));
        Ok(SampleRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative.clone(),
            width: self.width.unwrap_or(width),
            height: self.height.unwrap_or(height),
            steps: self.steps.unwrap_or(defaults.steps),
            guidance: self.guidance.unwrap_or(defaults.guidance),
            guidance_rescale: self.guidance_rescale,
            scheduler,
            seed: self.seed,
            clip_skip: self.clip_skip.unwrap_or(defaults.clip_skip),
            init,
        })
    }

    /// The picture to start from.
    fn init(&self) -> Result<Option<Init>, Failure> {
        let Some(path) = &self.init else {
            return Ok(None);
        };
        let picture = image::open(path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Some(Init {
            picture: Arc::new(picture.to_rgb8()),
            strength: self.strength,
        }))
    }

    fn options(&self) -> Result<LoadOptions, Failure> {
        Ok(LoadOptions {
            dtype: self
                .device
                .number_type(self.dtype)
                .map_err(|error| Failure::usage(error.to_string()))?
                .into(),
            device: self.device.open().map_err(failed)?,
        })
    }

    /// The LoRAs of all persons.
    fn persons(&self, bundle: &Bundle) -> Result<Stack, Failure> {
        let mut stack = Stack::default();
        if self.coefficients.is_empty() {
            return Ok(stack);
        }
        let part = bundle.hyperlora().map_err(failed)?;
        let basis = Basis::load(&part.dir, &Device::Cpu).map_err(failed)?;
        let origin = Origin::of(bundle);
        for person in &self.coefficients {
            let read = coefficients::read(&person.path, Kind::Id, &basis, &origin)?;
            let lora = basis.synthesize(&read, Kind::Id).map_err(failed)?;
            let scale = person.scale.unwrap_or(bundle.defaults().id_scale);
            stack.push(&lora, scale).map_err(failed)?;
        }
        Ok(stack)
    }

    /// The LoRA files; says what of them the picture will lack.
    fn loras(&self) -> Result<Vec<(&Scaled, Lora)>, Failure> {
        let mut loras = Vec::with_capacity(self.lora.len());
        for file in &self.lora {
            let imported = Lora::load(&file.path).map_err(failed)?;
            if !imported.unknown.is_empty() {
                note(&format!(
                    "{}: not used, being no plain LoRA of an attention matrix: {}",
                    file.path.display(),
                    imported.unknown.join(", ")
                ));
            }
            loras.push((file, imported.lora));
        }
        Ok(loras)
    }

    /// A prompt without the words that a LoRA was trained with loses the person.
    fn warn_without_trigger(&self, defaults: &Defaults) {
        if !self.coefficients.is_empty() && !has_trigger(&defaults.trigger, &self.prompt) {
            let words = defaults.trigger.trim().trim_end_matches(',');
            note(&format!(
                "the prompt lacks the trigger words, so that the likeness fades; begin it with {words:?}"
            ));
        }
    }
}

/// The updates of all persons and LoRAs, stacked.
fn updates(
    mut stack: Stack,
    loras: &[(&Scaled, Lora)],
    model: &Sdxl,
) -> Result<Vec<LowRankUpdate>, Failure> {
    let matrices = model.attention_matrices().into_iter();
    let shapes: HashMap<_, _> = matrices
        .map(|matrix| (matrix.name, (matrix.rows, matrix.cols)))
        .collect();
    for (file, lora) in loras {
        lora.check_fits(|name| shapes.get(name).copied())
            .map_err(|error| Failure::new(format!("{}: {error}", file.path.display())))?;
        stack
            .push(lora, file.scale.unwrap_or(1.0))
            .map_err(failed)?;
    }
    low_rank_updates(&stack).map_err(failed)
}

/// What was seen of every step.
#[derive(Default)]
struct Trajectory {
    latents: Vec<Tensor>,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl Trajectory {
    fn follow(
        &mut self,
        model: &Sdxl,
        request: &SampleRequest,
        noise: Option<&Tensor>,
        bar: &ProgressBar,
    ) -> Result<image::RgbImage, Failure> {
        let mut on_step = |step: Step<'_>| {
            self.latents.push(step.latents().clone());
            self.timesteps.push(step.timestep);
            self.sigmas.extend(step.sigma);
            bar.set_position(u64::from(step.index));
            ControlFlow::Continue(())
        };
        match noise {
            Some(noise) => model.sample_with_noise(request, noise, &mut on_step),
            None => model.sample(request, &mut on_step),
        }
        .map_err(failed)
    }

    fn to_file(&self) -> Result<Vec<u8>, Failure> {
        let numbers = |values: &[f64]| Tensor::new(values, &Device::Cpu).map_err(failed);
        let latents = Tensor::cat(&self.latents, 0).map_err(failed)?;
        let mut tensors = vec![
            ("latents", latents),
            ("timesteps", numbers(&self.timesteps)?),
        ];
        if !self.sigmas.is_empty() {
            tensors.push(("sigmas", numbers(&self.sigmas)?));
        }
        to_file(&tensors, HashMap::new())
    }
}

fn text_file(model: &Sdxl, request: &SampleRequest) -> Result<Vec<u8>, Failure> {
    let text = model.prompt_embeddings(request).map_err(failed)?;
    let mut tensors = vec![("prompt_embeds", text.states), ("pooled", text.pooled)];
    if let Some((states, pooled)) = text.negative {
        tensors.extend([
            ("negative_prompt_embeds", states),
            ("negative_pooled", pooled),
        ]);
    }
    to_file(&tensors, HashMap::new())
}

/// Hidden by itself where stderr is no terminal.
fn bar(steps: u32) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(steps));
    if let Ok(style) = ProgressStyle::with_template("sampling {wide_bar} step {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}

fn show(
    args: &SampleArgs,
    request: &SampleRequest,
    updates: usize,
    output: Output,
) -> Result<(), Failure> {
    let shown = |path: Option<&PathBuf>| {
        path.map(|path: &PathBuf| Path::display(path).to_string())
            .unwrap_or_default()
    };
    let fields = [
        ("picture", shown(Some(&args.out))),
        ("size", format!("{} x {}", request.width, request.height)),
        ("steps", request.steps.to_string()),
        ("scheduler", request.scheduler.to_string()),
        ("seed", request.seed.to_string()),
        ("trajectory", shown(args.trajectory.as_ref())),
        ("text", shown(args.dump_text.as_ref())),
    ];
    let json = serde_json::json!({
        "out": args.out, "width": request.width, "height": request.height,
        "steps": request.steps, "guidance": request.guidance,
        "guidance_rescale": request.guidance_rescale,
        "init": args.init, "strength": request.init.as_ref().map(|init| init.strength),
        "scheduler": request.scheduler.as_str(), "seed": request.seed, "clip_skip": request.clip_skip,
        "updated_matrices": updates,
        "trajectory": args.trajectory, "dump_text": args.dump_text,
    });
    print_fields(output, &fields, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_stands_behind_the_last_equals_sign() {
        let read = |text: &str| {
            let Scaled { path, scale } = text.parse().unwrap();
            (path.display().to_string(), scale)
        };
        assert_eq!(read("a.safetensors"), ("a.safetensors".to_owned(), None));
        assert_eq!(read("a=-0.7"), ("a".to_owned(), Some(-0.7)));
        assert_eq!(
            read("a=b.safetensors"),
            ("a=b.safetensors".to_owned(), None)
        );
        assert_eq!(read("a=b=1"), ("a=b".to_owned(), Some(1.0)));
        assert!("a=nan".parse::<Scaled>().is_err());
        assert!("=1".parse::<Scaled>().is_err());
    }
}
