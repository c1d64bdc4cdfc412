//! The tokenizers of a checkpoint that carries none: those of a folder beside it, or CLIP's own.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tokenizers::models::bpe::Vocab;

use super::{Parts, Tokenizer, damaged, split_merge};
use crate::Error;

/// The merges that OpenAI published with CLIP; OpenCLIP and so SDXL's second encoder use the same.
const MERGES: &[u8] = include_bytes!("clip_merges.txt.gz");
/// Entries of CLIP's vocabulary.
const VOCABULARY: usize = 49_408;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// What the second encoder pads with, its id 0.
const PAD_2: &str = "!";

impl Tokenizer {
    /// The tokenizers of both text encoders, whose vocabularies have these sizes. A folder's count before
    /// CLIP's own where their largest id is the vocabulary's last, or where the vocabulary is not CLIP's.
    ///
    /// # Errors
    /// A damaged folder; no tokenizer for the vocabulary. `path` is what is being loaded.
    pub fn pair_for(
        vocabularies: [usize; 2],
        configs: Option<&Path>,
        path: &Path,
    ) -> Result<[Tokenizer; 2], Error> {
        let [first, second] = vocabularies;
        Ok([
            Tokenizer::fitting(first, configs, ["tokenizer", ""], None, path)?,
            Tokenizer::fitting(
                second,
                configs,
                ["tokenizer_2", "tokenizer"],
                Some(PAD_2),
                path,
            )?,
        ])
    }

    fn fitting(
        vocabulary: usize,
        configs: Option<&Path>,
        folders: [&str; 2],
        pad: Option<&str>,
        path: &Path,
    ) -> Result<Tokenizer, Error> {
        let found = configs.and_then(|dir| tokenizer_folder(dir, folders));
        let found = found.map(|dir| {
            // A folder of the second encoder's own says itself what it pads with.
            let own = folders[0] != "tokenizer" && dir.ends_with(folders[0]);
            Tokenizer::load_padded(&dir, pad.filter(|_| !own))
        });
        let found = found.transpose()?;
        let exact = found
            .as_ref()
            .is_some_and(|found| found.largest as usize + 1 == vocabulary);
        match found {
            Some(found) if exact || vocabulary != VOCABULARY => Ok(found),
            _ if vocabulary == VOCABULARY => Tokenizer::clip(pad.unwrap_or(END)),
            _ => Err(damaged(
                path,
                &format!(
                    "its vocabulary has {vocabulary} entries, CLIP's has {VOCABULARY}: give a folder \
                     with its tokenizer beside it"
                ),
            )),
        }
    }

    /// CLIP's own tokenizer.
    fn clip(pad: &str) -> Result<Tokenizer, Error> {
        let path = Path::new("CLIP's merges");
        let mut text = String::new();
        GzDecoder::new(MERGES)
            .read_to_string(&mut text)
            .map_err(|source| Error::Io {
                path: path.to_path_buf(),
                source,
            })?;
        let merges = text.lines().map(|line| split_merge(line, path));
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let parts = Parts {
            vocab: vocabulary(&merges),
            merges,
        };
        let names = [START, END, pad, END].map(str::to_owned);
        Tokenizer::of_parts(parts, &names, path)
    }
}

/// The first of the folders that holds a tokenizer, or the folder itself if it is one.
fn tokenizer_folder(dir: &Path, folders: [&str; 2]) -> Option<PathBuf> {
    let holds = |dir: &PathBuf| {
        dir.join("tokenizer.json").is_file()
            || (dir.join("vocab.json").is_file() && dir.join("merges.txt").is_file())
    };
    let named = folders.iter().map(|name| dir.join(name));
    named.chain([dir.to_path_buf()]).find(holds)
}

/// Ids in the order in which CLIP counts: the 256 bytes as signs, the same at a word's end, what the
/// merges make, the two special tokens.
fn vocabulary(merges: &[(String, String)]) -> Vocab {
    let bytes = byte_signs();
    let ends = bytes.iter().map(|sign| format!("{sign}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let special = [START, END].map(str::to_owned);
    let tokens = bytes.iter().map(char::to_string).chain(ends);
    let tokens = tokens.chain(merged).chain(special);
    tokens.zip(0..).collect()
}

/// The sign that stands for each byte, in the order of their ids: those that print stand for themselves
/// and come first.
fn byte_signs() -> Vec<char> {
    let prints = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let themselves = (0..256).filter(prints);
    let others = 256..256 + (0..256).filter(|byte| !prints(byte)).count() as u32;
    themselves
        .chain(others)
        .filter_map(char::from_u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // What transformers' and OpenCLIP's tokenizers give, see tests/parity/sdxl_single_file.py.
    #[test]
    fn clips_own_ids() {
        let [first, second] =
            Tokenizer::pair_for([VOCABULARY; 2], None, Path::new("model")).unwrap();
        let ids = first
            .ids("prompt", "a photo of a cat, 42 years!! 日本 café")
            .unwrap();
        assert_eq!(
            ids,
            [
                320, 1125, 539, 320, 2368, 267, 275, 273, 1151, 748, 39121, 19277, 361, 15304
            ]
        );
        assert_eq!(first.largest_id(), 49_407);
        let windows = |tokenizer: &Tokenizer| tokenizer.windows(&[320], 5).concat();
        assert_eq!(windows(&first), [49_406, 320, 49_407, 49_407, 49_407]);
        assert_eq!(windows(&second), [49_406, 320, 49_407, 0, 0]);
    }

    #[test]
    fn another_vocabulary_needs_a_folder() {
        let Err(error) = Tokenizer::pair_for([600; 2], None, Path::new("model")) else {
            panic!("found a tokenizer");
        };
        assert!(error.to_string().contains("600 entries"), "{error}");
    }
}
