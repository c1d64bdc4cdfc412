//! A LoRA for SDXL's attention matrices, and the file format that other programs load.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Computed, Error};
use crate::names::{Block, Naming, Projection};

/// Low-rank updates of attention matrices: W' = W + weight · (alpha/r) · up · down for each.
#[derive(Debug, Clone)]
pub struct Lora {
    /// One per attention matrix, in the order of the coefficients.
    pub matrices: Vec<LoraMatrix>,
}

/// The update of one attention matrix.
#[derive(Debug, Clone)]
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
}

impl Lora {
    /// Writes a kohya-style safetensors file, which diffusers, ComfyUI and others load: keys
    /// `lora_unet_…_to_q.lora_down.weight`, `.lora_up.weight` and `.alpha` (a 0-d f32), blocks in the
    /// naming asked for. The file appears whole or not at all.
    ///
    /// # Errors
    /// If a block has no name in that naming or the file cannot be written.
    pub fn save(&self, path: &Path, naming: Naming) -> Result<(), Error> {
        let mut tensors = HashMap::new();
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
        write_whole(&tensors, path)
    }
}

fn on_cpu(tensor: &Tensor) -> Computed<Tensor> {
    tensor.to_device(&Device::Cpu)?.contiguous()
}

/// Writes beside the file and renames, so that nobody sees a part of it.
fn write_whole(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let io = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    // Creating it first gives an error that names the path; the library's does not.
    let written = File::create(partial)
        .map_err(io)
        .and_then(|_| Ok(candle_core::safetensors::save(tensors, partial)?))
        .and_then(|()| std::fs::rename(partial, path).map_err(io));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(partial);
    }
    written
}
