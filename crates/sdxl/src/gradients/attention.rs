//! Gradients of scaled dot-product attention, one head of one sample per task. The weights p are computed anew: with g the
//! gradient of the result, dv = pᵀ g, dp = g vᵀ, ds = p ∘ (dp − Σ p ∘ dp), dq = ds k and dk = dsᵀ q, both scaled.

use candle_core::{Result as Compute, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{Three, with_numbers};
use crate::attention::softmax_row;
use crate::cpu::{Operand, Size, add_product};

/// Of the attention of `q` [b, n, heads·d] to `k` and `v` [b, m, heads·d].
pub fn attention(heads: usize, [q, k, v]: [&Tensor; 3], grad: &Tensor) -> Compute<Three> {
    let (batch, n, width) = q.dims3()?;
    let m = k.dim(1)?;
    let heads = Heads {
        count: heads,
        n,
        m,
        width,
        depth: width / heads,
    };
    let tasks: Vec<(usize, usize)> = (0..batch)
        .flat_map(|sample| (0..heads.count).map(move |head| (sample, head)))
        .collect();
    let found: Vec<Found> = with_numbers(q, |q| {
        with_numbers(k, |k| {
            with_numbers(v, |v| {
                with_numbers(grad, |grad| {
                    let one = |task: &(usize, usize)| heads.one(*task, [q, k, v, grad]);
                    tasks.par_iter().map(one).collect()
                })
            })
        })
    })????;
    let joined = |rows: usize, of: fn(&Found) -> &Vec<f32>| {
        let mut out = vec![0f32; batch * rows * width];
        for (&(sample, head), found) in tasks.iter().zip(&found) {
            let own = of(found).chunks_exact(heads.depth).enumerate();
            for (row, numbers) in own {
                let at = (sample * rows + row) * width + head * heads.depth;
                out[at..at + heads.depth].copy_from_slice(numbers);
            }
        }
        Tensor::from_vec(out, (batch, rows, width), q.device())
    };
    Ok((
        Some(joined(n, |found| &found.q)?),
        Some(joined(m, |found| &found.k)?),
        Some(joined(m, |found| &found.v)?),
    ))
}

/// One head's gradients, [n, d] and [m, d].
struct Found {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    n: usize,
    m: usize,
    width: usize,
    depth: usize,
}

impl Heads {
    fn one(self, (sample, head): (usize, usize), [q, k, v, grad]: [&[f32]; 4]) -> Found {
        let Heads {
            n, m, width, depth, ..
        } = self;
        let (from, keys) = (
            sample * n * width + head * depth,
            sample * m * width + head * depth,
        );
        let rows = |data, row_stride, column_stride| Operand {
            data,
            row_stride,
            column_stride,
        };
        let (q, grad) = (rows(&q[from..], width, 1), rows(&grad[from..], width, 1));
        let (k, v) = (rows(&k[keys..], width, 1), rows(&v[keys..], width, 1));
        let scale = 1.0 / (depth as f32).sqrt();
        let mut p = product((n, m, depth), q, flipped(k));
        p.chunks_exact_mut(m)
            .for_each(|row| softmax_row(row, scale));
        let mut s = product((n, m, depth), grad, flipped(v));
        for (s, p) in s.chunks_exact_mut(m).zip(p.chunks_exact(m)) {
            let mean: f32 = s.iter().zip(p).map(|(s, p)| s * p).sum();
            s.iter_mut()
                .zip(p)
                .for_each(|(s, p)| *s = p * (*s - mean) * scale);
        }
        let (p, s) = (rows(&p, m, 1), rows(&s, m, 1));
        Found {
            q: product((n, depth, m), s, k),
            k: product((m, depth, n), flipped(s), q),
            v: product((m, depth, n), flipped(p), grad),
        }
    }
}

fn flipped(operand: Operand<'_>) -> Operand<'_> {
    Operand {
        data: operand.data,
        row_stride: operand.column_stride,
        column_stride: operand.row_stride,
    }
}

/// [m, k] · [k, n] for the sizes (m, n, k).
fn product((m, n, k): (usize, usize, usize), left: Operand<'_>, right: Operand<'_>) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    let size = Size { m, n, k };
    // SAFETY: `out` holds m · n numbers and is not shared.
    #[allow(unsafe_code, reason = "the product is added in place")]
    unsafe {
        add_product(out.as_mut_ptr(), n, size, left, right, Parallelism::None);
    }
    out
}
