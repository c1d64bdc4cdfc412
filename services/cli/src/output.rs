//! Results on stdout: a table or JSON.

use std::io::{self, Write as _};

use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

use crate::{args::Output, fail::Failure};

/// Prints rows under a header, or the JSON.
pub fn print(
    output: Output,
    header: &[&str],
    rows: Vec<Vec<String>>,
    json: &Value,
) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(json),
        Output::Human => {
            let mut table = Table::new();
            table.load_preset(NOTHING).set_header(header).add_rows(rows);
            line(&table.trim_fmt())
        }
    }
}

/// Prints `key value` lines, or the JSON.
pub fn print_fields(
    output: Output,
    fields: &[(&str, String)],
    json: &Value,
) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(json),
        Output::Human => {
            let mut table = Table::new();
            table.load_preset(NOTHING);
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
                table.add_row([*key, value]);
            }
            line(&table.trim_fmt())
        }
    }
}

/// Prints JSON.
pub fn print_json(json: &Value) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(json).map_err(|error| Failure::new(error.to_string()))?)
}

/// Prints a line.
pub fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Says something on stderr beside the result.
#[allow(clippy::print_stderr, reason = "the command line's own output")]
pub fn note(text: &str) {
    eprintln!("note: {text}");
}

/// An enum's name without its type's prefix: `RENDER_STATE_QUEUED` as `QUEUED`.
pub fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .trim_start_matches('_')
        .to_owned()
}
