//! A Hugging Face hub on the loopback, with the endpoints that downloads use, which fails on cue.
//!
//! It speaks HTTP over real sockets, as the hub does: a listing with the commit, `resolve` with a
//! redirect to another server for large files, digests and sizes in headers, and ranges.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::json;

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum HubFault {
    /// The connection is closed after this many bytes of the body.
    Cut(usize),
    /// Nothing is sent after this many bytes of the body, and the connection stays open.
    Stall(usize),
    /// The body comes in pieces of this many bytes, with this time between them.
    Slow(usize, Duration),
    /// The answer has this status and this `X-Error-Code`.
    Status(u16, &'static str),
    /// The answer has this body, and is well otherwise.
    Body(Vec<u8>),
    /// A header has this value, or is left out.
    Header(&'static str, Option<String>),
    /// The answer redirects there.
    Redirect(String),
    /// A range is answered with the whole file.
    Whole,
    /// A bit of the body is another one.
    Flip,
}

/// A request that the hub got.
#[derive(Clone, Debug)]
pub struct HubRequest {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, decoded, without what follows its `?`.
    pub path: String,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Whether it came to the server for large files.
    pub is_of_store: bool,
}

/// A hub with the models that a test puts there. It lives as long as the process.
pub struct FakeHub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The files of `owner/name` at a commit.
    files: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// The commit of `owner/name` at a revision.
    refs: BTreeMap<(String, String), String>,
    /// A token without which there is nothing.
    token: Option<String>,
    faults: Vec<Planned>,
    requests: Vec<HubRequest>,
    /// The address of the server for large files.
    store: String,
}

struct Planned {
    method: &'static str,
    part: String,
    times: usize,
    fault: HubFault,
}

impl FakeHub {
    /// Starts the hub, and a second server for large files.
    pub fn start() -> Self {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
            let address = listener.local_addr().expect("it is bound");
            (listener, format!("http://{address}"))
        };
        let ((hub, endpoint), (store, store_address)) = (listen(), listen());
        let state = Arc::new(Mutex::new(State {
            store: store_address,
            ..State::default()
        }));
        for (listener, is_of_store) in [(hub, false), (store, true)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away is its own matter.
                    thread::spawn(move || answer(&state, stream, is_of_store));
                }
            });
        }
        Self { endpoint, state }
    }

    /// The address of the hub.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address of the server for large files.
    pub fn store(&self) -> String {
        self.state().store.clone()
    }

    /// Puts a model there, at a commit that these revisions are. Files that end in `.safetensors`
    /// or `.bin` are large ones.
    pub fn put(&self, name: &str, commit: &str, revisions: &[&str], files: &[(&str, &[u8])]) {
        let mut state = self.state();
        for revision in revisions {
            let key = (name.to_owned(), (*revision).to_owned());
            state.refs.insert(key, commit.to_owned());
        }
        let files = files
            .iter()
            .map(|(file, bytes)| ((*file).to_owned(), bytes.to_vec()));
        let key = (name.to_owned(), commit.to_owned());
        state.files.insert(key, files.collect());
    }

    /// Refuses whoever does not send this token.
    pub fn lock(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Fails the next `times` requests of this method whose path has `part` in it.
    pub fn fail(&self, method: &'static str, part: &str, times: usize, fault: HubFault) {
        self.state().faults.push(Planned {
            method,
            part: part.to_owned(),
            times,
            fault,
        });
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<HubRequest> {
        self.state().requests.clone()
    }

    /// Forgets the requests so far, and the faults to come.
    pub fn forget(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.faults.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest by which git knows a file.
pub fn git_digest(content: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", content.len()).as_bytes());
    context.update(content);
    hex(context.finish().as_ref())
}

/// The SHA-256 of a file, in hex.
pub fn sha256(content: &[u8]) -> String {
    hex(digest(&SHA256, content).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin")
}

/// An answer before it is sent.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!("{{\"error\": \"{code}\"}}")).with("X-Error-Code", code)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set(name, Some(value.into()));
        self
    }

    fn set(&mut self, name: &'static str, value: Option<String>) {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.extend(value.map(|value| (name, value)));
    }
}

/// Answers one request, and closes the connection.
fn answer(state: &Mutex<State>, stream: TcpStream, is_of_store: bool) {
    let Some(request) = read(&stream, is_of_store) else {
        return;
    };
    let (mut answer, fault) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(request.clone());
        let fault = state.faults.iter_mut().find(|planned| {
            planned.times > 0
                && planned.method == request.method
                && request.path.contains(&planned.part)
        });
        let fault = fault.map(|planned| {
            planned.times -= 1;
            planned.fault.clone()
        });
        (state.answer(&request, &fault), fault)
    };
    match &fault {
        Some(HubFault::Status(status, code)) => answer = Answer::error(*status, code),
        Some(HubFault::Body(body)) => answer.body.clone_from(body),
        Some(HubFault::Redirect(to)) => answer = Answer::new(302, "").with("Location", to),
        Some(HubFault::Flip) => {
            if let Some(byte) = answer.body.last_mut() {
                *byte ^= 1;
            }
        }
        _ => {}
    }
    let length = answer.body.len().to_string();
    answer = answer
        .with("Content-Length", length)
        .with("Connection", "close");
    if let Some(HubFault::Header(name, value)) = &fault {
        answer.set(name, value.clone());
    }
    if request.method == "HEAD" {
        answer.body.clear();
    }
    // A client may have had enough.
    let _ = send(stream, &answer, fault.as_ref());
}

fn read(stream: &TcpStream, is_of_store: bool) -> Option<HubRequest> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let headers = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    let path = target.split('?').next()?;
    Some(HubRequest {
        method,
        path: decoded(path),
        headers: headers.collect(),
        is_of_store,
    })
}

