//! `likeness eval` through the binary, on the pocket bundle of random weights.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn likeness(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_likeness"));
    command.args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_bundle_is_evaluated_into_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, out) = (folder.path().join("bundle"), folder.path().join("a/report"));
    assert!(
        likeness(&["bundle", "make-pocket", "--random", text(&bundle)])
            .status
            .success()
    );
    let tiny = [
        "--people",
        "2",
        "--steps",
        "1",
        "--side",
        "64",
        "--guidances",
        "3",
    ];
    let asked = [
        "eval",
        "--bundle",
        text(&bundle),
        "--out",
        text(&out),
        "--sections",
        "table",
    ];
    let output = likeness(&[&asked[..], &tiny, &["--output", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["not_shown"].is_array());
    for name in ["report.md", "report.json", "sheet.png"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    for (args, code, words) in [
        (&["--people", "1"][..], 2, "from 2"),
        (&["--held-out", "7"], 2, "FIRST..END"),
        (&["--sections", "everything"], 2, "spread"),
        (&["--photos", "x", "--held-out", "1..9"], 2, "--photos"),
        (&["--people", "9"], 1, "bundle.toml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let asked = [
            "eval",
            "--bundle",
            text(folder.path()),
            "--out",
            text(folder.path()),
        ];
        let output = likeness(&[&asked[..], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
