//! Work on a picture in overlapping tiles, so that memory does not grow with the picture. The rule is
//! that of diffusers' tiled autoencoder but for tiles that lie wholly inside their neighbour, which
//! diffusers computes, too, and which add nothing here.

use candle_core::{Device, Result as Compute, Tensor};

/// Square tiles: the side, and how much of it two neighbours share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows and columns of a tile.
    pub side: usize,
    /// Rows or columns over which a tile fades into the next.
    pub overlap: usize,
}

impl Tiles {
    /// The same tiles where everything is `factor` times as large.
    pub fn enlarged(self, factor: usize) -> Tiles {
        Tiles {
            side: self.side * factor,
            overlap: self.overlap * factor,
        }
    }

    fn step(self) -> usize {
        self.side.saturating_sub(self.overlap).max(1)
    }

    /// Where tiles begin: the last one is the first that reaches the end.
    fn starts(self, length: usize) -> impl Iterator<Item = usize> {
        let behind_first = length.saturating_sub(self.side).div_ceil(self.step());
        (0..=behind_first).map(move |index| index * self.step())
    }
}

/// `run` of every tile of `x` [b, c, h, w], put together: where two tiles overlap, the earlier one fades
/// linearly into the later. `input` are the tiles of `x`, `output` those of the result.
///
/// # Errors
/// Those of `run`.
pub fn in_tiles(
    x: &Tensor,
    input: Tiles,
    output: Tiles,
    run: &dyn Fn(&Tensor) -> Compute<Tensor>,
) -> Compute<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let columns: Vec<usize> = input.starts(width).collect();
    let (mut above, mut bands) = (Vec::new(), Vec::new());
    let mut rows = input.starts(height).peekable();
    while let Some(y) = rows.next() {
        let band = x.narrow(2, y, input.side.min(height - y))?;
        let mut tiles: Vec<Tensor> = Vec::with_capacity(columns.len());
        for (column, &x) in columns.iter().enumerate() {
            let mut tile = run(&band.narrow(3, x, input.side.min(width - x))?.contiguous()?)?;
            if let Some(above) = above.get(column) {
                tile = fade(above, &tile, 2, output.overlap)?;
            }
            if let Some(left) = tiles.last() {
                tile = fade(left, &tile, 3, output.overlap)?;
            }
            tiles.push(tile);
        }
        let band = joined(&tiles, output)?;
        let shown = rows.peek().map_or(band.dim(2)?, |_| output.step());
        bands.push(band.narrow(2, 0, shown)?);
        above = tiles;
    }
    Tensor::cat(&bands, 2)
}

/// The tiles of one row side by side, each up to where the next one begins.
fn joined(tiles: &[Tensor], output: Tiles) -> Compute<Tensor> {
    let last = tiles.len().saturating_sub(1);
    let parts = tiles.iter().enumerate().map(|(column, tile)| {
        if column == last {
            return Ok(tile.clone());
        }
        tile.narrow(3, 0, output.step())
    });
    Tensor::cat(&parts.collect::<Compute<Vec<_>>>()?, 3)
}

/// `later` with its first `overlap` rows (`axis` 2) or columns (3) mixed with the last of `earlier`:
/// all of `earlier` at first, nothing behind.
fn fade(earlier: &Tensor, later: &Tensor, axis: usize, overlap: usize) -> Compute<Tensor> {
    let length = later.dim(axis)?;
    let overlap = overlap.min(length).min(earlier.dim(axis)?);
    if overlap == 0 {
        return Ok(later.clone());
    }
    let ramp = ramp(overlap, axis, later.device())?;
    let from = earlier.narrow(axis, earlier.dim(axis)? - overlap, overlap)?;
    let to = later.narrow(axis, 0, overlap)?;
    let mixed = (from.broadcast_mul(&ramp.affine(-1.0, 1.0)?)? + to.broadcast_mul(&ramp)?)?;
    let rest = later.narrow(axis, overlap, length - overlap)?;
    Tensor::cat(&[mixed, rest], axis)
}

/// 0, 1/n, … along one axis of four.
fn ramp(count: usize, axis: usize, device: &Device) -> Compute<Tensor> {
    let values: Vec<f32> = (0..count).map(|i| i as f32 / count as f32).collect();
    let mut shape = [1; 4];
    shape[axis] = count;
    Tensor::from_vec(values, &shape[..], device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: Tiles = Tiles {
        side: 8,
        overlap: 2,
    };

    #[test]
    fn tiles_reach_the_end_once() {
        let starts = |length| TILES.starts(length).collect::<Vec<_>>();
        assert_eq!(starts(1), [0]);
        assert_eq!(starts(8), [0]);
        assert_eq!(starts(9), [0, 6]);
        assert_eq!(starts(14), [0, 6]);
        assert_eq!(starts(15), [0, 6, 12]);
    }

    #[test]
    fn what_looks_at_single_pixels_is_the_same_in_tiles() {
        for (h, w) in [(8, 8), (3, 5), (17, 15), (20, 9), (8, 30)] {
            let x = Tensor::randn(0f32, 1.0, (2, 3, h, w), &Device::Cpu).unwrap();
            let double = |x: &Tensor| (x * 2.0)?.upsample_nearest2d(2 * x.dim(2)?, 2 * x.dim(3)?);
            let tiled = in_tiles(&x, TILES, TILES.enlarged(2), &double).unwrap();
            let whole = double(&x).unwrap();
            assert!(crate::testing::relative_error(&tiled, &whole) < 1e-6);
        }
    }
}
