//! Continuous attributes.

/// How much of a continuous attribute: −1 the least, 0 the middle, 1 the most. It cannot be outside of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Level(f32);

impl Level {
    /// −1.
    pub const LEAST: Self = Self(-1.0);
    /// 0.
    pub const MIDDLE: Self = Self(0.0);
    /// 1.
    pub const MOST: Self = Self(1.0);

    /// The nearest level to a number; the middle for one that is not a number.
    pub fn new(value: f32) -> Self {
        if value.is_nan() {
            return Self::MIDDLE;
        }
        Self(value.clamp(-1.0, 1.0))
    }

    /// The number, from −1 to 1.
    pub fn value(self) -> f32 {
        self.0
    }

    /// The number as far between two others as the level is between its least and its most.
    pub(crate) fn between(self, least: f32, most: f32) -> f32 {
        least + (0.5 + 0.5 * self.0) * (most - least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "these numbers are exact")]
    fn no_number_leaves_the_range() {
        let given = [-7.0, f32::NEG_INFINITY, 0.25, f32::INFINITY, f32::NAN];
        let held = given.map(|value| Level::new(value).value());
        assert_eq!(held, [-1.0, -1.0, 0.25, 1.0, 0.0]);
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "these numbers are exact")]
    fn levels_span_what_they_stand_for() {
        let levels = [Level::LEAST, Level::MIDDLE, Level::MOST];
        assert_eq!(levels.map(|l| l.between(2.0, 4.0)), [2.0, 3.0, 4.0]);
    }
}
