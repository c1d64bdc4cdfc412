//! Several LoRAs as one low-rank update per matrix.
//!
//! An ID-LoRA, a Base-LoRA, sliders and imported LoRAs add up: ΔW = Σ scaleᵢ · (alphaᵢ/rᵢ) · upᵢ · downᵢ.
//! As ups side by side and downs on top of each other that is a single product whose rank is the sum of
//! the ranks. Scale and sign go on `up` alone: ΔW is a product, so a sign on both would cancel.
//!
//! Identities do not add up this way, since ΔW is quadratic in the coefficients: blend those first, then
//! synthesise once.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;

use crate::error::{Computed, Error};
use crate::lora::{Lora, LoraMatrix};
use crate::names::{Block, Projection};

/// LoRAs with their weights, to be merged together.
#[derive(Default)]
pub struct Stack {
    terms: BTreeMap<(Block, Projection), Terms>,
}

/// What is added to one matrix.
struct Terms {
    shape: Vec<usize>,
    downs: Vec<Tensor>,
    ups: Vec<Tensor>,
}

/// The whole update of one attention matrix: W' = W + up · down, weights and signs included. `Debug`
/// shows the shapes only.
#[derive(Clone)]
pub struct Update {
    /// The attention module.
    pub block: Block,
    /// Which of its matrices.
    pub projection: Projection,
    /// `[r, in]`, f32; r is the sum of the ranks.
    pub down: Tensor,
    /// `[out, r]`, f32.
    pub up: Tensor,
}

impl Terms {
    fn of(shape: Vec<usize>) -> Self {
        Self {
            shape,
            downs: Vec::new(),
            ups: Vec::new(),
        }
    }
}

impl Stack {
    /// Adds a LoRA with a weight, of any sign. A weight of 0 adds nothing.
    ///
    /// # Errors
    /// If the weight is not finite, or a matrix has another shape than in a LoRA before; then the stack is
    /// as it was.
    pub fn push(&mut self, lora: &Lora, scale: f64) -> Result<(), Error> {
        if !scale.is_finite() {
            return Err(Error::Scale { scale });
        }
        self.check(lora)?;
        if scale == 0.0 {
            return Ok(());
        }
        let ups: Vec<_> = lora
            .matrices
            .iter()
            .map(|matrix| &matrix.up * (scale * matrix.scale()))
            .collect::<Computed<_>>()?;
        for (matrix, up) in lora.matrices.iter().zip(ups) {
            self.add(matrix, up);
        }
        Ok(())
    }

    /// Adds a slider at strength `s`: +s × LoRA(after) − s × LoRA(before).
    ///
    /// # Errors
    /// As [`Stack::push`].
    pub fn push_slider(&mut self, before: &Lora, after: &Lora, s: f64) -> Result<(), Error> {
        let mut slider = Self::default();
        slider.push(after, s)?;
        slider.push(before, -s)?;
        self.check(after)?;
        self.check(before)?;
        for (target, terms) in slider.terms {
            let to = self
                .terms
                .entry(target)
                .or_insert_with(|| Terms::of(terms.shape));
            to.downs.extend(terms.downs);
            to.ups.extend(terms.ups);
        }
        Ok(())
    }

    /// One update per matrix that a LoRA reaches, in the order of the blocks.
    ///
    /// # Errors
    /// If the LoRAs lie on different devices, or memory is short.
    pub fn updates(&self) -> Result<Vec<Update>, Error> {
        let update = |(&(block, projection), terms): (&(Block, Projection), &Terms)| {
            Ok(Update {
                block,
                projection,
                down: joined(&terms.downs, 0)?,
                up: joined(&terms.ups, 1)?,
            })
        };
        self.terms.iter().map(update).collect()
    }

    /// Whether nothing is to be merged.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    fn check(&self, lora: &Lora) -> Result<(), Error> {
        for matrix in &lora.matrices {
            let before = self.terms.get(&(matrix.block, matrix.projection));
            if let Some(before) = before.filter(|before| before.shape != matrix.shape()) {
                return Err(Error::Stack {
                    matrix: matrix.target(),
                    first: before.shape.clone(),
                    other: matrix.shape(),
                });
            }
        }
        Ok(())
    }

    fn add(&mut self, matrix: &LoraMatrix, up: Tensor) {
        let terms = self.terms.entry((matrix.block, matrix.projection));
        let terms = terms.or_insert_with(|| Terms::of(matrix.shape()));
        terms.downs.push(matrix.down.clone());
        terms.ups.push(up);
    }
}

fn joined(parts: &[Tensor], dim: usize) -> Computed<Tensor> {
    match parts {
        [one] => Ok(one.clone()),
        several => Tensor::cat(several, dim),
    }
}

impl Update {
    /// The matrix in the naming of a diffusers U-Net, without `.weight`:
    /// `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
    pub fn target(&self) -> String {
        format!("{}.{}", self.block, self.projection.diffusers_name())
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (self.up.dims(), self.down.dims());
        write!(f, "Update[{} {up:?} x {down:?}]", self.target())
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stack[{} matrices]", self.terms.len())
    }
}
