//! What was found, as a table and as JSON.

use std::{fmt, time::Instant};

use anyhow::Error;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{plan::Plan, stats::Durations};

/// Everything of one run.
#[derive(Serialize)]
pub struct Report {
    plan: Plan,
    cores: usize,
    /// The system's load average over a minute, before and after: other work on the machine shows.
    load_before: Option<f64>,
    load_after: Option<f64>,
    seconds: f64,
    pub rows: Vec<Row>,
    pub fairness: Vec<Share>,
    /// Why something is missing.
    pub notes: Vec<String>,
    #[serde(skip)]
    begun: Instant,
}

/// One figure.
#[derive(Serialize)]
pub struct Row {
    pub part: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub aim: Option<Aim>,
}

/// What a figure is meant to be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(aim) => value >= aim,
            Self::AtMost(aim) => value <= aim,
        }
    }
}

/// What a tenant got.
#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "a share, and the fair one")]
pub struct Share {
    pub tenant: String,
    pub weight: f32,
    pub gpu_seconds: f64,
    /// Its part of all GPU-seconds, and that of all weights.
    pub share: f64,
    pub fair_share: f64,
}

impl Report {
    pub fn begin(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_before: load_average(),
            load_after: None,
            seconds: 0.0,
            rows: Vec::new(),
            fairness: Vec::new(),
            notes: Vec::new(),
            begun: Instant::now(),
        }
    }

    pub fn end(&mut self) {
        self.seconds = self.begun.elapsed().as_secs_f64();
        self.load_after = load_average();
    }

    pub fn row(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: Option<Aim>,
    ) {
        let what = what.into();
        self.rows.push(Row {
            part,
            what,
            value,
            unit,
            aim,
        });
    }

    /// The middle and the 99th percentile, in milliseconds.
    pub fn latencies(&mut self, part: &'static str, what: &str, all: &Durations, aim: Option<Aim>) {
        for (name, percentile, aim) in [("p50", 0.5, None), ("p99", 0.99, aim)] {
            if let Some(value) = all.milliseconds(percentile) {
                let what = format!("{what}, {name} of {}", all.count());
                self.row(part, what, value, "ms", aim);
            }
        }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn failed(&mut self, part: &str, error: &Error) {
        self.note(format!("{part}: not measured to its end: {error:#}"));
    }

    fn figures(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["part", "figure", "value", "aim", "met"]);
        for row in &self.rows {
            let (aim, met) = match row.aim {
                None => (String::new(), ""),
                Some(aim) => (
                    match aim {
                        Aim::AtLeast(least) => format!("≥ {least}"),
                        Aim::AtMost(most) => format!("≤ {most}"),
                    },
                    if aim.is_met(row.value) { "yes" } else { "no" },
                ),
            };
            let value = format!("{} {}", rounded(row.value), row.unit);
            table.add_row([row.part, &row.what, value.trim(), &aim, met]);
        }
        table
    }

    fn shares(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["tenant", "weight", "GPU-seconds", "share", "by weight"]);
        for share in &self.fairness {
            table.add_row([
                share.tenant.clone(),
                share.weight.to_string(),
                rounded(share.gpu_seconds),
                format!("{:.1} %", share.share * 100.0),
                format!("{:.1} %", share.fair_share * 100.0),
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.figures())?;
        if !self.fairness.is_empty() {
            writeln!(f, "\n{}", self.shares())?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        let load = |load: Option<f64>| load.map_or_else(|| "?".to_owned(), |load| load.to_string());
        write!(
            f,
            "\n{} cores, load average {} before and {} after, {:.0} s in all",
            self.cores,
            load(self.load_before),
            load(self.load_after),
            self.seconds
        )
    }
}

/// Three digits or so.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_has_a_side() {
        assert!(Aim::AtLeast(0.6).is_met(0.6) && !Aim::AtLeast(0.6).is_met(0.5));
        assert!(Aim::AtMost(5.0).is_met(5.0) && !Aim::AtMost(5.0).is_met(5.1));
    }

    #[test]
    fn values_are_rounded_to_what_they_are_worth() {
        assert_eq!(
            [rounded(1234.5), rounded(12.34), rounded(0.123)],
            ["1234", "12.3", "0.12"]
        );
    }
}
