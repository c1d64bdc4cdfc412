//! The words that a LoRA was trained with.

use super::weights::closing_weight;

/// Whether `prompt` holds the words of `trigger` one after another, whatever stands around them:
/// case, spaces, commas, brackets and weights do not matter. Without words nothing is asked for.
pub fn has_trigger(trigger: &str, prompt: &str) -> bool {
    let (wanted, found) = (words(trigger), words(prompt));
    wanted.is_empty() || found.windows(wanted.len()).any(|words| words == wanted)
}

/// The prompt with the words of `trigger`, which come first where they were missing.
pub fn with_trigger(trigger: &str, prompt: &str) -> String {
    if has_trigger(trigger, prompt) {
        return prompt.to_owned();
    }
    let words = trigger.trim().trim_end_matches(',');
    format!("{words}, {prompt}")
}

fn words(text: &str) -> Vec<String> {
    let apart = |c: char| c.is_whitespace() || r"()[]\,.;!?".contains(c);
    let plain = without_weights(text);
    let words = plain.split(apart).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// `text` without `:1.2)`, and with spaces for other colons.
fn without_weights(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(':') {
        plain.push_str(before);
        plain.push(' ');
        rest = closing_weight(after).map_or(after, |(_, behind)| behind);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIGGER: &str = "fcsks fxhks fhyks, ";

    #[test]
    fn missing_words_come_first() {
        assert_eq!(
            with_trigger(TRIGGER, "a portrait"),
            "fcsks fxhks fhyks, a portrait"
        );
        assert_eq!(with_trigger("ohwx", "(a portrait"), "ohwx, (a portrait");
        assert_eq!(
            with_trigger(TRIGGER, "fcsks fxhks, a portrait"),
            "fcsks fxhks fhyks, fcsks fxhks, a portrait"
        );
        assert_eq!(
            with_trigger(TRIGGER, "xfcsks fxhks fhyksx"),
            "fcsks fxhks fhyks, xfcsks fxhks fhyksx"
        );
    }

    #[test]
    fn words_that_are_there_are_not_added() {
        for prompt in [
            "fcsks fxhks fhyks, a portrait",
            "a portrait of FCSKS  Fxhks\nfhyks.",
            "(fcsks fxhks fhyks:1.2), a portrait",
            "(fcsks:1.1) [fxhks], fhyks a portrait",
            "((fcsks fxhks fhyks",
            "fcsks,fxhks,fhyks",
        ] {
            assert_eq!(with_trigger(TRIGGER, prompt), prompt);
        }
        let twice = with_trigger(TRIGGER, &with_trigger(TRIGGER, "a portrait"));
        assert_eq!(twice, with_trigger(TRIGGER, "a portrait"));
    }

    #[test]
    fn no_words_ask_for_nothing() {
        assert_eq!(with_trigger("", "a portrait"), "a portrait");
        assert_eq!(with_trigger(" , ", "a portrait"), "a portrait");
    }
}
