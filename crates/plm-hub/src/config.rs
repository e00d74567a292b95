//! Where the cache is, and how to speak to the hub.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The address of the hub.
const HUB: &str = "https://huggingface.co";

/// Where the cache is, and how to speak to the hub.
///
/// ```
/// use plm_hub::HubConfig;
///
/// let variables = |name: &str| match name {
///     "HF_HOME" => Some("/data/hf".into()),
///     "HF_HUB_OFFLINE" => Some("1".into()),
///     _ => None,
/// };
/// let config = HubConfig::of_variables(variables, None);
/// assert_eq!(config.cache.to_str(), Some("/data/hf/hub"));
/// assert!(config.is_offline);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HubConfig {
    /// The directory of the cache, which need not exist.
    pub cache: PathBuf,
    /// The address of the hub or of a mirror, without a `/` at its end.
    pub endpoint: String,
    /// The token that is sent to the hub. It opens private and gated models.
    pub token: Option<Token>,
    /// The file with the token that is sent if there is no `token`. It need not exist.
    pub token_file: Option<PathBuf>,
    /// Nothing is downloaded.
    pub is_offline: bool,
    /// Files of a snapshot are links to blobs, as far as the file system has links.
    pub has_links: bool,
    /// An answer that does not go on for this time is given up, and asked for again.
    pub timeout: Duration,
    /// The time before the second try, twice that before the third, and so on.
    pub pause: Duration,
    /// The address of the proxy that requests go through.
    pub proxy: Option<String>,
    /// The hosts to reach without the proxy, with commas between them.
    pub no_proxy: Option<String>,
}

impl HubConfig {
    /// The configuration of a cache, with the hub itself, and without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: HUB.to_owned(),
            token: None,
            token_file: None,
            is_offline: false,
            has_links: true,
            timeout: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            proxy: None,
            no_proxy: None,
        }
    }

    /// Reads the configuration from environment variables, as `constants.py` of huggingface_hub
    /// does. `variable` returns the value of one; this library reads none itself. `home` is the
    /// user's home directory, for when `HOME` is not set.
    ///
    /// | variable | says |
    /// |---|---|
    /// | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` | the cache; the first counts |
    /// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | nothing is downloaded |
    /// | `HF_ENDPOINT` | the address of the hub |
    /// | `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN` | the token |
    /// | `HF_HUB_DISABLE_SYMLINKS` | files of a snapshot are no links |
    /// | `HF_HUB_DOWNLOAD_TIMEOUT` | the timeout, in seconds |
    /// | `https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`, also in upper case | the proxy |
    pub fn of_variables(variable: impl Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Self {
        let variables = Variables {
            get: &variable,
            home,
        };
        let hf_home = variables.expanded("HF_HOME").unwrap_or_else(|| {
            let of_user = || variables.home_directory().join(".cache");
            let cache = variable("XDG_CACHE_HOME").map_or_else(of_user, PathBuf::from);
            variables.expand(&cache.join("huggingface").into_os_string())
        });
        let cache = (variables.expanded("HF_HUB_CACHE"))
            .or_else(|| variables.expanded("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| variables.expand(hf_home.join("hub").as_os_str()));
        let token_file = (variables.expanded("HF_TOKEN_PATH"))
            .unwrap_or_else(|| variables.expand(hf_home.join("token").as_os_str()));
        let is_anonymous = variables.is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]);
        let token = variables.text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]);
        let endpoint = (variables.text(&["HF_ENDPOINT"])).unwrap_or_else(|| HUB.to_owned());
        let proxies: &[&str] = if endpoint.starts_with("http://") {
            &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        };
        let seconds = (variables.text(&["HF_HUB_DOWNLOAD_TIMEOUT"]))
            .and_then(|seconds| seconds.trim().parse().ok())
            .filter(|&seconds| seconds > 0);
        let default = Self::new(cache);
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|_| !is_anonymous).and_then(Token::new),
            token_file: (!is_anonymous).then_some(token_file),
            is_offline: variables.is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            has_links: !variables.is_true(&["HF_HUB_DISABLE_SYMLINKS"]),
            timeout: seconds.map_or(default.timeout, Duration::from_secs),
            proxy: variables.text(proxies),
            no_proxy: variables.text(&["no_proxy", "NO_PROXY"]),
            ..default
        }
    }
}

/// A secret that opens private and gated models. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token without the blanks and line breaks around it; `None` if nothing is left.
    pub fn new(words: impl AsRef<str>) -> Option<Self> {
        let words = words.as_ref().replace(['\r', '\n'], "");
        let words = words.trim();
        (!words.is_empty()).then(|| Self(words.to_owned()))
    }

    /// The value of the header that sends it.
    #[cfg(feature = "download")]
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Environment variables, read as Python reads them.
struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<OsString>,
    home: Option<&'a Path>,
}

