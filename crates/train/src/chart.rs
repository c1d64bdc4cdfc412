//! Pictures of a training: a loss curve, and sheets of labelled pictures.

use font8x8::UnicodeFonts as _;
use image::{Rgb, RgbImage, imageops};

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([40, 40, 40]);
const GRID: Rgb<u8> = Rgb([225, 225, 225]);
const FAINT: Rgb<u8> = Rgb([180, 200, 230]);
const MARK: Rgb<u8> = Rgb([255, 0, 90]);
const CURVE: Rgb<u8> = Rgb([20, 80, 180]);
/// A letter's width and height.
const LETTER: u32 = 8;
/// Left for a curve's labels.
const MARGIN: u32 = 80;
const WIDTH: u32 = 720;
const HEIGHT: u32 = 320;

/// Losses by step on a logarithmic scale: each in a faint tone, and their moving mean.
pub fn curve(losses: &[f64]) -> RgbImage {
    let mut out = RgbImage::from_pixel(WIDTH + 2 * LETTER, HEIGHT + 5 * LETTER, PAPER);
    let logs: Vec<f64> = losses.iter().map(|l| l.max(1e-12).log10()).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(low.is_finite() && high.is_finite()) {
        return out;
    }
    let span = (high - low).max(1e-6);
    let y = |log: f64| LETTER + ((high - log) / span * f64::from(HEIGHT)) as u32;
    let last = logs.len().saturating_sub(1).max(1);
    let x = |step: usize| MARGIN + (step as f64 / last as f64 * f64::from(WIDTH - MARGIN)) as u32;
    for line in 0..=4u8 {
        let log = low + span * f64::from(line) / 4.0;
        for column in MARGIN..=WIDTH {
            out.put_pixel(column, y(log), GRID);
        }
        write(
            &mut out,
            &format!("{:.3}", 10f64.powf(log)),
            (LETTER, y(log) - LETTER / 2),
        );
    }
    for (step, &log) in logs.iter().enumerate() {
        out.put_pixel(x(step), y(log), FAINT);
    }
    let mut mean = logs[0];
    for (step, log) in logs.iter().enumerate() {
        mean += (log - mean) * (2.0 / (1.0 + (step as f64).min(100.0)));
        let (x, y) = (x(step), y(mean.clamp(low, high)));
        out.put_pixel(x, y, CURVE);
        out.put_pixel(x, y + 1, CURVE);
    }
    let foot = HEIGHT + 3 * LETTER;
    write(&mut out, "0", (MARGIN, foot));
    let label = losses.len().to_string();
    let right = WIDTH.saturating_sub(label.len() as u32 * LETTER);
    write(&mut out, &label, (right, foot));
    out
}

/// Marks points of a picture, in its pixels.
pub fn mark(picture: &mut RgbImage, points: &[[f32; 2]]) {
    for [x, y] in points {
        if (0.0..picture.width() as f32).contains(x) && (0.0..picture.height() as f32).contains(y) {
            picture.put_pixel(*x as u32, *y as u32, MARK);
        }
    }
}

/// Draws a box (left, top, right, bottom) into a picture, as far as it is inside.
pub fn frame(picture: &mut RgbImage, [left, top, right, bottom]: [f32; 4]) {
    let across = (0..=(right - left).max(0.0) as u32).map(|k| left + k as f32);
    let down = (0..=(bottom - top).max(0.0) as u32).map(|k| top + k as f32);
    let points = across.flat_map(|x| [[x, top], [x, bottom]]);
    let points: Vec<[f32; 2]> = points
        .chain(down.flat_map(|y| [[left, y], [right, y]]))
        .collect();
    mark(picture, &points);
}

/// Rows of pictures of one size under their columns' labels. Rows may have labels, too, over their first picture's left.
pub fn sheet(columns: &[&str], rows: &[Vec<RgbImage>]) -> RgbImage {
    const GAP: u32 = 4;
    let side = rows.iter().flatten().map(RgbImage::dimensions);
    let (width, height) = side.fold((0, 0), |(w, h), (x, y)| (w.max(x), h.max(y)));
    let longest = columns.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    let step = (width.max(longest as u32 * LETTER) + GAP, height + GAP);
    let across = rows
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(0)
        .max(columns.len());
    let head = if columns.is_empty() { GAP } else { 2 * LETTER };
    let size = (
        GAP + across as u32 * step.0,
        head + rows.len() as u32 * step.1,
    );
    let mut out = RgbImage::from_pixel(size.0, size.1, PAPER);
    for (at, label) in (0u32..).zip(columns) {
        write(&mut out, label, (GAP + at * step.0, LETTER / 2));
    }
    for (row, pictures) in (0u32..).zip(rows) {
        for (column, picture) in (0u32..).zip(pictures) {
            let at = (GAP + column * step.0, head + row * step.1);
            imageops::replace(&mut out, picture, i64::from(at.0), i64::from(at.1));
        }
    }
    out
}

/// Writes one line of text; what would go beyond the picture is left out.
pub fn write(picture: &mut RgbImage, text: &str, (x, y): (u32, u32)) {
    for (at, letter) in (0u32..).zip(text.chars()) {
        let shape = font8x8::BASIC_FONTS.get(letter).unwrap_or_default();
        for (row, bits) in (0u32..).zip(shape) {
            for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (x + at * LETTER + column, y + row);
                if let Some(pixel) = picture.get_pixel_mut_checked(x, y) {
                    *pixel = INK;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x_of(step: u32) -> u32 {
        MARGIN + (f64::from(step) / 499.0 * f64::from(WIDTH - MARGIN)) as u32
    }

    #[test]
    fn a_falling_loss_is_a_falling_curve() {
        let losses: Vec<f64> = (0..500).map(|i| 1.0 / (1.0 + f64::from(i))).collect();
        let drawn = curve(&losses);
        let height = |column: u32| {
            let inked = |y: &u32| *drawn.get_pixel(column, *y) == CURVE;
            (0..drawn.height()).find(inked).unwrap()
        };
        let ends = (height(x_of(5)), height(x_of(490)));
        assert!(ends.0 < ends.1, "{ends:?}");
    }

    #[test]
    fn odd_losses_draw_something() {
        for losses in [&[][..], &[1.0], &[0.0, 0.0], &[f64::NAN, 1.0]] {
            assert!(curve(losses).width() > 0);
        }
    }

    #[test]
    fn a_sheet_has_every_picture_in_its_place() {
        let picture = |v: u8| RgbImage::from_pixel(10, 12, Rgb([v, v, v]));
        let rows = [vec![picture(1), picture(2)], vec![picture(3)]];
        let drawn = sheet(&["a", "longer"], &rows);
        let step = 6 * LETTER + 4;
        assert_eq!(drawn.get_pixel(4, 2 * LETTER).0, [1; 3]);
        assert_eq!(drawn.get_pixel(4 + step, 2 * LETTER).0, [2; 3]);
        assert_eq!(drawn.get_pixel(4, 2 * LETTER + 16).0, [3; 3]);
        assert_eq!(*drawn.get_pixel(4 + step, 2 * LETTER + 16), PAPER);
    }
}
