//! A run on disk: one safetensors file with the weights, the optimiser's moments and averages, the step count, and where reading
//! stands where data are read as it goes on. It is written and read tensor by tensor: at real size it has 40 GB.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, View};

use crate::Error;
use crate::adam::AdamW;

/// The metadata's name of the step count.
const STEP: &str = "likeness.train.step";
/// And of the place in the data.
const PLACE: &str = "likeness.train.place";
/// The most that a header may have: that of a real run has 2 MB.
const MOST_HEADER: u64 = 100_000_000;

/// Writes a run's state. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn save(optimizer: &AdamW, path: &Path) -> Result<(), Error> {
    write(optimizer, None, path)
}

/// The same with the place that a feed gave.
pub(crate) fn save_with_place(optimizer: &AdamW, place: &str, path: &Path) -> Result<(), Error> {
    write(optimizer, Some(place), path)
}

fn write(optimizer: &AdamW, place: Option<&str>, path: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let failed = RefCell::new(None);
    let state = optimizer.state();
    let stored = state.iter().map(|(name, tensor)| {
        let stored = Stored {
            tensor,
            failed: &failed,
        };
        (name.as_str(), stored)
    });
    let mut metadata = HashMap::from([(STEP.to_owned(), optimizer.steps().to_string())]);
    metadata.extend(place.map(|place| (PLACE.to_owned(), place.to_owned())));
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(|e| wrong(e.to_string()))?;
    let written = safetensors::serialize_to_file(stored, Some(metadata), file.path());
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    written.map_err(|e| wrong(e.to_string()))?;
    file.as_file()
        .sync_all()
        .map_err(|e| wrong(e.to_string()))?;
    file.persist(path).map_err(|e| wrong(e.to_string()))?;
    Ok(())
}

/// A tensor that comes from its device when it is written.
struct Stored<'a> {
    tensor: &'a Tensor,
    /// The first that did not come.
    failed: &'a RefCell<Option<Error>>,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(bytes_of(self.tensor).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * size_of::<f32>()
    }
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
    load_with_place(optimizer, path).map(drop)
}

/// The same; the place comes back that it was saved with.
pub(crate) fn load_with_place(optimizer: &mut AdamW, path: &Path) -> Result<Option<String>, Error> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let saved = RefCell::new(Saved::open(path).map_err(wrong)?);
    let found = saved.borrow().metadata.clone();
    let about = found.metadata().clone().unwrap_or_default();
    let step = about.get(STEP).and_then(|step| step.parse().ok());
    let step = step.ok_or_else(|| {
        wrong(format!(
            "has no `{STEP}` in its metadata: it is not a checkpoint of a training run"
        ))
    })?;
    let expected = optimizer.state();
    let names: BTreeSet<String> = found.tensors().into_keys().collect();
    if let Some(name) = names.iter().find(|name| !expected.contains_key(*name)) {
        return Err(wrong(format!(
            "holds `{name}`, which this model does not have"
        )));
    }
    optimizer.restore(step, |name, like| {
        let info = found
            .info(name)
            .ok_or_else(|| wrong(format!("lacks `{name}`, which this model has")))?;
        if info.shape != like.dims() || info.dtype != Dtype::F32 || like.dtype() != DType::F32 {
            return Err(wrong(format!(
                "`{name}` is {:?} of {:?}, expected {:?} of {:?}",
                info.dtype,
                info.shape,
                like.dtype(),
                like.dims()
            )));
        }
        let bytes = saved.borrow_mut().bytes(info).map_err(wrong)?;
        let tensor = Tensor::from_raw_buffer(&bytes, DType::F32, like.dims(), like.device());
        Ok(tensor?)
    })?;
    Ok(about.get(PLACE).cloned())
}

/// A checkpoint of which the header has been read.
struct Saved {
    file: File,
    metadata: Metadata,
    /// Where the tensors begin.
    start: u64,
}

impl Saved {
    /// # Errors
    /// Why it is none, in words.
    fn open(path: &Path) -> Result<Saved, String> {
        let unread = |e: std::io::Error| format!("cannot be read: {e}");
        let mut file = File::open(path).map_err(unread)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(unread)?;
        let length = u64::from_le_bytes(length);
        if length > MOST_HEADER {
            return Err("is no safetensors file".to_owned());
        }
        let mut header = Vec::new();
        file.by_ref()
            .take(length)
            .read_to_end(&mut header)
            .map_err(unread)?;
        let metadata = serde_json::from_slice(&header)
            .map_err(|e| format!("is no safetensors file, or a damaged one: {e}"))?;
        Ok(Saved {
            file,
            metadata,
            start: 8 + length,
        })
    }

    fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>, String> {
        let (from, to) = info.data_offsets;
        let unread = |e: std::io::Error| format!("cannot be read: {e}");
        let place = SeekFrom::Start(self.start + from as u64);
        self.file.seek(place).map_err(unread)?;
        let length = info.shape.iter().product::<usize>() * size_of::<f32>();
        if to.checked_sub(from) != Some(length) {
            return Err("is damaged".to_owned());
        }
        let mut bytes = Vec::new();
        self.file
            .by_ref()
            .take(length as u64)
            .read_to_end(&mut bytes)
            .map_err(unread)?;
        if bytes.len() == length {
            Ok(bytes)
        } else {
            Err("is cut off".to_owned())
        }
    }
}

/// Steps of the run in a file; none where there is no such file, or it is not a checkpoint.
pub(crate) fn steps(path: &Path) -> u64 {
    let steps = |saved: Saved| saved.metadata.metadata().as_ref()?.get(STEP)?.parse().ok();
    Saved::open(path).ok().and_then(steps).unwrap_or(0)
}
