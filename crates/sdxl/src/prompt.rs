//! From prompts to what the UNet is conditioned on.

use candle_core::{D, Tensor};

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

/// What one text encoder is loaded from.
pub(crate) struct TextPart<'a> {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its tensors.
    pub weights: Weights,
    /// Its sizes.
    pub config: &'a TextConfig,
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
    /// Loads both encoders, whose widths and lengths have been checked.
    pub fn load(first: TextPart<'_>, second: TextPart<'_>) -> Result<TextStack, Error> {
        let length = first.config.max_position_embeddings;
        Ok(TextStack {
            first: Branch::load(first, false)?,
            second: Branch::load(second, true)?,
            length,
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
    fn load(part: TextPart<'_>, projected: bool) -> Result<Branch, Error> {
        let TextPart {
            tokenizer,
            weights,
            config,
        } = part;
        if tokenizer.largest_id() as usize >= config.vocab_size {
            let what = format!(
                "`vocab_size` is {}, but the tokenizer has an id {}",
                config.vocab_size,
                tokenizer.largest_id()
            );
            return Err(Error::unsupported(weights.path(), what));
        }
        let encoder = TextEncoder::load(&weights, config, projected)?;
        // Encoder 1 may come from a whole CLIP with its projection; position ids are a mere count.
        weights
            .finish(|name| name.ends_with("position_ids") || name == "text_projection.weight")?;
        Ok(Branch { tokenizer, encoder })
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
