use candle_core::Device;

use super::*;
use crate::Chance;

const PLAN: Plan = Plan {
    batch: 4,
    parts: 2,
    rate: Rate {
        peak: 0.1,
        warm_up: 2,
        decay_from: 10,
        steps: 20,
    },
    adam: Settings {
        betas: (0.9, 0.99),
        eps: 1e-8,
        weight_decay: 0.0,
        clip: 1.0,
        average: 0.9,
    },
    every: 7,
};

/// A point that is drawn towards another, which every part sees a little elsewhere.
fn variables() -> BTreeMap<String, Var> {
    let var = Var::new(&[3f32, -2.0], &Device::Cpu).unwrap();
    BTreeMap::from([("point".to_owned(), var)])
}

fn train(
    vars: &BTreeMap<String, Var>,
    folder: &Path,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Ended, Error> {
    let loss = |part: Part| {
        assert_eq!((part.samples, part.number / 2), (2, part.step));
        let seen = Chance::at(1, part.number, "seen").normal(&[2], &Device::Cpu)?;
        Ok((vars["point"].as_tensor() - (seen * 0.01)?)?
            .sqr()?
            .sum_all()?)
    };
    let sheet = || Ok(RgbImage::new(2, 2));
    let stage = Stage {
        name: "point",
        variables: vars.clone(),
        group: &|_, var| Group::of(var),
        loss: &loss,
        sheet: Some(&sheet),
    };
    run(&stage, &PLAN, folder, watch)
}

fn numbers(vars: &BTreeMap<String, Var>) -> Vec<u32> {
    let numbers = vars["point"].to_vec1::<f32>().unwrap();
    numbers.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_stopped_run_goes_on_as_if_it_had_never_stopped() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = variables();
    let ended = train(&one, whole.path(), &mut |_| ControlFlow::Continue(()));
    assert_eq!(ended.unwrap(), Ended::Done);
    let mut last = 0;
    let mut ends = Vec::new();
    for stop in [5, 11, 99] {
        // Nothing is left of the process before but its folder.
        let two = variables();
        let ended = train(&two, parts.path(), &mut |progress| {
            assert_eq!(progress.done, last + 1);
            last = progress.done;
            if last == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        ends.push((ended.unwrap(), numbers(&two)));
    }
    let kinds: Vec<Ended> = ends.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Ended::Stopped, Ended::Stopped, Ended::Done]);
    assert_eq!(ends[2].1, numbers(&one));
    let table = |folder: &Path| std::fs::read(folder.join("point/loss.csv")).unwrap();
    assert_eq!(table(whole.path()), table(parts.path()));
    for file in ["loss.png", "sheet-000007.png", "sheet-000020.png"] {
        assert!(whole.path().join("point").join(file).exists(), "{file}");
    }
}

#[test]
fn a_finished_stage_is_not_trained_again() {
    let folder = tempfile::tempdir().unwrap();
    let one = variables();
    train(&one, folder.path(), &mut |_| ControlFlow::Continue(())).unwrap();
    let two = variables();
    let ended = train(&two, folder.path(), &mut |_| panic!("it was finished"));
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(numbers(&one), numbers(&two));
}

#[test]
fn plans_that_no_run_can_follow_are_refused() {
    for plan in [
        Plan { parts: 3, ..PLAN },
        Plan { batch: 0, ..PLAN },
        Plan { parts: 0, ..PLAN },
        Plan { every: 0, ..PLAN },
        Plan {
            rate: Rate {
                steps: 0,
                ..PLAN.rate
            },
            ..PLAN
        },
        Plan {
            rate: Rate {
                peak: f64::NAN,
                ..PLAN.rate
            },
            ..PLAN
        },
    ] {
        assert!(
            matches!(plan.check("x"), Err(Error::Recipe { .. })),
            "{plan:?}"
        );
    }
}

/// A feed that counts.
#[derive(Default)]
struct Counter(std::sync::Mutex<u64>);

impl Feed for Counter {
    fn start(&self, place: Option<&str>) -> Result<(), Error> {
        *self.0.lock().unwrap() = place.map_or(0, |place| place.parse().unwrap());
        Ok(())
    }

    fn next(&self) -> Result<(), Error> {
        *self.0.lock().unwrap() += 1;
        Ok(())
    }

    fn place(&self) -> Result<String, Error> {
        Ok(self.0.lock().unwrap().to_string())
    }

    fn skipped(&self) -> u64 {
        5
    }

    fn reasons(&self) -> String {
        "no face: 5\n".to_owned()
    }
}

/// Several workers, until the first is stopped behind `stop` steps; what all ended with.
fn train_together(world: usize, folder: &Path, stop: u64) -> Vec<(Ended, Vec<u32>, u64)> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = crate::ranks::tests::threads(world)
            .into_iter()
            .map(|make| scope.spawn(move || worker(&make(), folder, stop)))
            .collect();
        workers.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn worker(ranks: &Ranks, folder: &Path, stop: u64) -> (Ended, Vec<u32>, u64) {
    let (vars, feed) = (variables(), Counter::default());
    let loss = |part: Part| {
        // Two workers see what one alone sees in four parts.
        let number = part.number * part.samples as u64;
        let seen = Chance::at(1, number, "seen").normal(&[2], &Device::Cpu)?;
        Ok((vars["point"].as_tensor() - (seen * 0.01)?)?
            .sqr()?
            .sum_all()?)
    };
    let stage = Stage {
        name: "point",
        variables: vars.clone(),
        group: &|_, var| Group::of(var),
        loss: &loss,
        sheet: None,
    };
    let means = Means {
        feed: Some(&feed),
        ranks: Some(ranks),
        ..Means::default()
    };
    let plan = Plan {
        batch: 4 / ranks.world(),
        parts: 4 / ranks.world(),
        ..PLAN
    };
    let first = ranks.rank() == 0;
    let ended = run_with(&stage, means, &plan, folder, &mut |progress| {
        assert_eq!(progress.skipped, 5);
        if first && progress.done == stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let fed = *feed.0.lock().unwrap();
    (ended.unwrap(), numbers(&vars), fed)
}

#[test]
fn workers_stop_together_and_go_on_together() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ends = train_together(2, whole.path(), 99);
    assert_eq!(ends[0], ends[1]);
    assert_eq!((ends[0].0, ends[0].2), (Ended::Done, 20));
    for (stop, fed) in [(5, 5), (11, 11)] {
        let stopped = train_together(2, parts.path(), stop);
        assert!(
            stopped
                .iter()
                .all(|end| (end.0, end.2) == (Ended::Stopped, fed))
        );
    }
    assert_eq!(train_together(2, parts.path(), 99), ends);
    let table = |folder: &Path| std::fs::read(folder.join("point/loss.csv")).unwrap();
    assert_eq!(table(whole.path()), table(parts.path()));
    let skipped = std::fs::read_to_string(whole.path().join("point/skipped.txt"));
    assert_eq!(skipped.unwrap(), "no face: 5\n");
    // One alone with all samples gets the same, but for the order of sums.
    let alone = tempfile::tempdir().unwrap();
    let alone = train_together(1, alone.path(), 99);
    let close = |a: u32, b: u32| (f32::from_bits(a) - f32::from_bits(b)).abs() < 1e-5;
    assert!(
        alone[0]
            .1
            .iter()
            .zip(&ends[0].1)
            .all(|(a, b)| close(*a, *b))
    );
    // What one worker alone left off cannot be gone on with by two: the second's place is nowhere.
    let folder = tempfile::tempdir().unwrap();
    train_together(1, folder.path(), 5);
    assert!(matches!(
        places::read(&folder.path().join("point"), 1, 5),
        Err(Error::Place { .. })
    ));
}
