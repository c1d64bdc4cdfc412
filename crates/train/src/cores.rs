//! The parts of a step side by side. Elementwise operations and candle's backward pass use one core, so a step of one part leaves
//! the others idle.

use std::collections::BTreeMap;
use std::num::NonZero;
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

    /// `work` of every part, in the parts' order.
    pub fn each<T: Send>(&self, parts: usize, work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
        if self.0.is_empty() {
            return (0..parts).map(work).collect();
        }
        let mut done: Vec<Option<T>> = (0..parts).map(|_| None).collect();
        std::thread::scope(|scope| {
            let mut shares: Vec<Vec<(usize, &mut Option<T>)>> =
                self.0.iter().map(|_| Vec::new()).collect();
            for (part, place) in done.iter_mut().enumerate() {
                shares[part % self.0.len()].push((part, place));
            }
            for (pool, share) in self.0.iter().zip(shares) {
                scope.spawn(move || {
                    pool.install(|| {
                        for (part, place) in share {
                            *place = Some(work(part));
                        }
                    });
                });
            }
        });
        done.into_iter().flatten().collect()
    }
}
