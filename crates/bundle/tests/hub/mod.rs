//! A Hugging Face hub in miniature: every repository and file that the catalogue asks for, with small
//! made-up contents; large ones behind a redirect, as the hub does it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest as _, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with a file (`organisation/name/path`) or a repository (`organisation/name`).
#[derive(Clone, Copy)]
pub enum Fault {
    /// The connection ends at this byte of the file, so many times.
    Cut { at: usize, times: usize },
    /// Every answer ends after the eighth part of the file.
    Eighths,
    /// Other bytes come than are listed.
    Falsify,
    /// It is not there.
    Missing,
}

/// A request as it came.
#[derive(Clone)]
pub struct Seen {
    pub path: String,
    /// The file whose content was asked for.
    pub file: Option<String>,
    /// The start of the range, where it is open.
    pub from: Option<u64>,
    pub authorised: bool,
}

#[derive(Default)]
struct State {
    faults: BTreeMap<String, Fault>,
    seen: Vec<Seen>,
}

/// A running hub; its thread ends with the process.
pub struct Hub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn serve(faults: Vec<(&str, Fault)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = faults.into_iter().map(|(at, fault)| (at.to_owned(), fault));
        let state = State {
            faults: faults.collect(),
            seen: Vec::new(),
        };
        let hub = Self {
            port,
            state: Arc::new(Mutex::new(state)),
        };
        let state = Arc::clone(&hub.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || answer(stream, port, &state));
            }
        });
        hub
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }
}

/// The files of every repository that the catalogue names.
fn files(repo: &str) -> Vec<String> {
    let diffusers = || {
        let folders = [
            ("scheduler", &["scheduler_config.json"][..]),
            (
                "tokenizer",
                &[
                    "vocab.json",
                    "merges.txt",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                ],
            ),
            (
                "tokenizer_2",
                &[
                    "vocab.json",
                    "merges.txt",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                ],
            ),
            (
                "text_encoder",
                &["config.json", "model.safetensors", "model.fp16.safetensors"],
            ),
            (
                "text_encoder_2",
                &["config.json", "model.safetensors", "model.fp16.safetensors"],
            ),
            (
                "unet",
                &[
                    "config.json",
                    "diffusion_pytorch_model.safetensors",
                    "diffusion_pytorch_model.fp16.safetensors",
                ],
            ),
            (
                "vae",
                &["config.json", "diffusion_pytorch_model.safetensors"],
            ),
        ];
        let mut all = vec!["model_index.json".to_owned()];
        for (folder, files) in folders {
            all.extend(files.iter().map(|file| format!("{folder}/{file}")));
        }
        all
    };
    let owned = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect();
    match repo {
        "bytedance-research/HyperLoRA" => ["fidelity", "edit"]
            .iter()
            .flat_map(|kind| {
                [
                    "hyper_lora_modules.json",
                    "hyper_lora_modules.safetensors",
                    "id_projector.safetensors",
                    "resampler.safetensors",
                ]
                .map(|file| format!("sdxl_hyper_id_lora_v1_{kind}/{file}"))
            })
            .collect(),
        "openai/clip-vit-large-patch14" => owned(&[
            "config.json",
            "preprocessor_config.json",
            "model.safetensors",
            "README.md",
        ]),
        "DIAMONIK7777/antelopev2" => owned(&[
            "1k3d68.onnx",
            "2d106det.onnx",
            "glintr100.onnx",
            "scrfd_10g_bnkps.onnx",
        ]),
        "stabilityai/stable-diffusion-xl-base-1.0" | "SG161222/RealVisXL_V4.0" => diffusers(),
        other => panic!("nobody should ask for {other}"),
    }
}

fn content(file: &str) -> Vec<u8> {
    let lines = if is_large(file) { 400 } else { 3 };
    (0..lines)
        .flat_map(|line| format!("{file} {line}\n").into_bytes())
        .collect()
}

fn is_large(file: &str) -> bool {
    let extension = std::path::Path::new(file).extension();
    extension.is_some_and(|extension| extension == "safetensors" || extension == "onnx")
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn git_blob(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex::encode(hash.finalize())
}

/// What an answer is made of.
struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection ends.
    cut: Option<usize>,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }
}