impl Variables<'_> {
    /// The value of the first of these that is set to something. (Of paths, an empty one counts.)
    fn text(&self, names: &[&str]) -> Option<String> {
        let values = names.iter().filter_map(|name| (self.get)(name));
        let mut texts = values.map(|value| value.to_string_lossy().into_owned());
        texts.find(|text| !text.is_empty())
    }

    /// Whether the first of these that is set to something says yes.
    fn is_true(&self, names: &[&str]) -> bool {
        let text = self.text(names).map(|text| text.to_uppercase());
        text.is_some_and(|text| ["1", "ON", "YES", "TRUE"].contains(&&*text))
    }

    /// The path in a variable, if that is set.
    fn expanded(&self, name: &str) -> Option<PathBuf> {
        (self.get)(name).map(|value| self.expand(&value))
    }

    /// `os.path.expandvars(os.path.expanduser(path))`. The homes of other users stay as they are.
    fn expand(&self, path: &OsStr) -> PathBuf {
        let bytes = path.as_bytes();
        let with_home = match bytes.strip_prefix(b"~") {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => {
                let home = self.home_directory().into_os_string().into_vec();
                let end = home.iter().rposition(|&byte| byte != b'/');
                let mut path = home[..end.map_or(0, |end| end + 1)].to_vec();
                path.extend(rest);
                if path.is_empty() { b"/".to_vec() } else { path }
            }
            _ => bytes.to_vec(),
        };
        OsString::from_vec(self.with_values(&with_home)).into()
    }

    /// `bytes` with the values of `$NAME` and `${NAME}` in place of these, where they are set.
    fn with_values(&self, bytes: &[u8]) -> Vec<u8> {
        let mut expanded = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'$') {
            expanded.extend(&rest[..at]);
            rest = &rest[at..];
            let (name, end) = match rest.get(1) {
                Some(b'{') => match rest.iter().position(|&byte| byte == b'}') {
                    Some(end) => (&rest[2..end], end + 1),
                    None => (&rest[..0], 1),
                },
                _ => {
                    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                    let end = rest[1..].iter().position(|byte| !is_of_name(byte));
                    let end = end.map_or(rest.len(), |end| end + 1);
                    (&rest[1..end], end)
                }
            };
            let value = str::from_utf8(name).ok().filter(|name| !name.is_empty());
            match value.and_then(|name| (self.get)(name)) {
                Some(value) => expanded.extend(value.into_vec()),
                None => expanded.extend(&rest[..end]),
            }
            rest = &rest[end..];
        }
        expanded.extend(rest);
        expanded
    }

    fn home_directory(&self) -> PathBuf {
        let home = (self.get)("HOME").map(PathBuf::from);
        home.or_else(|| self.home.map(Path::to_owned))
            .unwrap_or_else(|| "~".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> HubConfig {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        HubConfig::of_variables(get, Some(Path::new("/home/who")))
    }

    #[test]
    fn a_token_is_sent_as_it_is_meant_and_never_shown() {
        let token = |variables: &[(&str, &str)]| config(variables).token;
        assert_eq!(token(&[("HF_TOKEN", " hf_x\n")]), Token::new("hf_x"));
        assert_eq!(
            token(&[("HUGGING_FACE_HUB_TOKEN", "hf_y")]),
            Token::new("hf_y")
        );
        assert_eq!(token(&[("HF_TOKEN", "\n")]), None);
        let anonymous = [("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(&anonymous), None);
        assert_eq!(config(&anonymous).token_file, None);
        let shown = format!("{:?}", config(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn without_variables_it_is_the_cache_in_the_home_directory() {
        let config = config(&[]);
        let cache = Path::new("/home/who/.cache/huggingface/hub");
        assert_eq!(config.cache, cache);
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert!(!config.is_offline && config.has_links);
        let token = Path::new("/home/who/.cache/huggingface/token");
        assert_eq!(config.token_file.as_deref(), Some(token));
    }

    #[test]
    fn the_proxy_is_that_of_the_endpoints_scheme() {
        let proxies = [("http_proxy", "http://a:1"), ("HTTPS_PROXY", "http://b:2")];
        assert_eq!(config(&proxies).proxy.as_deref(), Some("http://b:2"));
        let mut mirror = proxies.to_vec();
        mirror.push(("HF_ENDPOINT", "http://mirror/"));
        let config = config(&mirror);
        assert_eq!(config.proxy.as_deref(), Some("http://a:1"));
        assert_eq!(config.endpoint, "http://mirror");
    }
}
