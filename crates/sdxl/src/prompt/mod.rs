//! From prompts to what the UNet is conditioned on.

mod cache;
mod tokens;
mod trigger;
mod weights;

use candle_core::{D, Tensor};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::config::TextConfig;
use crate::text::{ClipSkip, TextEncoder, TextStates, join_windows};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

use cache::{Key, PromptCache};
use tokens::Tokens;

pub use trigger::{has_trigger, with_trigger};

/// Characters beyond which a prompt is refused unread: more than the 8192 bytes that the service takes,
/// with trigger words before them.
const MAX_CHARACTERS: usize = 10_000;
/// Windows of 75 tokens beyond which a prompt is refused.
const MAX_WINDOWS: usize = 8;

/// Refuses a prompt that is too long to be read.
pub(crate) fn check_length(field: &'static str, prompt: &str) -> Result<(), Error> {
    if prompt.chars().nth(MAX_CHARACTERS).is_none() {
        return Ok(());
    }
    let problem = format!("expected at most {MAX_CHARACTERS} characters");
    Err(Error::bad_request(field, problem))
}

/// Both text encoders with their tokenizers, and the prompts that they encoded last.
pub(crate) struct TextStack {
    first: Branch,
    second: Branch,
    length: usize,
    cache: PromptCache,
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

/// One encoded prompt. No `Debug`: it would tell of the prompt.
#[derive(Clone)]
pub(crate) struct PromptStates {
    /// [1, windows · length, widths of both encoders].
    pub states: Tensor,
    /// [1, projection].
    pub pooled: Tensor,
    windows: usize,
}

/// A prompt's tokens for both encoders. No `Debug`: it would tell of the prompt.
pub(crate) struct PromptTokens {
    first: Tokens,
    second: Tokens,
}

impl TextStack {
    /// Loads both encoders, whose widths and lengths have been checked.
    pub fn load(first: TextPart<'_>, second: TextPart<'_>) -> Result<TextStack, Error> {
        let length = first.config.max_position_embeddings;
        Ok(TextStack {
            first: Branch::load(first, false)?,
            second: Branch::load(second, true)?,
            length,
            cache: PromptCache::default(),
        })
    }

    /// Reads, tokenizes and checks a prompt.
    pub fn tokens(&self, field: &'static str, prompt: &str) -> Result<PromptTokens, Error> {
        check_length(field, prompt)?;
        let segments = weights::segments(prompt);
        let tokens = PromptTokens {
            first: Tokens::read(&self.first.tokenizer, field, &segments)?,
            second: Tokens::read(&self.second.tokenizer, field, &segments)?,
        };
        if self.window_count(&tokens) > MAX_WINDOWS {
            let most = MAX_WINDOWS * (self.length - 2);
            return Err(Error::bad_request(
                field,
                format!("expected at most {most} tokens"),
            ));
        }
        Ok(tokens)
    }

    /// Checks a request's clip skip against the layers of both encoders.
    pub fn clip_skip(&self, clip_skip: u32) -> Result<ClipSkip, Error> {
        let layers = [&self.first, &self.second].map(|branch| branch.encoder.layer_count());
        let most = layers[0].min(layers[1]);
        ClipSkip::new(clip_skip, most).ok_or_else(|| {
            let problem = format!(
                "expected 1, the last layer, to {most}, the layers of the smaller text encoder; \
                 2 is what SDXL was trained with"
            );
            Error::bad_request("clip_skip", problem)
        })
    }

    /// How many windows a prompt takes. Prompts are cut every 75 tokens, also inside a word, as those
    /// do who cut for diffusers.
    pub fn window_count(&self, tokens: &PromptTokens) -> usize {
        let longest = tokens.first.ids.len().max(tokens.second.ids.len());
        longest.div_ceil(self.length - 2).max(1)
    }

    /// Encodes a prompt in at least `windows` windows; the missing ones are those of an empty prompt.
    /// The pooled text is the first window's. What was encoded lately is taken from the cache.
    pub fn encode(
        &self,
        tokens: &PromptTokens,
        clip_skip: ClipSkip,
        windows: usize,
    ) -> Result<PromptStates, Error> {
        let own = self.encode_own(tokens, clip_skip)?;
        if own.windows >= windows {
            return Ok(own);
        }
        let empty = self.encode_own(&self.tokens("prompt", "")?, clip_skip)?;
        let mut parts = vec![own.states];
        parts.resize(1 + windows - own.windows, empty.states);
        Ok(PromptStates {
            states: Tensor::cat(&parts, 1)?,
            pooled: own.pooled,
            windows,
        })
    }

