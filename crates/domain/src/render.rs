//! A render's parameters: what a request may say, and what is left once every default is filled in.

mod strength;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

pub use self::strength::{NoStrength, Strength};
use crate::{FieldViolation, bundle::RenderDefaults, states::text_enum};

/// The most identities that one render blends.
pub const MAX_IDENTITIES: usize = 8;
/// The most images of one render.
pub const MAX_IMAGES: u32 = 8;
/// The most denoising steps.
pub const MAX_STEPS: u32 = 150;
/// The longest side of an image in pixels.
pub const MAX_SIDE: u32 = 2048;
/// The longest prompt in bytes.
pub const MAX_PROMPT: usize = 8192;
/// How long a render may wait and work where its request does not say.
pub const DEFAULT_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// How long a render may wait and work at most.
pub const MAX_LIFETIME: TimeDelta = TimeDelta::days(7);

text_enum! {
    /// How a sampler walks from noise to picture; the names that `bundle.toml` and the command line use.
    Scheduler ("scheduler") {
        /// DDIM.
        Ddim = "ddim",
        /// Euler.
        Euler = "euler",
        /// Euler with Karras sigmas.
        EulerKarras = "euler_karras",
        /// Euler ancestral.
        EulerAncestral = "euler_ancestral",
        /// DPM-Solver++ (2M).
        Dpmpp2m = "dpmpp_2m",
        /// DPM-Solver++ (2M) with Karras sigmas.
        Dpmpp2mKarras = "dpmpp_2m_karras",
        /// Latent consistency.
        Lcm = "lcm",
    }
}

text_enum! {
    /// An image file format.
    ImageFormat ("image format") {
        /// Lossless.
        Png = "png",
        /// Lossy.
        Jpeg = "jpeg",
        /// Lossless WebP.
        Webp = "webp",
    }
}

impl ImageFormat {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// Its usual file extension.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }
}

text_enum! {
    /// Who goes first among a tenant's own renders.
    Priority ("priority") {
        /// Someone waits for it.
        Interactive = "INTERACTIVE",
        /// The default.
        Normal = "NORMAL",
        /// Whenever there is room.
        Bulk = "BULK",
    }
}

