//! The UNet's attention projections and what is merged into them.
//!
//! A matrix keeps its pristine base for the model's whole life; a merge writes a second tensor
//! beside it, always from the base. So a thousand identities later the base is the one that was
//! loaded, and restoring is dropping the merged tensor.

mod bare;
mod kernel;
mod unmerged;

use std::collections::HashMap;

use candle_core::{DType, Tensor};

pub use self::bare::BareMatrices;
use self::kernel::merge_matrix;
pub use self::unmerged::Unmerged;
use crate::Error;

/// Name and shape of one attention projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionMatrix {
    /// Such as `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`; the last part is
    /// `to_q`, `to_k`, `to_v` or `to_out.0`.
    pub name: String,
    /// Output width.
    pub rows: usize,
    /// Input width.
    pub cols: usize,
}

/// One low-rank term of a merge: W' = W + scale · up · down.
#[derive(Clone)]
pub struct LowRankUpdate {
    /// An [`AttentionMatrix::name`].
    pub matrix: String,
    /// [r, in].
    pub down: Tensor,
    /// [out, r].
    pub up: Tensor,
    /// Weight and sign of this term.
    pub scale: f64,
}

/// Shapes only: the numbers are a person's.
impl std::fmt::Debug for LowRankUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LowRankUpdate")
            .field("matrix", &self.matrix)
            .field("rank", &self.down.dims().first())
            .finish_non_exhaustive()
    }
}

/// Where a projection's weight lies in [`Matrices`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixId(usize);

/// All attention projections of a UNet, in the order in which they were loaded.
#[derive(Default)]
pub(crate) struct Matrices {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

struct Entry {
    name: String,
    base: Tensor,
    merged: Option<Tensor>,
}

impl Matrices {
    /// Takes a pristine weight [out, in] in.
    pub fn insert(&mut self, name: &str, base: Tensor) -> MatrixId {
        let id = self.entries.len();
        self.index.insert(name.to_owned(), id);
        self.entries.push(Entry {
            name: name.to_owned(),
            base,
            merged: None,
        });
        MatrixId(id)
    }

    /// The weight that sampling uses now.
    pub fn weight(&self, id: MatrixId) -> &Tensor {
        let entry = &self.entries[id.0];
        entry.merged.as_ref().unwrap_or(&entry.base)
    }

    /// The same by the projection's name.
    pub fn named(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|id| self.weight(MatrixId(*id)))
    }

    /// Names and shapes.
    pub fn list(&self) -> Vec<AttentionMatrix> {
        let describe = |entry: &Entry| AttentionMatrix {
            name: entry.name.clone(),
            rows: entry.base.dims()[0],
            cols: entry.base.dims()[1],
        };
        self.entries.iter().map(describe).collect()
    }

