//! A stage's record: every step's loss in a table, and as a curve.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::chart;
use crate::run::unwritable;

const HEADING: &str = "step,loss,norm,rate";

/// What is written down of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Counted from 0.
    pub step: u64,
    /// The mean over its samples.
    pub loss: f64,
    /// The gradients' length before they were clipped.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
}

/// `loss.csv` and `loss.png` in a stage's folder.
pub struct Record {
    folder: PathBuf,
    table: File,
    losses: Vec<f64>,
}

impl Record {
    /// Goes on with the table of a folder, of which the rows from `step` on are dropped: they will come again.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open(folder: &Path, step: u64) -> Result<Record, Error> {
        let path = folder.join("loss.csv");
        let failed = |e| unwritable(&path, &e);
        let kept = match File::open(&path) {
            Ok(file) => rows(file, step).map_err(failed)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(failed(e)),
        };
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .clone();
        let mut table = options.open(&path).map_err(failed)?;
        let losses = kept
            .iter()
            .filter_map(|line| line.split(',').nth(1)?.parse().ok());
        let losses = losses.collect();
        let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
        write!(table, "{HEADING}\n{text}").map_err(failed)?;
        Ok(Record {
            folder: folder.to_owned(),
            table,
            losses,
        })
    }

    /// Writes a step down.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn add(&mut self, row: Row) -> Result<(), Error> {
        self.losses.push(row.loss);
        let Row {
            step,
            loss,
            norm,
            rate,
        } = row;
        writeln!(self.table, "{step},{loss:.6},{norm:.4},{rate:.3e}")
            .map_err(|e| unwritable(&self.folder, &e))
    }

    /// Draws the curve so far.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn draw(&self) -> Result<(), Error> {
        let path = self.folder.join("loss.png");
        let drawn = chart::curve(&self.losses).save(&path);
        drawn.map_err(|e| unwritable(&path, &std::io::Error::other(e)))
    }
}

/// The table's rows of steps before `step`.
fn rows(table: File, step: u64) -> std::io::Result<Vec<String>> {
    let lines = BufReader::new(table).lines().skip(1);
    lines
        .take(usize::try_from(step).unwrap_or(usize::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, loss: f64) -> Row {
        Row {
            step,
            loss,
            norm: 1.5,
            rate: 1e-3,
        }
    }

    #[test]
    fn a_table_that_is_gone_on_with_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::open(folder.path(), 0).unwrap();
        for step in 0..5 {
            record.add(row(step, 1.0)).unwrap();
        }
        let mut record = Record::open(folder.path(), 3).unwrap();
        record.add(row(3, 0.5)).unwrap();
        record.draw().unwrap();
        let text = std::fs::read_to_string(folder.path().join("loss.csv")).unwrap();
        let steps: Vec<&str> = text.lines().map(|l| l.split(',').next().unwrap()).collect();
        assert_eq!(steps, ["step", "0", "1", "2", "3"]);
        assert!(text.ends_with("3,0.500000,1.5000,1.000e-3\n"));
        assert_eq!(record.losses, [1.0, 1.0, 1.0, 0.5]);
    }
}
