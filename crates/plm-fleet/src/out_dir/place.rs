//! Checks, before anything is read, that a path can be an output directory.

use std::fs;
use std::path::Path;

use crate::Error;

/// Refuses a path that is not a directory and can't become one. Makes nothing.
pub(crate) fn check(out_dir: &Path) -> Result<(), Error> {
    let refusal = |reason: String| Error::NoOutDir {
        path: out_dir.to_owned(),
        reason,
    };
    if out_dir.as_os_str().is_empty() {
        return Err(refusal("its name is empty".to_owned()));
    }
    // The error for a path below a file does not mention the file, so ancestors are checked.
    for path in out_dir.ancestors() {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) if path == out_dir => return Err(refusal("it is a file".to_owned())),
            Ok(_) => return Err(refusal(format!("{} is a file", path.display()))),
            Err(_) if path.is_symlink() => {
                return Err(refusal(format!("{} is a link to nothing", path.display())));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_and_can_be_made_none_is_refused_by_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        for (name, reason) in [
            (path("file"), "it is a file"),
            (path("file/below/this"), "file is a file"),
            (path("dangling"), "is a link to nothing"),
            (path("dangling/below"), "is a link to nothing"),
            ("".into(), "its name is empty"),
        ] {
            let refused = check(&name).unwrap_err();
            assert!(refused.is_refusal());
            let words = refused.to_string();
            assert!(words.contains(reason), "{words}");
            assert!(words.contains(&*name.to_string_lossy()), "{words}");
        }
        for name in [path(""), path("new/and/deep"), "relative".into()] {
            check(&name).unwrap();
        }
        assert!(!path("new").exists());
    }
}
