//! The `config.json` files of a diffusers folder, read and checked.
//!
//! Each part has a raw form, which mirrors the file with diffusers' defaults for fields that it may
//! leave out, and a checked form, in which every list has its full length and every unsupported
//! variant has been refused.

mod model;
mod scheduler;
mod text;
mod unet;
mod vae;

pub use model::SdxlConfig;
pub use scheduler::{BetaSchedule, FinalSigma, Prediction, SchedulerConfig, Spacing};
pub use text::{Activation, TextConfig};
pub use unet::{LevelConfig, UNetConfig};
pub use vae::VaeConfig;

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// Reads a JSON file into `T`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let read = serde_json::from_str(&text);
    // A file that is wrong with its bare words is wrong without them: the first error is the one to tell.
    let read = read.or_else(|source| serde_json::from_str(&nulled(&text)).map_err(|_| source));
    read.map_err(|source| Error::Config {
        path: path.to_path_buf(),
        source,
    })
}

/// `text` with null for the words that Python writes for numbers which JSON lacks: DPM-Solver's
/// `lambda_min_clipped` is mostly `-Infinity`.
fn nulled(text: &str) -> String {
    let (mut out, mut rest, mut quoted) = (String::with_capacity(text.len()), text, false);
    while let Some(next) = rest.chars().next() {
        let words = ["-Infinity", "Infinity", "NaN"].into_iter();
        let word = words
            .filter(|_| !quoted)
            .find(|word| rest.starts_with(word));
        // What is escaped in a string ends no string.
        let escaped = rest.chars().nth(1).filter(|_| quoted && next == '\\');
        let taken = word.map_or(
            next.len_utf8() + escaped.map_or(0, char::len_utf8),
            str::len,
        );
        out.push_str(word.map_or(&rest[..taken], |_| "null"));
        quoted ^= next == '"';
        rest = &rest[taken..];
    }
    out
}

/// No size of any part comes near it; what is computed from sizes below it cannot overflow.
const LARGEST_SIZE: u64 = 1 << 24;
/// No model has as many layers in a row.
const MOST_LAYERS: usize = 1024;

/// Reads a part's configuration.
fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    config_of(read_json(path)?, path)
}

/// A part's configuration from JSON; `path` is what errors name.
fn config_of<T: DeserializeOwned>(json: Value, path: &Path) -> Result<T, Error> {
    if let Some(number) = too_large(&json) {
        let what = format!("{number} is no size of a model, expected at most {LARGEST_SIZE}");
        return Err(Error::unsupported(path, what));
    }
    serde_json::from_value(json).map_err(|source| Error::Config {
        path: path.to_path_buf(),
        source,
    })
}

/// The first whole number beyond any size.
fn too_large(json: &Value) -> Option<u64> {
    match json {
        Value::Number(number) => number.as_u64().filter(|&number| number > LARGEST_SIZE),
        Value::Array(values) => values.iter().find_map(too_large),
        Value::Object(fields) => fields.values().find_map(too_large),
        _ => None,
    }
}

/// Refuses numbers of layers that would only be counted up to run out of memory.
fn check_layers(field: &str, layers: &[usize], path: &Path) -> Result<(), Error> {
    require(layers.iter().all(|&n| n <= MOST_LAYERS), path, || {
        format!("`{field}` is {layers:?}, expected at most {MOST_LAYERS}")
    })
}

/// A field that is one value for all levels, or a list with one value per level.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrEach {
    One(usize),
    Each(Vec<usize>),
    /// Anything else, to be refused by the field's name.
    Other(Value),
}

impl OneOrEach {
    /// One value per level.
    fn expand(&self, levels: usize, field: &str, path: &Path) -> Result<Vec<usize>, Error> {
        let values = match self {
            OneOrEach::One(value) => vec![*value; levels],
            OneOrEach::Each(values) => values.clone(),
            OneOrEach::Other(value) => {
                let what = format!("`{field}` = {value}, expected a number, or one per level");
                return Err(Error::unsupported(path, what));
            }
        };
        require(values.len() == levels, path, || {
            format!("`{field}` has {} values for {levels} levels", values.len())
        })?;
        Ok(values)
    }
}

/// Refuses `path` unless `holds`.
fn require(holds: bool, path: &Path, what: impl FnOnce() -> String) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::unsupported(path, what()))
    }
}

/// `model_index.json`: which parts the folder has.
#[derive(Clone, Debug, Deserialize)]
struct RawIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    text_encoder: Option<(Option<String>, Option<String>)>,
    tokenizer: Option<(Option<String>, Option<String>)>,
    force_zeros_for_empty_prompt: Option<bool>,
}

/// What `model_index.json` says that matters.
#[derive(Clone, Copy, Debug)]
pub struct IndexConfig {
    /// An absent negative prompt is zeros, rather than the encoding of "".
    pub force_zeros_for_empty_prompt: bool,
}

impl IndexConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Refuses pipelines that are not SDXL, and the refiner, by name.
    pub fn read(path: &Path) -> Result<IndexConfig, Error> {
        IndexConfig::checked(&read_json(path)?, path)
    }

    /// As [`IndexConfig::read`], from JSON.
    pub fn parse(json: Value, path: &Path) -> Result<IndexConfig, Error> {
        IndexConfig::checked(&config_of(json, path)?, path)
    }

    fn checked(raw: &RawIndex, path: &Path) -> Result<IndexConfig, Error> {
        require(
            raw.class_name.starts_with("StableDiffusionXL"),
            path,
            || {
                format!(
                    "`{}` is not an SDXL pipeline (StableDiffusionXLPipeline)",
                    raw.class_name
                )
            },
        )?;
        let present = |part: &Option<(Option<String>, Option<String>)>| {
            matches!(part, Some((Some(_), Some(_))))
        };
        require(
            present(&raw.text_encoder) && present(&raw.tokenizer),
            path,
            || {
                "this is an SDXL refiner (it has one text encoder): give the SDXL base model"
                    .to_owned()
            },
        )?;
        let force_zeros_for_empty_prompt = raw.force_zeros_for_empty_prompt.unwrap_or(true);
        Ok(IndexConfig {
            force_zeros_for_empty_prompt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::nulled;

    #[test]
    fn pythons_words_become_null_outside_strings() {
        let text =
            r#"{"a": -Infinity, "b": [NaN, Infinity], "-Infinity \" NaN": "NaN\\", "c": NaN}"#;
        let expected = r#"{"a": null, "b": [null, null], "-Infinity \" NaN": "NaN\\", "c": null}"#;
        assert_eq!(nulled(text), expected);
    }
}
