//! What can be read off a portrait's features: the attributes of the person shown.

use candle_core::{Result as Compute, Tensor};
use candle_nn::loss::cross_entropy;
use likeness_portraits::{Class, Identity};
use likeness_sdxl::parts::{Linear, Weights};

use crate::Error;

/// A linear map from features to what attributes are told from.
pub struct Attributes(Linear);

impl Attributes {
    /// From features of this width.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, width: usize) -> Result<Attributes, Error> {
        let options = Identity::CLASSES.iter().map(|class| class.options.len());
        let numbers = Identity::LEVELS.len() + options.sum::<usize>();
        Ok(Attributes(Linear::load(weights, width, numbers)?))
    }

    /// How far what is told from features [b, width] is from the people's attributes: the mean squared error of the levels
    /// and the mean cross-entropy of the classes, each over the attributes, added.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn loss(&self, features: &Tensor, people: &[u64]) -> Compute<Tensor> {
        let told = self.0.forward(features)?;
        let people: Vec<Identity> = people.iter().map(|&seed| Identity::drawn(seed)).collect();
        let levels: Vec<_> = people.iter().map(Identity::levels).collect();
        let classes: Vec<_> = people.iter().map(Identity::classes).collect();
        let rest = told.narrow(1, levels[0].len(), told.dim(1)? - levels[0].len())?;
        level_loss(&told, &levels)? + class_loss(&rest, &Identity::CLASSES, &classes)?
    }
}

/// The mean squared error of the first numbers told [b, …], in units of an even level's mean square, which is a third.
pub(crate) fn level_loss<const N: usize>(told: &Tensor, levels: &[[f32; N]]) -> Compute<Tensor> {
    let expected = Tensor::from_vec(levels.concat(), (levels.len(), N), told.device())?;
    (told.narrow(1, 0, N)? - expected)?.sqr()?.mean_all()? * 3.0
}

/// The mean cross-entropy of classes whose options are told one class after another, [b, options].
pub(crate) fn class_loss<const N: usize>(
    told: &Tensor,
    classes: &[Class; N],
    chosen: &[[usize; N]],
) -> Compute<Tensor> {
    let mut first = 0;
    let mut loss = Tensor::zeros((), told.dtype(), told.device())?;
    for (at, class) in classes.iter().enumerate() {
        let own = told.narrow(1, first, class.options.len())?;
        first += class.options.len();
        let expected: Vec<u32> = chosen.iter().map(|chosen| chosen[at] as u32).collect();
        let expected = Tensor::from_vec(expected, chosen.len(), told.device())?;
        loss = (loss + (cross_entropy(&own, &expected)? / N as f64)?)?;
    }
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use likeness_sdxl::parts::Variables;

    use super::*;

    #[test]
    fn the_loss_is_that_of_each_attribute() {
        let variables = Variables::new(1, &Device::Cpu);
        let attributes = Attributes::load(&Weights::variables(&variables, &Device::Cpu), 3);
        let attributes = attributes.unwrap();
        // Of no features nothing is told: levels of 0, and all options alike.
        let features = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let loss = attributes.loss(&features, &[3, 4]).unwrap();
        let people = [3, 4].map(Identity::drawn);
        let squares: f32 = people
            .iter()
            .flat_map(Identity::levels)
            .map(|v| v * v)
            .sum();
        let options = Identity::CLASSES.map(|class| (class.options.len() as f32).ln());
        let expected = 3.0 * squares / 12.0 + options.iter().sum::<f32>() / 5.0;
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-5);
    }
}
