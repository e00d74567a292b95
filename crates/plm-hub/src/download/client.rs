//! Speaks to the hub: lists a repository, and describes and opens its files.

use std::io::Read;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::address::{is_same_server, quoted, redirected};
use super::digest::FileDigest;
use crate::config::Token;
use crate::name::is_commit;
use crate::{Error, Hub, ModelName, Wanted};

/// How often something is tried that may pass, without anything new in between.
pub(super) const TRIES: u32 = 5;

/// The most bytes of a listing. A repository with 10,000 files has some 1 MB.
const MAX_LISTING_BYTES: u64 = 1 << 26;

/// The most redirects from one address to a file.
const MAX_REDIRECTS: usize = 10;

/// What the hub says of a repository at a revision.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What the hub says of a file.
pub(super) struct Remote {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) digest: FileDigest,
    pub(super) bytes: Option<u64>,
    /// More than this is no such file.
    pub(super) most_bytes: u64,
}

impl Remote {
    /// Refuses a file that has this many bytes or more.
    pub(super) fn check_size(&self, bytes: u64) -> Result<(), Error> {
        if bytes > self.most_bytes {
            return Err(Error::TextTooLarge {
                url: self.url.clone(),
                bytes,
            });
        }
        Ok(())
    }
}

/// A file's bytes as they come, from a position on.
pub(super) struct Opened {
    pub(super) from: u64,
    pub(super) body: Box<dyn Read>,
}

