//! `likeness bench …` through the binary, at pocket size.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_likeness"))
        .arg("bench")
        .args(args)
        .output()
        .unwrap()
}

/// The JSON of one bench, whose fields are all there and are numbers that make sense.
fn measured(args: &[&str], stages: [&str; 2]) -> Value {
    let common = ["--size", "pocket", "--runs", "2", "--output", "json"];
    let output = bench(&[args, &common].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (field, expected) in [("bench", args[0]), ("size", "pocket"), ("device", "cpu")] {
        assert_eq!(report[field], expected, "{report}");
    }
    for field in ["copy_bytes_per_second", "matrix_flops_per_second"] {
        assert!(report["machine"][field].as_f64().unwrap() > 0.0, "{report}");
    }
    let found = report["stages"].as_array().unwrap();
    assert_eq!(found.len(), 2);
    for (stage, name) in found.iter().zip(stages) {
        assert_eq!(stage["stage"], name);
        for field in [
            "best_seconds",
            "median_seconds",
            "bytes",
            "flops",
            "copy_fraction",
            "matrix_fraction",
        ] {
            assert!(
                stage[field].as_f64().unwrap() > 0.0,
                "{name} {field}: {report}"
            );
        }
    }
    report
}

#[test]
fn a_swap_is_measured() {
    for dtype in ["f32", "f16"] {
        let report = measured(&["swap", "--dtype", dtype], ["synthesis", "merge"]);
        assert_eq!(report["dtype"], dtype);
    }
}

#[test]
fn sampling_is_measured_with_and_without_identities() {
    let stages = ["unet_step", "decode"];
    let plain = measured(&["sample", "--steps", "2"], stages);
    assert_eq!(plain["settings"]["identities"], "none");
    let merged = measured(&["sample", "--steps", "2", "--merged", "--guided"], stages);
    assert_eq!(merged["settings"]["identities"], "merged");
    let batch = ["sample", "--steps", "2", "--batch", "2", "--unmerged"];
    let unmerged = measured(&batch, stages);
    assert_eq!(unmerged["settings"]["batch"], 2);
    let flops = |report: &Value| report["stages"][0]["flops"].as_f64().unwrap();
    assert!(flops(&unmerged) > 1.9 * flops(&plain));
}

#[test]
fn an_enrolment_is_measured() {
    measured(&["enroll"], ["clip", "resampler"]);
}

#[test]
fn people_get_a_table() {
    let output = bench(&["enroll", "--size", "pocket", "--runs", "1"]);
    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["GB/s", "GFLOP/s", "clip", "resampler", "of copy"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (args, code, words) in [
        (&["swap", "--device", "cuda:0"][..], 1, "CUDA"),
        (&["swap", "--dtype", "bf16"], 2, "bf16"),
        (&["sample", "--merged", "--unmerged"], 2, "--unmerged"),
        (&["sample", "--steps", "0"], 2, "steps"),
        (&["sample", "--size", "pocket", "--width", "63"], 1, "width"),
        (&["swap", "--device", "tpu"], 2, "tpu"),
    ] {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
