//! Shapes on a grid of pixels, with soft edges.

use image::{Rgb as Pixel, RgbImage};

use crate::frame::{Frame, Point, UNITS};
use crate::palette::{Rgb, mix};
use crate::proportions::beyond_ellipse;

/// A box that holds a shape, in a frame's units.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub middle: Point,
    pub half: Point,
}

/// A colour and how much of it covers what is below: from 0 to 1.
#[derive(Clone, Copy)]
pub(crate) struct Ink {
    colour: Rgb,
    opacity: f32,
}

impl Ink {
    pub fn solid(colour: Rgb) -> Self {
        Self::thin(colour, 1.0)
    }

    pub fn thin(colour: Rgb, opacity: f32) -> Self {
        Self { colour, opacity }
    }
}

/// A picture while it is drawn.
pub(crate) struct Canvas {
    side: u32,
    /// In rows.
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// A square picture whose colours depend on the place, in units from its upper left corner. The function also gets a
    /// pixel's size.
    pub fn new(side: u32, colour_at: impl Fn(Point, f32) -> Rgb) -> Self {
        let size = UNITS / side as f32;
        let at = |i: u32| (i as f32 + 0.5) * size;
        let places = (0..side).flat_map(|y| (0..side).map(move |x| [at(x), at(y)]));
        Self {
            side,
            pixels: places.map(|place| colour_at(place, size)).collect(),
        }
    }

    /// Draws a shape given by how far a point is outside of it (in units; negative inside), within bounds.
    pub fn fill(&mut self, frame: &Frame, bounds: Bounds, ink: Ink, beyond: impl Fn(Point) -> f32) {
        let middle = frame.to_pixels(bounds.middle);
        let half = frame.half_box(bounds.half);
        let [columns, rows] = [0, 1].map(|k| self.span(middle[k], half[k]));
        let scale = frame.scale();
        for y in rows.0..rows.1 {
            for x in columns.0..columns.1 {
                let place = frame.to_units([x as f32 + 0.5, y as f32 + 0.5]);
                let cover = ink.opacity * (0.5 - scale * beyond(place)).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let pixel = &mut self.pixels[y * self.side as usize + x];
                    *pixel = mix(*pixel, ink.colour, cover);
                }
            }
        }
    }

    /// An ellipse of these half sides.
    pub fn ellipse(&mut self, frame: &Frame, middle: Point, half: Point, ink: Ink) {
        self.fill(frame, Bounds { middle, half }, ink, |[x, y]| {
            beyond_ellipse([x - middle[0], y - middle[1]], half)
        });
    }

    /// A line with round ends, of this radius.
    pub fn line(&mut self, frame: &Frame, [a, b]: [Point; 2], radius: f32, ink: Ink) {
        let bounds = Bounds {
            middle: [0, 1].map(|k| 0.5 * (a[k] + b[k])),
            half: [0, 1].map(|k| 0.5 * (a[k] - b[k]).abs() + radius),
        };
        self.fill(frame, bounds, ink, |p| beyond_line(p, [a, b]) - radius);
    }

    /// The picture, each pixel as bright as `light` says for its place from left (−1) to right (1).
    pub fn lit(self, light: impl Fn(f32) -> f32) -> RgbImage {
        let side = self.side;
        let lights: Vec<f32> = (0..side)
            .map(|x| light((x as f32 + 0.5) / side as f32 * 2.0 - 1.0))
            .collect();
        RgbImage::from_fn(side, side, |x, y| {
            let colour = self.pixels[(y * side + x) as usize];
            // The cast holds the ends of the range.
            Pixel(colour.map(|channel| (channel * lights[x as usize] + 0.5) as u8))
        })
    }

    /// The pixels, from first to past the last, that something this far around a place may touch.
    fn span(&self, middle: f32, half: f32) -> (usize, usize) {
        let end = self.side as f32;
        let low = (middle - half - 1.0).clamp(0.0, end);
        let high = (middle + half + 2.0).clamp(0.0, end);
        (low as usize, high as usize)
    }
}

/// The distance to a line between two points.
pub(crate) fn beyond_line(p: Point, [a, b]: [Point; 2]) -> f32 {
    let (px, py) = (p[0] - a[0], p[1] - a[1]);
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let share = ((px * dx + py * dy) / (dx * dx + dy * dy).max(1e-9)).clamp(0.0, 1.0);
    let (x, y) = (px - share * dx, py - share * dy);
    (x * x + y * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use crate::setting::Setting;

    const INK: Rgb = [200.0, 100.0, 0.0];

    fn upright() -> Frame {
        let middle = Level::MIDDLE;
        let setting = Setting {
            shift_x: middle,
            shift_y: middle,
            scale: middle,
            ..Setting::drawn(0)
        };
        Frame::body(&setting, 64)
    }

    fn area(draw: impl Fn(&mut Canvas)) -> f32 {
        let mut canvas = Canvas::new(64, |_, _| [0.0; 3]);
        draw(&mut canvas);
        canvas.pixels.iter().map(|p| p[0] / INK[0]).sum()
    }

    #[test]
    fn shapes_cover_their_area() {
        let frame = upright();
        let ellipse = area(|c| c.ellipse(&frame, [2.3, 0.1], [6.0, 3.0], Ink::solid(INK)));
        assert!((ellipse - 56.5).abs() < 1.5, "{ellipse}");
        let line = area(|c| c.line(&frame, [[-5.0, 0.0], [5.0, 0.0]], 2.0, Ink::solid(INK)));
        assert!((line - 52.6).abs() < 1.0, "{line}");
        let thin = area(|c| c.ellipse(&frame, [2.3, 0.1], [6.0, 3.0], Ink::thin(INK, 0.5)));
        assert!((thin - 0.5 * ellipse).abs() < 0.01);
    }

    #[test]
    fn what_is_outside_of_the_picture_is_left_out() {
        let frame = upright();
        let far = area(|c| c.ellipse(&frame, [500.0, -500.0], [6.0, 3.0], Ink::solid(INK)));
        assert!(far < 1e-9, "{far}");
    }

    #[test]
    fn light_makes_one_side_brighter() {
        let canvas = Canvas::new(32, |_, _| [100.0; 3]);
        let picture = canvas.lit(|x| 1.0 + 0.1 * x);
        assert!(picture.get_pixel(0, 5).0[0] < 92 && picture.get_pixel(31, 5).0[0] > 108);
    }
}
