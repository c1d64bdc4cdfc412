//! Weights that are trained.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result as Compute, Tensor, Var};

use crate::Error;
use crate::random::Random;

/// Trained weights by name, in f32. Each is made at its start when a model first asks for it; clones share them, and what
/// [`Var::set`] writes is what every model that was loaded from them computes with.
#[derive(Clone)]
pub struct Variables {
    random: Random,
    device: Device,
    made: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Variables {
    /// None yet. The same seed starts them alike.
    pub fn new(seed: u64, device: &Device) -> Variables {
        Variables {
            random: Random::new(seed),
            device: device.clone(),
            made: Arc::default(),
        }
    }

    /// All that a model has asked for so far.
    pub fn all(&self) -> BTreeMap<String, Var> {
        self.made().clone()
    }

    /// Whether the name has been asked for.
    pub fn contains(&self, name: &str) -> bool {
        self.made().contains_key(name)
    }

    /// The variable of this name, made now if nobody asked for it before.
    ///
    /// # Errors
    /// [`Error::TensorShape`] if it was asked for with another shape; a failing device.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let mut made = self.made();
        let var = match made.get(name) {
            Some(var) => var.clone(),
            None => {
                let var = self.start(name, shape)?;
                made.insert(name.to_owned(), var.clone());
                var
            }
        };
        if var.dims() == shape {
            return Ok(var.as_tensor().clone());
        }
        Err(Error::TensorShape {
            path: Path::new("trained weights").to_owned(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: var.dims().to_vec(),
        })
    }

    /// A third of the variance that keeps the spread of what passes, where torch's layers start, too; biases at 0 and norms
    /// at 1.
    fn start(&self, name: &str, shape: &[usize]) -> Compute<Var> {
        let drawn = self.random.draw(name, shape, &self.device)?;
        if shape.len() < 2 {
            return Var::from_tensor(&drawn);
        }
        Var::from_tensor(&(drawn / 3f64.sqrt())?)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Var>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
