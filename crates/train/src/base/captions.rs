//! Captions as a text encoder reads them.

use std::path::Path;

use likeness_sdxl::parts::Tokenizer;

use crate::Error;

/// Put before a caption, they call for the person shown; the released models' words.
pub const TRIGGER: &str = "fcsks fxhks fhyks, ";

/// The tokenizer of a models' folder.
pub(super) struct Captions {
    tokenizer: Tokenizer,
    length: usize,
}

impl Captions {
    /// Reads `tokenizer` of a folder, for windows of `length` tokens.
    pub fn load(models: &Path, length: usize) -> Result<Captions, Error> {
        let tokenizer = Tokenizer::load(&models.join("tokenizer"))?;
        Ok(Captions { tokenizer, length })
    }

    /// One window each; what does not fit is cut off.
    pub fn windows(&self, texts: &[String]) -> Result<Vec<Vec<u32>>, Error> {
        let window = |text: &String| {
            let ids = self.tokenizer.ids("caption", text)?;
            let windows = self.tokenizer.windows(&ids, self.length);
            Ok(windows.into_iter().next().unwrap_or_default())
        };
        texts.iter().map(window).collect()
    }
}
