//! Low-rank terms that stay beside the weights, so that samples of one batch carry different
//! identities: y = x · Wᵀ + (x · downᵀ) · upᵀ, the first product shared, the second per sample.

use std::collections::HashMap;

use candle_core::{DType, Result as Compute, Tensor, Var};

use super::{AttentionMatrix, LowRankUpdate, Matrices, MatrixId, kernel::stacked, largest};
use crate::Error;
use crate::layers::apply_linear;
use crate::unet::UNet;

/// The terms of one sample, checked against the model that made them.
#[derive(Clone, Debug)]
pub struct Unmerged {
    factors: HashMap<usize, Factors>,
}

/// One matrix's update, the sum of all its terms, in the weights' type. Shapes only in `Debug`: the
/// numbers are a person's.
#[derive(Clone)]
struct Factors {
    /// [r, in]; [b, r, in] for a batch.
    down: Tensor,
    /// [out, r], scales included; [b, out, r] for a batch.
    up: Tensor,
}

impl std::fmt::Debug for Factors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Factors[{:?} x {:?}]", self.up.dims(), self.down.dims())
    }
}

impl UNet {
    /// The terms of one sample with the gradients of their factors, for training: by matrix, down [r, in] and up [out, r] in the
    /// weights' type. Unlike [`crate::Sdxl::unmerged`] it looks at no number.
    ///
    /// # Errors
    /// Matrices that the UNet does not have, and wrong shapes.
    pub fn own_terms(&self, terms: Vec<(String, Tensor, Tensor)>) -> Result<Unmerged, Error> {
        let factors = terms.into_iter().map(|(matrix, down, up)| {
            let update = LowRankUpdate {
                matrix,
                down,
                up,
                scale: 1.0,
            };
            let id = self.matrices.fitting(&update)?;
            let LowRankUpdate { down, up, .. } = update;
            Ok((id, Factors { down, up }))
        });
        let factors = factors.collect::<Result<_, Error>>()?;
        Ok(Unmerged { factors })
    }

    /// The terms of a whole batch, for training: by matrix, down [b, in, r] and up [b, r, out], a pair for each sample. They stand
    /// for all samples together: `[Some(terms)]` is what [`UNet::forward`] takes.
    ///
    /// # Errors
    /// As [`UNet::own_terms`].
    pub fn batch_terms(&self, terms: Vec<(String, Tensor, Tensor)>) -> Result<Unmerged, Error> {
        let factors = terms.into_iter().map(|(matrix, down, up)| {
            let (down, up) = (down.transpose(1, 2)?, up.transpose(1, 2)?);
            let id = self.matrices.fitting(&LowRankUpdate {
                matrix,
                down: down.get(0)?,
                up: up.get(0)?,
                scale: 1.0,
            })?;
            Ok((id, Factors { down, up }))
        });
        let factors = factors.collect::<Result<_, Error>>()?;
        Ok(Unmerged { factors })
    }

    /// The number type of the weights, and so of latents, conditioning and terms.
    pub fn dtype(&self) -> DType {
        let first = self.matrices.entries.first();
        first.map_or(DType::F32, |entry| entry.base.dtype())
    }

    /// Names and shapes of the attention matrices, in the order in which they were loaded.
    pub fn attention_matrices(&self) -> Vec<AttentionMatrix> {
        self.matrices.list()
    }
}

impl Unmerged {
    /// The same numbers as variables of their own, and each factor beside its variable, in the order of the matrices.
    pub(crate) fn leaves(&self) -> Compute<(Unmerged, Vec<(Tensor, Var)>)> {
        let mut ids: Vec<&usize> = self.factors.keys().collect();
        ids.sort();
        let (mut factors, mut pairs) = (HashMap::new(), Vec::new());
        for id in ids {
            let Factors { down, up } = &self.factors[id];
            let (down, down_pair) = leaf(down)?;
            let (up, up_pair) = leaf(up)?;
            factors.insert(*id, Factors { down, up });
            pairs.extend([down_pair, up_pair]);
        }
        Ok((Unmerged { factors }, pairs))
    }
}

