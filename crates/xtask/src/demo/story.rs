//! The demo's story, told with the commands that anybody can type.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Running, stages::Stages};

const TENANT: &str = "Demo";
const PROMPT: &str = "a portrait of a person in a garden, soft light";

/// From photos to pictures on disk.
pub fn tell(running: &Running, photos: &[PathBuf], stages: &mut Stages) -> Result<()> {
    let mut client = Client::new(running)?;
    let tenant = client.tenant()?;
    client.api_key = text(&client.json(&["keys", "create", &tenant])?, "secret")?;
    let create = ["identities", "create", "Demo person", "--consent", "demo"];
    let identity = text(&client.json(&create)?, "name")?;
    say("tenant", &tenant);
    say("identity", &identity);
    stages.done("tenant, key, identity");

    client.enrol(&identity, photos)?;
    stages.done("enrolment until READY");

    let render = client.render(&identity)?;
    stages.done("2 images");

    let files = client.download(&render, &running.dir.join("pictures"))?;
    stages.done("download");
    for file in &files {
        say("picture", file);
    }
    end(&client, stages, &render);
    Ok(())
}

struct Client {
    likeness: PathBuf,
    endpoint: String,
    operator_key: String,
    api_key: String,
}

impl Client {
    fn new(running: &Running) -> Result<Self> {
        let ready: Value = serde_json::from_slice(&std::fs::read(&running.ready_file)?)?;
        Ok(Self {
            likeness: running.likeness.clone(),
            endpoint: text(&ready, "endpoint")?,
            operator_key: text(&ready, "operator_key")?,
            api_key: String::new(),
        })
    }

    /// Runs a command of the program; its progress bars and errors go to our terminal.
    fn json(&self, args: &[&str]) -> Result<Value> {
        let output = Command::new(&self.likeness)
            .args(args)
            .args(["--output", "json"])
            .env("LIKENESS_ENDPOINT", &self.endpoint)
            .env("LIKENESS_OPERATOR_KEY", &self.operator_key)
            .env("LIKENESS_API_KEY", &self.api_key)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run likeness")?;
        if !output.status.success() {
            bail!("likeness {} failed", args[..2.min(args.len())].join(" "));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// The demo's tenant; an earlier demo may have made it.
    fn tenant(&self) -> Result<String> {
        let tenants = self.json(&["tenants", "list"])?;
        let made = tenants
            .as_array()
            .into_iter()
            .flatten()
            .find(|t| t["display_name"] == TENANT);
        match made {
            Some(tenant) => text(tenant, "name"),
            None => text(&self.json(&["tenants", "create", TENANT])?, "name"),
        }
    }

    fn enrol(&self, identity: &str, photos: &[PathBuf]) -> Result<()> {
        let paths: Vec<String> = photos
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut add = vec!["photos", "add", identity];
        add.extend(paths.iter().map(String::as_str));
        self.json(&add)?;
        let waited = self.json(&["identities", "wait", identity]);
        for photo in self
            .json(&["photos", "list", identity])?
            .as_array()
            .into_iter()
            .flatten()
        {
            say("photo", &verdict(photo));
        }
        waited.map(|_| ())
    }

    fn render(&self, identity: &str) -> Result<Value> {
        let create = [
            "renders",
            "create",
            "--prompt",
            PROMPT,
            "--identity",
            identity,
            "--images",
            "2",
            "--wait",
        ];
        let render = self.json(&create)?;
        say("render", &text(&render, "name")?);
        Ok(render)
    }

    fn download(&self, render: &Value, dir: &Path) -> Result<Vec<String>> {
        let (name, dir) = (text(render, "name")?, dir.display().to_string());
        let files = self.json(&["renders", "download", &name, "--dir", &dir])?;
        let files = files.as_array().context("no files")?;
        Ok(files
            .iter()
            .filter_map(|file| file.as_str().map(str::to_owned))
            .collect())
    }
}

fn verdict(photo: &Value) -> String {
    let rejection = &photo["rejection"]["message"];
    let state = photo["state"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches("PHOTO_STATE_");
    match rejection.as_str() {
        Some(message) => format!("{state}: {message}"),
        None => {
            let quality = &photo["quality"];
            format!(
                "{state}, face of {} pixels, sharpness {:.2}",
                quality["face_size"],
                quality["sharpness"].as_f64().unwrap_or_default()
            )
        }
    }
}

#[allow(clippy::print_stdout, reason = "the demo's own output")]
fn say(what: &str, text: &str) {
    println!("{what:10} {text}");
}

#[allow(clippy::print_stdout, reason = "the demo's own output")]
fn end(client: &Client, stages: &Stages, render: &Value) {
    println!("\ntimings");
    for line in stages.lines() {
        println!("{line}");
    }
    println!("\nof the render, in the worker");
    for (stage, time) in render["timings"].as_object().into_iter().flatten() {
        println!("  {stage:28} {:>9}", time.as_str().unwrap_or_default());
    }
    println!(
        "\nThe pocket bundle has random weights: its pictures mean nothing, only their path here is real.\n\
         To go on: `{} dev` keeps everything running and prints what to export.",
        client.likeness.display()
    );
}

fn text(value: &Value, key: &str) -> Result<String> {
    value[key]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {key}"))
}
