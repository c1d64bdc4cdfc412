use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};

use candle_core::Var;

use super::*;

/// Workers of one process: each in a thread, who wait for each other at every sum.
pub fn threads(world: usize) -> Vec<impl FnOnce() -> Ranks + Send> {
    let parts: Arc<Mutex<Vec<Option<Tensor>>>> = Arc::new(Mutex::new(vec![None; world]));
    let barrier = Arc::new(Barrier::new(world));
    let one = |rank: usize| {
        let (parts, barrier) = (Arc::clone(&parts), Arc::clone(&barrier));
        move || {
            let sum = move |own: &Tensor| {
                parts.lock().unwrap()[rank] = Some(own.clone());
                barrier.wait();
                // In the ranks' order, so that all get the same to the bit.
                let all: Vec<Tensor> = parts.lock().unwrap().iter().flatten().cloned().collect();
                barrier.wait();
                let mut sum = all[0].clone();
                for part in &all[1..] {
                    sum = (sum + part)?;
                }
                Ok(sum)
            };
            Ranks::many(rank, world, sum).unwrap()
        }
    };
    (0..world).map(one).collect()
}

fn gradients(scale: f64) -> (Gradients, BTreeMap<String, Var>) {
    let var = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let vars = BTreeMap::from([("a".to_owned(), var)]);
    let loss = vars["a"].sqr().unwrap().sum_all().unwrap();
    let gradients = Gradients::of(&(loss * scale).unwrap(), &vars).unwrap();
    (gradients, vars)
}

fn numbers(gradients: &Gradients) -> Vec<f32> {
    gradients.named("a").unwrap().to_vec1().unwrap()
}

#[test]
fn one_keeps_its_gradients() {
    let (mut own, _) = gradients(1.0);
    Ranks::One.mean(&mut own).unwrap();
    assert_eq!(numbers(&own), [2.0, 4.0]);
    let mean = Ranks::One.mean_number(7.0, &Device::Cpu).unwrap();
    assert!((mean - 7.0).abs() < 1e-12);
    assert_eq!((Ranks::One.rank(), Ranks::One.world()), (0, 1));
}

#[test]
fn several_get_the_mean_of_all() {
    std::thread::scope(|scope| {
        let workers: Vec<_> = threads(3)
            .into_iter()
            .map(|make| {
                scope.spawn(move || {
                    let ranks = make();
                    let (mut own, _) = gradients(ranks.rank() as f64 + 1.0);
                    ranks.mean(&mut own).unwrap();
                    let number = ranks.rank() as f64 * 3.0;
                    let mean = ranks.mean_number(number, &Device::Cpu).unwrap();
                    (numbers(&own), mean)
                })
            })
            .collect();
        for worker in workers {
            // The scales 1, 2 and 3 have the mean 2.
            let (gradients, mean) = worker.join().unwrap();
            assert_eq!(gradients, [4.0, 8.0]);
            assert!((mean - 3.0).abs() < 1e-6);
        }
    });
}

#[test]
fn there_is_no_worker_beyond_the_last() {
    let sum = |own: &Tensor| Ok(own.clone());
    assert!(matches!(Ranks::many(2, 2, sum), Err(Error::Rank { .. })));
    assert!(matches!(Ranks::many(0, 0, sum), Err(Error::Rank { .. })));
}
