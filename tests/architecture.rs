//! Asserts docs/architecture.md: which crate and room may depend on which, and where `unsafe` is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// The crates that each crate may depend on, outside its tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("cuda-lazy", &[]),
    ("plm-core", &[]),
    ("plm-checkpoint", &["plm-core"]),
    ("plm-hub", &[]),
    ("plm-index", &["plm-core"]),
    ("plm-kernels", &["cuda-lazy"]),
    (
        "plm-encoder",
        &["plm-checkpoint", "plm-core", "plm-kernels"],
    ),
    (
        "plm-esm2",
        &["plm-checkpoint", "plm-core", "plm-encoder", "plm-kernels"],
    ),
    (
        "plm-esmc",
        &["plm-checkpoint", "plm-core", "plm-encoder", "plm-kernels"],
    ),
    ("plm-coordinator", &["plm-core"]),
    ("plm-shards", &["plm-core"]),
    ("plm-export", &["plm-core"]),
    (
        "plm-fleet",
        &[
            "plm-checkpoint",
            "plm-core",
            "plm-coordinator",
            "plm-encoder",
            "plm-esm2",
            "plm-esmc",
            "plm-export",
            "plm-hub",
            "plm-index",
            "plm-kernels",
            "plm-shards",
        ],
    ),
    ("plm-cli", &["plm-fleet"]),
    ("plm-testkit", &["plm-core"]),
];

/// The rooms of the facade, and which other rooms each may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("compute", &[]),
    ("embedder", &["compute"]),
    ("out_dir", &["store"]),
    ("result", &["compute", "out_dir", "store"]),
    ("run", &["compute", "out_dir", "result", "store"]),
    ("store", &[]),
];

/// The names of the facade's root that any room may use.
const OF_THE_ROOT: &[&str] = &["Error", "VERSION"];

/// The crates of model families. Only the facade's table and its public names know them.
const FAMILIES: &[&str] = &["plm-esm2", "plm-esmc"];

/// The heavy dependencies, and the crates that may have each.
const OWNERS: &[(&str, &[&str])] = &[
    ("noodles-fasta", &["plm-index"]),
    ("ruzstd", &["plm-index"]),
    ("safetensors", &["plm-checkpoint"]),
    (
        "candle-core",
        &["plm-kernels", "plm-encoder", "plm-esm2", "plm-esmc"],
    ),
    ("candle-nn", &["plm-encoder", "plm-esm2", "plm-esmc"]),
    ("candle-transformers", &["plm-encoder"]),
    ("crossbeam-channel", &["plm-coordinator"]),
    ("hdf5-metno", &["plm-shards"]),
    ("parquet", &["plm-export"]),
    ("arrow-array", &["plm-export"]),
    ("ureq", &["plm-hub"]),
    ("rustls-native-certs", &["plm-hub"]),
    // The testkit makes digests for its fake hub.
    ("ring", &["plm-hub", "plm-testkit"]),
    ("clap", &["plm-cli"]),
    ("indicatif", &["plm-cli"]),
];

/// The crates that call C, or a device's kernels.
const WITH_UNSAFE: &[&str] = &["plm-kernels", "plm-shards"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace")
        .to_owned()
}

fn crates() -> BTreeMap<String, Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo describes this workspace");
    let crates = metadata.workspace_root.join("crates");
    metadata
        .packages
        .into_iter()
        .filter(|package| package.manifest_path.starts_with(&crates))
        .map(|package| (package.name.to_string(), package))
        .collect()
}

fn dependencies(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

/// Every Rust source of a crate, without tests and benches.
fn sources(package: &Package) -> Vec<PathBuf> {
    rust_files(
        package
            .manifest_path
            .with_file_name("src")
            .into_std_path_buf(),
    )
}

/// Every Rust source below a folder.
fn rust_files(folder: PathBuf) -> Vec<PathBuf> {
    let mut folders = vec![folder];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let crates = crates();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        crates.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        known,
        "a crate was added or removed: say here what it may depend on"
    );
    for (name, allowed) in ARROWS {
        let arrows: BTreeSet<&str> = dependencies(&crates[*name])
            .intersection(&known)
            .copied()
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(
            arrows.is_subset(&allowed),
            "{name} depends on {:?}",
            arrows.difference(&allowed)
        );
    }
}

