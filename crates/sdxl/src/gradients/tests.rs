//! Every fast gradient against the tensor library's own gradient of the same formula, from the same numbers in f64; the
//! group norm and attention's softmax compute in f32 there, too.

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use candle_nn::ops;

use crate::attention::attention;
use crate::conv::{Conv, ConvShape};
use crate::layers::{GroupNorm, LayerNorm, apply_linear, geglu};
use crate::testing::relative_error;

fn var(dims: &[usize]) -> Var {
    Var::randn(0f32, 1.0, dims, &Device::Cpu).unwrap()
}

fn wide(var: &Var) -> Var {
    Var::from_tensor(&var.as_tensor().to_dtype(DType::F64).unwrap()).unwrap()
}

/// Gradients of Σ w ∘ y for fixed random w, so that no gradient vanishes by symmetry.
fn gradients(y: &Tensor) -> GradStore {
    let count = y.elem_count();
    let weights: Vec<f64> = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
    let weights = Tensor::from_vec(weights, y.shape(), &Device::Cpu).unwrap();
    let weights = weights.to_dtype(y.dtype()).unwrap();
    (y * weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap()
}

/// The fast gradients equal those of `slow`, which gets the same numbers in f64.
fn agree(vars: &[Var], fast: impl Fn(&[Tensor]) -> Tensor, slow: impl Fn(&[Tensor]) -> Tensor) {
    let tensors = |vars: &[Var]| {
        vars.iter()
            .map(|v| v.as_tensor().clone())
            .collect::<Vec<_>>()
    };
    let exact: Vec<Var> = vars.iter().map(wide).collect();
    let (y, expected) = (fast(&tensors(vars)), slow(&tensors(&exact)));
    assert!(relative_error(&y, &expected) < 1e-5);
    let (found, expected) = (gradients(&y), gradients(&expected));
    for (place, (var, exact)) in vars.iter().zip(&exact).enumerate() {
        let error = relative_error(found.get(var).unwrap(), expected.get(exact).unwrap());
        assert!(error < 1e-5, "argument {place}: {error}");
    }
}

#[test]
fn of_linear_layers() {
    agree(
        &[var(&[3, 5, 7]), var(&[4, 7]), var(&[4])],
        |t| apply_linear(&t[0], &t[1], Some(&t[2])).unwrap(),
        |t| {
            t[0].broadcast_matmul(&t[1].t().unwrap())
                .unwrap()
                .broadcast_add(&t[2])
                .unwrap()
        },
    );
    agree(
        &[var(&[2, 7]), var(&[4, 7])],
        |t| apply_linear(&t[0], &t[1], None).unwrap(),
        |t| t[0].matmul(&t[1].t().unwrap()).unwrap(),
    );
}

#[test]
fn of_convolutions() {
    let shape = |kernel, stride, padding| ConvShape {
        kernel,
        stride,
        padding,
    };
    for (sides, shape) in [
        ((9, 7), shape(3, 1, 1)),
        ((6, 6), shape(1, 1, 0)),
        ((8, 6), shape(3, 2, 1)),
        ((9, 9), shape(3, 2, 0)),
        ((9, 7), shape(3, 2, 1)),
        ((3, 31), shape(3, 1, 1)),
    ] {
        let ConvShape {
            kernel,
            stride,
            padding,
        } = shape;
        agree(
            &[
                var(&[11, 3, sides.0, sides.1]),
                var(&[4, 3, kernel, kernel]),
                var(&[4]),
            ],
            |t| {
                Conv::of(t[1].clone(), t[2].clone(), shape)
                    .forward(&t[0])
                    .unwrap()
            },
            |t| by_hand(t, (kernel, stride, padding)),
        );
    }
}

/// A convolution as the sum over kernel elements of products of shifted pictures.
fn by_hand(t: &[Tensor], (kernel, stride, padding): (usize, usize, usize)) -> Tensor {
    let (_, _, h, w) = t[0].dims4().unwrap();
    let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let (rows, columns) = (out(h), out(w));
    let pad = |x: &Tensor, axis| x.pad_with_zeros(axis, padding, padding + stride).unwrap();
    let x = pad(&pad(&t[0], 2), 3);
    let every = |x: &Tensor, axis: usize, first: usize, count: usize| {
        let places: Vec<u32> = (0..count).map(|i| (first + i * stride) as u32).collect();
        let places = Tensor::new(places, &Device::Cpu).unwrap();
        x.index_select(&places, axis).unwrap()
    };
    let mut sum = t[2].reshape((1, (), 1, 1)).unwrap();
    for ky in 0..kernel {
        for kx in 0..kernel {
            let seen = every(&every(&x, 2, ky, rows), 3, kx, columns);
            let (b, c, ..) = seen.dims4().unwrap();
            let flat = seen.reshape((b, c, rows * columns)).unwrap();
            let tap = t[1].narrow(2, ky, 1).unwrap().narrow(3, kx, 1).unwrap();
            let tap = tap.squeeze(3).unwrap().squeeze(2).unwrap();
            let part = tap.broadcast_left(b).unwrap().matmul(&flat).unwrap();
            let part = part.reshape((b, (), rows, columns)).unwrap();
            sum = sum.broadcast_add(&part).unwrap();
        }
    }
    sum
}

#[test]
fn of_doubled_pictures() {
    agree(
        &[var(&[2, 3, 3, 5])],
        |t| crate::upsample::nearest(&t[0], 6, 10).unwrap(),
        |t| {
            let wide = t[0].reshape((2, 3, 3, 1, 5, 1)).unwrap();
            let wide = wide.broadcast_as((2, 3, 3, 2, 5, 2)).unwrap();
            wide.reshape((2, 3, 6, 10)).unwrap()
        },
    );
}

#[test]
fn of_group_norms() {
    for silu in [false, true] {
        agree(
            &[var(&[3, 6, 4, 5]), var(&[6]), var(&[6])],
            |t| {
                let norm = GroupNorm::of(t[1].clone(), t[2].clone(), 3, 1e-5);
                let y = if silu {
                    norm.forward_silu(&t[0])
                } else {
                    norm.forward(&t[0])
                };
                y.unwrap()
            },
            |t| {
                // In f64 the norm is composed from the tensor library's operations.
                let norm = GroupNorm::of(t[1].clone(), t[2].clone(), 3, 1e-5);
                let y = if silu {
                    norm.forward_silu(&t[0])
                } else {
                    norm.forward(&t[0])
                };
                y.unwrap()
            },
        );
    }
}

#[test]
fn of_layer_norms() {
    agree(
        &[var(&[3, 5, 8]), var(&[8]), var(&[8])],
        |t| {
            LayerNorm::of(t[1].clone(), t[2].clone(), 1e-5)
                .forward(&t[0])
                .unwrap()
        },
        |t| ops::layer_norm_slow(&t[0], &t[1], &t[2], 1e-5).unwrap(),
    );
}

#[test]
fn of_gated_layers() {
    agree(
        &[var(&[3, 5, 8])],
        |t| geglu(&t[0]).unwrap(),
        |t| geglu(&t[0]).unwrap(),
    );
}

#[test]
fn of_attention() {
    for (n, m, heads) in [(6, 9, 2), (1, 4, 1), (9, 9, 4)] {
        agree(
            &[var(&[2, n, 8]), var(&[2, m, 8]), var(&[2, m, 8])],
            |t| attention(&t[0], &t[1], &t[2], heads).unwrap(),
            |t| attention(&t[0], &t[1], &t[2], heads).unwrap(),
        );
    }
}

#[test]
fn what_is_frozen_gets_none() {
    let (x, weight) = (var(&[3, 7]), var(&[4, 7]));
    let y = apply_linear(&x, &weight.as_detached_tensor(), None).unwrap();
    let found = gradients(&y);
    assert!(found.get(&x).is_some() && found.get(&weight).is_none());
}
