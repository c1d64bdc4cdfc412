//! A render's parameters: what a request may say, and what is left once every default is filled in.

mod strength;
#[cfg(test)]
mod tests;
mod with;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

pub use self::strength::{NoStrength, Strength};
pub use self::with::{check_sliders, check_with};
use crate::{FieldViolation, bundle::RenderDefaults, states::text_enum};

/// The most identities that one render blends.
pub const MAX_IDENTITIES: usize = 8;
/// The most images of one render.
pub const MAX_IMAGES: u32 = 8;
/// The most candidates for one image of a render.
pub const MAX_BEST_OF: u32 = 8;
/// The most candidates of one render, all images together.
pub const MAX_CANDIDATES: u32 = 32;
/// The most sliders of one render.
pub const MAX_SLIDERS: usize = 8;
/// The farthest that a render moves along a slider, either way.
pub const MAX_SLIDER_SCALE: f32 = 2.0;
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
    /// How many candidates are made for each image.
    pub best_of: Option<i32>,
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
    /// Image i is drawn from seed + i; see [`RenderSpec::seed_of`] for its other candidates.
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
    /// How many candidates are made for each image; the one most like the identity is kept.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub best_of: u32,
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(count: &u32) -> bool {
    *count == 1
}

impl RenderSpec {
    /// The denoising steps that each image takes: fewer than `steps` where it starts from a picture. The second pass
    /// over a face is not among them.
    pub fn steps_taken(&self) -> u32 {
        self.init_strength
            .map_or(self.steps, |strength| strength.steps_of(self.steps))
    }

    /// The pictures that are painted: every image's candidates.
    pub fn candidates(&self) -> u32 {
        self.image_count.saturating_mul(self.best_of)
    }

    /// The seed of an image's candidate, both from 0. An image's first candidate is what it would be without others, and
    /// no two of a render have the same seed.
    pub fn seed_of(&self, image: u32, candidate: u32) -> i64 {
        let place = i64::from(image) + i64::from(candidate) * i64::from(self.image_count);
        self.seed.saturating_add(place)
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
            best_of: check.count("best_of", self.best_of, 1, MAX_BEST_OF),
            prompt: check.prompt("prompt", self.prompt),
            negative_prompt: self
                .negative_prompt
                .map(|prompt| check.prompt("negative_prompt", prompt)),
        };
        check.candidates(&spec);
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

    fn candidates(&mut self, spec: &RenderSpec) {
        if spec.candidates() > MAX_CANDIDATES {
            let expected = format!("expected image_count × best_of of at most {MAX_CANDIDATES}");
            self.report("best_of", expected);
        }
    }

    fn seed(&mut self, value: Option<i64>, default: u32) -> i64 {
        let last = i64::MAX - i64::from(MAX_CANDIDATES);
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Cosine of the identity's and the image's face embeddings; absent where no face was found, or the render does not
    /// show exactly one identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness: Option<f32>,
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
