//! Pulling a bundle from the Hugging Face hub: what is interrupted goes on where it stopped, and nothing
//! is kept whose checksum is not the hub's.
//!
//! Files come into `DIR.partial` beside the bundle's directory. Once all are there, the manifest with
//! their checksums is written and the directory renamed: a bundle is there whole or not at all.

mod catalogue;
mod checksum;
mod hub;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::manifest::{MANIFEST, RelPath, Sha256};
use crate::pocket::folder::{occupied, parent_of};
use catalogue::Source;
pub use catalogue::{Licence, Recipe};
use checksum::check;
use hub::{Hub, Listed, Listing};

/// The hub that everybody uses.
pub const HUB: &str = "https://huggingface.co";

/// Where and as whom to pull.
pub struct PullOptions {
    /// The hub's address, without `/` at its end: [`HUB`] or a mirror.
    pub endpoint: String,
    /// An access token, for what is not public.
    pub token: Option<String>,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy)]
pub struct PullProgress<'a> {
    /// The file of the bundle that is being fetched.
    pub path: &'a str,
    /// Bytes that are there, of all files.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// What was pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// Files of the bundle.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// One file to fetch.
struct Item<'a> {
    repo: &'a str,
    commit: String,
    name: String,
    /// Path in the bundle.
    path: String,
    listed: Listed,
}

/// Pulls a bundle into `dir`, which must be new or empty. Whoever calls this has accepted the recipe's
/// licences.
///
/// # Errors
/// [`Error::NotEmpty`]; [`Error::Hub`] when the hub cannot be reached, lacks a repository or a file, or
/// breaks off (another call goes on from there); [`Error::Checksum`]; [`Error::Io`].
pub fn pull(
    recipe: &Recipe,
    dir: &Path,
    options: &PullOptions,
    mut progress: impl FnMut(PullProgress<'_>),
) -> Result<Pulled, Error> {
    if occupied(dir)? {
        let path = dir.to_path_buf();
        return Err(Error::NotEmpty { path });
    }
    let partial = partial(dir)?;
    let staged = partial.join("bundle");
    fs::create_dir_all(&staged).map_err(Error::io("create", &staged))?;
    let parts = partial.join("hub");
    let hub = Hub::open(options, &parts)?;
    let items = items(recipe, &hub)?;
    let sizes = items.iter().map(|item| item.listed.size);
    let total = sizes.fold(0, u64::saturating_add);
    let mut manifest = recipe.manifest().map_err(Error::encode(MANIFEST))?;
    let mut done = 0;
    for item in &items {
        let path = item.path.as_str();
        let mut report = |of_file: u64| {
            let done = of_file.saturating_add(done);
            progress(PullProgress { path, done, total });
        };
        let hash = fetch(&hub, item, &staged, &mut report)?;
        let path = RelPath::try_from(item.path.clone()).map_err(Error::encode(MANIFEST))?;
        manifest.files.insert(path, hash);
        done = item.listed.size.saturating_add(done);
    }
    let text = toml::to_string(&manifest).map_err(Error::encode(MANIFEST))?;
    let path = staged.join(MANIFEST);
    fs::write(&path, text).map_err(Error::io("write", &path))?;
    fs::rename(&staged, dir).map_err(Error::io("write", dir))?;
    // What else somebody keeps in that folder stays.
    fs::remove_dir_all(&parts).map_err(Error::io("remove", &parts))?;
    let _ = fs::remove_dir(&partial);
    Ok(Pulled {
        files: items.len(),
        bytes: total,
    })
}

/// Where an unfinished bundle is kept: beside its place.
fn partial(dir: &Path) -> Result<PathBuf, Error> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(parent_of(dir)?.join(format!("{name}.partial")))
}

/// Every file of a recipe, as the hub lists it now.
fn items<'a>(recipe: &'a Recipe, hub: &Hub) -> Result<Vec<Item<'a>>, Error> {
    let mut items = Vec::new();
    for source in recipe.sources {
        let listing = hub.list(source.repo)?;
        for wanted in source.files {
            items.push(item(source, wanted, &listing)?);
        }
    }
    Ok(items)
}

fn item<'a>(source: &'a Source, wanted: &[&str], listing: &Listing) -> Result<Item<'a>, Error> {
    let found = wanted.iter().find_map(|name| {
        let full = format!("{}{name}", source.from);
        let listed = listing.files.get(&full)?.clone();
        Some((name, full, listed))
    });
    let (name, full, listed) = found.ok_or_else(|| Error::Hub {
        what: format!(
            "{}: it has no {}{}",
            source.repo,
            source.from,
            wanted.join(" or ")
        ),
    })?;
    Ok(Item {
        repo: source.repo,
        commit: listing.commit.clone(),
        name: full,
        path: format!("{}{name}", source.to),
        listed,
    })
}

/// Brings one file into the staged bundle, unless a pull before this one did, and says its sha-256.
fn fetch(
    hub: &Hub,
    item: &Item<'_>,
    staged: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Sha256, Error> {
    let to = staged.join(&item.path);
    if to.is_file()
        && let Ok(hash) = check(&to, &item.path, &item.listed)
    {
        progress(item.listed.size);
        return Ok(hash);
    }
    let from = hub.download(item.repo, &item.commit, &item.name, &item.listed, progress)?;
    match check(&from, &item.path, &item.listed) {
        Ok(hash) => {
            let folder = to.parent().unwrap_or(staged);
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            fs::rename(&from, &to).map_err(Error::io("write", &to))?;
            Ok(hash)
        }
        Err(error) => {
            // The next pull is to start this file anew.
            fs::remove_file(&from).map_err(Error::io("remove", &from))?;
            Err(error)
        }
    }
}
