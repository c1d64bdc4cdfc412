//! The basis, and synthesis with gradients.

use std::path::Path;

use candle_core::{Result as Compute, Tensor};
use likeness_hyperlora::Kind;
use likeness_sdxl::parts::{UNet, Variables, Weights};
use likeness_sdxl::{AttentionMatrix, Unmerged};
use serde::{Serialize, Serializer};

use crate::Error;

/// alpha over rank of a LoRA, the released models' value.
const SCALE: f64 = 0.5;
/// The projections in the order of a module's tokens, each with one for down and one for up.
const PROJECTIONS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

/// The basis of one LoRA for every attention matrix of a UNet.
pub struct Basis {
    entries: Vec<Entry>,
}

/// One matrix's.
struct Entry {
    matrix: AttentionMatrix,
    /// [k, in · rank].
    down: Tensor,
    /// [k, rank · out].
    up: Tensor,
    rank: usize,
}

impl Basis {
    /// From `hyper_lora_modules.safetensors`' names, for the modules in the order in which the UNet has them ([`modules`]).
    ///
    /// # Errors
    /// Missing tensors and wrong shapes; a UNet whose attention lacks a projection.
    pub fn load(
        weights: &Weights,
        unet: &UNet,
        kind: Kind,
        k: usize,
        rank: usize,
    ) -> Result<Basis, Error> {
        let mut entries = Vec::new();
        for (number, module) in modules(unet)?.into_iter().enumerate() {
            for matrix in module.matrices {
                let (rows, cols) = (matrix.rows, matrix.cols);
                let name = |side| basis_name(number, &matrix, kind, side);
                let down = weights.get(&name("down"), &[k, cols, rank])?;
                let up = weights.get(&name("up"), &[k, rank, rows])?;
                entries.push(Entry {
                    down: down.reshape((k, cols * rank))?,
                    up: up.reshape((k, rank * rows))?,
                    rank,
                    matrix,
                });
            }
        }
        Ok(Basis { entries })
    }