    fn encode_own(
        &self,
        tokens: &PromptTokens,
        clip_skip: ClipSkip,
    ) -> Result<PromptStates, Error> {
        let windows = self.window_count(tokens);
        self.cache.get_or_encode(tokens.key(clip_skip), || {
            let (first, _) = self
                .first
                .encode(&tokens.first, clip_skip, windows, self.length)?;
            let (second, pooled) =
                self.second
                    .encode(&tokens.second, clip_skip, windows, self.length)?;
            let pooled = pooled.ok_or_else(no_projection)?;
            Ok(PromptStates {
                states: Tensor::cat(&[first, second], D::Minus1)?,
                pooled: pooled.narrow(0, 0, 1)?,
                windows,
            })
        })
    }

    /// See [`crate::Sdxl::captions`].
    pub fn captions(&self, captions: &[String]) -> Result<(Tensor, Tensor), Error> {
        let skip = self.clip_skip(2)?;
        let first = self.first.captions(captions, skip, self.length)?;
        let second = self.second.captions(captions, skip, self.length)?;
        let states = Tensor::cat(&[first.states, second.states], D::Minus1)?;
        Ok((states, second.pooled.ok_or_else(no_projection)?))
    }

    /// How many prompts went through the encoders.
    #[cfg(test)]
    pub fn encoded(&self) -> u64 {
        self.cache.encoded()
    }
}

fn no_projection() -> Error {
    Error::Compute(candle_core::Error::Msg(
        "text encoder 2 has no projection".to_owned(),
    ))
}

impl PromptStates {
    /// What an absent negative prompt stands for.
    pub fn zeros_like(&self) -> Result<PromptStates, Error> {
        Ok(PromptStates {
            states: self.states.zeros_like()?,
            pooled: self.pooled.zeros_like()?,
            windows: self.windows,
        })
    }
}

impl PromptTokens {
    /// What the states depend on, so that equal keys mean equal states.
    fn key(&self, clip_skip: ClipSkip) -> Key {
        let mut digest = Sha256::new();
        digest.update((clip_skip.get() as u64).to_le_bytes());
        for tokens in [&self.first, &self.second] {
            digest.update((tokens.ids.len() as u64).to_le_bytes());
            for id in &tokens.ids {
                digest.update(id.to_le_bytes());
            }
            let weights = tokens.weights.as_deref().unwrap_or_default();
            digest.update((weights.len() as u64).to_le_bytes());
            for weight in weights {
                digest.update(weight.to_le_bytes());
            }
        }
        digest.finalize().into()
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

    /// One window each.
    fn captions(
        &self,
        captions: &[String],
        clip_skip: ClipSkip,
        length: usize,
    ) -> Result<TextStates, Error> {
        let windows = captions.iter().map(|caption| {
            let ids = self.tokenizer.ids("caption", caption)?;
            let windows = self.tokenizer.windows(&ids, length);
            Ok(windows.into_iter().next().unwrap_or_default())
        });
        let windows = windows.collect::<Result<Vec<_>, Error>>()?;
        self.encoder.forward(&windows, clip_skip)
    }

    /// The states [1, windows · length, width] and the pooled text of every window.
    fn encode(
        &self,
        tokens: &Tokens,
        clip_skip: ClipSkip,
        windows: usize,
        length: usize,
    ) -> Result<(Tensor, Option<Tensor>), Error> {
        let mut filled = self.tokenizer.windows(&tokens.ids, length);
        if filled.len() < windows {
            // The other encoder's tokenizer made more of the prompt.
            let empty = self.tokenizer.windows(&[], length).concat();
            filled.resize(windows, empty);
        }
        let encoded = self.encoder.forward(&filled, clip_skip)?;
        let states = match &tokens.weights {
            None => encoded.states,
            Some(weights) => tokens::apply(&encoded.states, weights)?,
        };
        Ok((join_windows(&states)?, encoded.pooled))
    }
}

#[cfg(test)]
mod tests;
