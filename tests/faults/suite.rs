//! What `cargo test` runs: few renders, many faults; and the broken rules, which the check must find.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    block_on,
    broken::Rule,
    fleet::Setup,
    run::{self, Plan},
    schedule::Mix,
    takeover,
};

/// Soon enough for a test; the dispatcher's own is half a minute.
const UNCLAIMED: u32 = 4;

const RENDERS: usize = 150;
const PHOTOS: usize = 40;
const LASTING: Duration = Duration::from_secs(10);

/// One test of this program.
struct Test {
    name: String,
    what: What,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Everything goes wrong, and every promise is kept.
    Everything,
    /// The leading dispatcher goes, and the other leads in time.
    Takeover,
    /// A broken rule is found.
    Broken(Rule),
}

/// Runs the tests whose names hold the filter, one after the other: each has servers and processes of its own. Those of
/// broken rules take minutes and run where they are asked for: by name, or with `--ignored`.
pub fn suite(args: &[String]) -> Result<()> {
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let all = args.iter().any(|arg| arg.ends_with("ignored"));
    let always = [
        ("every_promise_is_kept", What::Everything),
        ("another_leads_within_two_seconds", What::Takeover),
    ];
    let always = always.map(|(name, what)| Test {
        name: name.to_owned(),
        what,
    });
    let broken = Rule::ALL.map(|rule| Test {
        name: format!("breaking_{}_is_found", rule.name().replace('-', "_")),
        what: What::Broken(rule),
    });
    let tests = always
        .into_iter()
        .chain(broken)
        .filter(|test| match filter {
            Some(filter) => test.name.contains(filter.as_str()),
            None => all || !matches!(test.what, What::Broken(_)),
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
        match self.what {
            What::Everything => tormented(None),
            What::Broken(rule) => tormented(Some(rule)),
            What::Takeover => takeover::check(),
        }
    }
}

fn tormented(rule: Option<Rule>) -> Result<()> {
    let plan = Plan {
        seed: 7,
        renders: RENDERS,
        photos: if rule.is_none() { PHOTOS } else { 0 },
        setup: Setup {
            rule,
            unclaimed: Some(UNCLAIMED),
        },
        faults: rule.map_or(Mix::ALL, Rule::provocation),
        lasting: LASTING,
        patience: Duration::from_secs(if rule.is_some() { 8 } else { 60 }),
    };
    let report = block_on(run::run(plan))?;
    println!("{report}");
    let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    match rule {
        None => ensure!(found.is_empty(), "{}", found.join("\n")),
        Some(rule) => ensure!(
            report.count(rule.breach()) > 0,
            "breaking {rule:?} was not found"
        ),
    }
    Ok(())
}
