//! 3×3 convolutions of few channels without gathered columns. Where channels are few, most of a matrix product's time goes
//! into copying its operands; here every number is read where it lies.
//!
//! Samples lie behind one another in lines, one for each channel. A row of a sample is followed by one zero, and its last row by a
//! row of zeros: these are the borders of what comes before and behind. Whatever the picture's size, a register is then filled
//! with neighbours, and a kernel's element is a fixed distance along the line. What comes out at the zeros' places is left.
//! Every output is summed in the same order wherever it lies, so a picture does not depend on its neighbours in the batch.

#![allow(
    unsafe_code,
    reason = "loads by address: a bounds check for each would cost as much as the products"
)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Output channels at a time, and registers of places at a time: 12 sums, 3 loads and a weight are the 16 registers of AVX2.
const OUTPUTS: usize = 4;
const REGISTERS: usize = 3;
const KERNEL: usize = 3;
const TAPS: usize = KERNEL * KERNEL;
/// The weights of four outputs stay in the first cache beside the lines that they meet.
const MAX_INPUTS: usize = 192;
/// Samples share lines until these have so many places: few are then left over when registers are filled.
const PLACES: usize = 600;
/// The longest step along a line: three of the widest registers.
const SLACK: usize = 64;

/// Sizes of a 3×3 convolution of stride 1 that keeps height and width.
#[derive(Clone, Copy)]
pub struct Direct {
    input: usize,
    output: usize,
    height: usize,
    width: usize,
}

impl Direct {
    /// None where gathering columns is the better way: many channels, or a processor without wide registers.
    pub fn of((input, output): (usize, usize), (height, width): (usize, usize)) -> Option<Direct> {
        let fits = input.max(output) <= MAX_INPUTS && input * output * height * width > 0;
        (fits && Arch::new().dispatch(Lanes) > 1).then_some(Direct {
            input,
            output,
            height,
            width,
        })
    }

    /// Adds the convolution of `x` [b, input, h, w] with `weight` [output, input, 3, 3] to `out` [b, output, h, w].
    pub fn run(self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        assert_eq!(weight.len(), self.output * self.input * TAPS);
        let weights: Vec<Vec<f32>> = (0..self.output.div_ceil(OUTPUTS))
            .map(|block| self.interleaved(weight, block * OUTPUTS))
            .collect();
        let (pixels, group) = (self.height * self.width, self.group());
        out.par_chunks_mut(self.output * pixels * group)
            .zip(x.par_chunks(self.input * pixels * group))
            .for_each(|(out, x)| {
                let lines = self.lines(x, self.input);
                let sums: Vec<Vec<f32>> = weights
                    .par_iter()
                    .map(|weights| self.sums(&lines, weights))
                    .collect();
                self.add_places(&sums, out);
            });
    }

    /// Adds to `sum` [output, input, 3, 3] the weights' gradient: of `x` [b, input, h, w] and the result's gradient `grad`
    /// [b, output, h, w].
    pub fn add_weight_gradient(self, x: &[f32], grad: &[f32], sum: &mut [f32]) {
        assert_eq!(sum.len(), self.output * self.input * TAPS);
        let (pixels, group) = (self.height * self.width, self.group());
        let groups: Vec<(Lines, Lines)> = x
            .par_chunks(self.input * pixels * group)
            .zip(grad.par_chunks(self.output * pixels * group))
            .map(|(x, grad)| (self.lines(x, self.input), self.lines(grad, self.output)))
            .collect();
        sum.par_chunks_mut(OUTPUTS * self.input * TAPS)
            .enumerate()
            .for_each(|(block, sum)| {
                for (x, grad) in &groups {
                    Arch::new().dispatch(BlockGradient {
                        sizes: self,
                        x,
                        grad,
                        first: block * OUTPUTS,
                        sum,
                    });
                }
            });
    }

    /// Samples that share lines.
    fn group(self) -> usize {
        PLACES.div_ceil(self.sample())
    }

    /// Places from row to row.
    fn stride(self) -> usize {
        self.width + 1
    }