    /// Sets `variables` below a prefix to where a training starts: down normal with a variance of 1/in, up 0, so that
    /// at first nobody's LoRA does anything and every basis can still be told from every other.
    ///
    /// # Errors
    /// As [`Basis::load`].
    pub fn start(
        variables: &Variables,
        prefix: &str,
        unet: &UNet,
        kind: Kind,
        k: usize,
        rank: usize,
    ) -> Result<(), Error> {
        for (number, module) in modules(unet)?.into_iter().enumerate() {
            for matrix in module.matrices {
                let full = |side| {
                    let name = basis_name(number, &matrix, kind, side);
                    if prefix.is_empty() {
                        name
                    } else {
                        format!("{prefix}.{name}")
                    }
                };
                let name = full("down");
                // Variables start with a variance of a third of 1/(the product of all axes but the first), here of 1/(in · rank).
                let drawn = variables.get(&name, &[k, matrix.cols, rank])?;
                let start = (drawn * (3.0 * rank as f64).sqrt())?;
                let name_up = full("up");
                let up = variables.get(&name_up, &[k, rank, matrix.rows])?;
                let all = variables.all();
                for (name, start) in [(name, start), (name_up, up.zeros_like()?)] {
                    if let Some(var) = all.get(&name) {
                        var.set(&start)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Each sample's terms, `weight` times those of its coefficients [b, tokens, k], of unit tokens: what [`batch_terms`] is
    /// compared with.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    #[cfg(test)]
    pub fn own_terms(
        &self,
        unet: &UNet,
        coefficients: &Tensor,
        weight: f64,
    ) -> Result<Vec<Unmerged>, Error> {
        let samples = coefficients.dim(0)?;
        let made = self.entries.iter().enumerate().map(|(number, entry)| {
            let token = |offset| coefficients.narrow(1, 2 * number + offset, 1)?.squeeze(1);
            let (down, up) = entry.synthesise(&token(0)?, &token(1)?)?;
            Ok((&entry.matrix.name, down, (up * (SCALE * weight))?))
        });
        let made = made.collect::<Compute<Vec<_>>>()?;
        let of = |sample| {
            let terms = made.iter().map(|(name, down, up)| {
                let (down, up) = (down.get(sample)?, up.get(sample)?);
                Ok((
                    (*name).clone(),
                    down.t()?.contiguous()?,
                    up.t()?.contiguous()?,
                ))
            });
            Ok(unet.own_terms(terms.collect::<Compute<_>>()?)?)
        };
        (0..samples).map(of).collect()
    }
}

/// The terms of a batch, of one basis or more: each sample's coefficients [b, tokens, k] by each basis, times its weight [b].
/// The bases are of one UNet.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn batch_terms(unet: &UNet, parts: &[(&Basis, &Tensor, &Tensor)]) -> Result<Unmerged, Error> {
    let count = parts.first().map_or(0, |(basis, ..)| basis.entries.len());
    let dtype = unet.dtype();
    let terms = (0..count).map(|number| {
        let made = parts.iter().map(|(basis, coefficients, weight)| {
            let token = |offset| coefficients.narrow(1, 2 * number + offset, 1)?.squeeze(1);
            let (down, up) = basis.entries[number].synthesise(&token(0)?, &token(1)?)?;
            let weight = (weight.reshape(((), 1, 1))? * SCALE)?;
            Ok((down, up.broadcast_mul(&weight)?))
        });
        let (down, up): (Vec<Tensor>, Vec<Tensor>) =
            made.collect::<Compute<Vec<_>>>()?.into_iter().unzip();
        let name = parts[0].0.entries[number].matrix.name.clone();
        let (down, up) = (Tensor::cat(&down, 2)?, Tensor::cat(&up, 1)?);
        // They are made in f32, whatever the UNet computes in: sums of many small terms.
        Ok((name, down.to_dtype(dtype)?, up.to_dtype(dtype)?))
    });
    Ok(unet.batch_terms(terms.collect::<Compute<_>>()?)?)
}

impl Entry {
    /// From one token [b, k] each to down [b, in, rank] and up [b, rank, out].
    fn synthesise(&self, down: &Tensor, up: &Tensor) -> Compute<(Tensor, Tensor)> {
        let down = down.contiguous()?.matmul(&self.down)?;
        let up = up.contiguous()?.matmul(&self.up)?;
        let down = down.reshape(((), self.matrix.cols, self.rank))?;
        Ok((down, up.reshape(((), self.rank, self.matrix.rows))?))
    }
}

fn basis_name(number: usize, matrix: &AttentionMatrix, kind: Kind, side: &str) -> String {
    let projection = matrix.name.rsplit("to_").next().unwrap_or_default();
    let projection = projection.trim_end_matches(".0");
    format!("{number}.to_{projection}.{kind}_{side}_basis")
}

/// One attention of a UNet, with its four matrices in the order of [`PROJECTIONS`].
pub struct Module {
    /// Such as `down_blocks.1.attentions.0.transformer_blocks.0.attn1`.
    pub name: String,
    matrices: Vec<AttentionMatrix>,
}

/// The attentions in the order of their first matrices.
///
/// # Errors
/// An attention that lacks a projection.
pub fn modules(unet: &UNet) -> Result<Vec<Module>, Error> {
    let mut modules: Vec<Module> = Vec::new();
    let matrices = unet.attention_matrices();
    for matrix in &matrices {
        let Some((module, _)) = matrix.name.split_once(".to_") else {
            continue;
        };
        let find = |projection: &&str| {
            let name = format!("{module}.{projection}");
            matrices.iter().find(|one| one.name == name).cloned()
        };
        // A UNet that was loaded below this prefix bears it in all its names; a released list has none.
        let own = module.strip_prefix("unet.").unwrap_or(module);
        if modules.iter().any(|known| known.name == own) {
            continue;
        }
        modules.push(Module {
            name: own.to_owned(),
            matrices: PROJECTIONS.iter().filter_map(find).collect(),
        });
    }
    let whole = |module: &Module| module.matrices.len() == PROJECTIONS.len();
    match modules.iter().find(|module| !whole(module)) {
        None => Ok(modules),
        Some(module) => Err(Error::Attention {
            module: module.name.clone(),
        }),
    }
}

/// Writes `hyper_lora_modules.json`: names and widths, in the order that numbers the basis.
///
/// # Errors
/// As [`modules`]; the file cannot be written.
pub fn write_modules(unet: &UNet, path: &Path) -> Result<(), Error> {
    let entries = modules(unet)?.into_iter().map(|module| {
        let width = |projection: usize| module.matrices[projection].cols;
        let widths = Widths {
            hidden_size: width(0),
            cross_attention_dim: module.name.ends_with("attn2").then(|| width(1)),
        };
        let name = format!("lora_unet_{}", module.name.replace('.', "_"));
        (name, widths)
    });
    let text = serde_json::to_string(&InOrder(entries.collect()));
    let written = text.map_err(std::io::Error::from);
    let written = written.and_then(|text| std::fs::write(path, text));
    written.map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// What the list says of one module.
#[derive(Serialize)]
struct Widths {
    hidden_size: usize,
    cross_attention_dim: Option<usize>,
}

/// A map whose order counts.
struct InOrder(Vec<(String, Widths)>);

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, widths)| (name, widths)))
    }
}
