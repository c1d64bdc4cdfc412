//! Everything that can be wrong with a bundle, as one typed error.

use std::io;
use std::path::{Path, PathBuf};

/// Why a bundle could not be opened, read, checked or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: `read`, `list`, `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The directory holds no `bundle.toml`.
    #[error("{} is not a bundle: it has no bundle.toml", path.display())]
    NotABundle {
        /// The directory.
        path: PathBuf,
    },
    /// `bundle.toml` does not follow the format; the message says where and what was expected.
    #[error("{} is not a valid manifest: {message}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Line, key and expectation.
        message: String,
    },
    /// A command needs a section (or a key of one) that the manifest leaves out.
    #[error(
        "bundle {bundle} has no {what} in its bundle.toml: add it, or use a bundle that has it"
    )]
    MissingSection {
        /// The bundle's name.
        bundle: String,
        /// The section, and the key where there is one: `[clip_vision]`, `[face] recognizer`.
        what: &'static str,
    },
    /// A model was asked for that the bundle does not offer.
    #[error(
        "bundle {bundle} has no model {model:?}; it offers: {}",
        offered(known)
    )]
    UnknownModel {
        /// The bundle's name.
        bundle: String,
        /// The name that was asked for.
        model: String,
        /// The names that `[models.*]` offers.
        known: Vec<String>,
    },
    /// A file takes part in a digest, but `[files]` has no hash of it.
    #[error("{path} has no sha-256 under [files] in bundle.toml, so no digest can be formed")]
    NotListed {
        /// The file, relative to the bundle.
        path: String,
    },
    /// A safetensors file's header cannot be read.
    #[error("{} is not a whole safetensors file: {reason}", path.display())]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file of a model cannot be read.
    #[error("{} does not hold what is expected: {reason}", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A bundle was to be made in a directory that holds something else.
    #[error("{} already holds something else than this bundle: name an empty or new directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory tree leads back into itself through a symbolic link.
    #[error("{} is a symbolic link to a directory that contains it", path.display())]
    LinkCycle {
        /// The link.
        path: PathBuf,
    },
    /// The hub cannot be reached, lacks something, or broke off.
    #[error("{what}")]
    Hub {
        /// The address, what went wrong and what to do.
        what: String,
    },
    /// A file that was fetched is not the one that the hub promised.
    #[error(
        "{path} was fetched with checksum {found}, the hub says {expected}: it was removed; pull again"
    )]
    Checksum {
        /// The file, relative to the bundle.
        path: String,
        /// What the hub says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Data could not be put into its file format; a fault of the program.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// The file that was being made.
        what: String,
        /// The encoder's reason.
        reason: String,
    },
}

impl Error {
    /// Turns an I/O error into an [`Error::Io`] that says what was being done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Turns an encoder's error into an [`Error::Encode`].
    pub(crate) fn encode<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Self {
        let what = what.to_owned();
        move |reason| Self::Encode {
            what,
            reason: reason.to_string(),
        }
    }
}

fn offered(names: &[String]) -> String {
    if names.is_empty() {
        "only the default model".to_owned()
    } else {
        names.join(", ")
    }
}
