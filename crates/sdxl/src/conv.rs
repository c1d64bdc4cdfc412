//! Square convolutions, behind one function. On the CPU in f32 they are gathered tile by tile into
//! columns and multiplied, which is several times as fast as the tensor library's own.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result as Compute, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::Error;
use crate::cpu::{Operand, Size, add_product, contiguous_f32};
use crate::direct::Direct;
use crate::gradients;
use crate::weights::Weights;

/// Numbers in one tile's columns (16 MiB): bounds memory at large pictures.
const MAX_COLUMNS: usize = 1 << 22;
/// A tile of fewer pixels is not worth a thread.
const MIN_PIXELS: usize = 64;

/// Kernel side, stride and zero padding of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros on all four sides.
    pub padding: usize,
}

/// The convolutions of SDXL.
impl ConvShape {
    /// 3×3 that keeps the size.
    pub const SAME: ConvShape = ConvShape {
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    /// A linear map per pixel.
    pub const POINT: ConvShape = ConvShape {
        kernel: 1,
        stride: 1,
        padding: 0,
    };

    fn output(self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// A convolution with bias.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    shape: ConvShape,
}

impl Conv {
    /// Loads weight [output, input, k, k] and bias [output].
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(
        weights: &Weights,
        input: usize,
        output: usize,
        shape: ConvShape,
    ) -> Result<Conv, Error> {
        let weight = weights.get("weight", &[output, input, shape.kernel, shape.kernel])?;
        Ok(Conv {
            weight,
            bias: weights.get("bias", &[output])?,
            shape,
        })
    }

    /// From a weight [output, input, k, k] and a bias [output].
    #[cfg(test)]
    pub fn of(weight: Tensor, bias: Tensor, shape: ConvShape) -> Conv {
        Conv {
            weight,
            bias,
            shape,
        }
    }

    /// [b, input, h, w] → [b, output, h', w'].
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let ConvShape {
            stride, padding, ..
        } = self.shape;
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let op = CpuConv(self.shape);
            return x.contiguous()?.apply_op3(&self.weight, &self.bias, op);
        }
        let y = x.conv2d(&self.weight, padding, stride, 1, 1)?;
        y.broadcast_add(&self.bias.reshape((1, (), 1, 1))?)
    }
}

struct CpuConv(ConvShape);

/// Sizes of one run.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    shape: ConvShape,
    pub input: usize,
    pub output: usize,
    /// Height and width in and out.
    pub from: (usize, usize),
    pub to: (usize, usize),
}

impl CustomOp3 for CpuConv {
    fn name(&self) -> &'static str {
        "conv2d-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Compute<(CpuStorage, Shape)> {
        let plan = Plan::of(self.0, layout.shape(), weight_layout.shape())?;
        let (batch, to) = (layout.dims()[0], plan.to);
        if bias_layout.dims() != [plan.output] {
            candle_core::bail!("conv2d-bias: {bias_layout:?} does not fit the kernel")
        }
        let x = contiguous_f32(x, layout)?;
        let weight = contiguous_f32(weight, weight_layout)?;
        let mut out = spread(contiguous_f32(bias, bias_layout)?, batch, to.0 * to.1);
        plan.run(x, weight, &mut out);
        Ok((
            CpuStorage::F32(out),
            Shape::from((batch, plan.output, to.0, to.1)),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Compute<gradients::Three> {
        gradients::conv(self.0, x, weight, bias, grad)
    }
}

/// The bias at every pixel, [batch, output, plane].
fn spread(bias: &[f32], batch: usize, plane: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(batch * bias.len() * plane);
    for _ in 0..batch {
        for &bias in bias {
            out.extend(std::iter::repeat_n(bias, plane));
        }
    }
    out
}

/// Where tiles write. Tiles of one run cover disjoint pixels.
#[derive(Clone, Copy)]
struct Destination(*mut f32);

// SAFETY: every tile writes its own rows of pixels only.
#[allow(unsafe_code, reason = "tiles write disjoint pixels of one buffer")]
unsafe impl Send for Destination {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "tiles write disjoint pixels of one buffer")]
unsafe impl Sync for Destination {}

impl Plan {
    /// Of `x` [b, input, h, w] with `weight` [output, input, k, k].
    pub fn of(shape: ConvShape, x: &Shape, weight: &Shape) -> Compute<Plan> {
        let (_, input, height, width) = x.dims4()?;
        let (output, expected, ..) = weight.dims4()?;
        if input != expected || height.min(width) + 2 * shape.padding < shape.kernel {
            candle_core::bail!("conv2d-bias: {x:?} does not fit the kernel {weight:?}")
        }
        Ok(Plan {
            shape,
            input,
            output,
            from: (height, width),
            to: (shape.output(height), shape.output(width)),
        })
    }

