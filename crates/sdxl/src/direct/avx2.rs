//! 3×3 convolutions of few channels without gathered columns, for processors with AVX2 and FMA. Where channels are few, most of
//! a matrix product's time goes into copying its operands; here every number is read where it lies.

#![allow(
    unsafe_code,
    reason = "loads by address: a bounds check for each would cost as much as the products"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "iterators of the library, which is compiled without these instructions, are not inlined beside them"
)]

use std::arch::x86_64::{
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use rayon::prelude::*;

/// Numbers in a register.
const LANES: usize = 8;
/// Output channels at a time, and registers of pixels at a time: 12 sums, 3 pixels and a weight are the 16 registers.
const OUTPUTS: usize = 4;
const REGISTERS: usize = 3;
const KERNEL: usize = 3;
/// The weights of four outputs stay in the first cache beside the rows that they meet.
const MAX_INPUTS: usize = 192;

/// Sizes of a 3×3 convolution of stride 1 that keeps height and width.
#[derive(Clone, Copy)]
pub struct Direct {
    input: usize,
    output: usize,
    height: usize,
    width: usize,
}

impl Direct {
    /// None where gathering columns is the better way, or this processor cannot do otherwise.
    pub fn of((input, output): (usize, usize), (height, width): (usize, usize)) -> Option<Direct> {
        let able = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let fits = input.max(output) <= MAX_INPUTS && input * output * height * width > 0;
        (able && fits).then_some(Direct {
            input,
            output,
            height,
            width,
        })
    }

    /// Adds the convolution of `x` [b, input, h, w] with `weight` [output, input, 3, 3] to `out` [b, output, h, w].
    pub fn run(self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let (planes, pixels) = (self.input, self.height * self.width);
        assert_eq!(weight.len(), self.output * planes * KERNEL * KERNEL);
        let weights: Vec<Vec<f32>> = (0..self.output.div_ceil(OUTPUTS))
            .map(|block| self.interleaved(weight, block * OUTPUTS))
            .collect();
        let places = self.places();
        out.par_chunks_exact_mut(self.output * pixels)
            .zip(x.par_chunks_exact(planes * pixels))
            .for_each(|(out, x)| {
                let x = self.padded(x);
                out.par_chunks_mut(OUTPUTS * pixels)
                    .zip(&weights)
                    .for_each(|(out, weights)| self.block(&x, weights, &places, out));
            });
    }

    /// The weights of four outputs from `first` on, [input, 3, 3, 4]; zeros for those that do not exist.
    fn interleaved(self, weight: &[f32], first: usize) -> Vec<f32> {
        let taps = self.input * KERNEL * KERNEL;
        let of = |output: usize, tap| weight.get(output * taps + tap).copied().unwrap_or(0.0);
        (0..taps)
            .flat_map(|tap| (first..first + OUTPUTS).map(move |output| of(output, tap)))
            .collect()
    }

    /// Numbers from row to row of a padded plane: whole registers, and a zero on either side.
    fn stride(self) -> usize {
        self.width.next_multiple_of(LANES) + 2
    }

    /// Numbers from plane to plane.
    fn plane(self) -> usize {
        (self.height + 2) * self.stride()
    }

    /// One sample with zeros around every plane.
    fn padded(self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; self.input * self.plane()];
        let planes = out.chunks_exact_mut(self.plane());
        for (out, x) in planes.zip(x.chunks_exact(self.height * self.width)) {
            let rows = out.chunks_exact_mut(self.stride()).skip(1);
            for (out, x) in rows.zip(x.chunks_exact(self.width)) {
                out[1..=self.width].copy_from_slice(x);
            }
        }
        out
    }

    /// Where the registers of one plane lie.
    fn places(self) -> Vec<Place> {
        let rows = 0..self.height;
        let each = rows.flat_map(|y| {
            (0..self.width).step_by(LANES).map(move |x| Place {
                padded: y * self.stride() + x,
                out: y * self.width + x,
                count: LANES.min(self.width - x),
            })
        });
        each.collect()
    }

    /// Four outputs of one sample, `out` [4 or fewer, h, w].
    fn block(self, x: &[f32], weights: &[f32], places: &[Place], out: &mut [f32]) {
        assert_eq!(x.len(), self.input * self.plane());
        assert_eq!(weights.len(), self.input * KERNEL * KERNEL * OUTPUTS);
        let (three, rest) = places.as_chunks::<REGISTERS>();
        for places in three {
            // SAFETY: `of` found the processor able; the lengths were just checked, and places follow from the sizes.
            unsafe { self.add_sums(x, weights, places, out) };
        }
        for place in rest {
            // SAFETY: as above.
            unsafe { self.add_sums(x, weights, &[*place], out) };
        }
    }

    /// Adds the sums of four outputs at N registers of pixels.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, and `x`, `weights` and `places` are of this convolution.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_sums<const N: usize>(
        self,
        x: &[f32],
        weights: &[f32],
        places: &[Place; N],
        out: &mut [f32],
    ) {
        let mut sums = [[_mm256_setzero_ps(); N]; OUTPUTS];
        let mut seen = [_mm256_setzero_ps(); N];
        let (stride, plane) = (self.stride(), self.plane());
        let (x, mut weight) = (x.as_ptr(), weights.as_ptr());
        for input in 0..self.input {
            for tap in 0..KERNEL * KERNEL {
                let at = input * plane + tap / KERNEL * stride + tap % KERNEL;
                // SAFETY: a place is at most 2 rows and 2 numbers before the end of its plane's last register; four
                // weights are read for every tap.
                unsafe {
                    for n in 0..N {
                        seen[n] = _mm256_loadu_ps(x.add(places[n].padded + at));
                    }
                    for output in 0..OUTPUTS {
                        let weight = _mm256_set1_ps(*weight.add(output));
                        for n in 0..N {
                            sums[output][n] = _mm256_fmadd_ps(weight, seen[n], sums[output][n]);
                        }
                    }
                    weight = weight.add(OUTPUTS);
                }
            }
        }
        let mut lanes = [0f32; LANES];
        for (output, out) in out.chunks_exact_mut(self.height * self.width).enumerate() {
            for n in 0..N {
                // SAFETY: `lanes` is as long as a register.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums[output][n]) };
                let out = &mut out[places[n].out..][..places[n].count];
                for (out, lane) in out.iter_mut().zip(lanes) {
                    *out += lane;
                }
            }
        }
    }

    /// Adds to `sum` [output, input, 3, 3] the weights' gradient of one sample: of `x` [input, h, w] and the result's
    /// gradient `grad` [output, h, w].
    pub fn add_weight_gradient(self, x: &[f32], grad: &[f32], sum: &mut [f32]) {
        let x = self.padded(x);
        let row = self.width.next_multiple_of(LANES);
        let mut rows = vec![0f32; self.output * self.height * row];
        for (out, grad) in rows
            .chunks_exact_mut(row)
            .zip(grad.chunks_exact(self.width))
        {
            out[..self.width].copy_from_slice(grad);
        }
        assert_eq!(sum.len(), self.output * self.input * KERNEL * KERNEL);
        for (block, sum) in sum
            .chunks_mut(OUTPUTS * self.input * KERNEL * KERNEL)
            .enumerate()
        {
            self.add_block_gradient(&x, &rows, block * OUTPUTS, sum);
        }
    }

    /// Of four outputs from `first` on, `sum` [4 or fewer, input, 3, 3].
    fn add_block_gradient(self, x: &[f32], grad: &[f32], first: usize, sum: &mut [f32]) {
        let taps = self.input * KERNEL * KERNEL;
        let size = self.height * self.width.next_multiple_of(LANES);
        // Outputs that do not exist repeat the last one.
        let grads: [&[f32]; OUTPUTS] =
            std::array::from_fn(|i| &grad[(first + i).min(self.output - 1) * size..][..size]);
        for (input, plane) in x.chunks_exact(self.plane()).enumerate() {
            for down in 0..KERNEL {
                // SAFETY: `of` found the processor able; the planes were cut to their sizes.
                let found = unsafe { self.row_gradient(&plane[down * self.stride()..], grads) };
                for (sum, found) in sum.chunks_exact_mut(taps).zip(found) {
                    let sum = &mut sum[(input * KERNEL + down) * KERNEL..][..KERNEL];
                    sum.iter_mut().zip(found).for_each(|(sum, v)| *sum += v);
                }
            }
        }
    }

    /// For one row of the kernel, whose pixels begin at `plane`, and four outputs.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; `plane` has all rows but at most two, and each of `grads` is [h, w in whole
    /// registers].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn row_gradient(
        self,
        plane: &[f32],
        grads: [&[f32]; OUTPUTS],
    ) -> [[f32; KERNEL]; OUTPUTS] {
        let mut sums = [[_mm256_setzero_ps(); KERNEL]; OUTPUTS];
        let mut seen = [_mm256_setzero_ps(); KERNEL];
        let registers = self.width.div_ceil(LANES);
        let (row, stride) = (registers * LANES, self.stride());
        for y in 0..self.height {
            for register in 0..registers {
                let x = register * LANES;
                // SAFETY: row y of `plane` exists, and has two numbers more than whole registers.
                unsafe {
                    let start = plane.as_ptr().add(y * stride + x);
                    for across in 0..KERNEL {
                        seen[across] = _mm256_loadu_ps(start.add(across));
                    }
                    for output in 0..OUTPUTS {
                        let grad = _mm256_loadu_ps(grads[output].as_ptr().add(y * row + x));
                        for across in 0..KERNEL {
                            sums[output][across] =
                                _mm256_fmadd_ps(grad, seen[across], sums[output][across]);
                        }
                    }
                }
            }
        }
        let mut totals = [[0f32; KERNEL]; OUTPUTS];
        let mut lanes = [0f32; LANES];
        for output in 0..OUTPUTS {
            for across in 0..KERNEL {
                // SAFETY: `lanes` is as long as a register.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums[output][across]) };
                totals[output][across] = lanes.iter().sum();
            }
        }
        totals
    }
}

/// A register of pixels.
#[derive(Clone, Copy)]
struct Place {
    /// Its first number in a padded plane, as the kernel's first element sees it.
    padded: usize,
    /// In a plane of the result.
    out: usize,
    /// How many of its pixels exist.
    count: usize,
}
