//! The one picture that shows what the services made.

use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{self, FilterType};
use likeness_chart::{Cell, beside, captioned, stacked, text};

/// Side of a picture on the sheet, in pixels.
const SIDE: u32 = 128;
/// Between kinds of pictures, in pixels.
const GAP: u32 = 12;
const TITLE: &str = "Likeness: enrolled once from one picture, rendered anywhere";
const NOTES: [&str; 7] = [
    "A row is one prompt and one seed. All but the enrolled pictures were rendered by the running services.",
    "blend: both in equal parts.  slider: from a third person without glasses to the same with, added to the row's own person.",
    "base scale: how much of what the enrolled picture shows around the person comes along.",
    "likeness: cosine of the embeddings of the picture's face and of the identity asked for; 1 is the same. A dash: no face was",
    "found, or not exactly one identity was asked for.",
    "The project's own pocket bundle was trained on drawn people, though not on these. Of photos it knows nothing: what it makes",
    "of one is no likeness.",
];

/// A row of the sheet.
pub struct Row {
    /// What stands over it.
    pub title: String,
    /// Its pictures from the left.
    pub shown: Vec<Shown>,
}

/// A picture of a row.
#[derive(Clone)]
pub struct Shown {
    /// What stands over it and its neighbours of the same kind.
    pub group: String,
    /// What stands over it alone.
    pub label: String,
    /// The picture and what stands below it.
    pub cell: Cell,
}

/// A picture from a file.
pub fn picture(file: &Path) -> Result<RgbImage> {
    let reader = image::ImageReader::open(file).and_then(image::ImageReader::with_guessed_format);
    let opened = reader.map_err(image::ImageError::from);
    let picture = opened
        .and_then(image::ImageReader::decode)
        .with_context(|| {
            format!(
                "{}: expected a whole JPEG, PNG or WebP file",
                file.display()
            )
        })?;
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
        let groups = row.shown.chunk_by(|a, b| a.group == b.group).map(group);
        let groups: Vec<RgbImage> = groups.collect();
        parts.push(text(&[row.title.as_str()], 1));
        parts.push(beside(&groups, GAP));
        parts.push(space());
    }
    parts.push(text(&NOTES, 1));
    stacked(&parts)
}

fn group(shown: &[Shown]) -> RgbImage {
    let labels: Vec<&str> = shown.iter().map(|one| one.label.as_str()).collect();
    let cells = shown.iter().map(|one| one.cell.clone()).collect();
    let title = shown.first().map_or("", |one| one.group.as_str());
    stacked(&[text(&[title], 1), captioned(&labels, &[cells])])
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
        let shown = Shown {
            group: "a kind".to_owned(),
            label: "a label".to_owned(),
            cell: Cell {
                picture: RgbImage::new(SIDE, SIDE),
                caption: likeness(None),
            },
        };
        let row = |count| Row {
            title: "a title".to_owned(),
            shown: vec![shown.clone(); count],
        };
        let sheet = draw(&[row(11), row(1)]);
        assert!(sheet.width() >= 11 * SIDE && sheet.height() > 2 * SIDE);
        let longest = NOTES.iter().map(|note| note.len() as u32 * 8).max();
        assert!(longest < Some(sheet.width()), "a note does not fit");
    }
}
