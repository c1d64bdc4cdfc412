//! Colours, each channel from 0 to 255. None is brighter than 236, so that the strongest light (1.08) clips nothing and the
//! ratios between the channels stay the same in every light.

use crate::classes::{Colour, EyeColour, HairColour};
use crate::level::Level;

pub(crate) type Rgb = [f32; 3];

pub(crate) const BLACK: Rgb = [24.0, 22.0, 28.0];
pub(crate) const WHITE: Rgb = [236.0, 236.0, 236.0];
pub(crate) const LIPS: Rgb = [190.0, 44.0, 62.0];

/// From the lightest to the darkest.
const SKINS: [Rgb; 4] = [
    [236.0, 204.0, 180.0],
    [220.0, 168.0, 126.0],
    [160.0, 106.0, 70.0],
    [92.0, 58.0, 42.0],
];

pub(crate) fn skin(level: Level) -> Rgb {
    let place = level.between(0.0, (SKINS.len() - 1) as f32);
    let before = (place as usize).min(SKINS.len() - 2);
    mix(SKINS[before], SKINS[before + 1], place - before as f32)
}

pub(crate) fn hair(colour: HairColour) -> Rgb {
    match colour {
        HairColour::Black => [30.0, 26.0, 34.0],
        HairColour::Brown => [112.0, 66.0, 30.0],
        HairColour::Blond => [232.0, 198.0, 92.0],
        HairColour::Ginger => [206.0, 84.0, 22.0],
        HairColour::Grey => [166.0, 170.0, 180.0],
        HairColour::Pink => [228.0, 78.0, 160.0],
    }
}

pub(crate) fn iris(colour: EyeColour) -> Rgb {
    match colour {
        EyeColour::Brown => [116.0, 62.0, 22.0],
        EyeColour::Blue => [40.0, 112.0, 232.0],
        EyeColour::Green => [36.0, 164.0, 84.0],
    }
}

pub(crate) fn cloth(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [214.0, 40.0, 44.0],
        Colour::Orange => [236.0, 136.0, 30.0],
        Colour::Yellow => [236.0, 214.0, 56.0],
        Colour::Green => [42.0, 158.0, 68.0],
        Colour::Cyan => [58.0, 204.0, 216.0],
        Colour::Blue => [40.0, 72.0, 206.0],
        Colour::Purple => [140.0, 60.0, 178.0],
        Colour::White => [232.0, 232.0, 228.0],
    }
}

/// `share` of the second colour, the rest of the first.
pub(crate) fn mix(first: Rgb, second: Rgb, share: f32) -> Rgb {
    [0, 1, 2].map(|c| first[c] + share * (second[c] - first[c]))
}

/// The colour in a shadow that takes this share of the light.
pub(crate) fn shaded(colour: Rgb, share: f32) -> Rgb {
    colour.map(|channel| channel * (1.0 - share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "the ends are the anchors themselves")]
    fn skin_darkens_all_the_way() {
        let brightness = |i: i32| {
            let [r, g, b] = skin(Level::new(i as f32 / 10.0));
            r + g + b
        };
        assert!((-10..10).all(|i| brightness(i) > brightness(i + 1)));
        assert_eq!(skin(Level::LEAST), SKINS[0]);
        assert_eq!(skin(Level::MOST), SKINS[3]);
    }

    #[test]
    fn colours_of_one_kind_are_far_apart() {
        let far = |colours: &[Rgb]| {
            colours.iter().enumerate().all(|(i, a)| {
                let others = colours[..i].iter();
                let mut gaps = others.map(|b| (0..3).map(|c| (a[c] - b[c]).abs()).sum::<f32>());
                gaps.all(|gap| gap > 70.0)
            })
        };
        assert!(far(&HairColour::ALL.map(hair)));
        assert!(far(&EyeColour::ALL.map(iris)));
        assert!(far(&Colour::ALL.map(cloth)));
    }
}
