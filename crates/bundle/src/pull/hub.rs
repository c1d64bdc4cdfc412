//! The Hugging Face hub through hf-hub: listings with checksums, and downloads that can be resumed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::PullOptions;
use crate::error::Error;

/// What is pulled.
const REVISION: &str = "main";
/// How often a broken connection is taken up again, and the pause before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// A repository as it is now.
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeMap<String, Listed>,
}

/// What the hub says of a file.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub size: u64,
    pub hash: Hash,
}

/// The hub's checksum of a file.
#[derive(Debug, Clone)]
pub(super) enum Hash {
    /// Of a file in its large file storage.
    Sha256(String),
    /// Of a small file: git's name for its content.
    GitBlob(String),
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    sha256: String,
    size: u64,
}

pub(super) struct Hub {
    api: Api,
    endpoint: String,
}

impl Hub {
    /// `cache` holds what is not finished.
    pub fn open(options: &PullOptions, cache: &Path) -> Result<Self, Error> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let address = endpoint
            .strip_prefix("https://")
            .or_else(|| endpoint.strip_prefix("http://"));
        let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_/[]".contains(c);
        if !address.is_some_and(|a| a.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && a.chars().all(plain)) {
            return Err(Error::Hub {
                what: format!("{endpoint:?} is no address of a hub; expected one such as {}", super::HUB),
            });
        }
        let api = ApiBuilder::from_cache(Cache::new(cache.to_path_buf()))
            .with_endpoint(endpoint.clone())
            .with_token(options.token.clone())
            .with_progress(false)
            .with_user_agent("likeness", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| failed(&endpoint, &error))?;
        Ok(Self { api, endpoint })
    }

    /// What a repository holds, with checksums.
    pub fn list(&self, repo: &str) -> Result<Listing, Error> {
        let at = format!("{}/{repo}", self.endpoint);
        let request = self.api.repo(revision(repo, REVISION)).info_request();
        let raw: RawListing = request
            .query("blobs", "true")
            .call()
            .and_then(|mut response| response.body_mut().read_json())
            .map_err(|error| failed(&at, &ApiError::RequestError(Box::new(error))))?;
        // A file without a checksum is left out: it could not be trusted.
        let files = raw.siblings.into_iter().filter_map(RawFile::listed);
        Ok(Listing {
            commit: raw.sha,
            files: files.collect(),
        })
    }

    /// Downloads a file, from where an earlier try stopped, and says where it lies.
    pub fn download(
        &self,
        repo: &str,
        commit: &str,
        name: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Error> {
        let remote = self.api.repo(revision(repo, commit));
        let mut tries = 0;
        loop {
            let report = Report { done: 0, progress };
            match remote.download_with_progress(name, report) {
                Ok(pointer) => return settle(&pointer),
                Err(error) if tries < TRIES && is_interruption(&error) => tries += 1,
                Err(error) => return Err(failed(&remote.url(name), &error)),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl RawFile {
    fn listed(self) -> Option<(String, Listed)> {
        let listed = match (self.lfs, self.blob_id) {
            (Some(lfs), _) => Listed {
                size: lfs.size,
                hash: Hash::Sha256(lfs.sha256),
            },
            (None, Some(blob)) => Listed {
                size: self.size?,
                hash: Hash::GitBlob(blob),
            },
            (None, None) => return None,
        };
        Some((self.rfilename, listed))
    }
}

fn revision(repo: &str, revision: &str) -> Repo {
    Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned())
}

/// hf-hub leaves a link to the file; the link goes, so that the file can be moved or removed alone.
fn settle(pointer: &Path) -> Result<PathBuf, Error> {
    let file = fs::canonicalize(pointer).map_err(Error::io("find", pointer))?;
    fs::remove_file(pointer).map_err(Error::io("remove", pointer))?;
    Ok(file)
}

/// Whether another try can help: the connection broke, not the request.
fn is_interruption(error: &ApiError) -> bool {
    match error {
        ApiError::IoError(_) => true,
        ApiError::RequestError(error) => matches!(
            **error,
            ureq::Error::Io(_) | ureq::Error::StatusCode(500..) | ureq::Error::ConnectionFailed
        ),
        _ => false,
    }
}

fn failed(at: &str, error: &ApiError) -> Error {
    let hint = match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(401 | 403) => "it is not public; accept its terms on the hub and give a token",
            ureq::Error::StatusCode(404) => "the hub has no such thing",
            _ => "pull again: it goes on where it stopped",
        },
        _ => "pull again: it goes on where it stopped",
    };
    Error::Hub {
        what: format!("{at}: {error}; {hint}"),
    }
}

/// Adds up what hf-hub tells of one file.
struct Report<'a> {
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Progress for Report<'_> {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.done = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.progress)(self.done);
    }

    fn finish(&mut self) {}
}
