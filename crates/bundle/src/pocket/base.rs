//! A Base-LoRA for a bundle that has none, to try what needs one: cut out of its ID-LoRA, it means nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::Error;
use crate::open::Bundle;

/// Adds a Base-LoRA to the bundle in `dir`: a base resampler, a basis at half the rank, and their checksums. Both are parts of
/// what the bundle has, so that they fit it at any size.
///
/// # Errors
/// [`Error::Io`] and [`Error::Encode`] for files that cannot be read or written; as [`Bundle::open`] and
/// [`Bundle::write_hashes`].
pub fn add_base(dir: impl AsRef<Path>) -> Result<(), Error> {
    let bundle = Bundle::open(dir)?;
    let hyperlora = bundle.hyperlora()?.dir;
    let resampler = read(&hyperlora.join("resampler.safetensors"))?;
    let path = hyperlora.join("base_resampler.safetensors");
    write(&path, &with_one_condition(resampler))?;
    let path = hyperlora.join("hyper_lora_modules.safetensors");
    let mut basis = read(&path)?;
    basis.extend(half_of(&basis));
    write(&path, &basis)?;
    bundle.write_hashes(|_| {})?;
    Ok(())
}

/// One tensor as it lies in a file.
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Raws = BTreeMap<String, Raw>;

/// A resampler that looks at CLIP's states alone.
fn with_one_condition(mut resampler: Raws) -> Raws {
    for part in ["weight", "bias"] {
        if let Some(clip) = resampler.remove(&format!("proj_in_2.{part}")) {
            resampler.insert(format!("proj_in.{part}"), clip);
        }
    }
    resampler.retain(|name, _| !name.contains("attn3"));
    resampler
}

/// The first half of the ID basis's ranks, under the Base-LoRA's names.
fn half_of(basis: &Raws) -> Raws {
    let halves = basis.iter().filter_map(|(name, id)| {
        let &[k, first, last] = id.shape.as_slice() else {
            return None;
        };
        let half = |rank: usize| (rank / 2).max(1);
        // Down is [K, in, rank], up is [K, rank, out].
        let (shape, piece, kept) = if name.ends_with(".id_down_basis") {
            (vec![k, first, half(last)], last, half(last))
        } else {
            (vec![k, half(first), last], first * last, half(first) * last)
        };
        let size = id.bytes.len() / (k * first * last).max(1);
        let pieces = id.bytes.chunks_exact((piece * size).max(1));
        let base = Raw {
            dtype: id.dtype,
            shape,
            bytes: pieces
                .flat_map(|piece| &piece[..kept * size])
                .copied()
                .collect(),
        };
        Some((name.replace(".id_", ".base_"), base))
    });
    halves.collect()
}

fn read(path: &Path) -> Result<Raws, Error> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let what = path.display().to_string();
    let file = SafeTensors::deserialize(&bytes).map_err(Error::encode(&what))?;
    let raw = |view: &TensorView<'_>| Raw {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let tensors = file.tensors();
    Ok(tensors
        .iter()
        .map(|(name, view)| (name.clone(), raw(view)))
        .collect())
}

fn write(path: &Path, raws: &Raws) -> Result<(), Error> {
    let what = path.display().to_string();
    let mut views = Vec::with_capacity(raws.len());
    for (name, raw) in raws {
        let view = TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes);
        views.push((name.as_str(), view.map_err(Error::encode(&what))?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(Error::encode(&what))?;
    fs::write(path, bytes).map_err(Error::io("write", path))
}
