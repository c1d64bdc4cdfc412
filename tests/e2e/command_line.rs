//! The command line as people and scripts use it.

use std::process::{Command, Output};

use anyhow::Result;
use likeness_test_support::{fixture, likeness_binary};
use serde_json::Value;

use crate::stage::{OPERATOR_KEY, Stage};

fn run(stage: &Stage, key: &str, args: &[&str]) -> Result<Output> {
    Ok(Command::new(likeness_binary())
        .args(args)
        .env("LIKENESS_ENDPOINT", &stage.endpoint)
        .env("LIKENESS_OPERATOR_KEY", OPERATOR_KEY)
        .env("LIKENESS_API_KEY", key)
        .output()?)
}

fn json(stage: &Stage, key: &str, args: &[&str]) -> Result<Value> {
    let args = [args, &["--output", "json"]].concat();
    let output = run(stage, key, &args)?;
    anyhow::ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_by_hand() -> Result<()> {
    let stage = Stage::start().await?;
    tokio::task::block_in_place(|| {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().to_string_lossy().into_owned();
        let photo = fixture("astronaut.png").to_string_lossy().into_owned();
        let tenant = text(&json(&stage, "", &["tenants", "create", "My app"])?, "name");
        let key = text(&json(&stage, "", &["keys", "create", &tenant])?, "secret");
        let create = ["identities", "create", "Someone", "--consent", "form 7"];
        let identity = text(&json(&stage, &key, &create)?, "name");
        json(&stage, &key, &["photos", "add", &identity, &photo])?;
        let ready = json(&stage, &key, &["identities", "wait", &identity])?;
        assert_eq!(ready["state"], "IDENTITY_STATE_READY");
        let create = [
            "renders",
            "create",
            "--prompt",
            "a portrait",
            "--identity",
            &identity,
            "--steps",
            "4",
            "--width",
            "64",
            "--height",
            "64",
            "--wait",
        ];
        let render = json(&stage, &key, &create)?;
        assert_eq!(render["state"], "RENDER_STATE_SUCCEEDED");
        let name = text(&render, "name");
        let files = json(&stage, &key, &["renders", "download", &name, "--dir", &dir])?;
        let file = files[0].as_str().unwrap_or_default();
        assert_eq!(image::open(file)?.width(), 64);
        let options = [
            "--init",
            &photo,
            "--strength",
            "0.5",
            "--face-detail",
            "0.4",
        ];
        let render = json(&stage, &key, &[create.as_slice(), &options].concat())?;
        assert_eq!(render["state"], "RENDER_STATE_SUCCEEDED");
        assert_eq!(render["init_image"]["strength"], 0.5);
        let before = json(&stage, &key, &["photos", "list", &identity])?;
        let before = text(&before[0], "name");
        let make = [
            "sliders", "create", "older", "--before", &before, "--after", &identity,
        ];
        let slider = text(&json(&stage, &key, &make)?, "name");
        let listed = json(&stage, &key, &["sliders", "list"])?;
        assert_eq!(listed[0], json(&stage, &key, &["sliders", "get", &slider])?);
        let moved = format!("{slider}=-0.5");
        let options = ["--slider", &moved, "--best-of", "2", "--base-scale", "0"];
        let render = json(&stage, &key, &[create.as_slice(), &options].concat())?;
        assert_eq!(render["state"], "RENDER_STATE_SUCCEEDED");
        assert_eq!(
            (&render["sliders"][0]["scale"], &render["best_of"]),
            (&(-0.5).into(), &2.into())
        );
        json(&stage, &key, &["renders", "get", &text(&render, "name")])?;
        assert!(
            run(&stage, &key, &["sliders", "delete", &slider])?
                .status
                .success()
        );
        // Tables for people.
        let table = run(&stage, &key, &["renders", "list"])?;
        assert!(String::from_utf8_lossy(&table.stdout).contains("SUCCEEDED"));
        assert!(String::from_utf8_lossy(&table.stdout).contains("LIKENESS"));
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_one_line_with_an_exit_code() -> Result<()> {
    let stage = Stage::start().await?;
    let app = stage.tenant("photo app").await?;
    tokio::task::block_in_place(|| {
        let cases: [(&str, &[&str], i32, &str); 7] = [
            (
                &app.key,
                &["renders", "get", "nonsense"],
                1,
                "expected a name like",
            ),
            ("lk_wrong", &["renders", "list"], 1, "LIKENESS_API_KEY"),
            (
                &app.key,
                &["photos", "add", "tenants/x/identities/y", "no-such-file"],
                1,
                "cannot read",
            ),
            (&app.key, &["renders", "create"], 2, "--prompt"),
            (
                &app.key,
                &["renders", "create", "--prompt", "x", "--strength", "0.5"],
                2,
                "--init",
            ),
            (
                &app.key,
                &["renders", "create", "--prompt", "x", "--init", "/no-such"],
                1,
                "cannot read",
            ),
            (
                &app.key,
                &["bundle", "inspect", "/nonexistent"],
                1,
                "error: ",
            ),
        ];
        for (key, args, code, says) in cases {
            let output = run(&stage, key, args)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert!(said.contains(says), "{args:?}: {said}");
            assert!(code == 2 || said.trim_end().lines().count() == 1, "{said}");
        }
        Ok(())
    })
}
