//! Background removal: the face inside its outline, softly cut out and put on grey.

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::blur;
use crate::decode::GREY;
use crate::geometry::{CropRect, Square};
use crate::resample::bicubic;

/// Side at which masks are blurred, whatever the face's size.
const BLUR_SIDE: u32 = 512;
/// Standard deviation of a mask's blur at that side.
const MASK_SIGMA: f32 = 15.0;

/// The part of `image` in `view`, grey outside the outline, black outside the image.
pub(crate) fn on_grey(
    image: &RgbImage,
    outline: &[[f32; 2]],
    square: Square,
    view: CropRect,
) -> RgbImage {
    let source = square.rounded();
    let mask = soften(&fill(outline, source));
    // The cut-out goes back to the truncated origin, not to the rounded one that it was taken from: so does the
    // reference, and the networks were trained with that.
    let (paste_x, paste_y) = square.truncated_origin();
    RgbImage::from_fn(view.width(), view.height(), |x, y| {
        let (x, y) = (view.left + x as i32, view.top + y as i32);
        if !contains(image, x, y) {
            return Rgb([0; 3]);
        }
        let (mx, my) = (x - paste_x, y - paste_y);
        let Some(Luma([alpha])) = pixel(&mask, mx, my) else {
            return Rgb([GREY; 3]);
        };
        let over = pixel(image, source.left + mx, source.top + my).map_or([0; 3], |p| p.0);
        Rgb(over.map(|c| blend(c, GREY, *alpha)))
    })
}

fn contains(image: &RgbImage, x: i32, y: i32) -> bool {
    pixel(image, x, y).is_some()
}

fn pixel<P: image::Pixel<Subpixel = u8>>(
    image: &image::ImageBuffer<P, Vec<u8>>,
    x: i32,
    y: i32,
) -> Option<&P> {
    image.get_pixel_checked(u32::try_from(x).ok()?, u32::try_from(y).ok()?)
}

/// `over` with weight `alpha`/255 on `under`, rounded to nearest.
pub(crate) fn blend(over: u8, under: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    ((u32::from(over) * alpha + u32::from(under) * (255 - alpha) + 127) / 255) as u8
}

/// Blurs a mask at a fixed side, so that the edge is as soft for a small face as for a large one.
pub(crate) fn soften(mask: &GrayImage) -> GrayImage {
    let mut large = bicubic(mask, BLUR_SIDE, BLUR_SIDE);
    blur::gaussian(&mut large, MASK_SIGMA);
    bicubic(&large, mask.width(), mask.height())
}

/// The outline filled with 255 on 0, seen through `view`: vertices truncated to whole pixels, even-odd, edges included.
pub(crate) fn fill(outline: &[[f32; 2]], view: CropRect) -> GrayImage {
    let vertices: Vec<(i32, i32)> = outline
        .iter()
        .map(|[x, y]| (*x as i32, *y as i32))
        .collect();
    let edges: Vec<Edge> = vertices
        .iter()
        .zip(vertices.iter().cycle().skip(1))
        .map(|(a, b)| Edge::new(*a, *b))
        .collect();
    let mut mask = GrayImage::new(view.width(), view.height());
    for y in view.top..view.bottom {
        for (first, last) in spans(&edges, y) {
            for x in first.max(view.left)..=last.min(view.right - 1) {
                mask.put_pixel((x - view.left) as u32, (y - view.top) as u32, Luma([255]));
            }
        }
    }
    mask
}

/// An edge of a polygon, from its upper to its lower end.
struct Edge {
    top: (i32, i32),
    bottom: (i32, i32),
}

impl Edge {
    fn new(a: (i32, i32), b: (i32, i32)) -> Self {
        if a.1 <= b.1 {
            Self { top: a, bottom: b }
        } else {
            Self { top: b, bottom: a }
        }
    }

    fn x_at(&self, y: i32) -> f32 {
        let slope = (self.bottom.0 - self.top.0) as f32 / (self.bottom.1 - self.top.1) as f32;
        self.top.0 as f32 + slope * (y - self.top.1) as f32
    }

    fn crosses(&self, y: i32) -> bool {
        self.top.1 <= y && y < self.bottom.1
    }
}

/// The columns of row `y` that lie inside or on an edge, as inclusive spans.
fn spans(edges: &[Edge], y: i32) -> Vec<(i32, i32)> {
    let mut crossings: Vec<f32> = edges
        .iter()
        .filter(|e| e.crosses(y))
        .map(|e| e.x_at(y))
        .collect();
    crossings.sort_by(f32::total_cmp);
    let inside = crossings
        .chunks_exact(2)
        .map(|pair| (round(pair[0]), round_down(pair[1])));
    let horizontal = edges
        .iter()
        .filter(|e| e.top.1 == y && e.bottom.1 == y)
        .map(|e| (e.top.0.min(e.bottom.0), e.top.0.max(e.bottom.0)));
    let lower_ends = edges
        .iter()
        .filter(|e| e.bottom.1 == y)
        .map(|e| (e.bottom.0, e.bottom.0));
    inside.chain(horizontal).chain(lower_ends).collect()
}

fn round(x: f32) -> i32 {
    (x + 0.5).floor() as i32
}

fn round_down(x: f32) -> i32 {
    (x - 0.5).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: CropRect = CropRect {
        left: 0,
        top: 0,
        right: 8,
        bottom: 8,
    };

    #[test]
    fn a_rectangle_includes_all_its_edges() {
        let mask = fill(&[[1.9, 2.9], [5.0, 2.0], [5.0, 6.0], [1.0, 6.0]], VIEW);
        let inside = |x, y| (1..=5).contains(&x) && (2..=6).contains(&y);
        assert!(
            mask.enumerate_pixels()
                .all(|(x, y, p)| (p.0[0] == 255) == inside(x, y))
        );
    }

    #[test]
    fn an_outline_outside_the_view_fills_nothing() {
        let mask = fill(&[[-20.0, -20.0], [-10.0, -20.0], [-10.0, -5.0]], VIEW);
        assert!(mask.pixels().all(|p| p.0[0] == 0));
    }

    #[test]
    fn blending_keeps_both_ends() {
        assert_eq!(
            (blend(200, 10, 255), blend(200, 10, 0), blend(200, 100, 128)),
            (200, 10, 150)
        );
    }
}
