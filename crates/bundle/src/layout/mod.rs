//! Which tensors a model has, by its configuration: names and shapes for [`Bundle::inspect`], and how
//! the pocket bundle draws them.
//!
//! [`Bundle::inspect`]: crate::Bundle::inspect

mod clip;
mod unet;
mod vae;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) use clip::{TextConfig, VisionConfig};
pub(crate) use unet::{UnetConfig, attention_std};
pub(crate) use vae::VaeConfig;

/// No width of a model is larger; a damaged configuration must not make a layout of gigabytes.
const LARGEST_SIZE: usize = 1 << 20;
/// No model has more levels, layers or blocks of a kind.
const MOST_LAYERS: usize = 256;

/// A configuration that says which tensors there are.
pub(crate) trait Config: DeserializeOwned {
    /// Refuses sizes that no model has.
    fn check(&self) -> Result<(), String>;

    /// Reads and checks a `config.json`.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }
}

/// Refuses widths of 0 and beyond all reason.
fn check_sizes(sizes: &[(&str, usize)]) -> Result<(), String> {
    check_range(sizes, LARGEST_SIZE)
}

/// Refuses counts of 0 and beyond all reason.
fn check_counts(counts: &[(&str, usize)]) -> Result<(), String> {
    check_range(counts, MOST_LAYERS)
}

fn check_range(values: &[(&str, usize)], most: usize) -> Result<(), String> {
    match values.iter().find(|(_, value)| !(1..=most).contains(value)) {
        Some((name, value)) => Err(format!("`{name}` = {value}, expected 1 to {most}")),
        None => Ok(()),
    }
}

/// One value for all levels, or a list with one value per level.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrEach {
    /// For all.
    One(usize),
    /// For each.
    Each(Vec<usize>),
}

impl OneOrEach {
    /// The value of a level that [`OneOrEach::check`] has seen.
    fn of(&self, level: usize) -> usize {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => values.get(level).copied().unwrap_or_default(),
        }
    }

    fn check(&self, name: &str, levels: usize, most: usize) -> Result<(), String> {
        if let Self::Each(values) = self
            && values.len() != levels
        {
            let found = values.len();
            return Err(format!("`{name}` has {found} values for {levels} levels"));
        }
        (0..levels).try_for_each(|level| check_range(&[(name, self.of(level))], most))
    }
}

/// How a tensor's numbers begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    /// Bell-shaped with this standard deviation, never beyond 3.5 of it.
    Random(f32),
    /// All the same.
    Constant(f32),
}

/// Names, shapes and beginnings of one file's tensors.
#[derive(Debug, Default)]
pub(crate) struct Layout(pub BTreeMap<String, (Vec<usize>, Init)>);

impl Layout {
    /// One tensor.
    pub fn put(&mut self, name: &str, shape: &[usize], init: Init) {
        self.0.insert(name.to_owned(), (shape.to_vec(), init));
    }

    /// A linear layer's `weight` [outputs, inputs] whose outputs have `gain` times its inputs' spread.
    pub fn weight(&mut self, name: &str, outputs: usize, inputs: usize, gain: f32) {
        self.put(
            &format!("{name}.weight"),
            &[outputs, inputs],
            Init::fan_in(inputs, gain),
        );
    }

    /// A linear layer with a `bias` [outputs] of zeros.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, gain: f32) {
        self.weight(name, outputs, inputs, gain);
        self.put(&format!("{name}.bias"), &[outputs], Init::Constant(0.0));
    }

    /// A square convolution with a `bias`.
    pub fn conv(&mut self, name: &str, outputs: usize, inputs: usize, side: usize, gain: f32) {
        let init = Init::fan_in(inputs * side * side, gain);
        self.put(
            &format!("{name}.weight"),
            &[outputs, inputs, side, side],
            init,
        );
        self.put(&format!("{name}.bias"), &[outputs], Init::Constant(0.0));
    }

    /// A layer or group norm that changes nothing beyond normalising.
    pub fn norm(&mut self, name: &str, width: usize) {
        self.put(&format!("{name}.weight"), &[width], Init::Constant(1.0));
        self.put(&format!("{name}.bias"), &[width], Init::Constant(0.0));
    }

    /// Names and shapes alone.
    pub fn shapes(self) -> BTreeMap<String, Vec<usize>> {
        let shape = |(name, (shape, _)): (String, (Vec<usize>, Init))| (name, shape);
        self.0.into_iter().map(shape).collect()
    }
}

impl Init {
    /// Random numbers that carry a spread of 1 over to a spread of `gain` through `inputs` terms.
    pub fn fan_in(inputs: usize, gain: f32) -> Self {
        Self::Random(gain / (inputs as f32).sqrt())
    }
}