/// The first names that a source uses below its crate's root. It is `first` in
/// `crate::first::second` and in `crate::{first, first::second}`. Comments are left out.
fn names_below_the_root(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut names = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &code[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let mut starts_a_name = true;
        for (at, letter) in list.char_indices() {
            if starts_a_name && depth == 0 && letter.is_alphabetic() {
                names.insert(first_name(&list[at..]));
                starts_a_name = false;
            }
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => starts_a_name = true,
                _ => {}
            }
        }
    }
    names
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|&letter| letter.is_alphanumeric() || letter == '_')
        .collect()
}

#[test]
fn names_below_the_root_are_found_however_they_are_written() {
    let source = "use crate::one::{a, b};\n// crate::no\nuse crate::{Two, three::{c, d},\n four};\n\
                  pub(crate) fn f() { $crate::g(); crate::five::h(); plm_crate::no() }";
    let names = names_below_the_root(source);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(names, ["Two", "five", "four", "g", "one", "three"]);
}

#[test]
fn the_facade_is_rooms_that_use_each_other_along_the_arrows() {
    let facade = root().join("crates/plm-fleet/src");
    let mut rooms = BTreeSet::new();
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(&facade).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            rooms.insert(name);
        } else {
            files.insert(name);
        }
    }
    assert_eq!(
        files.iter().map(String::as_str).collect::<Vec<_>>(),
        ["error.rs", "lib.rs"],
        "a file of the facade is in a room"
    );
    assert_eq!(
        rooms.iter().map(String::as_str).collect::<Vec<_>>(),
        ROOMS.iter().map(|(room, _)| *room).collect::<Vec<_>>(),
        "a room was added or removed: say here what it may use"
    );
    for (room, others) in ROOMS {
        for file in rust_files(facade.join(room)) {
            let source = fs::read_to_string(&file).unwrap();
            for name in names_below_the_root(&source) {
                let is_allowed = [&[*room], *others, OF_THE_ROOT].concat().contains(&&*name);
                assert!(is_allowed, "{} uses crate::{name}", file.display());
            }
            let way_out = if file == facade.join(room).join("mod.rs") {
                "super::"
            } else {
                "super::super::"
            };
            let stays = !source.contains(way_out);
            assert!(stays, "{} leaves its room by {way_out}", file.display());
        }
        let doc = fs::read_to_string(facade.join(room).join("mod.rs")).unwrap();
        let doc = doc.replace("\n//! ", " ");
        assert!(
            doc.starts_with("//! ") && doc.contains("must not know"),
            "{room}/mod.rs opens with what the room does and must not know"
        );
    }
}

