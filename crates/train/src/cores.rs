//! The parts of a step side by side. Elementwise operations and candle's backward pass use one core, so a step of one part leaves
//! the others idle.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::thread::available_parallelism;

use candle_core::Var;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;

/// Threads that work on one part each. A part's own parallel loops stay on its thread.
pub struct Cores(Vec<ThreadPool>);

impl Cores {
    /// As many as there are parts and cores; none where the variables are not on a CPU.
    ///
    /// # Errors
    /// [`Error::Threads`] when the system starts none.
    pub fn of(parts: usize, variables: &BTreeMap<String, Var>) -> Result<Cores, Error> {
        let on_cpu = variables.values().all(|var| var.device().is_cpu());
        let cores = available_parallelism().map_or(1, NonZero::get);
        let count = if on_cpu { parts.min(cores) } else { 1 };
        if count < 2 {
            return Ok(Cores(Vec::new()));
        }
        let one = |_| ThreadPoolBuilder::new().num_threads(1).build();
        let pools: Result<_, _> = (0..count).map(one).collect();
        pools.map(Cores).map_err(|e| Error::Threads {
            reason: e.to_string(),
        })
    }

    /// Gives `take` the `work` of every part, in the parts' order. No more than one part for each thread is held at a time, and
    /// one without threads: at real size a part's gradients are gigabytes.
    ///
    /// # Errors
    /// The first of `take`'s; nothing is worked on after it.
    pub fn each<T: Send>(
        &self,
        parts: usize,
        work: &(impl Fn(usize) -> T + Sync),
        mut take: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.0.is_empty() {
            return (0..parts).try_for_each(|part| take(work(part)));
        }
        for first in (0..parts).step_by(self.0.len()) {
            self.side_by_side(first..parts, work)
                .into_iter()
                .try_for_each(&mut take)?;
        }
        Ok(())
    }

    /// The first of these parts, one on each thread.
    fn side_by_side<T: Send>(
        &self,
        parts: Range<usize>,
        work: &(impl Fn(usize) -> T + Sync),
    ) -> Vec<T> {
        let mut done: Vec<Option<T>> = self.0.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            for ((pool, part), place) in self.0.iter().zip(parts).zip(&mut done) {
                scope.spawn(move || pool.install(|| *place = Some(work(part))));
            }
        });
        done.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn taken(cores: &Cores, parts: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        let done = cores.each(parts, &|part| part, |part| {
            taken.push(part);
            if part == 5 {
                return Err(Error::Threads {
                    reason: "enough".to_owned(),
                });
            }
            Ok(())
        });
        assert_eq!(done.is_err(), parts > 5);
        taken
    }

    #[test]
    fn parts_are_taken_in_order_whatever_works_on_them_and_none_after_an_error() {
        let var = Var::new(1f32, &Device::Cpu).unwrap();
        let vars = BTreeMap::from([("one".to_owned(), var)]);
        let several = Cores((0..3).map(|_| pool()).collect());
        for cores in [
            Cores::of(1, &vars).unwrap(),
            Cores::of(4, &vars).unwrap(),
            several,
        ] {
            assert_eq!(taken(&cores, 4), [0, 1, 2, 3]);
            assert_eq!(taken(&cores, 9), [0, 1, 2, 3, 4, 5]);
        }
    }

    fn pool() -> ThreadPool {
        ThreadPoolBuilder::new().num_threads(1).build().unwrap()
    }
}