    /// Adds the products to `out`, which holds the bias.
    pub fn run(self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        if let Some(direct) = self.direct() {
            return direct.run(x, weight, out);
        }
        let threads = rayon::current_num_threads();
        let (height, width) = self.to;
        let batch = x.len() / (self.input * self.from.0 * self.from.1).max(1);
        // How a product is rounded depends on its size: tiles are cut as for a single sample, so that a
        // picture does not depend on its neighbours in the batch.
        let alone = height * width / threads < MIN_PIXELS;
        let rows = if alone {
            height
        } else {
            self.rows_per_tile(threads)
        };
        let tiles: Vec<(usize, usize)> = (0..batch)
            .flat_map(|sample| (0..height).step_by(rows).map(move |row| (sample, row)))
            .collect();
        let destination = Destination(out.as_mut_ptr());
        let tile = |&(sample, row): &(usize, usize), parallelism| {
            let rows = row..(row + rows).min(height);
            self.tile(x, weight, sample, rows, destination, parallelism);
        };
        if alone {
            for at in &tiles {
                tile(at, Parallelism::Rayon(threads));
            }
        } else {
            tiles.par_iter().for_each(|at| tile(at, Parallelism::None));
        }
    }

    /// The way without columns, where there is one and it is the better one.
    pub fn direct(self) -> Option<Direct> {
        let ConvShape {
            kernel,
            stride,
            padding,
        } = self.shape;
        if (kernel, stride, padding) != (3, 1, 1) {
            return None;
        }
        Direct::of((self.input, self.output), self.from)
    }

    /// Few enough rows for the memory bound and for two tiles per thread.
    fn rows_per_tile(self, threads: usize) -> usize {
        let by_memory = MAX_COLUMNS / (self.depth() * self.to.1).max(1);
        let by_threads = self.to.0.div_ceil(2 * threads);
        let worthwhile = MIN_PIXELS.div_ceil(self.to.1.max(1));
        by_memory
            .min(by_threads.max(worthwhile))
            .clamp(1, self.to.0.max(1))
    }

    /// Products per output number.
    pub fn depth(self) -> usize {
        self.input * self.shape.kernel * self.shape.kernel
    }

    fn tile(
        self,
        x: &[f32],
        weight: &[f32],
        sample: usize,
        rows: std::ops::Range<usize>,
        destination: Destination,
        parallelism: Parallelism,
    ) {
        let (plane_in, plane_out) = (self.from.0 * self.from.1, self.to.0 * self.to.1);
        let x = &x[sample * self.input * plane_in..][..self.input * plane_in];
        let (first, pixels) = (rows.start * self.to.1, rows.len() * self.to.1);
        let point = self.shape.kernel == 1 && self.shape.stride == 1 && self.shape.padding == 0;
        let gathered = if point {
            Vec::new()
        } else {
            self.gather(x, rows)
        };
        let (columns, row_stride) = if point {
            (&x[first..], plane_in)
        } else {
            (&gathered[..], pixels)
        };
        let depth = self.depth();
        let left = Operand {
            data: weight,
            row_stride: depth,
            column_stride: 1,
        };
        let right = Operand {
            data: columns,
            row_stride,
            column_stride: 1,
        };
        let size = Size {
            m: self.output,
            n: pixels,
            k: depth,
        };
        // SAFETY: `destination` holds [batch, output, plane_out] numbers; this tile's `pixels`
        // columns of `output` rows with stride `plane_out` belong to no other tile.
        #[allow(unsafe_code, reason = "tiles write disjoint pixels of one buffer")]
        unsafe {
            let out = destination.0.add(sample * self.output * plane_out + first);
            add_product(out, plane_out, size, left, right, parallelism);
        }
    }