#[test]
fn families_of_models_are_known_in_one_table() {
    let knows = ["plm-fleet/src/compute/families.rs", "plm-fleet/src/lib.rs"];
    for name in ["plm-fleet", "plm-cli"] {
        for file in sources(&crates()[name]) {
            let source = fs::read_to_string(&file).unwrap();
            let code: String = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            for family in FAMILIES {
                let (family, name) = (family.replace('-', "_"), &family["plm-".len()..]);
                let names_it = code.contains(&family) || code.contains(&format!("{name}::"));
                assert!(
                    !names_it || knows.iter().any(|known| file.ends_with(known)),
                    "{} names {family}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn a_heavy_dependency_has_one_owner() {
    for (name, package) in crates() {
        let dependencies = dependencies(&package);
        for (heavy, owners) in OWNERS {
            assert!(
                !dependencies.contains(heavy) || owners.contains(&name.as_str()),
                "{name} depends on {heavy}, which belongs to {owners:?}"
            );
        }
    }
}

#[test]
fn the_vocabulary_needs_nothing_but_errors_events_and_f16() {
    let core = &crates()["plm-core"];
    let optional: BTreeSet<&str> = core
        .dependencies
        .iter()
        .filter(|dependency| dependency.optional)
        .map(|dependency| dependency.name.as_str())
        .collect();
    assert_eq!(optional, BTreeSet::from(["serde"]), "behind a feature");
    let needed: BTreeSet<&str> = &dependencies(core) - &optional;
    assert_eq!(needed, BTreeSet::from(["half", "thiserror", "tracing"]));
}

#[test]
fn all_crates_have_one_version() {
    let versions: BTreeSet<String> = crates()
        .values()
        .map(|package| package.version.to_string())
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
}

#[test]
fn published_crates_carry_their_licences_and_say_how_docs_rs_builds_them() {
    for (name, package) in crates() {
        if package.publish.as_deref() == Some(&[]) {
            continue;
        }
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let path = package.manifest_path.with_file_name(licence);
            let text = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(text == fs::read(root().join(licence)).unwrap(), "{path}");
        }
        let readme = package.manifest_path.with_file_name("README.md");
        assert!(
            package.readme.as_deref() == Some("README.md".into()) && readme.exists(),
            "{name} has no README of its own"
        );
        let lib = package.manifest_path.with_file_name("src").join("lib.rs");
        assert!(
            !fs::read_to_string(&readme).unwrap().contains("```rust")
                || fs::read_to_string(&lib)
                    .unwrap()
                    .contains("include_str!(\"../README.md\")"),
            "the examples of {readme} are not tested"
        );
        let docs_rs = &package.metadata["docs"]["rs"];
        assert!(
            docs_rs.is_object(),
            "{name} has no package.metadata.docs.rs"
        );
        // docs.rs has no CMake, but the system's HDF5.
        if package.features.contains_key("hdf5-system") {
            assert_eq!(docs_rs["no-default-features"], true, "{name}");
            assert_eq!(docs_rs["features"][0], "hdf5-system", "{name}");
        }
    }
}

#[test]
fn the_choice_of_hdf5_is_forwarded_to_plm_shards() {
    let crates = crates();
    for (name, below) in [("plm-cli", "plm-fleet"), ("plm-fleet", "plm-shards")] {
        let package = &crates[name];
        let default = &package.features["default"];
        assert!(
            default.iter().any(|feature| feature == "hdf5-bundled"),
            "{name}"
        );
        for feature in ["hdf5-bundled", "hdf5-system"] {
            let forwarded = format!("{below}/{feature}");
            assert_eq!(package.features[feature], [forwarded], "{name}");
        }
        let dependency = package
            .dependencies
            .iter()
            .find(|dependency| dependency.name == below)
            .expect("the arrows say so");
        assert!(
            !dependency.uses_default_features,
            "{name} would bundle HDF5 whatever its own features say"
        );
    }
}

#[test]
fn the_program_downloads_and_the_library_does_so_if_asked() {
    let crates = crates();
    let has = |name: &str, feature: &str, other: &str| {
        let features = &crates[name].features[feature];
        features.iter().any(|feature| feature == other)
    };
    assert!(has("plm-cli", "default", "hub") && has("plm-cli", "hub", "plm-fleet/hub"));
    assert!(has("plm-fleet", "hub", "plm-hub/download") && !has("plm-fleet", "default", "hub"));
    let network = (crates["plm-hub"].dependencies.iter()).find(|found| found.name == "ureq");
    assert!(network.is_some_and(|found| found.optional));
}

/// Whether a source has unsafe code, however it is spaced. Comment lines do not count.
fn has_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.trim_start();
        let is_between_words = |letter: char| !letter.is_alphanumeric() && letter != '_';
        !code.starts_with("//") && code.split(is_between_words).any(|word| word == "unsafe")
    })
}

