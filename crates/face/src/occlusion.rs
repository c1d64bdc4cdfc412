//! A hint at what covers a face, from its colours alone.

use image::RgbImage;

use crate::face::Face;
use crate::geometry::{CropRect, extent, outline};
use crate::mask;
use crate::resample::bicubic;

/// The face is looked at in this many cells across and down: about the size of a pupil each.
const CELLS: u32 = 32;
/// The outline is drawn in by this much, so that hair and background beside it do not count.
const SHRINKING: f32 = 0.85;
/// How far a cell's colour may be from the skin's, in levels of Cb and Cr. Lips, blush and brows stay below it.
const SKIN_CHROMA: f32 = 14.0;
/// How dark and how light a cell may be, beside the skin. Pupils and nostrils are darker, but few.
const SKIN_LUMA: std::ops::RangeInclusive<f32> = 0.5..=1.6;

/// Luma and the two colour differences of ITU-R 601.
type Colour = [f32; 3];

/// Share of the cells within the face's outline that do not look like most of them.
pub(crate) fn measure(image: &RgbImage, face: &Face) -> f32 {
    let cells = cells(image, &drawn_in(&outline(&face.landmarks)));
    let skin: Colour = std::array::from_fn(|k| median(cells.iter().map(|c| c[k]).collect()));
    let covered = cells.iter().filter(|cell| !is_skin(cell, skin)).count();
    covered as f32 / cells.len().max(1) as f32
}

fn is_skin([luma, cb, cr]: &Colour, skin: Colour) -> bool {
    let brightness = luma / skin[0].max(1.0);
    (cb - skin[1]).hypot(cr - skin[2]) <= SKIN_CHROMA && SKIN_LUMA.contains(&brightness)
}

fn drawn_in(outline: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let (low, high) = extent(outline);
    let centre = [0, 1].map(|k| f32::midpoint(low[k], high[k]));
    let towards = |point: &[f32; 2]| [0, 1].map(|k| centre[k] + SHRINKING * (point[k] - centre[k]));
    outline.iter().map(towards).collect()
}

/// The mean colours of the cells whose middle lies within the outline and in the picture.
fn cells(image: &RgbImage, outline: &[[f32; 2]]) -> Vec<Colour> {
    let (low, high) = extent(outline);
    let rect = CropRect {
        left: low[0].floor() as i32,
        top: low[1].floor() as i32,
        right: high[0].ceil() as i32,
        bottom: high[1].ceil() as i32,
    };
    if rect.width() == 0 || rect.height() == 0 {
        return Vec::new();
    }
    let (w, h) = (rect.width() as f32, rect.height() as f32);
    let in_cells = |[x, y]: &[f32; 2]| {
        let (x, y) = ((x - rect.left as f32) / w, (y - rect.top as f32) / h);
        [x * CELLS as f32, y * CELLS as f32]
    };
    let polygon: Vec<[f32; 2]> = outline.iter().map(in_cells).collect();
    let all = CropRect::whole(CELLS, CELLS);
    let mask = mask::fill(&polygon, all, all);
    let in_picture = |x: u32, y: u32| {
        let across = rect.left + ((x as f32 + 0.5) / CELLS as f32 * w) as i32;
        let down = rect.top + ((y as f32 + 0.5) / CELLS as f32 * h) as i32;
        CropRect::whole(image.width(), image.height()).contains(across, down)
    };
    let view = bicubic(&rect.of(image), CELLS, CELLS);
    view.enumerate_pixels()
        .filter(|(x, y, _)| mask.get_pixel(*x, *y).0 == [255] && in_picture(*x, *y))
        .map(|(_, _, pixel)| colour(pixel.0))
        .collect()
}

fn colour(rgb: [u8; 3]) -> Colour {
    let [r, g, b] = rgb.map(f32::from);
    let luma = 0.299 * r + 0.587 * g + 0.114 * b;
    [luma, 0.564 * (b - luma), 0.713 * (r - luma)]
}

fn median(mut values: Vec<f32>) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}