    /// Places from sample to sample.
    fn sample(self) -> usize {
        (self.height + 1) * self.stride()
    }

    /// The weights of four outputs from `first` on, [input, 3, 3, 4]; zeros for those that do not exist.
    fn interleaved(self, weight: &[f32], first: usize) -> Vec<f32> {
        let taps = self.input * TAPS;
        let of = |output: usize, tap| weight.get(output * taps + tap).copied().unwrap_or(0.0);
        (0..taps)
            .flat_map(|tap| (first..first + OUTPUTS).map(move |output| of(output, tap)))
            .collect()
    }

    /// Samples [n, channels, h, w] as lines.
    fn lines(self, x: &[f32], channels: usize) -> Lines {
        let pixels = self.height * self.width;
        let samples = x.len() / (channels * pixels);
        let places = samples * self.sample();
        let (before, length) = (self.stride() + 1, places + 2 * self.stride() + 2 + SLACK);
        let mut numbers = vec![0f32; channels * length];
        for (at, plane) in x.chunks_exact(pixels).enumerate() {
            let (sample, channel) = (at / channels, at % channels);
            let start = channel * length + before + sample * self.sample();
            for (y, row) in plane.chunks_exact(self.width).enumerate() {
                numbers[start + y * self.stride()..][..self.width].copy_from_slice(row);
            }
        }
        Lines {
            numbers,
            length,
            places,
        }
    }

    /// Four outputs at every place, [4, places and some more].
    fn sums(self, lines: &Lines, weights: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; OUTPUTS * lines.length];
        Arch::new().dispatch(Block {
            sizes: self,
            lines,
            weights,
            out: &mut out,
        });
        out
    }

    /// Adds what was summed up for blocks of four outputs to samples [n, output, h, w].
    fn add_places(self, sums: &[Vec<f32>], out: &mut [f32]) {
        for (at, plane) in out.chunks_exact_mut(self.height * self.width).enumerate() {
            let (sample, output) = (at / self.output, at % self.output);
            let block = &sums[output / OUTPUTS];
            let line = &block[output % OUTPUTS * (block.len() / OUTPUTS)..];
            let start = sample * self.sample();
            for (y, row) in plane.chunks_exact_mut(self.width).enumerate() {
                let found = &line[start + y * self.stride()..][..self.width];
                row.iter_mut().zip(found).for_each(|(out, v)| *out += v);
            }
        }
    }
}

/// Some samples' channels, each in a line. Place p has its own number at p + stride + 1, and its neighbours around there.
struct Lines {
    /// [channels, length].
    numbers: Vec<f32>,
    /// Longer than the places by all that is read beside them.
    length: usize,
    places: usize,
}

/// How many numbers a register holds.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Four outputs at all places of some lines.
struct Block<'a> {
    sizes: Direct,
    lines: &'a Lines,
    /// [input, 3, 3, 4].
    weights: &'a [f32],
    /// [4, length].
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block {
            sizes,
            lines,
            weights,
            out,
        } = self;
        let (lanes, length, stride) = (S::F32_LANES, lines.length, sizes.stride());
        assert_eq!(lines.numbers.len(), sizes.input * length);
        assert_eq!(weights.len(), sizes.input * TAPS * OUTPUTS);
        assert_eq!(out.len(), OUTPUTS * length);
        let reached = lines.places.next_multiple_of(REGISTERS * lanes) + 2 * stride + 2;
        assert!(reached <= length);
        for place in (0..lines.places).step_by(REGISTERS * lanes) {
            let mut sums = [[simd.splat_f32s(0.0); REGISTERS]; OUTPUTS];
            let mut weight = weights.as_ptr();
            for input in 0..sizes.input {
                for tap in 0..TAPS {
                    let at = input * length + place + tap / KERNEL * stride + tap % KERNEL;
                    // SAFETY: a line is as long as all that `reached` covers, which was checked; four weights are read
                    // for every tap of every input, of which there are as many.
                    unsafe {
                        let from = lines.numbers.as_ptr().add(at);
                        let seen: [S::f32s; REGISTERS] = std::array::from_fn(|n| {
                            from.add(n * lanes).cast::<S::f32s>().read_unaligned()
                        });
                        for (output, sums) in sums.iter_mut().enumerate() {
                            let weight = simd.splat_f32s(*weight.add(output));
                            for (sum, seen) in sums.iter_mut().zip(seen) {
                                *sum = simd.mul_add_e_f32s(weight, seen, *sum);
                            }
                        }
                        weight = weight.add(OUTPUTS);
                    }
                }
            }
            for (output, sums) in sums.into_iter().enumerate() {
                for (n, sum) in sums.into_iter().enumerate() {
                    // SAFETY: `out` holds four lines as long as those that were read.
                    unsafe {
                        let to = out.as_mut_ptr().add(output * length + place + n * lanes);
                        to.cast::<S::f32s>().write_unaligned(sum);
                    }
                }
            }
        }
    }
}