impl Priority {
    /// Its rank: lower goes first.
    pub const fn rank(self) -> i16 {
        match self {
            Self::Interactive => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }

    /// The priority of a rank.
    pub const fn from_rank(rank: i16) -> Option<Self> {
        match rank {
            0 => Some(Self::Interactive),
            1 => Some(Self::Normal),
            2 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// What a request says; whatever is `None` is filled in from the bundle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderDraft {
    /// Weight of the ID-LoRA.
    pub id_scale: Option<f32>,
    /// Weight of the Base-LoRA.
    pub base_scale: Option<f32>,
    /// What to draw.
    pub prompt: String,
    /// What to keep out.
    pub negative_prompt: Option<String>,
    /// The first image's seed.
    pub seed: Option<i64>,
    /// Denoising steps.
    pub steps: Option<i32>,
    /// Classifier-free guidance.
    pub guidance: Option<f32>,
    /// How to sample.
    pub scheduler: Option<Scheduler>,
    /// Pixels.
    pub width: Option<i32>,
    /// Pixels.
    pub height: Option<i32>,
    /// How many images.
    pub image_count: Option<i32>,
    /// The images' file format.
    pub output_format: Option<ImageFormat>,
    /// How much of the start picture may change, where there is one.
    pub init_strength: Option<f32>,
    /// How much of small faces a second pass may change, where one is asked for.
    pub face_strength: Option<f32>,
}

/// A render's parameters with every default filled in: all that decides the pictures, besides the coefficients and the
/// picture to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderSpec {
    /// The model by the bundle's name for it.
    pub model: String,
    /// Weight of the ID-LoRA.
    pub id_scale: f32,
    /// Weight of the Base-LoRA.
    pub base_scale: f32,
    /// What to draw.
    pub prompt: String,
    /// What to keep out; absent is not the same as empty.
    pub negative_prompt: Option<String>,
    /// Image i is drawn from seed + i.
    pub seed: i64,
    /// Denoising steps of each image.
    pub steps: u32,
    /// Classifier-free guidance.
    pub guidance: f32,
    /// How to sample.
    pub scheduler: Scheduler,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// How many images.
    pub image_count: u32,
    /// The images' file format.
    pub output_format: ImageFormat,
    /// How much of the picture to start from may change; absent: there is none, the start is noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_strength: Option<Strength>,
    /// How much of small faces a second pass may change; absent: there is no second pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub face_strength: Option<Strength>,
}

impl RenderSpec {
    /// The denoising steps that each image takes: fewer than `steps` where it starts from a picture. The second pass
    /// over a face is not among them.
    pub fn steps_taken(&self) -> u32 {
        self.init_strength
            .map_or(self.steps, |strength| strength.steps_of(self.steps))
    }
}

impl RenderDraft {
    /// Fills in the bundle's defaults and checks every value; `seed` is used where the request has none.
    ///
    /// # Errors
    /// Every field that is wrong, as `render.…`.
    pub fn resolve(
        self,
        model: &str,
        defaults: &RenderDefaults,
        seed: u32,
    ) -> Result<RenderSpec, Vec<FieldViolation>> {
        let mut check = Check::default();
        let steps = check.count("steps", self.steps, defaults.steps, MAX_STEPS);
        let spec = RenderSpec {
            model: model.to_owned(),
            id_scale: check.number("id_scale", self.id_scale, defaults.id_scale, 0.0, 2.0),
            base_scale: check.number("base_scale", self.base_scale, 0.0, 0.0, 2.0),
            seed: check.seed(self.seed, seed),
            steps,
            guidance: check.number("guidance", self.guidance, defaults.guidance, 1.0, 30.0),
            scheduler: self.scheduler.unwrap_or(defaults.scheduler),
            width: check.side("width", self.width, defaults.width),
            height: check.side("height", self.height, defaults.height),
            image_count: check.count("image_count", self.image_count, 1, MAX_IMAGES),
            output_format: self.output_format.unwrap_or(ImageFormat::Png),
            init_strength: check.strength("init_image.strength", self.init_strength, steps),
            face_strength: check.strength("face_detail.strength", self.face_strength, steps),
            prompt: check.prompt("prompt", self.prompt),
            negative_prompt: self
                .negative_prompt
                .map(|prompt| check.prompt("negative_prompt", prompt)),
        };
        if check.violations.is_empty() {
            Ok(spec)
        } else {
            Err(check.violations)
        }
    }
}

#[derive(Default)]
struct Check {
    violations: Vec<FieldViolation>,
}

impl Check {
    fn report(&mut self, field: &str, description: String) {
        self.violations.push(FieldViolation {
            field: format!("render.{field}"),
            description,
        });
    }

    fn number(&mut self, field: &str, value: Option<f32>, default: f32, min: f32, max: f32) -> f32 {
        let value = value.unwrap_or(default);
        if !(min..=max).contains(&value) {
            self.report(field, format!("expected a number from {min} to {max}"));
        }
        value
    }

    fn count(&mut self, field: &str, value: Option<i32>, default: u32, max: u32) -> u32 {
        let value = value.map_or(i64::from(default), i64::from);
        if !(1..=i64::from(max)).contains(&value) {
            self.report(field, format!("expected 1 to {max}, found {value}"));
        }
        u32::try_from(value).unwrap_or(default)
    }

    fn side(&mut self, field: &str, value: Option<i32>, default: u32) -> u32 {
        let value = value.map_or(i64::from(default), i64::from);
        if value % 8 != 0 || !(8..=i64::from(MAX_SIDE)).contains(&value) {
            self.report(
                field,
                format!("expected a multiple of 8 from 8 to {MAX_SIDE}, found {value}"),
            );
        }
        u32::try_from(value).unwrap_or(default)
    }

    fn strength(&mut self, field: &str, value: Option<f32>, steps: u32) -> Option<Strength> {
        let strength = match Strength::from_wire(value?) {
            Ok(strength) => strength,
            Err(error) => {
                self.report(field, error.to_string());
                return None;
            }
        };
        if strength.steps_of(steps) == 0 {
            let expected = format!(
                "too little for a single one of {steps} steps; expected at least 1/{steps}"
            );
            self.report(field, expected);
        }
        Some(strength)
    }

    fn seed(&mut self, value: Option<i64>, default: u32) -> i64 {
        let last = i64::MAX - i64::from(MAX_IMAGES);
        let value = value.unwrap_or(i64::from(default));
        if !(0..=last).contains(&value) {
            self.report("seed", format!("expected 0 to {last}"));
        }
        value
    }

    fn prompt(&mut self, field: &str, prompt: String) -> String {
        if prompt.len() > MAX_PROMPT {
            self.report(
                field,
                format!(
                    "expected at most {MAX_PROMPT} bytes, found {}",
                    prompt.len()
                ),
            );
        }
        if prompt.contains('\0') {
            self.report(field, "expected text without NUL characters".to_owned());
        }
        prompt
    }
}

/// When a render gives up; where its request does not say, 24 hours from now or from when it may start.
///
/// # Errors
/// A time that has passed or lies more than seven days ahead, or a start that it would not live to see.
pub fn resolve_expire_time(
    requested: Option<DateTime<Utc>>,
    start: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, FieldViolation> {
    let begin = start.map_or(now, |start| start.max(now));
    let default = (begin + DEFAULT_LIFETIME).min(now + MAX_LIFETIME);
    let expire_time = requested.unwrap_or(default);
    if begin >= expire_time && begin > now {
        return Err(FieldViolation {
            field: "render.start_time".to_owned(),
            description: "expected a time before expire_time".to_owned(),
        });
    }
    if expire_time <= now || expire_time > now + MAX_LIFETIME {
        return Err(FieldViolation {
            field: "render.expire_time".to_owned(),
            description: "expected a time in the next 7 days".to_owned(),
        });
    }
    Ok(expire_time)
}

/// Brings the weights of a blend to a sum of 1; an absent weight counts as 1.
///
/// # Errors
/// Too many identities, a negative or infinite weight, or weights that sum to 0.
pub fn resolve_weights(weights: &[Option<f32>]) -> Result<Vec<f32>, FieldViolation> {
    let violation = |description: String| FieldViolation {
        field: "render.identities".to_owned(),
        description,
    };
    if weights.len() > MAX_IDENTITIES {
        return Err(violation(format!(
            "expected at most {MAX_IDENTITIES} identities, found {}",
            weights.len()
        )));
    }
    let weights: Vec<f32> = weights.iter().map(|weight| weight.unwrap_or(1.0)).collect();
    let sum: f32 = weights.iter().sum();
    let is_weight = |weight: &f32| weight.is_finite() && *weight >= 0.0;
    if !weights.iter().all(is_weight) || !sum.is_finite() || (!weights.is_empty() && sum <= 0.0) {
        return Err(violation(
            "expected weights of 0 or more, not all 0".to_owned(),
        ));
    }
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// What one image of a render became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedImage {
    /// The file's format.
    pub format: ImageFormat,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The file's size.
    pub size_bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// The seed it was drawn from.
    pub seed: i64,
}

/// Where a render's time went in its winning attempt, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RenderTimings {
    /// Coefficients × basis.
    pub synthesis: f64,
    /// LoRA into the weights.
    pub merge: f64,
    /// Sampling and decoding, all images.
    pub sampling: f64,
    /// Encoding the image files.
    pub encoding: f64,
    /// Putting them into storage.
    pub upload: f64,
}

/// Done and to do of a running render.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderProgress {
    /// The image being made, from 0.
    pub image: u32,
    /// How many images there will be.
    pub image_count: u32,
    /// Denoising steps done of this image.
    pub step: u32,
    /// Denoising steps of each image.
    pub steps: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> RenderDefaults {
        RenderDefaults {
            scheduler: Scheduler::Dpmpp2mKarras,
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            width: 256,
            height: 320,
        }
    }

    #[test]
    fn an_empty_draft_takes_every_default() {
        let spec = RenderDraft::default()
            .resolve("pocket", &defaults(), 7)
            .unwrap();
        assert_eq!(
            (spec.steps, spec.width, spec.height, spec.seed),
            (20, 256, 320, 7)
        );
        assert_eq!(
            (spec.image_count, spec.output_format),
            (1, ImageFormat::Png)
        );
        assert_eq!(spec.negative_prompt, None);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let draft = RenderDraft {
            id_scale: Some(f32::NAN),
            guidance: Some(f32::INFINITY),
            steps: Some(10_000),
            width: Some(100),
            height: Some(-8),
            image_count: Some(0),
            seed: Some(-1),
            prompt: "x".repeat(100_000),
            ..RenderDraft::default()
        };
        let violations = draft.resolve("pocket", &defaults(), 0).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        for field in [
            "id_scale",
            "guidance",
            "steps",
            "width",
            "height",
            "image_count",
            "seed",
            "prompt",
        ] {
            assert!(
                fields.contains(&format!("render.{field}").as_str()),
                "{field}"
            );
        }
    }

    #[test]
    fn a_strength_is_the_decimal_that_was_written_and_takes_a_step_at_least() {
        let with = |init_strength, steps| {
            let draft = RenderDraft {
                init_strength: Some(init_strength),
                steps: Some(steps),
                ..RenderDraft::default()
            };
            draft.resolve("pocket", &defaults(), 0)
        };
        // As an f32 it is less than 0.35, which would be 6 of 20 steps.
        let spec = with(0.35, 20).unwrap();
        assert_eq!((spec.steps, spec.steps_taken()), (20, 7));
        assert_eq!(with(1.0, 20).unwrap().steps_taken(), 20);
        assert_eq!(with(0.05, 20).unwrap().steps_taken(), 1);
        for wrong in [0.0, -0.5, 1.001, f32::NAN, f32::INFINITY, 0.049] {
            let violations = with(wrong, 20).unwrap_err();
            assert_eq!(violations[0].field, "render.init_image.strength", "{wrong}");
        }
        let none = RenderDraft::default().resolve("pocket", &defaults(), 0);
        assert_eq!(none.unwrap().steps_taken(), 20);
    }

    #[test]
    fn weights_are_brought_to_one() {
        assert_eq!(
            resolve_weights(&[Some(1.0), Some(3.0)]).unwrap(),
            [0.25, 0.75]
        );
        assert_eq!(resolve_weights(&[None, None]).unwrap(), [0.5, 0.5]);
        assert!(resolve_weights(&[]).unwrap().is_empty());
        for bad in [
            vec![Some(-1.0)],
            vec![Some(0.0)],
            vec![Some(f32::NAN)],
            vec![None; 9],
        ] {
            assert!(resolve_weights(&bad).is_err());
        }
    }

    #[test]
    fn a_render_always_ends() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(
            resolve_expire_time(None, None, now),
            Ok(now + DEFAULT_LIFETIME)
        );
        assert!(resolve_expire_time(Some(now), None, now).is_err());
        assert!(resolve_expire_time(Some(now + TimeDelta::days(8)), None, now).is_err());
        let start = now + TimeDelta::days(2);
        let expire_time = resolve_expire_time(None, Some(start), now);
        assert_eq!(expire_time, Ok(start + DEFAULT_LIFETIME));
        let unseen = resolve_expire_time(Some(start), Some(start), now).unwrap_err();
        assert_eq!(unseen.field, "render.start_time");
    }
}
