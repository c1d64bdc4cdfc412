//! What the machine can do at the most: a large copy and a large matrix product, measured in the same run.

use std::{hint::black_box, time::Instant};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{Place, Size};
use crate::fail::{Failure, failed};

/// Tries, of which the best counts.
const TRIES: usize = 5;
/// Bytes that one thread copies at a time.
const CHUNK: usize = 1 << 20;

/// Measured limits.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Bytes read and written per second by a copy.
    pub copy: f64,
    /// Bytes of the copied buffer.
    pub buffer: usize,
    /// Operations per second of a square matrix product.
    pub matrix: f64,
    /// Side of the matrices.
    pub side: usize,
}

impl Machine {
    /// Measures the machine in the bench's number type.
    pub fn measure(place: &Place, size: Size) -> Result<Self, Failure> {
        let (buffer, side) = match (size, place.device.is_cpu()) {
            (Size::Pocket, _) => (8 << 20, 256),
            (Size::Full, true) => (1 << 30, 3072),
            (Size::Full, false) => (4 << 30, 8192),
        };
        Ok(Self {
            copy: 2.0 * buffer as f64 / copy_seconds(place, buffer)?,
            buffer,
            matrix: 2.0 * (side as f64).powi(3) / product_seconds(place, side)?,
            side,
        })
    }
}

fn copy_seconds(place: &Place, bytes: usize) -> Result<f64, Failure> {
    if place.device.is_cpu() {
        let (from, mut to) = (vec![1_u8; bytes], vec![0_u8; bytes]);
        return best(place, || {
            let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
            chunks.for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&to);
            Ok(())
        });
    }
    let from = Tensor::zeros(bytes, DType::U8, &place.device).map_err(failed)?;
    best(place, || from.copy().map(drop).map_err(failed))
}

fn product_seconds(place: &Place, side: usize) -> Result<f64, Failure> {
    let random = || {
        let numbers = Tensor::rand(-1_f32, 1.0, (side, side), &Device::Cpu)?;
        numbers.to_device(&place.device)?.to_dtype(place.dtype)
    };
    let (left, right) = (random().map_err(failed)?, random().map_err(failed)?);
    best(place, || left.matmul(&right).map(drop).map_err(failed))
}

/// Seconds of the fastest of several runs, after one that is not counted.
fn best(place: &Place, mut work: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::INFINITY;
    for run in 0..=TRIES {
        place.wait()?;
        let begun = Instant::now();
        work()?;
        place.wait()?;
        if run > 0 {
            best = best.min(begun.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