/// A factor as a variable of its own, and what it came from beside that variable. Those of a batch lie transposed; so does
/// what is made of them here, or products would round in another way.
fn leaf(factor: &Tensor) -> Compute<(Tensor, (Tensor, Var))> {
    let turned = factor.rank() == 3 && !factor.is_contiguous();
    let turn = |x: &Tensor| {
        if turned {
            x.transpose(1, 2)
        } else {
            Ok(x.clone())
        }
    };
    let source = turn(factor)?;
    let var = Var::from_tensor(&source.detach())?;
    Ok((turn(var.as_tensor())?, (source, var)))
}

impl Matrices {
    /// See [`crate::Sdxl::unmerged`].
    pub fn unmerged(&self, updates: &[LowRankUpdate]) -> Result<Unmerged, Error> {
        let terms = self.checked(updates)?.into_iter();
        let stacked = terms.map(|(id, terms)| Ok((id, stacked(self.base(id), &terms)?)));
        let stacked = stacked.collect::<Result<Vec<_>, Error>>()?;
        let tensors: Vec<&Tensor> = stacked
            .iter()
            .flat_map(|(_, (down, up))| [down, up])
            .collect();
        let largest = largest(&tensors)?;
        let factors = stacked.iter().zip(largest.chunks_exact(2));
        let factors = factors.map(|((id, (down, up)), largest)| {
            let dtype = self.base(*id).dtype();
            Ok((*id, Factors::balanced(down, up, balance(largest), dtype)?))
        });
        Ok(Unmerged {
            factors: factors.collect::<Result<_, Error>>()?,
        })
    }

    /// Refuses terms that were made for a model with other matrices.
    pub fn check_unmerged(&self, unmerged: &Unmerged) -> Result<(), Error> {
        let fits = |(&id, factors): (&usize, &Factors)| {
            let base = self.entries.get(id).map(|entry| entry.base.dims());
            base == Some(&[factors.up.dims()[0], factors.down.dims()[1]])
        };
        if unmerged.factors.iter().all(fits) {
            return Ok(());
        }
        let problem = "these terms were made for another model; make them with this one";
        Err(Error::bad_request("unmerged", problem))
    }

    /// x · weightᵀ + bias + each sample's own term. `x` is [b, n, in]; `samples` divide b evenly, each
    /// with the rows of its guidance pair; none where nobody carries a term.
    pub fn project(
        &self,
        x: &Tensor,
        id: MatrixId,
        bias: Option<&Tensor>,
        samples: &[Option<&Unmerged>],
    ) -> Compute<Tensor> {
        let y = apply_linear(x, self.weight(id), bias)?;
        let own = samples
            .iter()
            .map(|sample| sample.and_then(|own| own.factors.get(&id.0)));
        let own: Vec<Option<&Factors>> = own.collect();
        if own.iter().all(Option::is_none) {
            return Ok(y);
        }
        if let [Some(all)] = own[..] {
            return y + all.apply(x)?;
        }
        let rows = x.dim(0)? / samples.len();
        let parts = own.into_iter().enumerate().map(|(i, own)| {
            let y = y.narrow(0, i * rows, rows)?;
            match own {
                None => Ok(y),
                Some(own) => y + own.apply(&x.narrow(0, i * rows, rows)?)?,
            }
        });
        Tensor::cat(&parts.collect::<Compute<Vec<_>>>()?, 0)
    }
}

impl Factors {
    fn balanced(down: &Tensor, up: &Tensor, balance: f64, dtype: DType) -> Compute<Factors> {
        Ok(Factors {
            down: (down * balance)?.to_dtype(dtype)?,
            up: (up / balance)?.to_dtype(dtype)?,
        })
    }

    fn apply(&self, x: &Tensor) -> Compute<Tensor> {
        if self.down.rank() == 3 {
            let (down, up) = (self.down.transpose(1, 2)?, self.up.transpose(1, 2)?);
            return x.contiguous()?.matmul(&down)?.matmul(&up);
        }
        apply_linear(&apply_linear(x, &self.down, None)?, &self.up, None)
    }
}

/// The power of two that brings both factors, of these largest numbers, to about the same size: in f16 a
/// small one would lose digits, and a power of two changes none.
fn balance(largest: &[Option<f64>]) -> f64 {
    match *largest {
        [Some(down), Some(up)] if down > 0.0 && up > 0.0 => {
            ((up / down).log2() / 2.0).round().exp2()
        }
        _ => 1.0,
    }
}
