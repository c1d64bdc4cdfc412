//! `cargo xtask sqlx`: the cache by which queries are checked without a database.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// What makes one entry: file name → content.
type Entries = BTreeMap<String, String>;

pub fn sqlx(workspace: &Workspace, check: bool) -> Result<()> {
    workspace.tools()?;
    let [stack] = workspace.build(["stack"])?;
    let fresh = workspace.target.join("sqlx");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    expand_again(&workspace.root.join("crates/registry/src/lib.rs"))?;
    let mut cargo = workspace.command(&stack.to_string_lossy());
    cargo
        .args([
            "--database",
            "cargo",
            "check",
            "--package",
            "likeness-registry",
            "--all-targets",
        ])
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &fresh);
    run::checked(cargo)?;
    let cache = cache_dir(&workspace.root);
    let (had, now) = (entries(&cache)?, entries(&fresh)?);
    if had == now {
        run::note(&format!(
            "the query cache is up to date ({} queries)",
            now.len()
        ));
        Ok(())
    } else if check {
        bail!("the query cache in .sqlx is not up to date: run `cargo xtask sqlx`");
    } else {
        replace(&cache, &had, &now)
    }
}

/// The committed cache.
pub fn cache_dir(root: &Path) -> std::path::PathBuf {
    root.join(".sqlx")
}

/// Cargo compiles, and so checks queries against the database, only what has changed.
#[allow(
    clippy::disallowed_methods,
    reason = "a file's time is the machine's own"
)]
fn expand_again(source: &Path) -> Result<()> {
    let file = File::options().append(true).open(source);
    file.and_then(|file| file.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot touch {}", source.display()))
}

/// The cached queries in `dir`; none where it does not exist.
pub fn entries(dir: &Path) -> Result<Entries> {
    let Ok(files) = fs::read_dir(dir) else {
        return Ok(Entries::new());
    };
    files
        .map(|file| {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            Ok((name, fs::read_to_string(file.path())?))
        })
        .filter(|entry| !matches!(entry, Ok((name, _)) if !name.starts_with("query-")))
        .collect()
}

fn replace(cache: &Path, had: &Entries, now: &Entries) -> Result<()> {
    fs::create_dir_all(cache)?;
    for name in had.keys().filter(|name| !now.contains_key(*name)) {
        fs::remove_file(cache.join(name))?;
    }
    for (name, content) in now {
        fs::write(cache.join(name), content)?;
    }
    run::note(&format!("wrote {} queries into .sqlx", now.len()));
    Ok(())
}
