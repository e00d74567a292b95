//! Texts and indexes after random mutations.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_core::RowId;
use plm_index::{
    BadRecordPolicy, DuplicatePolicy, Error, FastaIndex, Freshness, GapPolicy, IdRule, IndexConfig,
    NamelessPolicy,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::layouts::ugly_fasta;
use crate::{Workspace, oracle};

/// Damage that a file may get in transfer.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Truncate(Index),
    Extend(Vec<u8>),
    /// Two stretches of the same size change places.
    Swap(Index, Index, usize),
    Remove(Index, usize),
    Repeat(Index, usize),
    /// Another file from here on.
    Splice(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let size = 1..200_usize;
    prop_oneof![
        (at(), 1..=u8::MAX).prop_map(|(at, mask)| Mutation::Flip(at, mask)),
        at().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..100).prop_map(Mutation::Extend),
        (at(), at(), size.clone()).prop_map(|(a, b, size)| Mutation::Swap(a, b, size)),
        (at(), size.clone()).prop_map(|(at, size)| Mutation::Remove(at, size)),
        (at(), size).prop_map(|(at, size)| Mutation::Repeat(at, size)),
        at().prop_map(Mutation::Splice),
    ]
}

/// `bytes` after a mutation; a splice goes on with `other`.
fn mutated(mut bytes: Vec<u8>, mutation: &Mutation, other: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let stretch = |at: &Index, size: usize| {
        let start = at.index(bytes.len());
        start..(start + size).min(bytes.len())
    };
    match mutation {
        Mutation::Flip(at, mask) => {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        Mutation::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        Mutation::Extend(more) => bytes.extend_from_slice(more),
        Mutation::Swap(a, b, size) => {
            let size = (*size).min(bytes.len() / 2);
            let room = bytes.len() - 2 * size + 1;
            let (a, b) = (a.index(room), b.index(room));
            let (first, second) = (a.min(b), a.max(b) + size);
            let (head, tail) = bytes.split_at_mut(second);
            head[first..first + size].swap_with_slice(&mut tail[..size]);
        }
        Mutation::Remove(at, size) => {
            let stretch = stretch(at, *size);
            bytes.drain(stretch);
        }
        Mutation::Repeat(at, size) => {
            let stretch = stretch(at, *size);
            let again = bytes[stretch.clone()].to_vec();
            bytes.splice(stretch.end..stretch.end, again);
        }
        Mutation::Splice(at) => {
            let at = at.index(bytes.len().min(other.len().max(1)));
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at..]);
        }
    }
    bytes
}

/// An index of a few records, and one of other records and the same size, with their inputs.
struct Saved {
    index: FastaIndex,
    bytes: Vec<u8>,
    other: Vec<u8>,
    _workspace: Workspace,
}

