//! One `.safetensors` file with all four models, in ComfyUI's names.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use likeness_checkpoint::{NotSdxl, Part, Shapes, Sizes, ignorable, recognise};

use super::files::Files;
use super::{Opened, Origin, Weights};
use crate::Error;

/// A checkpoint that has been recognised and whose sizes are known.
pub struct SingleFile {
    opened: Arc<Opened>,
    sizes: Arc<Sizes>,
}

impl SingleFile {
    /// Maps the file and looks at its names and shapes.
    ///
    /// # Errors
    /// A damaged file; [`Error::OtherModel`] for anything but SDXL base.
    pub fn open(path: &Path) -> Result<SingleFile, Error> {
        let files = Files::open(&[path.to_path_buf()])?;
        let sizes = sizes(&files.shapes()).map_err(|kind| Error::OtherModel {
            path: path.to_path_buf(),
            kind,
        })?;
        Ok(SingleFile {
            opened: Arc::new(Opened::new(path.to_path_buf(), files)),
            sizes: Arc::new(sizes),
        })
    }

    /// What the tensors' shapes say.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// One part, in diffusers' names.
    pub fn part(&self, part: Part, device: &Device, dtype: DType) -> Weights {
        let (opened, sizes) = (Arc::clone(&self.opened), Arc::clone(&self.sizes));
        Weights::new(Origin::SingleFile(opened, sizes, part), device, dtype)
    }

    /// Checks that every tensor has been asked for or is known to be of no use.
    ///
    /// # Errors
    /// [`Error::UnknownTensors`].
    pub fn finish(&self) -> Result<(), Error> {
        self.opened.finish(ignorable)
    }
}

fn sizes(shapes: &Shapes) -> Result<Sizes, NotSdxl> {
    recognise(shapes)?;
    Sizes::read(shapes)
}
