//! What the pictures show, seen from outside.

use image::RgbImage;
use likeness_portraits::{
    Colour, EyeColour, HairColour, HairStyle, Identity, Level, Pattern, SIDES, Setting, draw,
    keypoints, landmarks,
};
use sha2::{Digest, Sha256};

const SIDE: u32 = 64;
/// The middle head with its hair is within this many pixels of the root of the nose; the corners are 45 away.
const HEAD: f32 = 28.0;

type Point = [f32; 2];

/// The middle of everything, with nothing over the face.
fn someone() -> Identity {
    let middle = Level::MIDDLE;
    Identity {
        skin: middle,
        face_width: middle,
        face_height: middle,
        eye_spacing: middle,
        nose_size: middle,
        mouth_width: middle,
        hair_colour: HairColour::Black,
        hair_style: HairStyle::None,
        eye_colour: EyeColour::Blue,
        glasses: false,
        beard: false,
    }
}

fn somewhere() -> Setting {
    let middle = Level::MIDDLE;
    Setting {
        background: Colour::Cyan,
        pattern: Pattern::Plain,
        shirt: Colour::White,
        shift_x: middle,
        shift_y: middle,
        scale: middle,
        roll: middle,
        brightness: Level::MOST,
        light_from: middle,
    }
}

/// The pixels that differ by more than a hardly visible amount.
fn changed(a: &RgbImage, b: &RgbImage) -> Vec<Point> {
    let pairs = a.enumerate_pixels().zip(b.pixels());
    let differ =
        pairs.filter(|((_, _, p), q)| p.0.iter().zip(q.0).any(|(p, q)| p.abs_diff(q) > 12));
    differ
        .map(|((x, y, _), _)| [x as f32 + 0.5, y as f32 + 0.5])
        .collect()
}

/// Whether a point lies within the jaw and the brows, widened by this much around their middle.
fn in_box(points: &[Point; 106], [x, y]: Point, widened: f32) -> bool {
    let inside = |k: usize, value: f32| {
        let low = points.iter().map(|p| p[k]).fold(f32::MAX, f32::min);
        let high = points.iter().map(|p| p[k]).fold(f32::MIN, f32::max);
        (value - 0.5 * (low + high)).abs() <= widened * 0.5 * (high - low)
    };
    inside(0, x) && inside(1, y)
}

fn colour_at(picture: &RgbImage, [x, y]: Point) -> [f32; 3] {
    picture.get_pixel(x as u32, y as u32).0.map(f32::from)
}

/// Bare skin between the brows.
fn brow_gap(points: &[Point; 106]) -> Point {
    [0, 1].map(|k| 0.5 * (points[50][k] + points[102][k]))
}

#[test]
fn seeds_give_the_same_bytes_for_ever() {
    let mut digest = Sha256::new();
    for seed in 0..40 {
        let picture = draw(&Identity::drawn(seed), &Setting::drawn(seed), SIDE);
        digest.update(picture.as_raw());
    }
    // Whoever changes the drawing changes this, and with it everything that was trained on the pictures before.
    assert_eq!(
        hex::encode(digest.finalize()),
        "83ba49e61ae0a47cb0e86b471f4549569755fcbffe973429fe729c810b35cf56"
    );
}

#[test]
fn a_picture_has_the_side_that_was_asked_for_within_bounds() {
    let side = |asked| {
        let picture = draw(&someone(), &somewhere(), asked);
        assert_eq!(picture.width(), picture.height());
        picture.width()
    };
    assert_eq!([32, 77, 512].map(side), [32, 77, 512]);
    assert_eq!([0, u32::MAX].map(side), [*SIDES.start(), *SIDES.end()]);
}

