//! What `cargo test` runs: few renders, many faults; and the broken rules, which the check must find.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    block_on,
    broken::Rule,
    fleet::Setup,
    run::{self, Plan},
    schedule::Mix,
};

/// Soon enough for a test; the dispatcher's own is half a minute.
const UNCLAIMED: u32 = 4;

const RENDERS: usize = 150;
const LASTING: Duration = Duration::from_secs(10);

/// One test of this program.
struct Test {
    name: String,
    rule: Option<Rule>,
}

/// Runs the tests whose names hold the filter, one after the other: each has servers and processes of its own. Those of
/// broken rules take minutes and run where they are asked for: by name, or with `--ignored`.
pub fn suite(args: &[String]) -> Result<()> {
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let all = args.iter().any(|arg| arg.ends_with("ignored"));
    let tests = std::iter::once(Test {
        name: "every_promise_is_kept".to_owned(),
        rule: None,
    })
    .chain(Rule::ALL.map(|rule| Test {
        name: format!("breaking_{}_is_found", rule.name().replace('-', "_")),
        rule: Some(rule),
    }))
    .filter(|test| match filter {
        Some(filter) => test.name.contains(filter.as_str()),
        None => test.rule.is_none() || all,
    });
    if args.iter().any(|arg| arg == "--list") {
        tests.for_each(|test| println!("{}: test", test.name));
        return Ok(());
    }
    let failed = tests.filter(|test| !test.tell()).count();
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

impl Test {
    /// Whether it passed.
    fn tell(&self) -> bool {
        let begun = Instant::now();
        let done = self.run();
        let (name, time) = (&self.name, begun.elapsed());
        match &done {
            Ok(()) => println!("test {name} ... ok ({time:.1?})"),
            Err(error) => println!("test {name} ... FAILED ({time:.1?}): {error:#}"),
        }
        done.is_ok()
    }

    fn run(&self) -> Result<()> {
        let plan = Plan {
            seed: 7,
            renders: RENDERS,
            setup: Setup {
                rule: self.rule,
                unclaimed: Some(UNCLAIMED),
            },
            faults: self.rule.map_or(Mix::ALL, Rule::provocation),
            lasting: LASTING,
            patience: Duration::from_secs(if self.rule.is_some() { 8 } else { 60 }),
        };
        let report = block_on(run::run(plan))?;
        println!("{report}");
        let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        match self.rule {
            None => ensure!(found.is_empty(), "{}", found.join("\n")),
            Some(rule) => ensure!(
                report.count(rule.breach()) > 0,
                "breaking {rule:?} was not found"
            ),
        }
        Ok(())
    }
}
