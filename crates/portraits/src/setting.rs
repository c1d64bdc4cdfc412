//! What a picture shows besides the person.

use crate::chance::{Chance, Purpose};
use crate::classes::{Class, Colour, Pattern};
use crate::level::Level;

/// Settings from here on are in no training.
const HELD_OUT: u64 = 1 << 24;
/// Held-out settings of each person.
const OF_A_PERSON: u64 = 64;

/// Everything about a portrait that changes from picture to picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// The background's colour.
    pub background: Colour,
    /// What is on the background.
    pub pattern: Pattern,
    /// The shirt's colour.
    pub shirt: Colour,
    /// Where the person stands, from left to right.
    pub shift_x: Level,
    /// Where the person stands, from top to bottom.
    pub shift_y: Level,
    /// How large the person is.
    pub scale: Level,
    /// How far the head leans, from the picture's left to its right.
    pub roll: Level,
    /// How bright the light is.
    pub brightness: Level,
    /// Where the light comes from, from left to right.
    pub light_from: Level,
}

impl Setting {
    /// The names of [`Self::levels`].
    pub const LEVELS: [&'static str; 6] = [
        "shift x",
        "shift y",
        "scale",
        "roll",
        "brightness",
        "light from",
    ];

    /// The names and options of [`Self::classes`].
    pub const CLASSES: [Class; 3] = [
        Class {
            name: "background",
            options: Colour::NAMES,
        },
        Class {
            name: "pattern",
            options: Pattern::NAMES,
        },
        Class {
            name: "shirt",
            options: Colour::NAMES,
        },
    ];

    /// The setting of a person's picture, of those that are in no training: 64 for each person, and their pictures go
    /// round in these.
    pub fn held_out(person: u64, picture: u64) -> Self {
        let place = person
            .wrapping_mul(OF_A_PERSON)
            .wrapping_add(picture % OF_A_PERSON);
        Self::drawn(HELD_OUT.wrapping_add(place))
    }

    /// The setting that a seed stands for. Every attribute is even over its range and independent of the others, and of
    /// the person that the same seed stands for.
    pub fn drawn(seed: u64) -> Self {
        let mut chance = Chance::new(seed, Purpose::Setting);
        Self {
            background: chance.one_of(Colour::ALL),
            pattern: chance.one_of(Pattern::ALL),
            shirt: chance.one_of(Colour::ALL),
            shift_x: chance.level(),
            shift_y: chance.level(),
            scale: chance.level(),
            roll: chance.level(),
            brightness: chance.level(),
            light_from: chance.level(),
        }
    }

    /// The continuous attributes, each from −1 to 1.
    pub fn levels(&self) -> [f32; 6] {
        [
            self.shift_x,
            self.shift_y,
            self.scale,
            self.roll,
            self.brightness,
            self.light_from,
        ]
        .map(Level::value)
    }

    /// The others, as indices into their options.
    pub fn classes(&self) -> [usize; 3] {
        [
            self.background.index(),
            self.pattern.index(),
            self.shirt.index(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stay_in_range_and_use_all_of_it() {
        let settings: Vec<Setting> = (0..10_000).map(Setting::drawn).collect();
        for (i, name) in Setting::LEVELS.iter().enumerate() {
            let values = settings.iter().map(|s| s.levels()[i]);
            let (low, high) = values.fold((1f32, -1f32), |(l, h), v| (l.min(v), h.max(v)));
            assert!((-1.0..-0.99).contains(&low), "{name} {low}");
            assert!((0.99..=1.0).contains(&high), "{name} {high}");
        }
        for (i, class) in Setting::CLASSES.iter().enumerate() {
            let mut counts = vec![0usize; class.options.len()];
            for setting in &settings {
                counts[setting.classes()[i]] += 1;
            }
            let even = settings.len() / counts.len();
            let fair = counts.iter().all(|n| n.abs_diff(even) < even / 10);
            assert!(fair, "{}: {counts:?}", class.name);
        }
    }

    #[test]
    fn no_two_held_out_pictures_share_a_setting() {
        let all = || (0..200).flat_map(|person| (0..64).map(move |picture| (person, picture)));
        let settings: Vec<Setting> = all().map(|(p, n)| Setting::held_out(p, n)).collect();
        assert_eq!(settings[0], Setting::drawn(1 << 24));
        for pair in settings.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        assert_eq!(Setting::held_out(7, 64), Setting::held_out(7, 0));
        // Any number is some person's.
        assert_ne!(Setting::held_out(u64::MAX, 63), Setting::held_out(0, 63));
    }
}
