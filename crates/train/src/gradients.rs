//! One gradient for every variable, summed over the parts of a batch.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::Error;

/// Gradients by variable.
#[derive(Debug)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Those of a loss, a single number, for every one of `variables`.
    ///
    /// # Errors
    /// [`Error::NoGradient`] for a variable that the loss does not reach.
    pub fn of(loss: &Tensor, variables: &BTreeMap<String, Var>) -> Result<Gradients, Error> {
        let mut store = loss.backward()?;
        let each = variables.iter().map(|(name, var)| {
            let gradient = store.remove(var);
            let gradient = gradient.ok_or_else(|| Error::NoGradient { name: name.clone() })?;
            // A gradient that was computed from trained tensors holds on to its graph, and all that is summed up of it would.
            Ok((name.clone(), gradient.detach().contiguous()?))
        });
        each.collect::<Result<_, Error>>().map(Gradients)
    }

    /// Those of a loss of which the gradients by some tensors are known, [`tensor`, gradient] each: back through the tensors' graphs,
    /// for every one of `variables`.
    ///
    /// # Errors
    /// [`Error::NoGradient`] for a variable that none of the tensors comes from.
    pub fn through(
        known: &[(Tensor, Tensor)],
        variables: &BTreeMap<String, Var>,
    ) -> Result<Gradients, Error> {
        let mut sum = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        if let Some((first, _)) = known.first() {
            sum = sum.to_device(first.device())?;
        }
        for (tensor, gradient) in known {
            // The sum's own value means nothing: what counts is that its gradient by each tensor is the known one.
            let part = (tensor * gradient)?.sum_all()?;
            sum = (sum + part.to_dtype(DType::F32)?)?;
        }
        Gradients::of(&sum, variables)
    }

    /// Adds those of the batch's next part: a large batch goes through a small memory.
    ///
    /// # Errors
    /// [`Error::NoGradient`] if the other has other variables; a failing device.
    pub fn add(&mut self, other: &Gradients) -> Result<(), Error> {
        for (name, sum) in &mut self.0 {
            *sum = (&*sum + other.named(name)?)?;
        }
        Ok(())
    }

    /// Divides all, so that a batch in `parts` weighs as much as one.
    ///
    /// # Errors
    /// A failing device.
    pub fn mean_of(&mut self, parts: usize) -> Result<(), Error> {
        for gradient in self.0.values_mut() {
            *gradient = (&*gradient / parts.max(1) as f64)?;
        }
        Ok(())
    }

    /// Puts another in the place of each, in the order of their names.
    pub(crate) fn each(
        &mut self,
        another: impl Fn(&Tensor) -> Result<Tensor, Error>,
    ) -> Result<(), Error> {
        for gradient in self.0.values_mut() {
            *gradient = another(gradient)?;
        }
        Ok(())
    }

    /// The length of all gradients as one vector.
    ///
    /// # Errors
    /// A failing device.
    pub fn norm(&self) -> Result<f64, Error> {
        let squares = self.0.values().map(|gradient| {
            let sum = gradient.to_dtype(DType::F32)?.sqr()?.sum_all()?;
            Ok::<_, Error>(f64::from(sum.to_scalar::<f32>()?))
        });
        Ok(squares.sum::<Result<f64, Error>>()?.sqrt())
    }

    /// The variable's gradient.
    ///
    /// # Errors
    /// [`Error::NoGradient`].
    pub fn named(&self, name: &str) -> Result<&Tensor, Error> {
        let missing = || Error::NoGradient {
            name: name.to_owned(),
        };
        self.0.get(name).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::*;

    fn variables(names: &[&str]) -> BTreeMap<String, Var> {
        let var = |value: f32| Var::new(&[value, 2.0], &Device::Cpu).unwrap();
        let each = names.iter().zip(1u8..);
        each.map(|(name, i)| ((*name).to_owned(), var(f32::from(i))))
            .collect()
    }

    #[test]
    fn a_variable_that_the_loss_does_not_reach_is_named() {
        let vars = variables(&["a", "b"]);
        let loss = vars["a"].sqr().unwrap().sum_all().unwrap();
        let error = Gradients::of(&loss, &vars).unwrap_err();
        assert!(error.to_string().contains("`b`"), "{error}");
    }

    #[test]
    fn a_gradient_that_the_tensor_library_drops_is_noticed() {
        let vars = variables(&["a"]);
        let a = vars["a"].as_tensor();
        let dropped = candle_nn::ops::softmax_last_dim(a).unwrap();
        let loss = dropped.sqr().unwrap().sum_all().unwrap();
        assert!(Gradients::of(&loss, &vars).is_err());
        let kept = candle_nn::ops::softmax(a, D::Minus1).unwrap();
        let loss = kept.sqr().unwrap().sum_all().unwrap();
        assert!(Gradients::of(&loss, &vars).is_ok());
    }

    #[test]
    fn gradients_do_not_hold_on_to_what_they_were_computed_from() {
        let vars = variables(&["a", "b"]);
        let matrix = |name: &str| vars[name].as_tensor().reshape((1, 2)).unwrap();
        let loss = matrix("a").t().unwrap().matmul(&matrix("b")).unwrap();
        let gradients = Gradients::of(&loss.sqr().unwrap().sum_all().unwrap(), &vars).unwrap();
        for name in ["a", "b"] {
            assert!(!gradients.named(name).unwrap().track_op(), "{name}");
        }
    }

    #[test]
    fn the_parts_of_a_batch_give_the_whole_batchs_gradient() {
        let vars = variables(&["a", "b"]);
        let loss = |scale: f64| {
            let product = (vars["a"].as_tensor() * vars["b"].as_tensor()).unwrap();
            (product.sqr().unwrap().sum_all().unwrap() * scale).unwrap()
        };
        let mut parts = Gradients::of(&loss(1.0), &vars).unwrap();
        parts
            .add(&Gradients::of(&loss(3.0), &vars).unwrap())
            .unwrap();
        parts.mean_of(2).unwrap();
        let whole = Gradients::of(&loss(2.0), &vars).unwrap();
        for name in ["a", "b"] {
            let numbers = |of: &Gradients| of.named(name).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(&parts), numbers(&whole));
        }
        // a = (1, 2), b = (2, 2): the gradients are 4ab² = (16, 32) and 4a²b = (8, 32).
        let squares: f64 = [16f64, 32.0, 8.0, 32.0].iter().map(|v| v * v).sum();
        assert!((whole.norm().unwrap() - squares.sqrt()).abs() < 1e-4);
    }
}
