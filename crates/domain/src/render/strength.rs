//! How much of a picture may change.

use serde::{Deserialize, Serialize};

/// How much of a picture a render may change: above 0 and up to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Strength(f64);

/// A number that is no [`Strength`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number above 0 and up to 1")]
pub struct NoStrength;

impl Strength {
    /// The decimal number that a client wrote: 0.35 as such, and not as the nearest f32, which is less and would cost
    /// one of 20 steps.
    ///
    /// # Errors
    /// [`NoStrength`].
    pub fn from_wire(value: f32) -> Result<Self, NoStrength> {
        let decimal: f64 = value.to_string().parse().map_err(|_| NoStrength)?;
        decimal.try_into()
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// How many of so many denoising steps are taken: the last ones.
    pub fn steps_of(self, steps: u32) -> u32 {
        (f64::from(steps) * self.0) as u32
    }
}

impl TryFrom<f64> for Strength {
    type Error = NoStrength;

    fn try_from(value: f64) -> Result<Self, NoStrength> {
        // NaN is neither.
        if value > 0.0 && value <= 1.0 {
            Ok(Self(value))
        } else {
            Err(NoStrength)
        }
    }
}

impl From<Strength> for f64 {
    fn from(strength: Strength) -> Self {
        strength.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_strength_is_checked_again() {
        let read = |json| serde_json::from_str::<Strength>(json).ok();
        assert_eq!(read("0.35").map(Strength::get), Some(0.35));
        assert_eq!(read("0"), None);
        assert_eq!(read("1.5"), None);
    }
}
