//! The Hugging Face hub over HTTP: listings with checksums, and downloads that can be resumed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::typestate::WithoutBody;
use ureq::{Agent, RequestBuilder};

use super::PullOptions;
use crate::error::Error;

/// What is pulled.
const REVISION: &str = "main";
/// How often a connection that brings nothing is taken up again, and the pause before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// A hub that does not answer by then is gone. A body may take hours.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes read at a time.
const PIECE: usize = 1 << 18;
/// No listing of a repository is longer.
const LONGEST_LISTING: u64 = 16 << 20;

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

/// The hub's answer to `GET /api/models/{repo}/revision/{revision}?blobs=true`.
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
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    parts: PathBuf,
}

impl Hub {
    /// `parts` is the folder for what is not finished.
    pub fn open(options: &PullOptions, parts: &Path) -> Result<Self, Error> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        if !is_address(&endpoint) {
            let what = format!(
                "{endpoint:?} is no address of a hub; expected one such as {}",
                super::HUB
            );
            return Err(Error::Hub { what });
        }
        fs::create_dir_all(parts).map_err(Error::io("create", parts))?;
        // The token is for the hub, which may have moved a repository, not for the storage that it sends us on to.
        let agent = Agent::config_builder()
            .user_agent(concat!("likeness/", env!("CARGO_PKG_VERSION")))
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .build()
            .into();
        Ok(Self {
            agent,
            endpoint,
            token: options.token.clone(),
            parts: parts.to_path_buf(),
        })
    }

    /// What a repository holds, with checksums.
    pub fn list(&self, repo: &str) -> Result<Listing, Error> {
        let url = format!(
            "{}/api/models/{repo}/revision/{REVISION}?blobs=true",
            self.endpoint
        );
        let raw: RawListing = self
            .get(&url)
            .call()
            .and_then(|response| {
                let body = response.into_body().into_with_config();
                body.limit(LONGEST_LISTING).read_to_vec()
            })
            .map_err(|error| failed(&url, &error))
            .and_then(|text| {
                let what = |error| format!("{url}: not the listing of a repository: {error}");
                serde_json::from_slice(&text).map_err(|error| Error::Hub { what: what(error) })
            })?;
        // A file without a checksum is left out: it could not be trusted.
        let files = raw.siblings.into_iter().filter_map(RawFile::listed);
        Ok(Listing {
            commit: raw.sha,
            files: files.collect(),
        })
    }

    /// Downloads a file, from where an earlier try stopped, and says where it lies. `progress` hears of
    /// the bytes that are there.
    pub fn download(
        &self,
        repo: &str,
        commit: &str,
        name: &str,
        listed: &Listed,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Error> {
        let url = format!("{}/{repo}/resolve/{commit}/{name}", self.endpoint);
        let path = self.parts.join(listed.hash.text());
        let mut tries = 0;
        loop {
            let mut part = Part::open(&path, listed.size)?;
            if part.done == listed.size {
                return Ok(path);
            }
            let before = part.done;
            let ended = self.go_on(&url, &mut part, listed.size, progress);
            if part.done > before {
                tries = 0;
            }
            match ended {
                Ok(()) => {}
                Err(Broken::Disk(error)) => return Err(Error::io("write", &path)(error)),
                Err(Broken::Connection(error)) if tries < TRIES && may_pass(&error) => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(Broken::Connection(error)) => return Err(failed(&url, &error)),
            }
        }
    }

    /// Fetches what a part lacks.
    fn go_on(
        &self,
        url: &str,
        part: &mut Part,
        size: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Broken> {
        let request = self
            .get(url)
            .header("Range", format!("bytes={}-", part.done));
        let response = request.call().map_err(Broken::Connection)?;
        // A server that does not know ranges sends the whole.
        if response.status() != 206 {
            part.start_anew().map_err(Broken::Disk)?;
        }
        // One byte more than promised is enough to find the checksum wrong.
        let mut body = response
            .into_body()
            .into_reader()
            .take((size - part.done).saturating_add(1));
        let mut piece = vec![0; PIECE];
        loop {
            let read = body
                .read(&mut piece)
                .map_err(|error| Broken::Connection(ureq::Error::Io(error)))?;
            if read == 0 {
                break;
            }
            part.write(&piece[..read]).map_err(Broken::Disk)?;
            progress(part.done.min(size));
        }
        if part.done < size {
            let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Broken::Connection(ureq::Error::Io(ended)));
        }
        // What is longer than promised is cut, and its checksum found wrong.
        part.file.set_len(size).map_err(Broken::Disk)
    }

    fn get(&self, url: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(url);
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// Why a download stopped.
enum Broken {
    Connection(ureq::Error),
    Disk(io::Error),
}

/// The part of a file that is there.
struct Part {
    file: File,
    done: u64,
}

impl Part {
    /// Opens what earlier tries left; what is longer than the file can be is worthless.
    fn open(path: &Path, size: u64) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        let file = file.map_err(Error::io("write", path))?;
        let done = file.metadata().map_err(Error::io("read", path))?.len();
        let mut part = Self { file, done };
        if done > size {
            part.start_anew().map_err(Error::io("write", path))?;
        }
        Ok(part)
    }

    fn start_anew(&mut self) -> io::Result<()> {
        self.done = 0;
        self.file.set_len(0)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.done += bytes.len() as u64;
        Ok(())
    }
}

impl Hash {
    /// Its hexadecimal digits, and nothing that could be a path.
    fn text(&self) -> String {
        let (Self::Sha256(text) | Self::GitBlob(text)) = self;
        text.chars().filter(char::is_ascii_hexdigit).collect()
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

/// Whether this is an address to which paths can be added.
fn is_address(endpoint: &str) -> bool {
    let host = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_/[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(plain))
}

/// Whether another try can help: the connection broke, not the request.
fn may_pass(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::StatusCode(500..)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Timeout(_)
    )
}

fn failed(url: &str, error: &ureq::Error) -> Error {
    let hint = match error {
        ureq::Error::StatusCode(401 | 403) => {
            "it is not public; accept its terms on the hub and give a token"
        }
        ureq::Error::StatusCode(404) => "the hub has no such thing",
        _ => "pull again: it goes on where it stopped",
    };
    Error::Hub {
        what: format!("{url}: {error}; {hint}"),
    }
}
