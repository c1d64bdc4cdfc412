//! A bundle with another's base and the HyperLoRA that was trained over it.

use std::fs;
use std::path::Path;

use likeness_bundle::{Bundle, HyperLora, MANIFEST, Name, RelPath};

use super::bundle::hyperlora;
use crate::Error;
use crate::hyperlora::Network;
use crate::run::unwritable;

/// The HyperLoRA's folder in the new bundle.
const FOLDER: &str = "hyperlora";

/// Writes the bundle into `folder`: the other's files, linked where the file system can, and the network in the place of its
/// HyperLoRA. Checksums are written afterwards, by `likeness bundle hash`.
///
/// # Errors
/// Files that cannot be read or written; a failing device.
pub(crate) fn bundle(base: &Bundle, network: &Network<'_>, folder: &Path) -> Result<(), Error> {
    let old = base.hyperlora().ok().map(|part| part.dir);
    links(base.dir(), folder, &|path| {
        Some(path) == old.as_deref() || path.ends_with(MANIFEST)
    })?;
    hyperlora(network, folder)?;
    let mut manifest = base.manifest().clone();
    let wrong = |reason: String| Error::Recipe {
        reason: format!("bundle: {reason}"),
    };
    let version = format!("{}-trained", base.version());
    manifest.bundle.version = Name::try_from(version).map_err(wrong)?;
    manifest.hyperlora = Some(HyperLora {
        path: RelPath::try_from(FOLDER.to_owned()).map_err(wrong)?,
        dim_head: network.dim_head(),
    });
    manifest.files.clear();
    let text = toml::to_string(&manifest).map_err(|e| wrong(e.to_string()))?;
    let path = folder.join(MANIFEST);
    fs::write(&path, text).map_err(|e| unwritable(&path, &e))
}

/// All files of a folder but those that `leaves_out` names. What is there already is written over.
fn links(from: &Path, to: &Path, leaves_out: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(|e| unwritable(to, &e))?;
    let unread = |e: std::io::Error| Error::Recipe {
        reason: format!("bundle {}: {e}", from.display()),
    };
    for entry in fs::read_dir(from).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if leaves_out(&path) {
            continue;
        }
        if path.is_dir() {
            links(&path, &place, leaves_out)?;
            continue;
        }
        // Nothing is written through a link: an old one goes first.
        if place.exists() {
            fs::remove_file(&place).map_err(|e| unwritable(&place, &e))?;
        }
        let linked = fs::hard_link(&path, &place);
        linked
            .or_else(|_| fs::copy(&path, &place).map(drop))
            .map_err(|e| unwritable(&place, &e))?;
    }
    Ok(())
}