    /// See [`crate::Sdxl::merge`].
    pub fn merge(&mut self, updates: &[LowRankUpdate]) -> Result<(), Error> {
        let terms = self.checked(updates)?;
        // What was merged before is dropped first: two merged copies never take memory at once. It is
        // not kept to be written over, either: between renders it would hold a person.
        self.restore();
        for (id, terms) in terms {
            match merge_matrix(&self.entries[id].base, &terms) {
                Ok(merged) => self.entries[id].merged = Some(merged),
                Err(error) => {
                    self.restore();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn restore(&mut self) {
        for entry in &mut self.entries {
            entry.merged = None;
        }
    }

    /// The weight as it was loaded.
    fn base(&self, id: usize) -> &Tensor {
        &self.entries[id].base
    }

    /// Updates by matrix, every one checked; terms of scale 0 are left out, so that they restore
    /// the base to the bit.
    fn checked<'a>(
        &self,
        updates: &'a [LowRankUpdate],
    ) -> Result<HashMap<usize, Vec<&'a LowRankUpdate>>, Error> {
        let mut terms: HashMap<usize, Vec<&LowRankUpdate>> = HashMap::new();
        let mut bounds: HashMap<usize, f64> = HashMap::new();
        let factors: Vec<&Tensor> = updates.iter().flat_map(|u| [&u.down, &u.up]).collect();
        let ids = updates.iter().map(|update| self.fitting(update));
        let ids = ids.collect::<Result<Vec<_>, Error>>()?;
        let largest = largest(&factors)?;
        for ((update, id), largest) in updates.iter().zip(ids).zip(largest.chunks_exact(2)) {
            let sum = bounds.entry(id).or_default();
            *sum += bound(update, largest)?;
            check_bound(update, *sum, self.entries[id].base.dtype())?;
            if update.scale != 0.0 {
                terms.entry(id).or_default().push(update);
            }
        }
        Ok(terms)
    }

    /// The matrix that an update names, whose shape it fits.
    fn fitting(&self, update: &LowRankUpdate) -> Result<usize, Error> {
        let matrix = &update.matrix;
        let id = *self.index.get(matrix).ok_or_else(|| Error::UnknownMatrix {
            matrix: matrix.clone(),
        })?;
        check_shape(update, &self.entries[id].base)?;
        Ok(id)
    }
}

fn check_shape(update: &LowRankUpdate, base: &Tensor) -> Result<(), Error> {
    let (rows, cols) = (base.dims()[0], base.dims()[1]);
    let refuse = |part, expected, found: &Tensor| {
        let (matrix, found) = (update.matrix.clone(), found.dims().to_vec());
        Err(Error::UpdateShape {
            matrix,
            part,
            expected,
            found,
        })
    };
    let &[rank, width] = update.down.dims() else {
        return refuse("down", format!("[r, {cols}]"), &update.down);
    };
    if width != cols || rank == 0 {
        return refuse("down", format!("[r, {cols}]"), &update.down);
    }
    if update.up.dims() != [rows, rank] {
        return refuse("up", format!("[{rows}, {rank}]"), &update.up);
    }
    Ok(())
}

/// How large an entry of scale · up · down can be at most: r · max|up| · max|down| · |scale|. Refuses NaN
/// and infinities.
fn bound(update: &LowRankUpdate, largest: &[Option<f64>]) -> Result<f64, Error> {
    if !update.scale.is_finite() {
        return Err(not_finite(update, "the scale is not a finite number"));
    }
    let &[Some(down), Some(up)] = largest else {
        return Err(not_finite(update, "the factors hold NaN or infinity"));
    };
    Ok(update.down.dims()[0] as f64 * down * up * update.scale.abs())
}

/// Refuses updates that could overflow the weights' type: far above what any usable LoRA reaches.
fn check_bound(update: &LowRankUpdate, bound: f64, dtype: DType) -> Result<(), Error> {
    if bound <= largest_of_type(dtype) / 2.0 {
        return Ok(());
    }
    let problem = "the factors are too large for the model's number type";
    Err(not_finite(update, problem))
}

fn not_finite(update: &LowRankUpdate, problem: &'static str) -> Error {
    let matrix = update.matrix.clone();
    Error::NotFinite { matrix, problem }
}

fn largest_of_type(dtype: DType) -> f64 {
    if dtype == DType::F16 {
        f64::from(half::f16::MAX)
    } else {
        f64::from(f32::MAX)
    }
}

/// max |x| of each tensor, none where a number is not finite. A device is asked once for all of them.
fn largest(tensors: &[&Tensor]) -> Result<Vec<Option<f64>>, Error> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let probes = tensors.iter().map(|x| {
        let x = x.to_dtype(DType::F32)?.flatten_all()?;
        // 0 · x is 0 for finite x and NaN otherwise; the sum keeps a NaN where a maximum may lose it.
        Tensor::stack(&[(&x * 0.0)?.sum_all()?, x.abs()?.max(0)?], 0)
    });
    let probes = probes.collect::<candle_core::Result<Vec<_>>>()?;
    let read = Tensor::stack(&probes, 0)?.to_vec2::<f32>()?.into_iter();
    Ok(read
        .map(|probe| (probe[0] == 0.0).then_some(f64::from(probe[1])))
        .collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn matrices(dtype: DType) -> Matrices {
        let mut matrices = Matrices::default();
        for name in ["a.to_q", "a.to_k"] {
            let base = Tensor::randn(0f32, 1.0, (6, 4), &Device::Cpu).unwrap();
            matrices.insert(name, base.to_dtype(dtype).unwrap());
        }
        matrices
    }

    fn update(matrix: &str, scale: f64) -> LowRankUpdate {
        let down = Tensor::randn(0f32, 1.0, (2, 4), &Device::Cpu).unwrap();
        let up = Tensor::randn(0f32, 1.0, (6, 2), &Device::Cpu).unwrap();
        LowRankUpdate {
            matrix: matrix.to_owned(),
            down,
            up,
            scale,
        }
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn weights(matrices: &Matrices) -> Vec<Vec<f32>> {
        (0..2)
            .map(|i| values(matrices.weight(MatrixId(i))))
            .collect()
    }

    #[test]
    fn terms_stack_on_the_pristine_base() {
        let mut matrices = matrices(DType::F32);
        let base = weights(&matrices);
        let terms = [update("a.to_q", 0.5), update("a.to_q", -2.0)];
        matrices.merge(&[update("a.to_q", 9.0)]).unwrap();
        matrices.merge(&terms).unwrap();
        let mut expected = Tensor::from_vec(base[0].clone(), (6, 4), &Device::Cpu).unwrap();
        for term in &terms {
            let delta = (term.up.matmul(&term.down).unwrap() * term.scale).unwrap();
            expected = (expected + delta).unwrap();
        }
        for (a, b) in weights(&matrices)[0].iter().zip(values(&expected)) {
            assert!((a - b).abs() < 1e-5);
        }
        assert_eq!(weights(&matrices)[1], base[1]);
    }

    #[test]
    fn a_thousand_swaps_leave_the_base_to_the_bit() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut matrices = matrices(dtype);
            let base = weights(&matrices);
            for _ in 0..500 {
                matrices.merge(&[update("a.to_q", 0.8)]).unwrap();
                matrices.merge(&[update("a.to_k", 0.8)]).unwrap();
            }
            assert_eq!(
                weights(&matrices)[0],
                base[0],
                "a matrix not named is restored"
            );
            matrices.merge(&[update("a.to_k", 0.0)]).unwrap();
            assert_eq!(weights(&matrices), base);
            matrices.merge(&[]).unwrap();
            assert_eq!(weights(&matrices), base);
        }
    }

    #[test]
    fn bad_updates_change_nothing() {
        let mut matrices = matrices(DType::F32);
        matrices.merge(&[update("a.to_q", 1.0)]).unwrap();
        let before = weights(&matrices);
        let good = update("a.to_q", 1.0);
        let nan = Tensor::full(f32::NAN, (2, 4), &Device::Cpu).unwrap();
        let wide = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
        let cases = [
            LowRankUpdate {
                matrix: "b.to_q".to_owned(),
                ..good.clone()
            },
            LowRankUpdate {
                down: nan,
                ..good.clone()
            },
            LowRankUpdate {
                down: wide,
                ..good.clone()
            },
            LowRankUpdate {
                up: good.up.t().unwrap(),
                ..good.clone()
            },
            LowRankUpdate {
                up: (&good.up / 0.0).unwrap(),
                ..good.clone()
            },
            LowRankUpdate {
                scale: f64::INFINITY,
                ..good.clone()
            },
            LowRankUpdate {
                scale: 1e39,
                ..good.clone()
            },
        ];
        for bad in cases {
            let error = matrices.merge(&[good.clone(), bad]).unwrap_err();
            let typed = matches!(
                error,
                Error::UnknownMatrix { .. } | Error::UpdateShape { .. } | Error::NotFinite { .. }
            );
            assert!(typed, "{error}");
            assert_eq!(weights(&matrices), before);
        }
    }

    #[test]
    fn half_precision_refuses_what_would_overflow() {
        let mut half = matrices(DType::F16);
        assert!(half.merge(&[update("a.to_q", 1e6)]).is_err());
        assert!(
            matrices(DType::BF16)
                .merge(&[update("a.to_q", 1e6)])
                .is_ok()
        );
    }

    #[test]
    fn debug_shows_no_numbers() {
        let text = format!("{:?}", update("a.to_q", 0.731));
        assert!(text.contains("a.to_q") && !text.contains("0.731"), "{text}");
    }
}
