//! A LoRA for SDXL's attention matrices, and the file format that other programs load.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Computed, Error};
use crate::names::{Block, Naming, Projection};
use crate::provenance::Provenance;
use crate::write::write_safetensors;

/// Low-rank updates of attention matrices: W' = W + weight · (alpha/r) · up · down for each.
#[derive(Debug, Clone)]
pub struct Lora {
    /// At most one per attention matrix, in the order of the coefficients where it was synthesised.
    pub matrices: Vec<LoraMatrix>,
}

/// The update of one attention matrix. `Debug` shows the shapes only: the numbers are a person's.
#[derive(Clone)]
pub struct LoraMatrix {
    /// The attention module.
    pub block: Block,
    /// Which of its matrices.
    pub projection: Projection,
    /// `[r, in]`, f32.
    pub down: Tensor,
    /// `[out, r]`, f32.
    pub up: Tensor,
    /// The update's scale times its rank.
    pub alpha: f64,
}

impl LoraMatrix {
    /// The matrix in the naming of a diffusers U-Net, without `.weight`:
    /// `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
    pub fn target(&self) -> String {
        format!("{}.{}", self.block, self.projection.diffusers_name())
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.down.dims().first().copied().unwrap_or_default()
    }

    /// alpha/r: what `up · down` is multiplied with before any weight.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank().max(1) as f64
    }

    /// `[out, in]` of the matrix that it updates.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let size =
            |tensor: &Tensor, dim: usize| tensor.dims().get(dim).copied().unwrap_or_default();
        vec![size(&self.up, 0), size(&self.down, 1)]
    }
}

impl fmt::Debug for LoraMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (self.up.dims(), self.down.dims());
        write!(f, "LoraMatrix[{} {up:?} x {down:?}]", self.target())
    }
}

impl Lora {
    /// Writes a kohya-style safetensors file, which diffusers, ComfyUI and others load: keys
    /// `lora_unet_…_to_q.lora_down.weight`, `.lora_up.weight` and `.alpha` (a 0-d f32), blocks in the
    /// naming asked for, and where it comes from as metadata. The same LoRA gives the same bytes. The
    /// file appears whole or not at all.
    ///
    /// # Errors
    /// If a block has no name in that naming or the file cannot be written.
    pub fn save(&self, path: &Path, naming: Naming, provenance: &Provenance) -> Result<(), Error> {
        let mut tensors = BTreeMap::new();
        for matrix in &self.matrices {
            let block = matrix.block;
            let name = block.kohya_name(naming).ok_or_else(|| Error::NoName {
                block: block.to_string(),
            })?;
            let name = format!("{name}_{}", matrix.projection.kohya_name());
            let alpha = Tensor::new(matrix.alpha as f32, &Device::Cpu)?;
            tensors.insert(format!("{name}.lora_down.weight"), on_cpu(&matrix.down)?);
            tensors.insert(format!("{name}.lora_up.weight"), on_cpu(&matrix.up)?);
            tensors.insert(format!("{name}.alpha"), alpha);
        }
        write_safetensors(path, &provenance.metadata(self, naming), &tensors)
    }
}

fn on_cpu(tensor: &Tensor) -> Computed<Tensor> {
    tensor.to_device(&Device::Cpu)?.contiguous()
}