#[test]
fn unsafe_code_is_seen_however_it_is_spaced() {
    for code in [
        "unsafe { f() }",
        "let a = unsafe{ f() };",
        "unsafe\nfn f() {}",
        "\tunsafe impl A",
    ] {
        assert!(has_unsafe(code), "{code}");
    }
    for other in [
        "// unsafe { f() }",
        "#![allow(unsafe_code)]",
        "let is_unsafe = 1;",
    ] {
        assert!(!has_unsafe(other), "{other}");
    }
}

#[test]
fn unsafe_code_is_in_its_corners_only() {
    for (name, package) in crates() {
        for file in sources(&package) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(
                !has_unsafe(&text) || WITH_UNSAFE.contains(&name.as_str()),
                "{} has unsafe code",
                file.display()
            );
        }
    }
}

/// The string literals of a source, without those in comments and in-file tests.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or("");
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(['"', '/', '\'', 'r']) {
        let before = rest[..start].chars().next_back();
        rest = &rest[start..];
        let is_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(tail) = rest.strip_prefix("'\"'") {
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("'\\\"'") {
            rest = tail;
        } else if let Some(text) = rest.strip_prefix('"') {
            let mut end = text.len();
            let mut letters = text.char_indices();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '\\' => drop(letters.next()),
                    '"' => {
                        end = at;
                        break;
                    }
                    _ => {}
                }
            }
            literals.push(text[..end].to_owned());
            rest = text.get(end + 1..).unwrap_or("");
        } else if !is_word && (rest.starts_with("r\"") || rest.starts_with("r#")) {
            let hashes = rest[1..]
                .chars()
                .take_while(|&letter| letter == '#')
                .count();
            let close = format!("\"{}", "#".repeat(hashes));
            match rest[1 + hashes..].strip_prefix('"') {
                Some(text) => {
                    let end = text.find(&close).expect("a raw string ends");
                    literals.push(text[..end].to_owned());
                    rest = &text[end + close.len()..];
                }
                // This is a raw identifier.
                None => rest = &rest[1..],
            }
        } else {
            rest = &rest[1..];
        }
    }
    literals
}

#[test]
fn string_literals_are_found_and_comments_are_not() {
    let source = "// \"no\"\nlet a = \"one \\\" two\"; /// \"no\"\nlet b = ['\"', r'x']; for r#in in r#\"th\"ree\"# {}\n\
                  #[cfg(test)]\nmod tests { \"no\" }";
    assert_eq!(literals(source), ["one \\\" two", "th\"ree"]);
}

#[test]
fn only_the_program_speaks_of_its_options_and_commands() {
    let is_option = |text: &str| {
        text.match_indices("--")
            .any(|(at, _)| text[at + 2..].starts_with(|letter: char| letter.is_ascii_lowercase()))
    };
    let is_command = |text: &str| {
        text.match_indices("plm-fleet ").any(|(at, name)| {
            let word: String = text[at + name.len()..]
                .chars()
                .take_while(char::is_ascii_alphabetic)
                .collect();
            ["embed", "index", "aggregate", "verify", "info"].contains(&&*word)
        })
    };
    for (name, package) in crates() {
        if name == "plm-cli" {
            continue;
        }
        for file in sources(&package) {
            for text in literals(&fs::read_to_string(&file).unwrap()) {
                // Text between backticks is for other programs, whose options a library may know.
                let ours = |(place, words): &(usize, &str)| {
                    place.is_multiple_of(2) || words.starts_with("plm-fleet")
                };
                let words = text.split('`').enumerate().filter(ours);
                let text: String = words.map(|(_, words)| words).collect();
                assert!(
                    !is_option(&text) && !is_command(&text),
                    "{}: {text:?} is for plm-cli/src/advice.rs to say",
                    file.display()
                );
            }
        }
    }
}
