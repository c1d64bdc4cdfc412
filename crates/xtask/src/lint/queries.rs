//! The cache of checked queries is there when there are queries to check.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::Outcome;
use crate::sqlx;
use crate::workspace::Workspace;

const MACROS: [&str; 4] = ["query!(", "query_as!(", "query_scalar!(", "query_file!("];

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let cached = sqlx::entries(&sqlx::cache_dir(&workspace.root))?.len();
    let checked = any_source(&workspace.root.join("crates/registry/src"), &|text| {
        MACROS.iter().any(|name| text.contains(name))
    })?;
    if checked && cached == 0 {
        bail!(".sqlx holds no queries: run `cargo xtask sqlx`");
    }
    Ok(Outcome::Ok(format!("{cached} cached")))
}

/// Whether `holds` is true of any Rust file below `dir`.
fn any_source(dir: &Path, holds: &dyn Fn(&str) -> bool) -> Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            any_source(&path, holds)?
        } else {
            path.extension().is_some_and(|end| end == "rs") && holds(&fs::read_to_string(&path)?)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
