//! Means with intervals.
//!
//! Every interval is a 95 % bootstrap interval: people (or pairs of people) are drawn again with replacement, and the interval
//! holds the middle 95 % of what the statistic then is. Which people are drawn is the same in every run.

use likeness_train::Chance;
use serde::Serialize;

/// How often people are drawn again.
pub const ROUNDS: usize = 1000;

/// A number with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The statistic of all.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// How many people or pairs it is of.
    pub n: usize,
}

/// The mean of one number for each person; none of nobody. One person's interval is as wide as nothing is known: the number.
pub fn mean(values: &[f64]) -> Option<Estimate> {
    let of = |chosen: &[usize]| {
        let sum: f64 = chosen.iter().map(|&at| values[at]).sum();
        Some(sum / chosen.len() as f64)
    };
    estimate(values.len(), of)
}

/// The mean over those who have the number.
pub fn mean_of_some(values: impl IntoIterator<Item = Option<f64>>) -> Option<Estimate> {
    mean(&values.into_iter().flatten().collect::<Vec<f64>>())
}

/// The mean of the differences of two numbers of each person who has both.
pub fn mean_difference(more: &[Option<f64>], less: &[Option<f64>]) -> Option<Estimate> {
    let both = more.iter().zip(less);
    mean_of_some(both.map(|(more, less)| Some((*more)? - (*less)?)))
}

/// Any statistic of people, given by their places. None where the statistic of all has no value.
pub fn estimate(count: usize, of: impl Fn(&[usize]) -> Option<f64>) -> Option<Estimate> {
    if count == 0 {
        return None;
    }
    let mean = of(&(0..count).collect::<Vec<_>>())?;
    let round = |round: usize| {
        let mut chance = Chance::at(count as u64, round as u64, "bootstrap");
        let chosen: Vec<usize> = (0..count).map(|_| chance.below(count)).collect();
        of(&chosen)
    };
    let mut found: Vec<f64> = (0..ROUNDS).filter_map(round).collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (share * (found.len() as f64 - 1.0)).round() as usize;
        found.get(place).copied().unwrap_or(mean)
    };
    Some(Estimate {
        mean,
        low: at(0.025),
        high: at(0.975),
        n: count,
    })
}

/// Where `between` lies from `from` (0) to `to` (1), by least squares over many triples; none where all `from` are `to`.
pub fn position(triples: &[[f64; 3]]) -> Option<f64> {
    let (mut across, mut square) = (0.0, 0.0);
    for [from, between, to] in triples {
        across += (to - from) * (between - from);
        square += (to - from).powi(2);
    }
    (square > 1e-12).then(|| across / square)
}

/// Whether numbers never fall by more than `slack` from one to the next.
pub fn rises(numbers: &[f64], slack: f64) -> bool {
    numbers.windows(2).all(|pair| pair[1] >= pair[0] - slack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_about_two_standard_errors_to_each_side() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let found = mean(&values).unwrap();
        assert!((found.mean - 4.5).abs() < 1e-12 && found.n == 100);
        let standard_error = 8.25f64.sqrt() / 10.0;
        for end in [found.mean - found.low, found.high - found.mean] {
            assert!((end / standard_error - 1.96).abs() < 0.3, "{found:?}");
        }
        assert_eq!(mean(&values), Some(found), "the same in every run");
    }

    #[test]
    fn nobody_has_no_mean_and_one_has_a_point() {
        assert_eq!(mean(&[]), None);
        let one = mean(&[3.0]).unwrap();
        assert_eq!((one.mean, one.low, one.high, one.n), (3.0, 3.0, 3.0, 1));
    }

    #[test]
    fn differences_are_of_those_who_have_both() {
        let (more, less) = ([Some(3.0), None, Some(5.0)], [Some(1.0), Some(1.0), None]);
        let found = mean_difference(&more, &less).unwrap();
        assert_eq!((found.mean, found.n), (2.0, 1));
    }

    #[test]
    fn a_position_is_found_from_many() {
        let triples = [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [-1.0, 0.1, 1.0]];
        let found = position(&triples).unwrap();
        assert!((found - 3.2 / 6.0).abs() < 1e-12, "{found}");
        assert_eq!(position(&[[1.0, 2.0, 1.0]]), None);
    }

    #[test]
    fn a_rise_may_have_small_dips() {
        assert!(rises(&[0.0, 0.5, 0.49, 1.0], 0.02));
        assert!(!rises(&[0.0, 0.5, 0.4, 1.0], 0.02));
    }
}
