//! What happens inside and outside a face's outline: the background made grey, or the face made unrecognisable.

use image::{GrayImage, ImageBuffer, Luma, Pixel, Rgb, RgbImage};

use crate::blur;
use crate::geometry::{CropRect, outline_square, widened};
use crate::resample::bicubic;
use likeness_picture::GREY;

/// Side at which masks and faces are blurred, whatever the face's size.
const BLUR_SIDE: u32 = 512;
/// Standard deviations of the blurs at that side.
const MASK_SIGMA: f32 = 15.0;
const FACE_SIGMA: f32 = 45.0;

/// The part of `image` in `view`, grey outside the outline, black outside the image.
pub(crate) fn on_grey(image: &RgbImage, outline: &[[f32; 2]], view: CropRect) -> RgbImage {
    let square = outline_square(outline);
    let source = square.rounded();
    let cutout = Cutout {
        mask: soften(&fill(outline, source, whole(image))),
        origin: square.truncated_origin(),
    };
    let face =
        |x: i32, y: i32| pixel(image, source.left + x, source.top + y).map_or([0; 3], |p| p.0);
    cutout.paste(image, view, |_| [GREY; 3], face)
}

/// The part of `image` in `view`, blurred beyond recognition inside the outline widened by `widening`, black outside the
/// image. The square in which this happens is that of the outline as it is.
pub(crate) fn blurred_inside(
    image: &RgbImage,
    outline: &[[f32; 2]],
    widening: f32,
    view: CropRect,
) -> RgbImage {
    let square = outline_square(outline);
    let source = square.rounded();
    let mask = soften(&fill(&widened(outline, widening), source, whole(image)));
    let cutout = Cutout {
        mask,
        origin: square.truncated_origin(),
    };
    let blurred = blur_at_fixed_side(&source.of(image), FACE_SIGMA);
    let face = |x: i32, y: i32| pixel(&blurred, x, y).map_or([0; 3], |p| p.0);
    cutout.paste(image, view, |p| p.0, face)
}

/// A soft mask and where its upper left corner goes in the photo.
///
/// That is the truncated origin of its square, not the rounded one that its content is taken from: so does the reference,
/// and the networks were trained with that.
struct Cutout {
    mask: GrayImage,
    origin: (i32, i32),
}

impl Cutout {
    /// `view` of the photo, made of `under` (from the photo's pixel) and, through the mask, `over` (from the mask's
    /// coordinates).
    fn paste(
        &self,
        image: &RgbImage,
        view: CropRect,
        under: impl Fn(&Rgb<u8>) -> [u8; 3],
        over: impl Fn(i32, i32) -> [u8; 3],
    ) -> RgbImage {
        RgbImage::from_fn(view.width(), view.height(), |x, y| {
            let (x, y) = (view.left + x as i32, view.top + y as i32);
            let Some(below) = pixel(image, x, y).map(&under) else {
                return Rgb([0; 3]);
            };
            let (mx, my) = (x - self.origin.0, y - self.origin.1);
            let Some(Luma([alpha])) = pixel(&self.mask, mx, my) else {
                return Rgb(below);
            };
            let above = over(mx, my);
            Rgb(std::array::from_fn(|c| blend(above[c], below[c], *alpha)))
        })
    }
}

fn pixel<P: Pixel<Subpixel = u8>>(image: &ImageBuffer<P, Vec<u8>>, x: i32, y: i32) -> Option<&P> {
    image.get_pixel_checked(u32::try_from(x).ok()?, u32::try_from(y).ok()?)
}

/// `over` with weight `alpha`/255 on `under`, rounded to nearest.
pub(crate) fn blend(over: u8, under: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    ((u32::from(over) * alpha + u32::from(under) * (255 - alpha) + 127) / 255) as u8
}

/// Softens a mask's edge.
pub(crate) fn soften(mask: &GrayImage) -> GrayImage {
    blur_at_fixed_side(mask, MASK_SIGMA)
}

/// Blurs at a fixed side, so that a small face becomes as soft as a large one.
fn blur_at_fixed_side<P>(image: &ImageBuffer<P, Vec<u8>>, sigma: f32) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8>,
{
    let mut large = bicubic(image, BLUR_SIDE, BLUR_SIDE);
    blur::gaussian(&mut large, sigma);
    bicubic(&large, image.width(), image.height())
}

fn whole(image: &RgbImage) -> CropRect {
    CropRect::whole(image.width(), image.height())
}

/// The outline filled with 255 on 0, seen through `view`: vertices truncated to whole pixels, even-odd, edges included.
/// Outside the picture it is empty, so that a face cut by the picture's edge ends softly there.
pub(crate) fn fill(outline: &[[f32; 2]], view: CropRect, picture: CropRect) -> GrayImage {
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
    let (left, right) = (view.left.max(picture.left), view.right.min(picture.right));
    for y in view.top.max(picture.top)..view.bottom.min(picture.bottom) {
        for (first, last) in spans(&edges, y) {
            for x in first.max(left)..=last.min(right - 1) {
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
        let mask = fill(
            &[[1.9, 2.9], [5.0, 2.0], [5.0, 6.0], [1.0, 6.0]],
            VIEW,
            VIEW,
        );
        let inside = |x, y| (1..=5).contains(&x) && (2..=6).contains(&y);
        assert!(
            mask.enumerate_pixels()
                .all(|(x, y, p)| (p.0[0] == 255) == inside(x, y))
        );
    }

    #[test]
    fn an_outline_outside_the_view_fills_nothing() {
        let mask = fill(&[[-20.0, -20.0], [-10.0, -20.0], [-10.0, -5.0]], VIEW, VIEW);
        assert!(mask.pixels().all(|p| p.0[0] == 0));
    }

    #[test]
    fn nothing_is_filled_outside_the_picture() {
        let picture = CropRect::whole(3, 8);
        let mask = fill(
            &[[0.0, 0.0], [7.0, 0.0], [7.0, 7.0], [0.0, 7.0]],
            VIEW,
            picture,
        );
        assert!(
            mask.enumerate_pixels()
                .all(|(x, _, p)| (p.0[0] == 255) == (x < 3))
        );
    }

    #[test]
    fn blending_keeps_both_ends() {
        assert_eq!(
            (blend(200, 10, 255), blend(200, 10, 0), blend(200, 100, 128)),
            (200, 10, 150)
        );
    }
}
