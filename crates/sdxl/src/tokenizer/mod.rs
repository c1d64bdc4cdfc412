//! CLIP's byte-level BPE, from the files of a tokenizer folder, and the windows that encoders take.

mod clip;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Bpe};

use crate::Error;
use crate::config::read_json;

/// Words, single digits, runs of other signs, and English contractions.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// One text encoder's tokenizer.
pub struct Tokenizer {
    bpe: Bpe,
    start: u32,
    end: u32,
    pad: u32,
    largest: u32,
}

/// Vocabulary and merges, wherever they were found.
struct Parts {
    vocab: Vocab,
    merges: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct TokenizerJson {
    model: BpeJson,
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: Vocab,
    merges: Vec<MergeJson>,
}

/// Newer files have pairs, older ones a string with a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    Text(String),
}

impl Tokenizer {
    /// Loads `vocab.json` and `merges.txt`, or `tokenizer.json`, and the special tokens of
    /// `tokenizer_config.json` or `special_tokens_map.json`.
    ///
    /// # Errors
    /// Missing or damaged files; special tokens that are not in the vocabulary.
    pub fn load(dir: &Path) -> Result<Tokenizer, Error> {
        Tokenizer::load_padded(dir, None)
    }

    /// As [`Tokenizer::load`], padding with a token of the caller's choice.
    fn load_padded(dir: &Path, pad: Option<&str>) -> Result<Tokenizer, Error> {
        let parts = read_parts(dir)?;
        let special = |key, default| special_token(dir, key, default);
        let end_token = special("eos_token", "<|endoftext|>")?;
        let names = [
            special("bos_token", "<|startoftext|>")?,
            end_token.clone(),
            pad.map_or_else(
                || special("pad_token", &end_token),
                |pad| Ok(pad.to_owned()),
            )?,
            special("unk_token", &end_token)?,
        ];
        Tokenizer::of_parts(parts, &names, dir)
    }

    /// `names` are the start, end, padding and unknown tokens.
    fn of_parts(parts: Parts, names: &[String; 4], path: &Path) -> Result<Tokenizer, Error> {
        let id = |token: &str| {
            parts
                .vocab
                .get(token)
                .copied()
                .ok_or_else(|| Error::Tokenizer {
                    path: path.to_path_buf(),
                    reason: format!("the special token `{token}` is not in the vocabulary"),
                })
        };
        let [start, end, pad, _] = names.each_ref().map(|token| id(token));
        let (start, end, pad) = (start?, end?, pad?);
        let largest = parts.vocab.values().copied().max().unwrap_or(0);
        let bpe = build(parts, names).map_err(|error| damaged(path, &error.to_string()))?;
        Ok(Tokenizer {
            bpe,
            start,
            end,
            pad,
            largest,
        })
    }

    /// The largest id that can come out.
    pub fn largest_id(&self) -> u32 {
        self.largest
    }

    /// The ids of `text`, the request's `field`, without start, end and padding.
    ///
    /// # Errors
    /// A character for which the vocabulary has neither a token nor an unknown token.
    pub fn ids(&self, field: &'static str, text: &str) -> Result<Vec<u32>, Error> {
        let encoded = self.bpe.encode_fast(text, false);
        let encoded = encoded.map_err(|_| {
            Error::bad_request(
                field,
                "it holds a character that the tokenizer does not know",
            )
        })?;
        Ok(encoded.get_ids().to_vec())
    }

    /// `ids` in windows of `length` tokens: start, up to length - 2 ids, end, padding. No ids make
    /// one empty window.
    pub fn windows(&self, ids: &[u32], length: usize) -> Vec<Vec<u32>> {
        let body = length.saturating_sub(2).max(1);
        let window = |ids: &[u32]| {
            let mut window = vec![self.start];
            window.extend_from_slice(ids);
            window.push(self.end);
            window.resize(length, self.pad);
            window
        };
        if ids.is_empty() {
            vec![window(&[])]
        } else {
            ids.chunks(body).map(window).collect()
        }
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Tokenizer {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    }
}

fn read_parts(dir: &Path) -> Result<Parts, Error> {
    let (vocab, joined) = (dir.join("vocab.json"), dir.join("tokenizer.json"));
    if !vocab.is_file() && joined.is_file() {
        let json: TokenizerJson = read_json(&joined)?;
        let merges = json.model.merges.into_iter().map(|merge| match merge {
            MergeJson::Pair(a, b) => Ok((a, b)),
            MergeJson::Text(text) => split_merge(&text, &joined),
        });
        let merges = merges.collect::<Result<_, _>>()?;
        return Ok(Parts {
            vocab: json.model.vocab,
            merges,
        });
    }
    Ok(Parts {
        vocab: read_json(&vocab)?,
        merges: read_merges(&dir.join("merges.txt"))?,
    })
}

fn read_merges(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty());
    lines.map(|line| split_merge(line, path)).collect()
}

fn split_merge(line: &str, path: &Path) -> Result<(String, String), Error> {
    match line.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() => Ok((a.to_owned(), b.to_owned())),
        _ => Err(damaged(
            path,
            "a merge is not two tokens with a space between",
        )),
    }
}

/// A special token's text: a string, or an object with `content`.
fn special_token(dir: &Path, key: &str, default: &str) -> Result<String, Error> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = dir.join(file);
        if !path.is_file() {
            continue;
        }
        let json: Value = read_json(&path)?;
        let token = json
            .get(key)
            .map(|token| token.get("content").unwrap_or(token));
        if let Some(token) = token.and_then(Value::as_str) {
            return Ok(token.to_owned());
        }
    }
    Ok(default.to_owned())
}

/// `special` are start, end, padding and unknown.
fn build(parts: Parts, special: &[String; 4]) -> tokenizers::Result<Bpe> {
    let model = BPE::builder()
        .vocab_and_merges(parts.vocab, parts.merges)
        .end_of_word_suffix("</w>".to_owned())
        .continuing_subword_prefix(String::new())
        .unk_token(special[3].clone())
        .build()?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    let pattern = SplitPattern::Regex(PATTERN.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Removed, true)?;
    let pre: Vec<PreTokenizerWrapper> =
        vec![split.into(), ByteLevel::new(false, true, true).into()];
    let mut bpe = Bpe::new(model);
    bpe.with_normalizer(Some(Sequence::new(normalizers)))?;
    bpe.with_pre_tokenizer(Some(PreSequence::new(pre)));
    // Special tokens are found in the text before anything else. This is not only about "<|…|>":
    // encoder 2 pads with "!", so that its "!" never becomes the word-final "!</w>".
    bpe.add_special_tokens(
        special
            .iter()
            .map(|token| AddedToken::from(token.clone(), true)),
    )?;
    Ok(bpe)
}