static SAVED: LazyLock<Saved> = LazyLock::new(|| {
    let workspace = Workspace::new();
    let path = workspace.path("index.plm");
    let save = |text: String| {
        let input = workspace.write("input", text);
        let index = workspace.build(&[&input], &IndexConfig::default()).unwrap();
        index.save(&path).unwrap();
        (index, fs::read(&path).unwrap())
    };
    let text = |letters: &str| -> String {
        (0..40)
            .map(|row| format!(">r{row}\n{}\n", letters.repeat(row % 7 + 1)))
            .collect()
    };
    let (_, other) = save(text("MKVL"));
    let (index, bytes) = save(text("GAWD"));
    Saved {
        index,
        bytes,
        other,
        _workspace: workspace,
    }
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_mutated_index_is_refused_or_the_very_same(
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let bytes = mutations.iter().fold(SAVED.bytes.clone(), |bytes, mutation| {
            mutated(bytes, mutation, &SAVED.other)
        });
        let workspace = Workspace::new();
        match FastaIndex::load(&workspace.write("index.plm", &bytes)) {
            Ok(index) => {
                let is_one_of_them = bytes == SAVED.bytes || bytes == SAVED.other;
                prop_assert!(is_one_of_them, "{mutations:?}");
                prop_assert_eq!(index == SAVED.index, bytes == SAVED.bytes);
            }
            Err(
                Error::NotAnIndex { .. } | Error::IndexVersion { .. } | Error::DamagedIndex { .. },
            ) => prop_assert_ne!(bytes, SAVED.bytes.clone()),
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}

fn policies() -> impl Strategy<Value = IndexConfig> {
    let bad = || prop::sample::select(BadRecordPolicy::ALL.to_vec());
    let duplicate = prop::sample::select(DuplicatePolicy::ALL.to_vec());
    let nameless = prop::option::of(prop::sample::select(NamelessPolicy::ALL.to_vec()));
    let gap = prop::sample::select(GapPolicy::ALL.to_vec());
    let id = prop::sample::select(IdRule::ALL.to_vec());
    (bad(), bad(), duplicate, nameless, gap, id).prop_map(
        |(on_invalid, on_empty, on_duplicate, on_nameless, on_gap, id)| IndexConfig {
            on_invalid,
            on_empty,
            on_duplicate,
            on_nameless,
            on_gap,
            id,
        },
    )
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Whether a file that is not compressed any more is read as FASTA: blanks and byte order marks may
/// stand before its first `>`.
fn is_text(bytes: &[u8]) -> bool {
    let mut rest = bytes.trim_ascii_start();
    while let Some(after_mark) = rest.strip_prefix(b"\xef\xbb\xbf") {
        rest = after_mark.trim_ascii_start();
    }
    rest.starts_with(b">")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_mutated_text_is_what_other_readers_read_or_is_refused_with_a_true_place(
        text in ugly_fasta(),
        other in ugly_fasta(),
        mutations in prop::collection::vec(mutation(), 0..4),
        config in policies(),
        is_compressed: bool,
    ) {
        let text = mutations.iter().fold(text.into_bytes(), |text, mutation| {
            mutated(text, mutation, other.as_bytes())
        });
        prop_assume!(!oracle::is_compressed(&text));
        let workspace = Workspace::new();
        let content = if is_compressed { gzip(&text) } else { text.clone() };
        let path = workspace.write("input", content);
        oracle::check(&text, &workspace.build(&[&path], &config));
    }

    #[test]
    fn a_mutated_zstd_is_the_same_text_or_damage(
        text in ugly_fasta(),
        mutations in prop::collection::vec(mutation(), 1..3),
    ) {
        let whole = zstd(text.as_bytes());
        let bytes = mutations.iter().fold(whole.clone(), |bytes, mutation| {
            mutated(bytes, mutation, &whole)
        });
        let workspace = Workspace::new();
        let path = workspace.write("input", &bytes);
        match workspace.build(&[&path], &IndexConfig::default()) {
            Ok(index) => {
                // Each frame is complete, so one may be missing, or be there twice.
                let found = index.inputs()[0].text_digest.hex();
                let expected = blake3::hash(text.as_bytes()).to_string();
                prop_assert!(found == expected || bytes.len() < whole.len(), "{mutations:?}");
            }
            Err(
                Error::DamagedZstd { file, .. }
                | Error::ZstdWindow { file, .. }
                | Error::NotFasta { file, .. }
                | Error::OtherFormat { file, .. }
                | Error::LoneCarriageReturn { file, .. }
                | Error::EmptyInput { file },
            ) => prop_assert!(file.ends_with("input")),
            Err(Error::Problems(problems)) => {
                prop_assert!(bytes.len() > whole.len() || is_text(&bytes), "{}", problems);
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }

    #[test]
    fn a_mutated_gzip_is_the_same_text_or_damage(
        text in ugly_fasta(),
        mutations in prop::collection::vec(mutation(), 1..3),
    ) {
        let whole = gzip(text.as_bytes());
        let bytes = mutations.iter().fold(whole.clone(), |bytes, mutation| {
            mutated(bytes, mutation, &whole)
        });
        let workspace = Workspace::new();
        let path = workspace.write("input", &bytes);
        match workspace.build(&[&path], &IndexConfig::default()) {
            Ok(index) => oracle::check(text.as_bytes(), &Ok(index)),
            // Damage may show in the text before the checksum is reached.
            Err(
                Error::DamagedGzip { file, .. }
                | Error::NotFasta { file, .. }
                | Error::OtherFormat { file, .. }
                | Error::LoneCarriageReturn { file, .. }
                | Error::EmptyInput { file },
            ) => prop_assert!(file.ends_with("input")),
            // The same text twice, as two members of one file, or no gzip any more.
            Err(Error::Problems(problems)) => {
                prop_assert!(bytes.len() > whole.len() || is_text(&bytes), "{}", problems);
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}

/// Overwrites a file, which keeps its time.
fn change_secretly(path: &Path, content: &str) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn what_changed_behind_the_same_size_and_time_is_noticed_at_reading_and_at_resuming() {
    let original = ">a\nACDE\n>b\nFGHI\n>c\nKLMN\n";
    for (changed, wrong_rows) in [
        (">a\nACDE\n>b\nFGHK\n>c\nKLMN\n", &[1][..]), // a letter
        (">b\nFGHI\n>a\nACDE\n>c\nKLMN\n", &[0, 1]),  // two records
        (">b\nACDE\n>a\nFGHI\n>c\nKLMN\n", &[0, 1]),  // two names
        (">a\nFGHI\n>b\nACDE\n>c\nKLMN\n", &[0, 1]),  // two sequences
        (">a\nCADE\n>b\nFGHI\n>c\nKLMN\n", &[0]),     // two letters
        (">a\nACD\n>bx\nFGHI\n>c\nKLMN\n", &[0, 1]),  // where one ends and another begins
        (">a\nACDE\n>b\nFGHI\n>c\nKLM\n\n", &[2]),    // a letter fewer
        (">a\nACDE\n>b\nFGHI\n", &[2]),               // cut at a record
        (">a\nACDE\n>b\nFG", &[1, 2]),                // cut in a record
    ] {
        let workspace = Workspace::new();
        let path = workspace.write("input", original);
        let saved = workspace.path("index.plm");
        let load_or_build = || {
            let inputs = [path.clone().into()];
            let config = IndexConfig::default();
            FastaIndex::load_or_build(&inputs, &saved, &workspace.spool(), &config).unwrap()
        };
        let (index, _) = load_or_build();
        change_secretly(&path, changed);

        let mut reader = index.reader();
        let mut residues = Vec::new();
        for record in index.records() {
            let read = reader.read(record.row, &mut residues);
            if !wrong_rows.contains(&record.row.0) {
                read.unwrap();
                continue;
            }
            let error = read.expect_err(changed);
            let message = error.to_string();
            assert!(
                message.contains("changed after it was indexed"),
                "{message}"
            );
            match error {
                Error::InputChanged {
                    path: named,
                    record: id,
                    byte_offset,
                } => assert_eq!(
                    (named.as_path(), id.as_str(), byte_offset),
                    (path.as_path(), record.id, record.byte_offset)
                ),
                other => panic!("{changed:?}: {other:?}"),
            }
        }
        let (again, freshness) = load_or_build();
        assert_eq!(freshness, Freshness::Built, "{changed:?}");
        oracle::check(changed.as_bytes(), &Ok(again));
    }
}

#[test]
fn a_record_that_came_to_stand_where_there_were_empty_lines_is_noticed() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nACDE\n\n\n\n\n>b\nFG\n");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    change_secretly(&path, ">a\nACDE\n>c\n\n>b\nFG\n");
    let error = index.reader().read(RowId(0), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::InputChanged { .. }), "{error:?}");
}

#[test]
fn a_record_longer_than_what_is_read_at_once_is_checked_to_its_end() {
    let workspace = Workspace::new();
    let lines = "ACDEFGHIKL\r\n".repeat(30_000);
    let text = format!(">a\r\n{lines}>b\r\nGG\r\n");
    let path = workspace.write("input", &text);
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let mut reader = index.reader();
    let mut residues = Vec::new();
    reader.read(RowId(0), &mut residues).unwrap();
    assert_eq!(residues, b"ACDEFGHIKL".repeat(30_000));
    for at in [5, 65_530, 65_536, 65_540, 131_072, 359_990] {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'W' { b'Y' } else { b'W' };
        fs::write(&path, changed).unwrap();
        let error = reader.read(RowId(0), &mut residues).unwrap_err();
        assert!(
            matches!(error, Error::InputChanged { .. }),
            "{at}: {error:?}"
        );
    }
}