/// A path without `%XX`.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|hex| str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn send(mut stream: TcpStream, answer: &Answer, fault: Option<&HubFault>) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let body = &answer.body;
    match fault {
        Some(HubFault::Cut(bytes)) => stream.write_all(&body[..(*bytes).min(body.len())]),
        Some(HubFault::Stall(bytes)) => {
            stream.write_all(&body[..(*bytes).min(body.len())])?;
            stream.flush()?;
            // Until the client closes it.
            stream.read(&mut [0]).map(drop)
        }
        Some(HubFault::Slow(bytes, pause)) => {
            for piece in body.chunks(*bytes) {
                stream.write_all(piece)?;
                stream.flush()?;
                thread::sleep(*pause);
            }
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

impl State {
    fn answer(&self, request: &HubRequest, fault: &Option<HubFault>) -> Answer {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        let token = request.headers.get("authorization");
        let may = |token: &String| {
            Some(token) == self.token.as_ref().map(|t| format!("Bearer {t}")).as_ref()
        };
        if request.is_of_store {
            // A signed address: whoever sends a token there has lost it.
            return match self.large(parts.last().unwrap_or(&"")) {
                Some(content) => ranged(content, request, fault),
                None => Answer::new(404, ""),
            };
        }
        if self.token.is_some() && !token.is_some_and(may) {
            return Answer::error(401, "RepoNotFound");
        }
        match parts[..] {
            ["api", "models", owner, name, "revision", ref revision @ ..] => {
                self.listing(&format!("{owner}/{name}"), &revision.join("/"))
            }
            ["api", "models", owner, name, "tree", commit, ..] => {
                self.tree(&format!("{owner}/{name}"), commit)
            }
            [owner, name, "resolve", revision, ref file @ ..] => self.resolve(
                &format!("{owner}/{name}"),
                revision,
                &file.join("/"),
                request,
                fault,
            ),
            _ => Answer::error(404, "RepoNotFound"),
        }
    }

    fn large(&self, sha: &str) -> Option<&Vec<u8>> {
        let all = self.files.values().flat_map(BTreeMap::iter);
        let mut large = all.filter(|(file, _)| is_large(file));
        large
            .find(|(_, content)| sha256(content) == sha)
            .map(|(_, content)| content)
    }

    /// The commit of a revision, or the answer that there is none.
    fn commit(&self, name: &str, revision: &str) -> Result<String, Answer> {
        let is_known = |(known, _): &(String, String)| known == name;
        if !self.files.keys().any(is_known) {
            return Err(Answer::error(401, "RepoNotFound"));
        }
        let key = (name.to_owned(), revision.to_owned());
        if self.files.contains_key(&key) {
            return Ok(revision.to_owned());
        }
        let commit = self.refs.get(&key).cloned();
        commit.ok_or_else(|| Answer::error(404, "RevisionNotFound"))
    }

    fn listing(&self, name: &str, revision: &str) -> Answer {
        let commit = match self.commit(name, revision) {
            Ok(commit) => commit,
            Err(answer) => return answer,
        };
        let files = self.files[&(name.to_owned(), commit.clone())].keys();
        let siblings: Vec<_> = files.map(|file| json!({ "rfilename": file })).collect();
        let listing = json!({
            "_id": "1", "id": name, "modelId": name, "sha": commit, "private": false,
            "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
        });
        Answer::new(200, listing.to_string()).with("Content-Type", "application/json")
    }

    fn tree(&self, name: &str, commit: &str) -> Answer {
        let Some(files) = self.files.get(&(name.to_owned(), commit.to_owned())) else {
            return Answer::error(404, "RevisionNotFound");
        };
        let entries = files.iter().map(|(file, content)| {
            let mut entry = json!({
                "type": "file", "path": file, "size": content.len(), "oid": git_digest(content),
            });
            if is_large(file) {
                let lfs = json!({
                    "oid": sha256(content), "size": content.len(), "pointerSize": 134,
                });
                entry["lfs"] = lfs;
            }
            entry
        });
        let entries: Vec<_> = entries.collect();
        Answer::new(200, json!(entries).to_string()).with("Content-Type", "application/json")
    }

    fn resolve(
        &self,
        name: &str,
        revision: &str,
        file: &str,
        request: &HubRequest,
        fault: &Option<HubFault>,
    ) -> Answer {
        let commit = match self.commit(name, revision) {
            Ok(commit) => commit,
            Err(answer) => return answer,
        };
        let Some(content) = self.files[&(name.to_owned(), commit.clone())].get(file) else {
            return Answer::error(404, "EntryNotFound").with("X-Repo-Commit", commit);
        };
        if is_large(file) {
            let sha = sha256(content);
            return Answer::new(302, "")
                .with("X-Repo-Commit", commit)
                .with("X-Linked-Etag", format!("\"{sha}\""))
                .with("X-Linked-Size", content.len().to_string())
                .with("Accept-Ranges", "bytes")
                .with("Location", format!("{}/{sha}?signature=1", self.store));
        }
        ranged(content, request, fault)
            .with("X-Repo-Commit", commit)
            .with("ETag", format!("\"{}\"", git_digest(content)))
    }
}

/// A file, or what a range of it asks for.
fn ranged(content: &[u8], request: &HubRequest, fault: &Option<HubFault>) -> Answer {
    let range = request.headers.get("range");
    let from = range
        .filter(|_| !matches!(fault, Some(HubFault::Whole)))
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.strip_suffix('-'))
        .and_then(|from| from.parse::<usize>().ok());
    let all = content.len();
    match from {
        None => Answer::new(200, content).with("Accept-Ranges", "bytes"),
        Some(from) if from >= all => {
            Answer::new(416, "").with("Content-Range", format!("bytes */{all}"))
        }
        Some(from) => Answer::new(206, &content[from..])
            .with("Content-Range", format!("bytes {from}-{}/{all}", all - 1)),
    }
}
