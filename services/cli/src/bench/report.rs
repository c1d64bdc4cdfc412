//! What was measured, as a table or as JSON.

use std::time::Instant;

use likeness_sdxl::{Work, device_model};
use serde_json::{Map, Value, json};

use super::{Common, Place, machine::Machine};
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::{line, print_json},
};

/// One measured stage.
pub struct Stage {
    name: &'static str,
    seconds: Vec<f64>,
    /// Of one run.
    work: Work,
}

impl Stage {
    /// A stage without runs so far.
    pub fn new(name: &'static str, work: Work) -> Self {
        Self {
            name,
            seconds: Vec::new(),
            work,
        }
    }

    /// One run's time.
    pub fn add(&mut self, seconds: f64) {
        self.seconds.push(seconds);
    }

    /// Runs the stage once and waits for the device; the time is kept where it is a measured run.
    pub fn time<T>(
        &mut self,
        place: &Place,
        measured: bool,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        place.wait()?;
        let begun = Instant::now();
        let done = work()?;
        place.wait()?;
        if measured {
            self.add(begun.elapsed().as_secs_f64());
        }
        Ok(done)
    }

    fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() % 2 {
            _ if sorted.is_empty() => f64::NAN,
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        }
    }

    fn bandwidth(&self) -> f64 {
        self.work.bytes / self.best()
    }

    fn rate(&self) -> f64 {
        self.work.flops / self.best()
    }

    fn to_json(&self, machine: &Machine) -> Value {
        json!({
            "stage": self.name,
            "best_seconds": self.best(),
            "median_seconds": self.median(),
            "bytes": self.work.bytes,
            "flops": self.work.flops,
            "bytes_per_second": self.bandwidth(),
            "flops_per_second": self.rate(),
            "copy_fraction": self.bandwidth() / machine.copy,
            "matrix_fraction": self.rate() / machine.matrix,
        })
    }

    fn row(&self, machine: &Machine) -> Vec<String> {
        vec![
            self.name.to_owned(),
            format!("{:.2} ms", self.best() * 1e3),
            format!("{:.2} ms", self.median() * 1e3),
            format!("{:.3}", self.work.bytes / 1e9),
            format!("{:.1}", self.work.flops / 1e9),
            format!("{:.1} %", 100.0 * self.bandwidth() / machine.copy),
            format!("{:.1} %", 100.0 * self.rate() / machine.matrix),
        ]
    }
}

/// A whole bench.
pub struct Report {
    /// `swap`, `sample` or `enroll`.
    pub bench: &'static str,
    /// What it was asked to do, beside what all benches take.
    pub settings: Vec<(&'static str, Value)>,
    /// How long making the models took.
    pub prepare_seconds: f64,
    /// In order.
    pub stages: Vec<Stage>,
}

impl Report {
    /// Measures the machine and prints all.
    pub fn print(self, common: &Common, place: &Place, output: Output) -> Result<(), Failure> {
        let machine = Machine::measure(place, common.size)?;
        match output {
            Output::Json => print_json(&self.to_json(common, place, &machine)?),
            Output::Human => self.table(common, place, &machine),
        }
    }

    fn to_json(&self, common: &Common, place: &Place, machine: &Machine) -> Result<Value, Failure> {
        let settings = self.settings.iter();
        let settings = settings.map(|(name, value)| ((*name).to_owned(), value.clone()));
        Ok(json!({
            "bench": self.bench,
            "version": env!("CARGO_PKG_VERSION"),
            "size": common.size.name(),
            "device": common.device.to_string(),
            "device_model": device_model(&place.device).map_err(failed)?,
            "dtype": place.dtype.as_str(),
            "threads": rayon::current_num_threads(),
            "runs": common.runs,
            "settings": settings.collect::<Map<_, _>>(),
            "prepare_seconds": self.prepare_seconds,
            "peak_memory_bytes": peak_memory(),
            "machine": {
                "copy_bytes_per_second": machine.copy,
                "copy_buffer_bytes": machine.buffer,
                "matrix_flops_per_second": machine.matrix,
                "matrix_side": machine.side,
            },
            "stages": self.stages.iter().map(|stage| stage.to_json(machine)).collect::<Vec<_>>(),
        }))
    }

    fn table(&self, common: &Common, place: &Place, machine: &Machine) -> Result<(), Failure> {
        let model = device_model(&place.device).map_err(failed)?;
        let (size, dtype) = (common.size.name(), place.dtype.as_str());
        line(&format!(
            "bench {}, {size} size, {model} in {dtype}, {} threads, best and median of {} runs",
            self.bench,
            rayon::current_num_threads(),
            common.runs
        ))?;
        line(&format!(
            "this machine copies {:.1} GB/s (read and written) and multiplies matrices at {:.1} GFLOP/s",
            machine.copy / 1e9,
            machine.matrix / 1e9
        ))?;
        let header = [
            "stage",
            "best",
            "median",
            "GB",
            "GFLOP",
            "of copy",
            "of matrix",
        ];
        let rows = self.stages.iter().map(|stage| stage.row(machine));
        crate::output::print(Output::Human, &header, rows.collect(), &Value::Null)?;
        let memory = peak_memory().map_or_else(String::new, |bytes| {
            format!(", peak memory of the process {:.2} GB", bytes as f64 / 1e9)
        });
        line(&format!(
            "prepared in {:.1} s{memory}",
            self.prepare_seconds
        ))
    }
}

/// The most memory that the process has had, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_of_the_machines_own_rates() {
        let work = Work {
            flops: 4e9,
            bytes: 2e9,
            weights: 0.0,
        };
        let mut stage = Stage::new("s", work);
        stage.seconds = vec![0.5, 0.25, 1.0];
        let machine = Machine {
            copy: 16e9,
            buffer: 1,
            matrix: 32e9,
            side: 1,
        };
        let json = stage.to_json(&machine);
        assert_eq!(json["best_seconds"], 0.25);
        assert_eq!(json["median_seconds"], 0.5);
        assert_eq!(json["copy_fraction"], 0.5);
        assert_eq!(json["matrix_fraction"], 0.5);
    }
}
