//! Addresses: what may stand in them, and where a redirect leads.

use std::fmt::Write;

use ureq::http::Uri;

/// `words` as a part of a path: all but letters, digits and `-_.~` becomes `%XX`.
pub(super) fn quoted(words: &str) -> String {
    let mut quoted = String::with_capacity(words.len());
    for byte in words.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(quoted, "%{byte:02X}");
        }
    }
    quoted
}

/// Where a redirect from `from` to `location` leads; `None` if that is no address, or would go on
/// without TLS after TLS.
pub(super) fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let to = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", from.authority()?)
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let path = from.path();
        let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
        format!("{scheme}://{}{folder}{location}", from.authority()?)
    };
    let to: Uri = to.parse().ok()?;
    let is_kept_safe = match to.scheme_str()? {
        "https" => true,
        "http" => scheme == "http",
        _ => false,
    };
    (is_kept_safe && to.authority().is_some()).then_some(to)
}

/// Whether two addresses are of one server, by scheme, host and port.
pub(super) fn is_same_server(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_letter_of_a_path_is_quoted() {
        assert_eq!(quoted("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(quoted("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(quoted("a b?c#d%é"), "a%20b%3Fc%23d%25%C3%A9");
    }

    #[test]
    fn a_redirect_leads_where_it_says_and_never_out_of_tls() {
        let from = "https://hub:8443/a/b/resolve/main/c".parse().unwrap();
        for (location, to) in [
            ("/x/y", Some("https://hub:8443/x/y")),
            ("d", Some("https://hub:8443/a/b/resolve/main/d")),
            ("//cdn/x", Some("https://cdn/x")),
            ("https://cdn/x?sig=1", Some("https://cdn/x?sig=1")),
            ("http://cdn/x", None),
            ("file:///etc/passwd", None),
            ("https://", None),
        ] {
            let found = redirected(&from, location).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), to, "{location}");
        }
        let plain = "http://hub/a".parse().unwrap();
        assert!(redirected(&plain, "http://cdn/x").is_some());
        assert!(!is_same_server(&plain, &"http://hub:81/a".parse().unwrap()));
        assert!(!is_same_server(&plain, &"https://hub/a".parse().unwrap()));
    }
}
