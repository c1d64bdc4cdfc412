//! Several workers that train one model, each on a GPU and samples of its own: their gradients are averaged in every step, so that
//! all take the same one.

#[cfg(feature = "nccl")]
mod nccl;

use candle_core::{Device, Tensor};

use crate::{Error, Gradients};

/// The sum of a tensor over all ranks. Every rank asks for the same sums in the same order.
type Sum = dyn Fn(&Tensor) -> Result<Tensor, Error>;

/// Who else is training.
#[derive(Default)]
pub enum Ranks {
    /// Nobody.
    #[default]
    One,
    /// One of several.
    Many(Many),
}

/// A worker among several.
pub struct Many {
    rank: usize,
    world: usize,
    sum: Box<Sum>,
}

impl Ranks {
    /// Worker `rank`, from 0, of `world`, who sum up by `sum`.
    ///
    /// # Errors
    /// [`Error::Rank`] if there is no such worker.
    pub fn many(
        rank: usize,
        world: usize,
        sum: impl Fn(&Tensor) -> Result<Tensor, Error> + 'static,
    ) -> Result<Ranks, Error> {
        if rank >= world {
            return Err(Error::Rank { rank, world });
        }
        let sum = Box::new(sum);
        Ok(Ranks::Many(Many { rank, world, sum }))
    }

    /// This worker's number, from 0. The first one keeps the record and the checkpoints.
    pub fn rank(&self) -> usize {
        match self {
            Ranks::One => 0,
            Ranks::Many(many) => many.rank,
        }
    }

    /// How many workers there are.
    pub fn world(&self) -> usize {
        match self {
            Ranks::One => 1,
            Ranks::Many(many) => many.world,
        }
    }

    /// Puts the mean over all workers in the place of this one's gradients.
    ///
    /// # Errors
    /// A failing device or connection.
    pub fn mean(&self, gradients: &mut Gradients) -> Result<(), Error> {
        let Ranks::Many(many) = self else {
            return Ok(());
        };
        gradients.each(|gradient| Ok(((many.sum)(gradient)? / many.world as f64)?))
    }

    /// The mean of a number over all workers, summed up on `device`. It comes back when every worker has asked for it.
    ///
    /// # Errors
    /// As [`Ranks::mean`].
    pub fn mean_number(&self, number: f64, device: &Device) -> Result<f64, Error> {
        let Ranks::Many(many) = self else {
            return Ok(number);
        };
        let sum = (many.sum)(&Tensor::new(&[number as f32], device)?)?;
        let sum = sum.squeeze(0)?.to_scalar::<f32>()?;
        Ok(f64::from(sum) / many.world as f64)
    }
}

#[cfg(test)]
pub(crate) mod tests;
