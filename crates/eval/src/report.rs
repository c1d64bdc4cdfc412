//! The report: tables of estimates, and findings that say whether an effect shows.

use std::fmt::Write as _;

use likeness_bundle::Bundle;
use serde::Serialize;

use crate::statistics::Estimate;
use crate::{Error, Options};

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The bundle.
    pub bundle: About,
    /// What was asked for.
    pub options: Options,
    /// What everybody should know who reads it.
    pub notes: Vec<String>,
    /// Which effects show.
    pub findings: Vec<Finding>,
    /// The numbers.
    pub tables: Vec<Table>,
}

/// Which bundle was evaluated.
#[derive(Debug, Serialize)]
pub struct About {
    name: String,
    version: String,
    digest: String,
}

/// Rows of numbers.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Its headline.
    pub name: String,
    /// What its numbers are.
    pub about: String,
    /// The columns' names, without the rows' own.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was varied.
    pub name: String,
    /// A number for each column, where there is one.
    pub cells: Vec<Option<Estimate>>,
}

/// One effect.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What is claimed.
    pub claim: String,
    /// Whether the interval lies where the claim has it.
    pub shows: bool,
    /// What the number is.
    pub what: String,
    /// The number.
    pub number: Estimate,
}

/// Where a number's interval has to lie.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// Above a number.
    Above(f64),
    /// Below a number.
    Below(f64),
    /// Between two.
    Within(f64, f64),
}

impl About {
    pub(crate) fn of(bundle: &Bundle) -> About {
        About {
            name: bundle.name().to_owned(),
            version: bundle.version().to_owned(),
            digest: bundle.digest(),
        }
    }
}

impl Table {
    pub(crate) fn new(name: &str, about: &str, columns: &[&str]) -> Table {
        Table {
            name: name.to_owned(),
            about: about.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: Vec<Option<Estimate>>) {
        self.rows.push(Row {
            name: name.into(),
            cells,
        });
    }
}

impl Report {
    pub(crate) fn new(bundle: About, options: &Options, notes: Vec<String>) -> Report {
        Report {
            bundle,
            options: options.clone(),
            notes,
            findings: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Notes whether an effect shows, if there is a number for it.
    pub(crate) fn find(&mut self, claim: &str, what: &str, number: Option<Estimate>, holds: Claim) {
        let Some(number) = number else { return };
        let shows = match holds {
            Claim::Above(least) => number.low > least,
            Claim::Below(most) => number.high < most,
            Claim::Within(least, most) => number.low > least && number.high < most,
        };
        self.findings.push(Finding {
            claim: claim.to_owned(),
            shows,
            what: what.to_owned(),
            number,
        });
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let About {
            name,
            version,
            digest,
        } = &self.bundle;
        let mut out = format!("# {name} {version}\n\nDigest `{digest}`.\n");
        self.write_options(&mut out);
        for note in &self.notes {
            let _ = writeln!(out, "- {note}");
        }
        if !self.findings.is_empty() {
            out.push_str(
                "\n## Findings\n\n| claim | shows | number | n |\n| --- | --- | --- | --- |\n",
            );
        }
        for finding in &self.findings {
            let shows = if finding.shows { "yes" } else { "**no**" };
            let (what, number) = (&finding.what, cell(Some(&finding.number)));
            let n = finding.number.n;
            let _ = writeln!(
                out,
                "| {} | {shows} | {what}: {number} | {n} |",
                finding.claim
            );
        }
        for table in &self.tables {
            table.write(&mut out);
        }
        out
    }

    fn write_options(&self, out: &mut String) {
        let Options {
            steps,
            guidance,
            id_scale,
            side,
            seed,
            ..
        } = &self.options;
        let _ = writeln!(
            out,
            "{side} × {side} pixels, {steps} steps, guidance {guidance} and ID scale {id_scale} where nothing else is said, seeds from {seed} on.\n"
        );
    }

    /// For programs.
    ///
    /// # Errors
    /// None but a fault of the library.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Unfit(error.to_string()))
    }
}

impl Table {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "\n## {}\n\n{}\n", self.name, self.about);
        let _ = writeln!(out, "| | {} |", self.columns.join(" | "));
        let _ = writeln!(out, "|{}", " --- |".repeat(self.columns.len() + 1));
        for row in &self.rows {
            let cells: Vec<String> = row.cells.iter().map(|own| cell(own.as_ref())).collect();
            let _ = writeln!(out, "| {} | {} |", row.name, cells.join(" | "));
        }
    }
}

fn cell(estimate: Option<&Estimate>) -> String {
    match estimate {
        Some(Estimate {
            mean, low, high, ..
        }) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: Estimate = Estimate {
        mean: 0.5,
        low: 0.25,
        high: 0.75,
        n: 9,
    };

    #[test]
    fn a_table_has_a_cell_for_each_column() {
        let mut table = Table::new("Name", "About.", &["a", "b"]);
        table.row("first", vec![Some(NUMBER), None]);
        let mut text = String::new();
        table.write(&mut text);
        assert!(
            text.contains("| | a | b |\n| --- | --- | --- |\n| first | 0.500 [0.250, 0.750] | – |")
        );
    }

    #[test]
    fn an_effect_shows_if_its_whole_interval_says_so() {
        let about = About {
            name: "b".to_owned(),
            version: "1".to_owned(),
            digest: String::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("b");
        likeness_bundle::pocket::make(&bundle, 1).unwrap();
        let options = Options::of(&Bundle::open(&bundle).unwrap());
        let mut report = Report::new(about, &options, Vec::new());
        report.find("one", "x", Some(NUMBER), Claim::Above(0.0));
        report.find("two", "x", Some(NUMBER), Claim::Above(0.3));
        report.find("three", "x", Some(NUMBER), Claim::Within(0.0, 1.0));
        report.find("four", "x", None, Claim::Above(0.0));
        report.find("five", "x", Some(NUMBER), Claim::Below(0.7));
        let shows: Vec<bool> = report
            .findings
            .iter()
            .map(|finding| finding.shows)
            .collect();
        assert_eq!(shows, [true, false, true, false]);
        assert!(report.markdown().contains("| two | **no** | x: 0.500"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["findings"][0]["number"]["n"], 9);
    }
}