/// The weights' gradient of four outputs from `first` on, from some lines.
struct BlockGradient<'a> {
    sizes: Direct,
    x: &'a Lines,
    grad: &'a Lines,
    first: usize,
    /// [4 or fewer, input, 3, 3].
    sum: &'a mut [f32],
}

impl WithSimd for BlockGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BlockGradient {
            sizes,
            x,
            grad,
            first,
            sum,
        } = self;
        let (lanes, length, stride) = (S::F32_LANES, x.length, sizes.stride());
        assert_eq!(x.numbers.len(), sizes.input * length);
        assert_eq!(grad.numbers.len(), sizes.output * length);
        assert!(x.places.next_multiple_of(lanes) + 2 * stride + 2 <= length);
        // Outputs that do not exist repeat the last one.
        let grads: [&[f32]; OUTPUTS] = std::array::from_fn(|i| {
            &grad.numbers[(first + i).min(sizes.output - 1) * length..][..length]
        });
        for input in 0..sizes.input {
            for down in 0..KERNEL {
                let mut sums = [[simd.splat_f32s(0.0); KERNEL]; OUTPUTS];
                let start = input * length + down * stride;
                for place in (0..x.places).step_by(lanes) {
                    // SAFETY: a line is as long as all that is read beside its places, which was checked.
                    unsafe {
                        let from = x.numbers.as_ptr().add(start + place);
                        let seen: [S::f32s; KERNEL] =
                            std::array::from_fn(|n| from.add(n).cast::<S::f32s>().read_unaligned());
                        for (sums, grad) in sums.iter_mut().zip(grads) {
                            let own = grad.as_ptr().add(place + stride + 1);
                            let grad = own.cast::<S::f32s>().read_unaligned();
                            for (sum, seen) in sums.iter_mut().zip(seen) {
                                *sum = simd.mul_add_e_f32s(grad, seen, *sum);
                            }
                        }
                    }
                }
                for (sum, found) in sum.chunks_exact_mut(sizes.input * TAPS).zip(sums) {
                    let sum = &mut sum[input * TAPS + down * KERNEL..][..KERNEL];
                    for (sum, found) in sum.iter_mut().zip(found) {
                        *sum += simd.reduce_sum_f32s(found);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
        (0..count).map(number).collect()
    }

    #[test]
    fn a_sample_comes_out_alike_in_every_batch() {
        for (height, width) in [(4, 4), (8, 8), (3, 31), (16, 16)] {
            let direct = Direct::of((5, 6), (height, width)).unwrap();
            let (pixels, batch) = (height * width, 37);
            let x = numbers(batch * 5 * pixels, 1);
            let weight = numbers(6 * 5 * TAPS, 2);
            let mut all = vec![0.5f32; batch * 6 * pixels];
            direct.run(&x, &weight, &mut all);
            for sample in [0, 7, 36] {
                let mut alone = vec![0.5f32; 6 * pixels];
                direct.run(&x[sample * 5 * pixels..][..5 * pixels], &weight, &mut alone);
                assert_eq!(alone, all[sample * 6 * pixels..][..6 * pixels]);
            }
        }
    }
}