/// Why something can't be had.
pub(super) enum Failure {
    /// It may pass.
    Passing(String),
    /// The server has nothing after this position.
    PastTheEnd,
    /// It will stay so.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

/// The hub, and the model that is asked for.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    name: &'a ModelName,
    kinds: &'a [Wanted],
    agent: Agent,
    endpoint: Uri,
    token: Option<Token>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        name: &'a ModelName,
        kinds: &'a [Wanted],
    ) -> Result<Self, Error> {
        let config = hub.config();
        let endpoint: Option<Uri> = (config.endpoint.parse().ok())
            .filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .filter(|uri| uri.authority().is_some());
        let endpoint = endpoint.ok_or_else(|| Error::Endpoint {
            endpoint: config.endpoint.clone(),
        })?;
        let of_file = || {
            let text = std::fs::read_to_string(config.token_file.as_ref()?).ok()?;
            Token::new(text)
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed here, where the token is left out for other servers.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy(config.proxy.as_deref(), config.no_proxy.as_deref())?)
            .tls_config(TlsConfig::builder().root_certs(roots()).build())
            .timeout_connect(Some(config.timeout.min(Duration::from_secs(10))))
            .timeout_recv_response(Some(config.timeout))
            .timeout_per_read(Some(config.timeout))
            .user_agent(concat!("plm-hub/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build()
            .new_agent();
        Ok(Self {
            hub,
            name,
            kinds,
            agent,
            endpoint,
            token: config.token.clone().or_else(of_file),
        })
    }

    pub(super) fn name(&self) -> &'a ModelName {
        self.name
    }

    /// Waits before the next try, the longer the more there have been.
    pub(super) fn pause(&self, tries: u32) {
        let first = self.hub.config().pause;
        thread::sleep(first.saturating_mul(1 << tries.min(4)));
    }

    /// Asks for the commit of the revision, and for its files.
    pub(super) fn listing(&self) -> Result<Listing, Error> {
        #[derive(Deserialize)]
        struct Model {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.hub.config().endpoint,
            self.name.repository(),
            quoted(self.name.revision())
        );
        let response = self.patient(&url, || {
            let (response, _) = self.follow("GET", &url, 0, |_, _| false)?;
            self.check(&url, &response)?;
            let mut text = Vec::new();
            (response.into_body().into_reader().take(MAX_LISTING_BYTES))
                .read_to_end(&mut text)
                .map_err(|error| Failure::Passing(error.to_string()))?;
            Ok(text)
        })?;
        let not_a_hub = |problem: String| Error::NotAHub {
            url: url.clone(),
            problem,
        };
        let model: Model = serde_json::from_slice(&response).map_err(|error| {
            not_a_hub(match response.trim_ascii_start().first() {
                Some(b'<') => "it sends a web page, as proxies and logins do".to_owned(),
                _ => format!("its list of files is not read: {error}"),
            })
        })?;
        if !is_commit(&model.sha) {
            return Err(not_a_hub(format!("{:?} is no commit", model.sha)));
        }
        Ok(Listing {
            commit: model.sha,
            files: (model.siblings.into_iter())
                .map(|file| file.rfilename)
                .collect(),
        })
    }

    /// Asks for the digest and the size of a file at a commit.
    pub(super) fn remote(&self, commit: &str, file: &str) -> Result<Remote, Error> {
        let url = format!(
            "{}/{}/resolve/{commit}/{}",
            self.hub.config().endpoint,
            self.name.repository(),
            quoted(file)
        );
        let (is_redirect, headers) = self.patient(&url, || {
            // The redirect to the store of large files has their digests.
            let (response, _) = self.follow("HEAD", &url, 0, |response, to| {
                response.headers().contains_key("x-linked-etag")
                    || !is_same_server(&self.endpoint, to)
            })?;
            self.check(&url, &response)?;
            let (parts, _) = response.into_parts();
            Ok((parts.status.is_redirection(), parts.headers))
        })?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let not_a_hub = |problem: String| Error::NotAHub {
            url: url.clone(),
            problem,
        };
        if let Some(other) = text("x-repo-commit").filter(|other| *other != commit) {
            return Err(not_a_hub(format!(
                "it is asked for commit {commit} and tells of {other:?}"
            )));
        }
        let tag = text("x-linked-etag").or_else(|| text("etag"));
        let digest = tag.and_then(FileDigest::of_tag).ok_or_else(|| {
            not_a_hub(match tag {
                Some(tag) => format!("its tag {tag:?} is no digest of the file"),
                None => "it gives no digest of the file".to_owned(),
            })
        })?;
        let length = || text("content-length").filter(|_| !is_redirect);
        let bytes = text("x-linked-size").or_else(length);
        Ok(Remote {
            name: file.to_owned(),
            bytes: bytes.and_then(|bytes| bytes.parse().ok()),
            most_bytes: u64::MAX,
            digest,
            url,
        })
    }

    /// Asks for the bytes of a file from a position on. The server may start before it.
    pub(super) fn open(&self, file: &Remote, from: u64) -> Result<Opened, Failure> {
        let (response, _) = self.follow("GET", &file.url, from, |_, _| false)?;
        match response.status().as_u16() {
            200 => Ok(Opened {
                from: 0,
                body: Box::new(response.into_body().into_reader()),
            }),
            206 => {
                let start = range_start(response.headers()).filter(|start| *start <= from);
                let from = start.ok_or_else(|| Error::NotAHub {
                    url: file.url.clone(),
                    problem: format!("it is asked for what follows byte {from}, and sends another"),
                })?;
                Ok(Opened {
                    from,
                    body: Box::new(response.into_body().into_reader()),
                })
            }
            416 => Err(Failure::PastTheEnd),
            _ => {
                self.check(&file.url, &response)?;
                Err(Failure::Lasting(Error::NotAHub {
                    url: file.url.clone(),
                    problem: format!("it sends no file, but status {}", response.status()),
                }))
            }
        }
    }

    /// Tries again what may pass.
    fn patient<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match attempt() {
                Ok(found) => return Ok(found),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::PastTheEnd) => unreachable!("nothing was asked for by position"),
                Err(Failure::Passing(why)) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(self.unreachable(url, why));
                    }
                    tracing::debug!("{url}: {why}; trying again");
                    self.pause(tries - 1);
                }
            }
        }
    }

    /// The error for a hub that can't be reached.
    fn unreachable(&self, url: &str, why: String) -> Error {
        Error::Unreachable {
            name: self.name.to_string(),
            state: self.hub.state(self.name),
            url: url.to_owned(),
            by_hand: self.hub.by_hand(self.name, self.kinds),
            why,
        }
    }

    /// Asks, and follows redirects until `is_enough` says of an answer and its target to stop. The
    /// token is sent to the hub alone.
    fn follow(
        &self,
        method: &str,
        url: &str,
        from: u64,
        is_enough: impl Fn(&Response<Body>, &Uri) -> bool,
    ) -> Result<(Response<Body>, Uri), Failure> {
        let not_a_hub = |problem: &str| Error::NotAHub {
            url: url.to_owned(),
            problem: problem.to_owned(),
        };
        let mut at: Uri = (url.parse()).map_err(|_| not_a_hub("that is no address"))?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(method, &at, from)?;
            let location = response.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Ok((response, at));
            };
            let to = (location.to_str().ok())
                .and_then(|location| redirected(&at, location))
                .ok_or_else(|| not_a_hub("it redirects to no address that may be followed"))?;
            if is_enough(&response, &to) {
                return Ok((response, at));
            }
            at = to;
        }
        Err(not_a_hub("it redirects in circles").into())
    }

    fn ask(&self, method: &str, at: &Uri, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = match method {
            "HEAD" => self.agent.head(at),
            _ => self.agent.get(at),
        };
        if let Some(token) = (self.token.as_ref()).filter(|_| is_same_server(&self.endpoint, at)) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| self.failure(at, &error))?;
        match response.status().as_u16() {
            status @ (408 | 429 | 500..) => Err(Failure::Passing(format!("status {status}"))),
            _ => Ok(response),
        }
    }

    /// Whether an error of a request may pass. A host that is not there, or lets nobody in, will
    /// not be there in a few seconds.
    fn failure(&self, at: &Uri, error: &ureq::Error) -> Failure {
        use std::io::ErrorKind::{ConnectionReset, Interrupted, UnexpectedEof};
        let mut why = error.to_string();
        let passes = match error {
            ureq::Error::Io(error) => {
                matches!(error.kind(), ConnectionReset | Interrupted | UnexpectedEof)
            }
            ureq::Error::Timeout(timeout) => !matches!(timeout, ureq::Timeout::Connect),
            ureq::Error::Protocol(_) => true,
            _ => false,
        };
        if matches!(error, ureq::Error::Rustls(_)) {
            why = format!("{why}; SSL_CERT_FILE can name a file with more authorities");
        }
        match passes {
            true => Failure::Passing(why),
            // The query of an address that was redirected to may hold a signature.
            false => self.unreachable(&without_query(at), why).into(),
        }
    }

    /// Refuses an answer with a status that says no.
    fn check(&self, url: &str, response: &Response<Body>) -> Result<(), Error> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        let code = response.headers().get("x-error-code");
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default();
        let name = self.name.repository().to_owned();
        let endpoint = self.hub.config().endpoint.clone();
        let has_token = self.token.is_some();
        Err(match (status.as_u16(), code) {
            (_, "RevisionNotFound") => Error::NoSuchRevision {
                name,
                endpoint,
                revision: self.name.revision().to_owned(),
            },
            (_, "GatedRepo") | (403, _) => Error::Denied {
                name,
                endpoint,
                status: status.as_u16(),
                has_token,
            },
            // The hub says 401 of models that do not exist, too.
            (401 | 404, _) if code != "EntryNotFound" => Error::NoSuchModel {
                name,
                endpoint,
                has_token,
            },
            (status, _) => Error::Status {
                url: url.to_owned(),
                status,
            },
        })
    }
}

/// An address without what follows its `?`.
fn without_query(at: &Uri) -> String {
    let address = at.to_string();
    let end = address.find('?').unwrap_or(address.len());
    address[..end].to_owned()
}

/// The first position in `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

/// The system's certificate authorities, to which companies add their own; those of Mozilla if
/// there are none, as in a bare container.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "a certificate of the system is not read");
    }
    if found.certs.is_empty() {
        return RootCerts::WebPki;
    }
    (found.certs.iter())
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect::<Vec<_>>()
        .into()
}

/// The proxy at an address, but for some hosts.
fn proxy(address: Option<&str>, no_proxy: Option<&str>) -> Result<Option<Proxy>, Error> {
    let Some(address) = address else {
        return Ok(None);
    };
    let whole = Proxy::new(address).map_err(|_| Error::Proxy)?;
    let mut proxy = Proxy::builder(whole.protocol())
        .host(whole.host())
        .port(whole.port());
    if let (Some(user), Some(password)) = (whole.username(), whole.password()) {
        proxy = proxy.username(user).password(password);
    }
    for host in no_proxy.unwrap_or_default().split(',') {
        proxy = proxy.no_proxy(host.trim());
    }
    proxy.build().map(Some).map_err(|_| Error::Proxy)
}
