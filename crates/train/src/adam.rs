//! AdamW (Loshchilov and Hutter, 2019) with clipping by the norm of all gradients and an exponential moving average of the
//! weights, which is what a finished run gives away.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{Error, Gradients};

/// What holds for all variables.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How much of the two moments stays from step to step.
    pub betas: (f64, f64),
    /// Added to the second moment's root.
    pub eps: f64,
    /// The share of a weight that goes per unit of learning rate.
    pub weight_decay: f64,
    /// The largest norm of all gradients together.
    pub clip: f64,
    /// How much of the average stays from step to step. It is corrected for its start like the moments: the first step's
    /// average is the first step's weight.
    pub average: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.99),
            eps: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
            average: 0.998,
        }
    }
}

/// What differs between variables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Times the run's learning rate.
    pub rate: f64,
    /// Whether weight decay pulls at it.
    pub decays: bool,
}

impl Group {
    /// Matrices and kernels decay; norms and biases do not.
    pub fn of(var: &Var) -> Group {
        Group {
            rate: 1.0,
            decays: var.rank() > 1,
        }
    }
}

/// The optimiser of some variables.
pub struct AdamW {
    settings: Settings,
    /// Steps taken.
    step: u64,
    moving: BTreeMap<String, Moving>,
}

/// A variable and what moves with it; all of its shape.
struct Moving {
    var: Var,
    group: Group,
    first: Tensor,
    second: Tensor,
    average: Tensor,
}

impl AdamW {
    /// At its start, where all moments are 0.
    ///
    /// # Errors
    /// A failing device.
    pub fn new(
        variables: &BTreeMap<String, Var>,
        settings: Settings,
        group: impl Fn(&str, &Var) -> Group,
    ) -> Result<AdamW, Error> {
        let each = variables.iter().map(|(name, var)| {
            let zeros = || var.zeros_like();
            let moving = Moving {
                group: group(name, var),
                first: zeros()?,
                second: zeros()?,
                average: zeros()?,
                var: var.clone(),
            };
            Ok((name.clone(), moving))
        });
        Ok(AdamW {
            settings,
            step: 0,
            moving: each.collect::<Result<_, Error>>()?,
        })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Moves every variable; the norm that the gradients had before they were clipped.
    ///
    /// # Errors
    /// [`Error::NoGradient`], [`Error::NotFinite`]: then nothing has moved. A failing device.
    pub fn step(&mut self, gradients: &Gradients, rate: f64) -> Result<f64, Error> {
        let norm = gradients.norm()?;
        let step = self.step;
        if !norm.is_finite() {
            return Err(Error::NotFinite { norm, step });
        }
        for name in self.moving.keys() {
            gradients.named(name)?;
        }
        self.step += 1;
        let scale = (self.settings.clip / norm.max(f64::MIN_POSITIVE)).min(1.0);
        for (name, moving) in &mut self.moving {
            let gradient = (gradients.named(name)? * scale)?;
            moving.step(&gradient, rate, self.step, self.settings)?;
        }
        Ok(norm)
    }

    /// The average of every variable over the steps so far, the latest most; at the start the variables themselves.
    ///
    /// # Errors
    /// A failing device.
    pub fn averages(&self) -> Result<BTreeMap<String, Tensor>, Error> {
        let share = 1.0 - self.settings.average.powf(self.step as f64);
        let each = self.moving.iter().map(|(name, moving)| {
            let average = match self.step {
                0 => moving.var.as_tensor().copy()?,
                _ => (&moving.average / share)?,
            };
            Ok((name.clone(), average))
        });
        each.collect()
    }

    /// All tensors of the run by name: `weight.`, `first.`, `second.` and `average.` of every variable.
    pub(crate) fn state(&self) -> BTreeMap<String, Tensor> {
        let each = self.moving.iter().flat_map(|(name, moving)| {
            let parts = [
                ("weight", moving.var.as_tensor()),
                ("first", &moving.first),
                ("second", &moving.second),
                ("average", &moving.average),
            ];
            parts.map(|(part, tensor)| (format!("{part}.{name}"), tensor.clone()))
        });
        each.collect()
    }

    /// Puts back what [`Self::state`] gave, of which `find` knows the tensor of every name and shape.
    pub(crate) fn restore(
        &mut self,
        step: u64,
        find: impl Fn(&str, &Tensor) -> Result<Tensor, Error>,
    ) -> Result<(), Error> {
        let mut found = BTreeMap::new();
        for (name, tensor) in self.state() {
            found.insert(name.clone(), find(&name, &tensor)?);
        }
        // From here on nothing can be missing: a run is restored as a whole or not at all.
        let mut take = |part: &str, name: &str| found.remove(&format!("{part}.{name}"));
        for (name, moving) in &mut self.moving {
            if let Some(weight) = take("weight", name) {
                moving.var.set(&weight)?;
            }
            let parts = [
                ("first", &mut moving.first),
                ("second", &mut moving.second),
                ("average", &mut moving.average),
            ];
            for (part, place) in parts {
                if let Some(tensor) = take(part, name) {
                    *place = tensor;
                }
            }
        }
        self.step = step;
        Ok(())
    }
}

impl Moving {
    fn step(
        &mut self,
        gradient: &Tensor,
        rate: f64,
        step: u64,
        settings: Settings,
    ) -> Result<(), Error> {
        let Settings {
            betas: (first, second),
            eps,
            weight_decay,
            average,
            ..
        } = settings;
        let rate = rate * self.group.rate;
        self.first = ((&self.first * first)? + (gradient * (1.0 - first))?)?;
        self.second = ((&self.second * second)? + (gradient.sqr()? * (1.0 - second))?)?;
        let started = |beta: f64| 1.0 - beta.powf(step as f64);
        let deviation = ((&self.second / started(second))?.sqrt()? + eps)?;
        let moved = ((&self.first * (rate / started(first)))? / deviation)?;
        let kept = if self.group.decays {
            1.0 - rate * weight_decay
        } else {
            1.0
        };
        let weight = ((self.var.as_detached_tensor() * kept)? - moved)?;
        self.average = ((&self.average * average)? + (&weight * (1.0 - average))?)?;
        self.var.set(&weight)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