    /// The columns of some output rows, [depth, pixels].
    pub fn gather(self, x: &[f32], rows: std::ops::Range<usize>) -> Vec<f32> {
        let kernel = self.shape.kernel;
        let plane = self.from.0 * self.from.1;
        let mut columns = Vec::with_capacity(self.depth() * rows.len() * self.to.1);
        for x in x.chunks_exact(plane) {
            for ky in 0..kernel {
                for kx in 0..kernel {
                    for row in rows.clone() {
                        self.gather_row(x, row, (ky, kx), &mut columns);
                    }
                }
            }
        }
        columns
    }

    /// What one kernel element sees along one output row.
    fn gather_row(self, x: &[f32], row: usize, (ky, kx): (usize, usize), out: &mut Vec<f32>) {
        let ConvShape {
            stride, padding, ..
        } = self.shape;
        let ((height, width), across) = (self.from, self.to.1);
        let y = (row * stride + ky).wrapping_sub(padding);
        if y >= height {
            out.extend(std::iter::repeat_n(0.0, across));
            return;
        }
        let x = &x[y * width..][..width];
        if stride == 1 {
            let zeros = padding.saturating_sub(kx).min(across);
            let start = (kx + zeros).saturating_sub(padding).min(width);
            let copied = (width - start).min(across - zeros);
            out.extend(std::iter::repeat_n(0.0, zeros));
            out.extend_from_slice(&x[start..start + copied]);
            out.extend(std::iter::repeat_n(0.0, across - zeros - copied));
            return;
        }
        let value = |at: usize| x.get((at * stride + kx).wrapping_sub(padding)).copied();
        out.extend((0..across).map(|at| value(at).unwrap_or(0.0)));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn convolutions_equal_the_tensor_librarys() {
        let shapes = [
            (1, 3, 5, 7, 9, ConvShape::SAME),
            (2, 4, 8, 33, 20, ConvShape::SAME),
            (1, 40, 24, 64, 64, ConvShape::SAME),
            (2, 4, 6, 9, 11, ConvShape::POINT),
            (
                2,
                4,
                6,
                9,
                12,
                ConvShape {
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                },
            ),
            (
                1,
                4,
                6,
                9,
                13,
                ConvShape {
                    kernel: 3,
                    stride: 2,
                    padding: 0,
                },
            ),
            (1, 2, 3, 1, 1, ConvShape::SAME),
            (
                1,
                2,
                3,
                4,
                1,
                ConvShape {
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                },
            ),
        ];
        for (batch, input, output, height, width, shape) in shapes {
            let random = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
            let x = random(&[batch, input, height, width]);
            let weight = random(&[output, input, shape.kernel, shape.kernel]);
            let conv = Conv {
                weight,
                bias: random(&[output]),
                shape,
            };
            let ours = conv.forward(&x).unwrap();
            let theirs = x
                .conv2d(&conv.weight, shape.padding, shape.stride, 1, 1)
                .unwrap()
                .broadcast_add(&conv.bias.reshape((1, (), 1, 1)).unwrap())
                .unwrap();
            assert!(
                crate::testing::relative_error(&ours, &theirs) < 1e-6,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn trained_inputs_keep_their_gradients() {
        let x = candle_core::Var::randn(0f32, 1.0, (1, 2, 4, 4), &Device::Cpu).unwrap();
        let random = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
        let (weight, bias) = (random(&[3, 2, 3, 3]), random(&[3]));
        let y = Conv {
            weight,
            bias,
            shape: ConvShape::SAME,
        }
        .forward(&x)
        .unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_some());
    }
}
