//! A small byte-level BPE vocabulary in CLIP's form, learnt from a list of prompt words.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::error::Error;

/// The words that prompts are made of, common first.
const WORDS: &str = include_str!("../../assets/pocket/words.txt");
const END_OF_WORD: &str = "</w>";

/// Tokens in the order of their ids, and merges in the order of their ranks.
pub(crate) struct Vocabulary {
    pub tokens: Vec<String>,
    pub merges: Vec<(String, String)>,
}

/// Learns a vocabulary of exactly `size` tokens: CLIP's order, with `!` as id 0 and the end token last.
pub(crate) fn vocabulary(size: usize) -> Vocabulary {
    let mut tokens = byte_symbols();
    tokens.extend(
        byte_symbols()
            .into_iter()
            .map(|symbol| symbol + END_OF_WORD),
    );
    let merges = learn(size.saturating_sub(tokens.len() + 2));
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    tokens.push("<|startoftext|>".to_owned());
    tokens.push("<|endoftext|>".to_owned());
    Vocabulary { tokens, merges }
}

/// The printable stand-ins of the 256 bytes, in CLIP's order: printable Latin-1 bytes stand for
/// themselves, the others for the code points from 256 on.
fn byte_symbols() -> Vec<String> {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|b| !printable(b)).count() as u32;
    let points = (0..256).filter(printable).chain(256..256 + others);
    points
        .filter_map(char::from_u32)
        .map(String::from)
        .collect()
}

/// Ordinary BPE training: merge the most frequent pair, again and again; ties go to the first pair in
/// alphabetical order. Stops early when every word is one token.
fn learn(count: usize) -> Vec<(String, String)> {
    let mut words: Vec<Vec<String>> = WORDS.split_whitespace().map(symbols).collect();
    let mut merges = Vec::new();
    while merges.len() < count {
        let Some(pair) = most_frequent_pair(&words) else {
            break;
        };
        for word in &mut words {
            *word = merged(word, &pair);
        }
        merges.push(pair);
    }
    merges
}

fn symbols(word: &str) -> Vec<String> {
    let mut symbols: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = symbols.last_mut() {
        last.push_str(END_OF_WORD);
    }
    symbols
}

fn most_frequent_pair(words: &[Vec<String>]) -> Option<(String, String)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for pair in words.iter().flat_map(|word| word.windows(2)) {
        *counts.entry((&pair[0], &pair[1])).or_default() += 1;
    }
    let mut best: Option<((&str, &str), usize)> = None;
    for (pair, count) in counts {
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((pair, count));
        }
    }
    best.map(|((left, right), _)| (left.to_owned(), right.to_owned()))
}

/// `word` with every occurrence of `pair` joined, from the left.
fn merged(word: &[String], pair: &(String, String)) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        if *first == pair.0 && tail.first() == Some(&pair.1) {
            out.push(format!("{}{}", pair.0, pair.1));
            rest = &tail[1..];
        } else {
            out.push(first.clone());
            rest = tail;
        }
    }
    out
}

impl Vocabulary {
    /// `vocab.json`: token → id, in the order of the ids.
    pub fn vocab_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&Ids(&self.tokens)).map_err(Error::encode("vocab.json"))
    }

    /// `merges.txt`: one merge per line under the usual heading.
    pub fn merges_txt(&self) -> Vec<u8> {
        let mut text = "#version: 0.2\n".to_owned();
        for (left, right) in &self.merges {
            text.extend([left, " ", right, "\n"]);
        }
        text.into_bytes()
    }
}

struct Ids<'a>(&'a [String]);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(token, &id)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// BPE as a tokenizer applies it: the lowest-ranked pair first.
    fn tokenize(word: &str, merges: &[(String, String)]) -> Vec<String> {
        merges
            .iter()
            .fold(symbols(word), |word, pair| merged(&word, pair))
    }

    #[test]
    fn vocabulary_has_clips_shape() {
        let vocabulary = vocabulary(1032);
        assert_eq!(vocabulary.tokens.len(), 1032);
        assert_eq!(vocabulary.tokens[0], "!");
        assert_eq!(vocabulary.tokens[256], "!</w>");
        assert_eq!(vocabulary.tokens[1031], "<|endoftext|>");
        let distinct: BTreeSet<&String> = vocabulary.tokens.iter().collect();
        assert_eq!(distinct.len(), 1032);
    }

    #[test]
    fn every_word_of_the_list_is_one_token() {
        let merges = vocabulary(1032).merges;
        for word in WORDS.split_whitespace() {
            let tokens = tokenize(word, &merges);
            assert_eq!(tokens.len(), 1, "{word}: {tokens:?}");
        }
    }
}
