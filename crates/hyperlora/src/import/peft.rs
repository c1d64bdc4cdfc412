//! What peft keeps of a LoRA beside its tensors: the alpha that diffusers and peft files lack.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::files::{TensorFile, read_json};

/// The key of diffusers' copy of the configuration in a file's metadata.
const METADATA: &str = "lora_adapter_metadata";
/// The names that peft gives to the tensors and to the configuration beside them.
const TENSORS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// What peft's configuration says of alphas; nothing, if there is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Scaling {
    lora_alpha: Option<f64>,
    alpha_pattern: BTreeMap<String, f64>,
    use_rslora: bool,
}

impl Scaling {
    pub fn read(file: &TensorFile, path: &Path) -> Result<Self, Error> {
        let config = if let Some(text) = file.metadata_value(METADATA) {
            serde_json::from_str(text)
                .map_err(|source| file.content(format!("{METADATA}: {source}")))?
        } else if path.ends_with(TENSORS) && path.with_file_name(CONFIG).exists() {
            read_json(&path.with_file_name(CONFIG))?
        } else {
            return Ok(Self::default());
        };
        let scaling: Self = serde_json::from_value(Value::Object(of_unet(config)))
            .map_err(|source| file.content(format!("peft's configuration: {source}")))?;
        scaling.check().map_err(|problem| file.content(problem))?;
        Ok(scaling)
    }

    fn check(&self) -> Result<(), String> {
        let literal = |c: char| c.is_alphanumeric() || "._-".contains(c);
        let expression = |key: &&String| !whole(key).unwrap_or(key).chars().all(literal);
        match self.alpha_pattern.keys().find(expression) {
            Some(key) => Err(format!(
                "alpha_pattern {key:?} is an expression; expected names of modules"
            )),
            None => Ok(()),
        }
    }

    /// The alpha of a matrix without one of its own.
    pub fn alpha(&self, target: &str, rank: usize) -> f64 {
        let rank = rank as f64;
        let named = self
            .alpha_pattern
            .iter()
            .find(|(key, _)| is_end(target, key));
        let Some(alpha) = named.map(|(_, alpha)| *alpha).or(self.lora_alpha) else {
            return rank;
        };
        // Rank-stabilised LoRA scales by alpha/√r; here every alpha is divided by r.
        if self.use_rslora {
            alpha * rank.sqrt()
        } else {
            alpha
        }
    }
}

/// A pipeline's file keeps the configuration of each part under the part's name.
fn of_unet(config: Map<String, Value>) -> Map<String, Value> {
    let strip = |(key, value): (String, Value)| match key.strip_prefix("unet.") {
        Some(own) => (own.to_owned(), value),
        None => (key, value),
    };
    config.into_iter().map(strip).collect()
}

/// The name behind `^`, by which diffusers says that it is the module's whole name.
fn whole(key: &str) -> Option<&str> {
    key.strip_prefix('^')
}

/// Whether a key means this module: its whole name, or the last parts of it.
fn is_end(target: &str, key: &str) -> bool {
    if let Some(name) = whole(key) {
        return name == target;
    }
    target
        .strip_suffix(key)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";

    #[test]
    fn alpha_is_the_module_s_then_the_file_s_then_the_rank() {
        assert!((Scaling::default().alpha(TARGET, 6) - 6.0).abs() < 1e-12);
        let mut scaling = Scaling {
            lora_alpha: Some(16.0),
            ..Scaling::default()
        };
        assert!((scaling.alpha(TARGET, 6) - 16.0).abs() < 1e-12);
        scaling.alpha_pattern =
            BTreeMap::from([("attn1.to_q".into(), 3.0), ("n1.to_q".into(), 5.0)]);
        assert!((scaling.alpha(TARGET, 6) - 3.0).abs() < 1e-12);
        scaling.alpha_pattern = BTreeMap::from([("^attn1.to_q".into(), 3.0)]);
        assert!((scaling.alpha(TARGET, 6) - 16.0).abs() < 1e-12);
        scaling.alpha_pattern = BTreeMap::from([(format!("^{TARGET}"), 3.0)]);
        assert!((scaling.alpha(TARGET, 6) - 3.0).abs() < 1e-12);
        assert!(scaling.check().is_ok());
        scaling.use_rslora = true;
        assert!((scaling.alpha(TARGET, 9) - 9.0).abs() < 1e-12);
    }

    #[test]
    fn an_expression_is_refused() {
        for key in ["attn[12].to_q", "^attn1.*", "to_q$", "^^to_q"] {
            let alpha_pattern = BTreeMap::from([(key.to_owned(), 3.0)]);
            let scaling = Scaling {
                alpha_pattern,
                ..Scaling::default()
            };
            assert!(scaling.check().is_err(), "{key}");
        }
    }
}
