//! Logs, to stderr.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use tracing_subscriber::{
    EnvFilter, Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct TelemetryArgs {
    /// How a log line looks.
    #[arg(long, env = "LIKENESS_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels by module as `info,likeness_queue=debug`.
    #[arg(
        long = "log",
        env = "LIKENESS_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,
}

/// Starts logging to stderr, for the whole process.
///
/// # Errors
/// A filter that cannot be read, or a process that logs already.
pub fn init(args: &TelemetryArgs) -> anyhow::Result<()> {
    let filter = parse_filter(&args.log)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match args.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| anyhow!("this process logs already; call telemetry::init once"))
}

fn parse_filter(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).with_context(|| {
        format!(
            "cannot read the log filter {filter:?}; expected one like info,likeness_queue=debug"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_module() {
        for filter in ["info", "warn,likeness_queue=debug", "off", ""] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
        let error = parse_filter("likeness=loudly").unwrap_err();
        assert!(error.to_string().contains("likeness=loudly"), "{error}");
    }

    #[test]
    fn a_second_start_is_an_error() {
        let args = TelemetryArgs {
            log_format: LogFormat::Json,
            log: "off".to_owned(),
        };
        let results = [init(&args), init(&args)];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    }
}