/// Every attribute of an identity, changed from one end to the other, and how many pixels must show it.
fn changes() -> Vec<(&'static str, Identity, Identity, usize)> {
    let all = someone();
    let (least, most) = (Level::LEAST, Level::MOST);
    let two = |name, at_least, set: fn(&mut Identity, Level)| {
        let mut ends = [all; 2];
        set(&mut ends[0], least);
        set(&mut ends[1], most);
        (name, ends[0], ends[1], at_least)
    };
    vec![
        two("skin", 400, |i, l| i.skin = l),
        two("face width", 150, |i, l| i.face_width = l),
        two("face height", 150, |i, l| i.face_height = l),
        two("eye spacing", 50, |i, l| i.eye_spacing = l),
        two("nose size", 20, |i, l| i.nose_size = l),
        two("mouth width", 10, |i, l| i.mouth_width = l),
        two("hair", 150, |i, l| {
            i.hair_style = HairStyle::Short;
            i.hair_colour = if l == Level::MOST {
                HairColour::Pink
            } else {
                HairColour::Grey
            };
        }),
        two("brows of the bald", 25, |i, l| {
            i.hair_colour = if l == Level::MOST {
                HairColour::Black
            } else {
                HairColour::Grey
            };
        }),
        two("hair style", 100, |i, l| {
            i.hair_style = if l == Level::MOST {
                HairStyle::Bun
            } else {
                HairStyle::Short
            };
        }),
        two("eye colour", 16, |i, l| {
            i.eye_colour = if l == Level::MOST {
                EyeColour::Green
            } else {
                EyeColour::Brown
            };
        }),
        two("glasses", 60, |i, l| i.glasses = l == Level::MOST),
        two("beard", 100, |i, l| i.beard = l == Level::MOST),
    ]
}

#[test]
fn every_attribute_of_an_identity_shows_at_the_face_and_nowhere_else() {
    for (name, before, after, at_least) in changes() {
        let [a, b] = [before, after].map(|who| draw(&who, &somewhere(), SIDE));
        let root = landmarks(&someone(), &somewhere(), SIDE)[72];
        let changed = changed(&a, &b);
        assert!(
            changed.len() >= at_least,
            "{name}: {} pixels",
            changed.len()
        );
        let far = |p: &&Point| (p[0] - root[0]).hypot(p[1] - root[1]) > HEAD;
        let outside = changed.iter().filter(far).count();
        assert_eq!(outside, 0, "{name}");
    }
}

#[test]
fn hair_styles_and_eye_colours_all_differ() {
    let pictures = HairStyle::ALL.map(|hair_style| {
        let who = Identity {
            hair_style,
            ..someone()
        };
        draw(&who, &somewhere(), SIDE)
    });
    for (i, a) in pictures.iter().enumerate() {
        let least = pictures[..i].iter().map(|b| changed(a, b).len()).min();
        assert!(least.is_none_or(|n| n > 100), "{i}: {least:?}");
    }
}

#[test]
fn backgrounds_and_shirts_leave_the_face_as_it_is() {
    let before = somewhere();
    let after = [
        Setting {
            background: Colour::Red,
            ..before
        },
        Setting {
            pattern: Pattern::Striped,
            ..before
        },
        Setting {
            pattern: Pattern::Dotted,
            ..before
        },
        Setting {
            shirt: Colour::Purple,
            ..before
        },
    ];
    let picture = draw(&someone(), &before, SIDE);
    let points = landmarks(&someone(), &before, SIDE);
    for setting in after {
        let changed = changed(&picture, &draw(&someone(), &setting, SIDE));
        assert!(changed.len() > 200, "{setting:?}: {}", changed.len());
        let within = |p: &Point| in_box(&points, *p, 0.55);
        assert!(!changed.iter().any(within), "{setting:?}");
    }
}

#[test]
fn pose_and_light_show_outside_of_the_face() {
    let before = Setting {
        pattern: Pattern::Plain,
        ..somewhere()
    };
    let least = Level::LEAST;
    let after = [
        Setting {
            shift_x: least,
            ..before
        },
        Setting {
            shift_y: least,
            ..before
        },
        Setting {
            scale: least,
            ..before
        },
        Setting {
            brightness: least,
            ..before
        },
        Setting {
            light_from: least,
            ..before
        },
    ];
    let who = Identity {
        hair_style: HairStyle::Afro,
        ..someone()
    };
    let picture = draw(&who, &before, SIDE);
    let points = landmarks(&who, &before, SIDE);
    for setting in after {
        let changed = changed(&picture, &draw(&who, &setting, SIDE));
        let outside = changed
            .iter()
            .filter(|p| !in_box(&points, **p, 1.0))
            .count();
        assert!(outside > 30, "{setting:?}: {outside}");
    }
    let leaning = Setting {
        roll: least,
        ..before
    };
    assert!(changed(&picture, &draw(&who, &leaning, SIDE)).len() > 60);
}

