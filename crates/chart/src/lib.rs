//! Pictures that show what came of something: a loss curve, and sheets of labelled pictures.

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

/// A picture on a sheet and what stands below it.
#[derive(Clone)]
pub struct Cell {
    /// The picture.
    pub picture: RgbImage,
    /// One line; what does not fit is left out.
    pub caption: String,
}

/// Rows of pictures of one size under their columns' labels.
pub fn sheet(columns: &[&str], rows: &[Vec<RgbImage>]) -> RgbImage {
    let bare = |picture: &RgbImage| Cell {
        picture: picture.clone(),
        caption: String::new(),
    };
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| row.iter().map(bare).collect())
        .collect();
    captioned(columns, &rows)
}

/// A sheet with a caption below each picture.
pub fn captioned(columns: &[&str], rows: &[Vec<Cell>]) -> RgbImage {
    const GAP: u32 = 4;
    let cells = || rows.iter().flatten();
    let sides = cells().map(|cell| cell.picture.dimensions());
    let (width, height) = sides.fold((0, 0), |(w, h), (x, y)| (w.max(x), h.max(y)));
    let longest = columns.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    let foot = if cells().any(|cell| !cell.caption.is_empty()) {
        LETTER + GAP
    } else {
        0
    };
    let step = (
        width.max(longest as u32 * LETTER) + GAP,
        height + GAP + foot,
    );
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
    for (row, cells) in (0u32..).zip(rows) {
        for (column, cell) in (0u32..).zip(cells) {
            let (x, y) = (GAP + column * step.0, head + row * step.1);
            imageops::replace(&mut out, &cell.picture, i64::from(x), i64::from(y));
            let fits = step.0 / LETTER;
            let caption: String = cell.caption.chars().take(fits as usize).collect();
            write(&mut out, &caption, (x, y + height + GAP));
        }
    }
    out
}

/// Lines of text, `size` times as large as a label.
pub fn text(lines: &[&str], size: u32) -> RgbImage {
    let longest = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let width = (longest as u32 + 1) * LETTER;
    let height = (lines.len() as u32 * LETTER * 3 / 2).max(1);
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    for (at, line) in (0u32..).zip(lines) {
        write(&mut out, line, (LETTER / 2, at * LETTER * 3 / 2 + 2));
    }
    let scaled = (width * size, height * size);
    imageops::resize(&out, scaled.0, scaled.1, imageops::FilterType::Nearest)
}

/// Pictures one below the other.
pub fn stacked(parts: &[RgbImage]) -> RgbImage {
    let width = parts.iter().map(RgbImage::width).max().unwrap_or(1);
    let height: u32 = parts.iter().map(RgbImage::height).sum();
    let mut out = RgbImage::from_pixel(width, height.max(1), PAPER);
    let mut top = 0;
    for part in parts {
        imageops::replace(&mut out, part, 0, top);
        top += i64::from(part.height());
    }
    out
}

/// Pictures one beside the other, with so many pixels between them.
pub fn beside(parts: &[RgbImage], gap: u32) -> RgbImage {
    let height = parts.iter().map(RgbImage::height).max().unwrap_or(1);
    let width: u32 = parts.iter().map(|part| part.width() + gap).sum();
    let width = width.saturating_sub(gap).max(1);
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    let mut left = 0;
    for part in parts {
        imageops::replace(&mut out, part, left, 0);
        left += i64::from(part.width() + gap);
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

    #[test]
    fn a_caption_stands_below_its_picture_and_stays_there() {
        let cell = |caption: &str| Cell {
            picture: RgbImage::from_pixel(16, 10, Rgb([1; 3])),
            caption: caption.to_owned(),
        };
        let drawn = captioned(&[], &[vec![cell("####"), cell("")]]);
        let inked = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            let mut places = y.flat_map(|y| x.clone().map(move |x| (x, y)));
            places.any(|(x, y)| *drawn.get_pixel(x, y) == INK)
        };
        assert!(inked(4..20, 18..26), "below the first");
        assert!(!inked(20..drawn.width(), 0..drawn.height()), "beside it");
        assert_eq!(drawn.height(), 4 + 10 + 4 + LETTER + 4);
    }

    #[test]
    fn parts_lie_below_and_beside_each_other() {
        let title = text(&["two", "lines"], 2);
        assert_eq!(title.dimensions(), (6 * 2 * LETTER, 6 * LETTER));
        assert!(title.pixels().any(|pixel| *pixel == INK));
        let part = RgbImage::from_pixel(100, 5, Rgb([9; 3]));
        let drawn = stacked(&[title.clone(), part]);
        assert_eq!(drawn.dimensions(), (100, title.height() + 5));
        assert_eq!(drawn.get_pixel(99, title.height()).0, [9; 3]);
        assert_eq!(stacked(&[]).dimensions(), (1, 1));
        let [one, two] = [(3, 4), (5, 2)].map(|(w, h)| RgbImage::from_pixel(w, h, Rgb([7; 3])));
        let drawn = beside(&[one, two], 6);
        assert_eq!(drawn.dimensions(), (3 + 6 + 5, 4));
        assert_eq!(drawn.get_pixel(9, 1).0, [7; 3]);
        assert_eq!(*drawn.get_pixel(9, 2), PAPER);
        assert_eq!(beside(&[], 6).dimensions(), (1, 1));
        assert_eq!(text(&[], 1).height(), 1);
    }
}
