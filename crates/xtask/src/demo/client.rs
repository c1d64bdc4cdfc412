//! The commands that anybody can type, and what they answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Running;

const TENANT: &str = "Demo";

/// Runs commands of the `likeness` program, with the keys that they need.
pub struct Client {
    likeness: PathBuf,
    endpoint: String,
    operator_key: String,
    api_key: String,
}

/// One image of a render that is over.
pub struct Rendered {
    /// The file that it was downloaded into.
    pub file: PathBuf,
    /// How like the identity its face is.
    pub likeness: Option<f64>,
    /// The whole answer.
    pub render: Value,
}

impl Client {
    /// A client of the demo's tenant, with a new key.
    pub fn connect(running: &Running) -> Result<Self> {
        let ready: Value = serde_json::from_slice(&std::fs::read(&running.ready_file)?)?;
        let mut client = Self {
            likeness: running.likeness.clone(),
            endpoint: text(&ready, "endpoint")?,
            operator_key: text(&ready, "operator_key")?,
            api_key: String::new(),
        };
        let tenant = client.tenant()?;
        client.api_key = text(&client.json(&["keys", "create", &tenant])?, "secret")?;
        Ok(client)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let output = Command::new(&self.likeness)
            .args(args)
            .args(["--output", "json"])
            .env("LIKENESS_ENDPOINT", &self.endpoint)
            .env("LIKENESS_OPERATOR_KEY", &self.operator_key)
            .env("LIKENESS_API_KEY", &self.api_key)
            .stdin(Stdio::null())
            .output()
            .context("cannot run likeness")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let command = args[..2.min(args.len())].join(" ");
            bail!("likeness {command} failed: {}", said.trim());
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

    /// A new identity and what became of its photos, as soon as it is READY or none of them can make it so.
    pub fn enrol(&self, display_name: &str, photos: &[PathBuf]) -> Result<(String, Vec<Value>)> {
        let create = ["identities", "create", display_name, "--consent", "demo"];
        let identity = text(&self.json(&create)?, "name")?;
        let paths: Vec<String> = photos
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut add = vec!["photos", "add", &identity];
        add.extend(paths.iter().map(String::as_str));
        self.json(&add)?;
        let waited = self.json(&["identities", "wait", &identity]);
        let photos = self.json(&["photos", "list", &identity])?;
        let photos = photos.as_array().cloned().unwrap_or_default();
        // Photos that are refused are an answer; anything else is an error.
        if let Err(error) = waited
            && !photos.iter().all(|photo| photo["rejection"].is_object())
        {
            return Err(error);
        }
        Ok((identity, photos))
    }

    /// A slider from one identity to another.
    pub fn slider(&self, before: &str, after: &str) -> Result<String> {
        let create = ["sliders", "create", "--before", before, "--after", after];
        text(&self.json(&create)?, "name")
    }

    /// A render of one image, when it is over and the image is in `dir`.
    pub fn render(&self, args: &[String], dir: &Path) -> Result<Rendered> {
        let mut create = vec!["renders", "create", "--wait"];
        create.extend(args.iter().map(String::as_str));
        let render = self.json(&create)?;
        let (name, dir) = (text(&render, "name")?, dir.display().to_string());
        let files = self.json(&["renders", "download", &name, "--dir", &dir])?;
        let file = files[0].as_str().context("a render without an image")?;
        Ok(Rendered {
            file: file.into(),
            likeness: render["images"][0]["likeness"].as_f64(),
            render,
        })
    }
}

fn text(value: &Value, key: &str) -> Result<String> {
    value[key]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {key}"))
}
