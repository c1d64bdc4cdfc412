//! How long each stage of a photo's way took.

use std::time::{Duration, Instant};

use likeness_face::Took;
use serde_json::{Map, Value, json};

/// One photo's stages in the order in which they ran. A stage that ran twice counts once, with its sum.
#[derive(Default, Clone)]
pub struct Timings(Vec<(&'static str, Duration)>);

impl Timings {
    /// Runs a stage.
    pub fn time<T>(&mut self, stage: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(stage, start.elapsed());
        done
    }

    fn add(&mut self, stage: &'static str, took: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += took,
            None => self.0.push((stage, took)),
        }
    }

    /// Milliseconds by stage.
    pub fn to_json(&self) -> Value {
        let stages = self.0.iter();
        let stages = stages.map(|(stage, took)| ((*stage).to_owned(), json!(milliseconds(*took))));
        Value::Object(stages.collect::<Map<_, _>>())
    }
}

impl From<Took> for Timings {
    fn from(took: Took) -> Self {
        Self(vec![
            ("decode", took.decode),
            ("detect", took.detect),
            ("landmarks", took.landmarks),
            ("second_look", took.second_look),
            ("quality", took.quality),
        ])
    }
}

/// Milliseconds to the microsecond.
pub fn milliseconds(took: Duration) -> f64 {
    took.as_micros() as f64 / 1e3
}

/// The stages of all photos in one line; empty without any.
pub fn line(photos: &[Timings]) -> String {
    let mut all = Timings::default();
    for (stage, took) in photos.iter().flat_map(|photo| &photo.0) {
        all.add(stage, *took);
    }
    let stages = all.0.iter();
    let stages = stages.map(|(stage, took)| format!("{stage} {:.0} ms", milliseconds(*took)));
    stages.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_in_the_order_in_which_they_ran() {
        let photo = Timings::from(Took {
            decode: Duration::from_micros(1_500),
            ..Took::default()
        });
        let mut again = Timings::default();
        again.add("decode", Duration::from_micros(2_500));
        again.add("clip", Duration::from_millis(30));
        again.add("clip", Duration::from_millis(10));
        assert_eq!(again.to_json(), json!({ "decode": 2.5, "clip": 40.0 }));
        let said = line(&[photo, again]);
        assert!(said.starts_with("decode 4 ms, detect 0 ms"), "{said}");
        assert!(said.ends_with("quality 0 ms, clip 40 ms"), "{said}");
        assert_eq!(line(&[]), "");
    }
}
