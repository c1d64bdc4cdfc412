//! A run on disk: one safetensors file with the weights, the optimiser's moments and averages, and the step count.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Error;
use crate::adam::AdamW;

/// The metadata's name of the step count.
const STEP: &str = "likeness.train.step";

/// Writes a run's state. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn save(optimizer: &AdamW, path: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let state = optimizer.state();
    let numbers = state
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.dims(), bytes_of(tensor)?)));
    let numbers = numbers.collect::<Result<Vec<_>, Error>>()?;
    let views = numbers.iter().map(|(name, dims, bytes)| {
        TensorView::new(Dtype::F32, dims.to_vec(), bytes).map(|view| (name.as_str(), view))
    });
    let views = views
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong(e.to_string()))?;
    let metadata = HashMap::from([(STEP.to_owned(), optimizer.steps().to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| wrong(e.to_string()))?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| wrong(e.to_string()))?;
    file.write_all(&bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| wrong(e.to_string()))?;
    file.persist(path).map_err(|e| wrong(e.to_string()))?;
    Ok(())
}

/// A tensor's f32 numbers as a file holds them.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Goes on from a run's state: weights, moments and step count. On the CPU the steps after it equal those of a run that
/// never stopped, to the bit.
///
/// # Errors
/// [`Error::Checkpoint`], with what was expected; then nothing has changed.
pub fn load(optimizer: &mut AdamW, path: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let step = step_of(&bytes).ok_or_else(|| {
        wrong(format!(
            "has no `{STEP}` in its metadata: it is not a checkpoint of a training run"
        ))
    })?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    let expected = optimizer.state();
    if let Some(name) = file
        .names()
        .into_iter()
        .find(|name| !expected.contains_key(*name))
    {
        return Err(wrong(format!(
            "holds `{name}`, which this model does not have"
        )));
    }
    optimizer.restore(step, |name, like| {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| wrong(format!("lacks `{name}`, which this model has")))?;
        if tensor.dims() != like.dims() || tensor.dtype() != like.dtype() {
            return Err(wrong(format!(
                "`{name}` is {:?} of {:?}, expected {:?} of {:?}",
                tensor.dtype(),
                tensor.dims(),
                like.dtype(),
                like.dims()
            )));
        }
        Ok(tensor.to_device(like.device())?)
    })
}

/// Steps of the run in a file; none where there is no such file, or it is not a checkpoint.
pub(crate) fn steps(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_default();
    step_of(&bytes).unwrap_or(0)
}

fn step_of(bytes: &[u8]) -> Option<u64> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    header.metadata().as_ref()?.get(STEP)?.parse().ok()
}
