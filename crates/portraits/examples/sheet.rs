//! Writes a sheet of portraits, a row for each person and a column for each setting:
//! `sheet FILE.png [SIDE [PEOPLE [SETTINGS [dots]]]]`; with `dots`, landmarks are marked.

use image::{Rgb, RgbImage, imageops};
use likeness_portraits::{Identity, Setting, caption, draw, keypoints, landmarks};

const USAGE: &str = "usage: sheet FILE.png [SIDE [PEOPLE [SETTINGS [dots]]]]";
const GAP: u32 = 2;

#[allow(clippy::print_stdout, reason = "a program that tells what it wrote")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments.first().ok_or(USAGE)?;
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |n| n.parse());
    let (side, people, settings) = (number(1, 64)?, number(2, 8)?, number(3, 8)?);
    let dots = arguments.get(4).is_some_and(|word| word == "dots");
    let step = side + GAP;
    let mut sheet = RgbImage::new(settings * step, people * step);
    for row in 0..people {
        for column in 0..settings {
            // Every picture has a setting of its own: a column is no more than a number.
            let setting = Setting::drawn(u64::from(row * settings + column));
            let picture = portrait(&Identity::drawn(u64::from(row)), &setting, side, dots);
            let (x, y) = (i64::from(column * step), i64::from(row * step));
            imageops::replace(&mut sheet, &picture, x, y);
        }
    }
    sheet.save(file)?;
    println!("{file}; the first: {}", caption(&Setting::drawn(0)));
    Ok(())
}

fn portrait(identity: &Identity, setting: &Setting, side: u32, dots: bool) -> RgbImage {
    let mut picture = draw(identity, setting, side);
    if dots {
        for point in landmarks(identity, setting, side) {
            dot(&mut picture, point, [0, 255, 0]);
        }
        for point in keypoints(identity, setting, side) {
            dot(&mut picture, point, [255, 0, 255]);
        }
    }
    picture
}

/// Marks the pixel that a point lies in.
fn dot(picture: &mut RgbImage, [x, y]: [f32; 2], colour: [u8; 3]) {
    if let Some(pixel) = picture.get_pixel_mut_checked(x as u32, y as u32) {
        *pixel = Rgb(colour);
    }
}