#[test]
fn two_settings_share_the_identitys_colours() {
    for seed in 0..200 {
        let who = Identity {
            beard: false,
            ..Identity::drawn(seed)
        };
        let chromaticity = |setting: &Setting| {
            // Large, so that a point is well within what it lies on.
            let picture = draw(&who, setting, 256);
            let points = landmarks(&who, setting, 256);
            // Half-way from the pupil to the iris' edge, on the side of the nose.
            let iris = [0, 1].map(|k| 0.54 * points[38][k] + 0.46 * points[39][k]);
            let brow = [0, 1].map(|k| 0.5 * (points[49][k] + points[45][k]));
            [brow_gap(&points), iris, brow].map(|place| {
                let [r, g, b] = colour_at(&picture, place);
                [r, g, b].map(|channel| channel / (r + g + b))
            })
        };
        let [first, second] = [2 * seed, 2 * seed + 1].map(|s| chromaticity(&Setting::drawn(s)));
        for (a, b) in first.iter().flatten().zip(second.iter().flatten()) {
            assert!((a - b).abs() < 0.02, "{seed}: {first:?} {second:?}");
        }
    }
}

#[test]
fn the_outline_follows_the_skins_edge() {
    for seed in 0..300 {
        // Nothing that has another colour than skin and background at the jaw; ears end above where this looks.
        let who = Identity {
            beard: false,
            glasses: false,
            hair_style: HairStyle::None,
            skin: Level::MOST,
            ..Identity::drawn(seed)
        };
        let setting = Setting {
            background: Colour::White,
            pattern: Pattern::Plain,
            ..Setting::drawn(seed)
        };
        let picture = draw(&who, &setting, SIDE);
        let points = landmarks(&who, &setting, SIDE);
        let middle = points[86];
        let neck = 7.0;
        for i in (2..=16).chain(18..=32) {
            let [x, y] = points[i];
            if (x - middle[0]).abs() < neck || y < middle[1] + 4.0 {
                continue;
            }
            let step = [0, 1].map(|k| points[i][k] - middle[k]);
            let length = step[0].hypot(step[1]);
            let along = |by: f32| [0, 1].map(|k| points[i][k] + by * step[k] / length);
            let [inside, outside] = [-1.5, 1.5].map(|by| colour_at(&picture, along(by))[2]);
            assert!(outside > 2.5 * inside, "{seed}, {i}: {inside} {outside}");
        }
    }
}

#[test]
fn key_points_lie_on_what_they_name() {
    for seed in 0..200 {
        let who = Identity {
            glasses: false,
            ..Identity::drawn(seed)
        };
        let setting = Setting::drawn(seed);
        let picture = draw(&who, &setting, 256);
        let [left, right, ..] = keypoints(&who, &setting, 256);
        for pupil in [left, right] {
            let darkest = colour_at(&picture, pupil).into_iter().fold(0.0, f32::max);
            assert!(darkest < 40.0, "{seed}: {darkest}");
        }
    }
}

#[test]
fn the_upper_corners_belong_to_the_background_alone() {
    for seed in 0..500 {
        let setting = Setting {
            pattern: Pattern::Plain,
            brightness: Level::MOST,
            light_from: Level::MIDDLE,
            ..Setting::drawn(seed)
        };
        let picture = draw(&Identity::drawn(seed), &setting, SIDE);
        let corners = [1, SIDE - 2].map(|x| picture.get_pixel(x, 1));
        assert_eq!(corners[0], corners[1], "{seed}");
    }
}
