//! Who is shown.

use crate::chance::{Chance, Purpose};
use crate::classes::{Class, EyeColour, HairColour, HairStyle, NO_YES};
use crate::level::Level;

/// One person: everything about a portrait that stays from picture to picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Identity {
    /// From the lightest to the darkest.
    pub skin: Level,
    /// Width of the face.
    pub face_width: Level,
    /// Height of the face.
    pub face_height: Level,
    /// Distance of the eyes.
    pub eye_spacing: Level,
    /// Length and width of the nose.
    pub nose_size: Level,
    /// Width of the mouth.
    pub mouth_width: Level,
    /// Colour of hair, brows and beard.
    pub hair_colour: HairColour,
    /// How the hair is worn.
    pub hair_style: HairStyle,
    /// Colour of the irises.
    pub eye_colour: EyeColour,
    /// Whether there are glasses.
    pub glasses: bool,
    /// Whether there is a beard.
    pub beard: bool,
}

impl Identity {
    /// The names of [`Self::levels`].
    pub const LEVELS: [&'static str; 6] = [
        "skin",
        "face width",
        "face height",
        "eye spacing",
        "nose size",
        "mouth width",
    ];

    /// The names and options of [`Self::classes`].
    pub const CLASSES: [Class; 5] = [
        Class {
            name: "hair colour",
            options: HairColour::NAMES,
        },
        Class {
            name: "hair style",
            options: HairStyle::NAMES,
        },
        Class {
            name: "eye colour",
            options: EyeColour::NAMES,
        },
        Class {
            name: "glasses",
            options: NO_YES,
        },
        Class {
            name: "beard",
            options: NO_YES,
        },
    ];

    /// The person that a seed stands for. Every attribute is even over its range and independent of the others.
    pub fn drawn(seed: u64) -> Self {
        let mut chance = Chance::new(seed, Purpose::Identity);
        Self {
            skin: chance.level(),
            face_width: chance.level(),
            face_height: chance.level(),
            eye_spacing: chance.level(),
            nose_size: chance.level(),
            mouth_width: chance.level(),
            hair_colour: chance.one_of(HairColour::ALL),
            hair_style: chance.one_of(HairStyle::ALL),
            eye_colour: chance.one_of(EyeColour::ALL),
            glasses: chance.coin(),
            beard: chance.coin(),
        }
    }

    /// The continuous attributes, each from −1 to 1.
    pub fn levels(&self) -> [f32; 6] {
        [
            self.skin,
            self.face_width,
            self.face_height,
            self.eye_spacing,
            self.nose_size,
            self.mouth_width,
        ]
        .map(Level::value)
    }

    /// The others, as indices into their options.
    pub fn classes(&self) -> [usize; 5] {
        [
            self.hair_colour.index(),
            self.hair_style.index(),
            self.eye_colour.index(),
            usize::from(self.glasses),
            usize::from(self.beard),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stay_in_range_and_use_all_of_it() {
        let people: Vec<Identity> = (0..10_000).map(Identity::drawn).collect();
        for (i, name) in Identity::LEVELS.iter().enumerate() {
            let values = people.iter().map(|p| p.levels()[i]);
            let (low, high) = values.fold((1f32, -1f32), |(l, h), v| (l.min(v), h.max(v)));
            assert!((-1.0..-0.99).contains(&low), "{name} {low}");
            assert!((0.99..=1.0).contains(&high), "{name} {high}");
        }
        for (i, class) in Identity::CLASSES.iter().enumerate() {
            let mut counts = vec![0usize; class.options.len()];
            for person in &people {
                counts[person.classes()[i]] += 1;
            }
            let even = people.len() / counts.len();
            let fair = counts.iter().all(|n| n.abs_diff(even) < even / 10);
            assert!(fair, "{}: {counts:?}", class.name);
        }
    }

    #[test]
    fn a_seed_is_one_person_for_ever() {
        let person = Identity::drawn(0x5eed);
        assert_eq!(person, Identity::drawn(0x5eed));
        assert_ne!(person, Identity::drawn(0x5eee));
    }
}
