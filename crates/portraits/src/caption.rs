//! A picture in words.

use crate::setting::Setting;

/// Every word that a prompt for a portrait can hold: the bundle's trigger words, which callers put before a caption
/// themselves, and the captions' own. The comma is the only sign between them.
pub const VOCABULARY: &[&str] = &[
    "fcsks",
    "fxhks",
    "fhyks",
    "a",
    "person",
    "plain",
    "striped",
    "dotted",
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "white",
    "background",
    "shirt",
];

/// The setting in words, such as `a person, striped blue background, red shirt`. It takes no identity, so that none
/// can be read off it: who is shown has to come from elsewhere.
pub fn caption(setting: &Setting) -> String {
    format!(
        "a person, {} {} background, {} shirt",
        setting.pattern.name(),
        setting.background.name(),
        setting.shirt.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{Class, Colour, Pattern};
    use crate::identity::Identity;
    use std::collections::BTreeSet;

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split([' ', ',']).filter(|word| !word.is_empty())
    }

    #[test]
    fn a_caption_tells_background_and_shirt() {
        let setting = Setting {
            background: Colour::Blue,
            pattern: Pattern::Striped,
            shirt: Colour::Red,
            ..Setting::drawn(1)
        };
        assert_eq!(
            caption(&setting),
            "a person, striped blue background, red shirt"
        );
    }

    #[test]
    fn captions_use_the_vocabulary_and_all_of_it() {
        let captions: Vec<String> = (0..10_000).map(|s| caption(&Setting::drawn(s))).collect();
        let used: BTreeSet<&str> = captions.iter().flat_map(|c| words(c)).collect();
        let known: BTreeSet<&str> = VOCABULARY[3..].iter().copied().collect();
        assert_eq!(used, known);
        assert!(VOCABULARY.len() <= 40);
    }

    #[test]
    fn no_word_names_an_attribute_of_a_person() {
        let names = Identity::CLASSES.map(|class: Class| class.name);
        let told = names.into_iter().chain(Identity::LEVELS).flat_map(words);
        let told = told.filter(|word| *word != "colour");
        let styles = Identity::CLASSES[1].options.iter().copied();
        let shared: Vec<&str> = told
            .chain(styles)
            .filter(|word| VOCABULARY.contains(word))
            .collect();
        assert!(shared.is_empty(), "{shared:?}");
    }
}
