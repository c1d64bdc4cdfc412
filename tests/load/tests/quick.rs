//! The whole measurement, little of it: that it runs and finds figures, not which.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_run_finds_every_figure() {
    let run = Command::new(env!("CARGO_BIN_EXE_load"))
        .args(["run", "--quick", "--json"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["notes"], serde_json::json!([]), "{errors}");
    let rows = report["rows"].as_array().unwrap();
    for figure in [
        "of plain inserts",
        "renders of BatchCreateRenders",
        "submit → claim, p99",
        "submit → image, without the model, p99",
        "change of state → watcher, p99",
        "utilisation of",
        "a new tenant's first submit → claim, p99",
        "a round, dearest to cheapest",
        "memory of dispatch",
    ] {
        let row = rows
            .iter()
            .find(|row| row["what"].as_str().unwrap().starts_with(figure));
        let value = row.and_then(|row| row["value"].as_f64());
        assert!(
            value.is_some_and(|value| value > 0.0),
            "{figure}: {value:?}"
        );
    }
    assert_eq!(report["fairness"].as_array().unwrap().len(), 4);
}