fn answer(mut stream: TcpStream, port: u16, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut range, mut authorised) = (String::new(), None, false);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = parse_range(value.trim()),
            "authorization" => authorised = true,
            _ => {}
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let reply = reply(&path, range, authorised, port, state);
    let sent = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n{}\r\n",
        reply.status,
        reply.body.len(),
        reply
            .headers
            .iter()
            .map(|h| format!("{h}\r\n"))
            .collect::<String>()
    );
    // A client that has gone is no fault of the server's.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(sent));
}

fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()))
}

fn reply(
    path: &str,
    range: Option<(u64, Option<u64>)>,
    authorised: bool,
    port: u16,
    state: &Mutex<State>,
) -> Answer {
    let bare = path
        .split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/');
    let mut state = state.lock().unwrap();
    let resolve = format!("/resolve/{COMMIT}/");
    let file = bare.strip_prefix("cdn/").map(str::to_owned).or_else(|| {
        bare.split_once(resolve.as_str())
            .map(|(repo, file)| format!("{repo}/{file}"))
    });
    state.seen.push(Seen {
        path: path.to_owned(),
        file: file.clone(),
        from: range.and_then(|(from, to)| to.is_none().then_some(from)),
        authorised,
    });
    if let Some(repo) = bare
        .strip_prefix("api/models/")
        .and_then(|r| r.strip_suffix("/revision/main"))
    {
        return listing(repo, &state);
    }
    let Some(file) = file else {
        return Answer::new("404 Not Found");
    };
    let bytes = content(&file);
    if bare.starts_with("cdn/") || !is_large(&file) {
        return part(&file, bytes, range, &mut state);
    }
    let mut answer = Answer::new("302 Found");
    answer.headers = vec![
        // Another name of this machine: a storage is not the hub.
        format!("location: http://localhost:{port}/cdn/{file}"),
        format!("x-repo-commit: {COMMIT}"),
        format!("x-linked-etag: \"{}\"", sha256(&bytes)),
        "etag: \"of the redirect\"".to_owned(),
    ];
    answer
}

fn listing(repo: &str, state: &State) -> Answer {
    let missing = |at: &str| matches!(state.faults.get(at), Some(Fault::Missing));
    if missing(repo) {
        return Answer::new("404 Not Found");
    }
    let there = files(repo)
        .into_iter()
        .filter(|file| !missing(&format!("{repo}/{file}")));
    let siblings: Vec<_> = there
        .map(|file| {
            let bytes = content(&format!("{repo}/{file}"));
            if is_large(&file) {
                json!({ "rfilename": file, "size": bytes.len(), "blobId": "0",
                        "lfs": { "sha256": sha256(&bytes), "size": bytes.len(), "pointerSize": 1 } })
            } else {
                json!({ "rfilename": file, "size": bytes.len(), "blobId": git_blob(&bytes) })
            }
        })
        .collect();
    let mut answer = Answer::new("200 OK");
    answer.headers = vec!["content-type: application/json".to_owned()];
    answer.body = json!({ "sha": COMMIT, "siblings": siblings })
        .to_string()
        .into_bytes();
    answer
}

fn part(
    file: &str,
    mut bytes: Vec<u8>,
    range: Option<(u64, Option<u64>)>,
    state: &mut State,
) -> Answer {
    let (size, etag) = (bytes.len(), git_blob(&bytes));
    let mut cut = None;
    match state.faults.get_mut(file) {
        Some(Fault::Falsify) => bytes[size / 2] ^= 1,
        Some(Fault::Cut { at, times })
            if range.is_none_or(|(_, to)| to.is_none()) && *times > 0 =>
        {
            *times -= 1;
            cut = Some(at.saturating_sub(range.map_or(0, |(from, _)| from as usize)));
        }
        Some(Fault::Eighths) => cut = Some(size / 8),
        _ => {}
    }
    let (from, to) = range.unwrap_or((0, None));
    let from = (from as usize).min(size);
    let end = to.map_or(size, |to| (to as usize + 1).min(size));
    let mut answer = Answer::new("206 Partial Content");
    answer.headers = vec![
        format!(
            "content-range: bytes {from}-{}/{size}",
            end.saturating_sub(1)
        ),
        format!("etag: \"{etag}\""),
        format!("x-repo-commit: {COMMIT}"),
    ];
    answer.body = bytes[from..end].to_vec();
    answer.cut = cut;
    answer
}
