//! Encoded prompts, kept for the images and requests that repeat them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::PromptStates;
use crate::Error;

/// Windows kept, of all prompts together: 40 MB with SDXL's widths in f32.
const MAX_WINDOWS: usize = 64;

/// A digest of a prompt's tokens: no text is kept.
pub type Key = [u8; 32];

/// The prompts that were encoded last.
#[derive(Default)]
pub struct PromptCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The one used last comes first.
    entries: VecDeque<(Key, PromptStates)>,
    encoded: u64,
}

impl PromptCache {
    /// What is kept under `key`, or what `encode` makes, which is then kept.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn get_or_encode(
        &self,
        key: Key,
        encode: impl FnOnce() -> Result<PromptStates, Error>,
    ) -> Result<PromptStates, Error> {
        if let Some(found) = self.lock().find(key) {
            return Ok(found);
        }
        let states = encode()?;
        self.lock().keep(key, states.clone());
        Ok(states)
    }

    /// How many prompts were not found.
    #[cfg(test)]
    pub fn encoded(&self) -> u64 {
        self.lock().encoded
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, key: Key) -> Option<PromptStates> {
        let at = self.entries.iter().position(|(kept, _)| *kept == key)?;
        let entry = self.entries.remove(at)?;
        let states = entry.1.clone();
        self.entries.push_front(entry);
        Some(states)
    }

    fn keep(&mut self, key: Key, states: PromptStates) {
        self.encoded += 1;
        self.entries.retain(|(kept, _)| *kept != key);
        self.entries.push_front((key, states));
        let mut windows = 0;
        self.entries.retain(|(_, states)| {
            windows += states.windows;
            windows <= MAX_WINDOWS
        });
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn states(windows: usize) -> PromptStates {
        let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        PromptStates {
            states: zeros(&[1, windows, 1][..]),
            pooled: zeros(&[1, 1]),
            windows,
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = PromptCache::default();
        let ask = |key: u8, windows| {
            let before = cache.encoded();
            cache
                .get_or_encode([key; 32], || Ok(states(windows)))
                .unwrap();
            cache.encoded() > before
        };
        assert!(ask(1, 30) && ask(2, 30));
        assert!(!ask(1, 30));
        // 2 is the older one now.
        assert!(ask(3, 10));
        assert!(!ask(1, 30) && !ask(3, 10));
        assert!(ask(2, 30));
    }

    #[test]
    fn what_fails_is_not_kept() {
        let cache = PromptCache::default();
        let failed = cache.get_or_encode([0; 32], || Err(Error::Cancelled));
        assert!(failed.is_err());
        assert!(cache.get_or_encode([0; 32], || Ok(states(1))).is_ok());
    }
}
