//! The one picture that shows what the services made.

use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{self, FilterType};
use likeness_chart::{Cell, captioned, stacked, text};

/// Side of a picture on the sheet, in pixels.
const SIDE: u32 = 128;
const TITLE: &str = "Likeness: enrolled once from one picture, rendered anywhere";
const NOTES: [&str; 6] = [
    "A row: one prompt and one seed. All but the enrolled pictures were rendered by the running services from stored coefficients.",
    "A + B: a blend of both in equal parts.  glasses: a slider between two other drawn people, with and without, added to the identity.",
    "base scale: how much of what the enrolled picture shows around the person comes along.",
    "likeness: the cosine of the face's embedding to that of the identity asked for, 1 at most. A dash: no face was found, or there is",
    "no single identity to compare with.",
    "The pocket bundle was trained on drawn people alone. Of photos it knows nothing: what it makes of one is no likeness.",
];

/// A row of the sheet.
pub struct Row {
    /// What stands over it.
    pub title: String,
    /// Its pictures from the left, each with what stands over it.
    pub cells: Vec<(String, Cell)>,
}

/// A picture from a file.
pub fn picture(file: &Path) -> Result<RgbImage> {
    let reader = image::ImageReader::open(file).and_then(image::ImageReader::with_guessed_format);
    let opened = reader.map_err(image::ImageError::from);
    let picture = opened
        .and_then(image::ImageReader::decode)
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(picture.to_rgb8())
}

/// A picture's tile: the largest square around its middle, at the sheet's size.
pub fn tile(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let side = width.min(height).max(1);
    let place = (
        (width - side.min(width)) / 2,
        (height - side.min(height)) / 2,
    );
    let square = imageops::crop_imm(picture, place.0, place.1, side, side).to_image();
    imageops::resize(&square, SIDE, SIDE, FilterType::CatmullRom)
}

/// A likeness in words.
pub fn likeness(cosine: Option<f64>) -> String {
    match cosine {
        Some(cosine) => format!("likeness {cosine:.2}"),
        None => "likeness -".to_owned(),
    }
}

/// Draws it.
pub fn draw(rows: &[Row]) -> RgbImage {
    let mut parts = vec![text(&[TITLE], 2), space()];
    for row in rows {
        parts.push(text(&[row.title.as_str()], 1));
        let (labels, cells): (Vec<&str>, Vec<Cell>) = row
            .cells
            .iter()
            .map(|(label, cell)| (label.as_str(), cell.clone()))
            .unzip();
        parts.push(captioned(&labels, &[cells]));
        parts.push(space());
    }
    parts.push(text(&NOTES, 1));
    stacked(&parts)
}

fn space() -> RgbImage {
    text(&[""], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_the_middle_of_its_picture() {
        let picture = RgbImage::from_fn(300, 100, |x, _| {
            image::Rgb([if (100..200).contains(&x) { 200 } else { 0 }; 3])
        });
        let tile = tile(&picture);
        assert_eq!(tile.dimensions(), (SIDE, SIDE));
        assert!(tile.pixels().all(|pixel| pixel.0[0] > 190));
    }

    #[test]
    fn a_missing_likeness_is_a_dash() {
        assert_eq!(likeness(Some(0.874)), "likeness 0.87");
        assert_eq!(likeness(None), "likeness -");
    }

    #[test]
    fn every_row_is_on_the_sheet() {
        let row = |count| Row {
            title: "a title".to_owned(),
            cells: vec![
                (
                    "a label".to_owned(),
                    Cell {
                        picture: RgbImage::new(SIDE, SIDE),
                        caption: likeness(None),
                    }
                );
                count
            ],
        };
        let sheet = draw(&[row(11), row(1)]);
        assert!(sheet.width() >= 11 * SIDE && sheet.height() > 2 * SIDE);
        let longest = NOTES.iter().map(|note| note.len() as u32 * 8).max();
        assert!(longest < Some(sheet.width()), "a note does not fit");
    }
}
