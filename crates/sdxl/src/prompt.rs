//! From prompts to what the UNet is conditioned on.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};

use crate::Error;
use crate::config::TextConfig;
use crate::text::{TextEncoder, TextStates, join_windows};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// Characters beyond which a prompt is refused unread.
const MAX_CHARACTERS: usize = 8_000;
/// Windows of 75 tokens beyond which a prompt is refused.
const MAX_WINDOWS: usize = 8;

/// Both text encoders with their tokenizers.
pub(crate) struct TextStack {
    first: Branch,
    second: Branch,
    length: usize,
}

struct Branch {
    tokenizer: Tokenizer,
    encoder: TextEncoder,
}

/// One encoded prompt.
#[derive(Clone)]
pub(crate) struct PromptStates {
    /// [1, windows · length, widths of both encoders].
    pub states: Tensor,
    /// [1, projection].
    pub pooled: Tensor,
}

/// A prompt's token ids for both encoders.
pub(crate) struct PromptIds {
    first: Vec<u32>,
    second: Vec<u32>,
}

impl TextStack {
    /// Loads `text_encoder`, `tokenizer` and their seconds below `dir`.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<TextStack, Error> {
        let (first, one) = Branch::load(dir, "", device, dtype)?;
        let (second, two) = Branch::load(dir, "_2", device, dtype)?;
        if one.max_position_embeddings != two.max_position_embeddings {
            let what = format!(
                "the text encoders take {} and {} tokens, expected the same number",
                one.max_position_embeddings, two.max_position_embeddings
            );
            return Err(Error::unsupported(
                &dir.join("text_encoder_2/config.json"),
                what,
            ));
        }
        Ok(TextStack {
            first,
            second,
            length: one.max_position_embeddings,
        })
    }

    /// Tokenizes and checks a prompt.
    pub fn ids(&self, field: &'static str, prompt: &str) -> Result<PromptIds, Error> {
        if prompt.chars().nth(MAX_CHARACTERS).is_some() {
            let problem = format!("expected at most {MAX_CHARACTERS} characters");
            return Err(Error::bad_request(field, problem));
        }
        let ids = PromptIds {
            first: self.first.tokenizer.ids(prompt)?,
            second: self.second.tokenizer.ids(prompt)?,
        };
        if self.window_count(&ids) > MAX_WINDOWS {
            let most = MAX_WINDOWS * (self.length - 2);
            return Err(Error::bad_request(
                field,
                format!("expected at most {most} tokens"),
            ));
        }
        Ok(ids)
    }

    /// How many windows a prompt takes.
    pub fn window_count(&self, ids: &PromptIds) -> usize {
        let longest = ids.first.len().max(ids.second.len());
        longest.div_ceil(self.length - 2).max(1)
    }

    /// Encodes a prompt in at least `windows` windows; the missing ones are empty. The pooled text is
    /// the first window's.
    pub fn encode(&self, ids: &PromptIds, windows: usize) -> Result<PromptStates, Error> {
        let windows = windows.max(self.window_count(ids));
        let first = self.first.encode(&ids.first, windows, self.length)?;
        let second = self.second.encode(&ids.second, windows, self.length)?;
        let pooled = second.pooled.ok_or(Error::Compute(candle_core::Error::Msg(
            "text encoder 2 has no projection".to_owned(),
        )))?;
        let joined = [
            join_windows(&first.penultimate)?,
            join_windows(&second.penultimate)?,
        ];
        Ok(PromptStates {
            states: Tensor::cat(&joined, D::Minus1)?,
            pooled: pooled.narrow(0, 0, 1)?,
        })
    }

    /// Width of the states and of the pooled text.
    pub fn widths(&self) -> (usize, usize) {
        let (one, two) = (self.first.encoder.config(), self.second.encoder.config());
        (one.hidden_size + two.hidden_size, two.projection_dim)
    }
}

impl PromptStates {
    /// What an absent negative prompt stands for.
    pub fn zeros_like(&self) -> Result<PromptStates, Error> {
        Ok(PromptStates {
            states: self.states.zeros_like()?,
            pooled: self.pooled.zeros_like()?,
        })
    }
}

impl Branch {
    fn load(
        dir: &Path,
        suffix: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<(Branch, TextConfig), Error> {
        let encoder_dir = dir.join(format!("text_encoder{suffix}"));
        let config_path = encoder_dir.join("config.json");
        let config = TextConfig::read(&config_path)?;
        let tokenizer = Tokenizer::load(&dir.join(format!("tokenizer{suffix}")))?;
        if tokenizer.largest_id() as usize >= config.vocab_size {
            let what = format!(
                "`vocab_size` is {}, but the tokenizer has an id {}",
                config.vocab_size,
                tokenizer.largest_id()
            );
            return Err(Error::unsupported(&config_path, what));
        }
        let weights = Weights::open(&encoder_dir, "model", device, dtype)?;
        let encoder = TextEncoder::load(&weights, &config, suffix == "_2")?;
        // Encoder 1 may come from a whole CLIP with its projection; position ids are a mere count.
        weights
            .finish(|name| name.ends_with("position_ids") || name == "text_projection.weight")?;
        Ok((Branch { tokenizer, encoder }, config))
    }

    fn encode(&self, ids: &[u32], windows: usize, length: usize) -> Result<TextStates, Error> {
        let mut filled = self.tokenizer.windows(ids, length);
        if filled.len() < windows {
            let empty = self.tokenizer.windows(&[], length).concat();
            // `concat` of one window is that window.
            filled.resize(windows, empty);
        }
        self.encoder.forward(&filled)
    }
}
