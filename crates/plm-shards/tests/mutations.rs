//! Any change of a run's files is found or makes no difference: a vector never gets another id, and
//! nothing panics or waits for ever.
//!
//! `PROPTEST_CASES=100000 cargo test -p plm-shards --test mutations` tries more changes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::Run;
use common::forge::{Forged, seal, seal_pieces, unseal, unseal_pieces};
use plm_core::{Dtype, Rank, RowId, SequenceSource};
use plm_shards::{DurableRows, Error, scan, set_aside, verify};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// A change of a file's bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: Index,
        bits: u8,
    },
    Truncate {
        at: Index,
    },
    Extend {
        by: Vec<u8>,
    },
    ExtendByItself,
    Zero {
        at: Index,
        bytes: usize,
    },
    Remove {
        at: Index,
        bytes: usize,
    },
    Repeat {
        at: Index,
        bytes: usize,
    },
    Swap {
        one: Index,
        other: Index,
        bytes: usize,
    },
}

impl Mutation {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        // Up to a page, and often only a number or two.
        let bytes = || prop_oneof![1_usize..20, 1_usize..5000];
        prop_oneof![
            (at(), 1_u8..).prop_map(|(at, bits)| Self::Flip { at, bits }),
            at().prop_map(|at| Self::Truncate { at }),
            prop::collection::vec(any::<u8>(), 1..100).prop_map(|by| Self::Extend { by }),
            Just(Self::ExtendByItself),
            (at(), bytes()).prop_map(|(at, bytes)| Self::Zero { at, bytes }),
            (at(), bytes()).prop_map(|(at, bytes)| Self::Remove { at, bytes }),
            (at(), bytes()).prop_map(|(at, bytes)| Self::Repeat { at, bytes }),
            (at(), at(), bytes()).prop_map(|(one, other, bytes)| Self::Swap { one, other, bytes }),
        ]
    }

    /// Changes the file, and tells whether its bytes differ now.
    fn apply(&self, path: &Path) -> bool {
        let before = fs::read(path).unwrap();
        let mut after = before.clone();
        let block = |at: &Index, bytes: usize| {
            let start = at.index(before.len());
            start..(start + bytes).min(before.len())
        };
        match self {
            Self::Flip { at, bits } => after[at.index(before.len())] ^= bits,
            Self::Truncate { at } => after.truncate(at.index(before.len())),
            Self::Extend { by } => after.extend(by),
            Self::ExtendByItself => after.extend(&before),
            Self::Zero { at, bytes } => after[block(at, *bytes)].fill(0),
            Self::Remove { at, bytes } => drop(after.drain(block(at, *bytes))),
            Self::Repeat { at, bytes } => {
                let block = block(at, *bytes);
                after.splice(block.start..block.start, before[block].iter().copied());
            }
            Self::Swap { one, other, bytes } => {
                let (one, other) = (block(one, *bytes), block(other, *bytes));
                let bytes = one
                    .len()
                    .min(other.len())
                    .min(one.start.abs_diff(other.start));
                for (to, from) in [(&one, &other), (&other, &one)] {
                    after[to.start..][..bytes].copy_from_slice(&before[from.start..][..bytes]);
                }
            }
        }
        fs::write(path, &after).unwrap();
        after != before
    }
}

/// A run in two to four segments of two ranks, with ids of all kinds.
#[derive(Clone, Debug)]
struct Recipe {
    names: Vec<String>,
    /// The rows are in the order in which they are written.
    rows: Vec<RowId>,
    segments: usize,
    widths: Vec<usize>,
    dtype: Dtype,
}

impl Recipe {
    fn any() -> impl Strategy<Value = Self> {
        let names = prop::collection::vec("\\PC{0,12}", 4..24);
        let rows = names.prop_flat_map(|names| {
            let rows: Vec<RowId> = (0..names.len() as u64).map(RowId).collect();
            (Just(names), Just(rows).prop_shuffle())
        });
        let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::F16)];
        let widths = prop::collection::vec(1_usize..100, 1..4);
        (rows, 2_usize..5, widths, dtype).prop_map(|((names, rows), segments, widths, dtype)| {
            Self {
                names,
                rows,
                segments,
                widths,
                dtype,
            }
        })
    }

    fn run(&self) -> Run {
        let rows = self.names.len() as u64;
        let mut run = Run::in_memory(rows, &self.widths, self.dtype);
        for (row, name) in self.names.iter().enumerate() {
            run.input.0[row].0 = format!("{row} {name}");
        }
        let batches = self.rows.chunks(self.rows.len().div_ceil(self.segments));
        let batches = batches.enumerate();
        let batches = batches.map(|(batch, rows)| (Rank(batch as u32 % 2), rows.to_vec()));
        run.write(1, &batches.collect::<Vec<_>>());
        run
    }
}

fn scanned(run: &Run) -> Result<DurableRows, Error> {
    scan(&[run.shards()], &run.format)
}

/// Does what a resumed run does: sets damaged segments aside, computes missing rows, and merges.
fn go_on(run: &Run) {
    let durable = scanned(run).unwrap();
    for damaged in &durable.damaged {
        set_aside(&damaged.path).unwrap();
    }
    let all = (0..run.input.len()).map(RowId);
    let missing: Vec<RowId> = all.filter(|row| !durable.rows.contains(row)).collect();
    if !missing.is_empty() {
        run.write(1, &[(Rank(0), missing)]);
    }
    run.aggregate().unwrap();
    run.assert_right();
}

proptest! {
    #[test]
    fn a_changed_segment_is_damaged_and_only_that(
        recipe in Recipe::any(),
        mutation in Mutation::any(),
        segment: Index,
    ) {
        let run = recipe.run();
        let segments = run.segments();
        let segment = segment.get(&segments);
        if mutation.apply(segment) {
            let durable = scanned(&run).unwrap();
            let damaged: Vec<&PathBuf> = durable.damaged.iter().map(|one| &one.path).collect();
            prop_assert_eq!(damaged, [segment]);
            prop_assert!(!durable.damaged[0].reason.is_empty());
            prop_assert_eq!(durable.segments, segments.len() - 1);
            let error = run.aggregate().unwrap_err();
            let found = matches!(&error, Error::DamagedSegment { path, .. } if path == segment);
            prop_assert!(found, "{}", error);
            prop_assert!(run.others().is_empty());
        }
        go_on(&run);
    }

    #[test]
    fn segments_under_each_others_names_make_no_difference(
        recipe in Recipe::any(),
        one: Index,
        other: Index,
    ) {
        let run = recipe.run();
        let segments = run.segments();
        let (one, other) = (one.get(&segments), other.get(&segments));
        let (bytes, other_bytes) = (fs::read(one).unwrap(), fs::read(other).unwrap());
        fs::write(one, other_bytes).unwrap();
        fs::write(other, bytes).unwrap();
        go_on(&run);
    }

    #[test]
    fn a_segment_in_anothers_place_is_named(recipe in Recipe::any(), one: Index, other: Index) {
        let run = recipe.run();
        let segments = run.segments();
        let one = one.index(segments.len());
        let other = (one + 1 + other.index(segments.len() - 1)) % segments.len();
        fs::copy(&segments[one], &segments[other]).unwrap();
        let both = [&segments[one.min(other)], &segments[one.max(other)]];
        for error in [scanned(&run).unwrap_err(), run.aggregate().unwrap_err()] {
            match error {
                Error::DuplicateRows { first, second, .. } => {
                    prop_assert_eq!([&first, &second], both);
                }
                error => panic!("{error}"),
            }
        }
        prop_assert!(run.others().is_empty());
        fs::remove_file(&segments[other]).unwrap();
        go_on(&run);
    }

    #[test]
    fn a_changed_result_is_refused_and_left_as_it_is(recipe in Recipe::any(), mutation in Mutation::any()) {
        let run = recipe.run();
        run.aggregate().unwrap();
        if mutation.apply(&run.output()) {
            let bytes = fs::read(run.output()).unwrap();
            for expected in [None, Some(run.expectation())] {
                let error = verify(run.output(), expected).unwrap_err();
                let named = matches!(&error, Error::BadEmbeddings { path, .. } if *path == run.output());
                prop_assert!(named, "{}", error);
            }
            let refused = matches!(run.aggregate(), Err(Error::OutputExists { .. }));
            prop_assert!(refused);
            prop_assert!(fs::read(run.output()).unwrap() == bytes);
        } else {
            run.assert_right();
        }
    }
}

/// A run of one segment, with two outputs.
fn small_run() -> Run {
    run_of(&[3, 2])
}

fn run_of(widths: &[usize]) -> Run {
    let run = Run::of_outputs(5, widths, Dtype::F32);
    run.write_all();
    run
}

/// Replaces the only segment of a run by `bytes`, asserts that every reader refuses it, and gives
/// the reason.
fn refusal(run: &Run, bytes: &[u8], what: &str) -> String {
    let segment = &run.segments()[0];
    fs::write(segment, bytes).unwrap();
    let aggregated = run.aggregate().expect_err(what);
    assert!(
        aggregated.to_string().contains(segment.to_str().unwrap()),
        "{aggregated}"
    );
    assert!(run.others().is_empty(), "{what}");
    match scanned(run) {
        Ok(durable) => {
            assert!(durable.rows.is_empty(), "{what}");
            assert_eq!(&durable.damaged[0].path, segment, "{what}");
            durable.damaged[0].reason.clone()
        }
        Err(error) => {
            assert!(
                matches!(&error, Error::OtherRun { path, .. } if path == segment),
                "{error}"
            );
            error.to_string()
        }
    }
}

/// Numbers that break arithmetic, memory or trust.
fn hostile_numbers(number: u64) -> impl Iterator<Item = u64> {
    [
        0,
        1,
        number.wrapping_sub(1),
        number + 1,
        2 * number,
        u64::from(u32::MAX),
        1 << 40,
        u64::MAX / 22,
        // Times 22, this wraps around to 6.
        u64::MAX / 22 + 1,
        i64::MAX as u64,
        u64::MAX - number,
        u64::MAX,
    ]
    .into_iter()
    .filter(move |&hostile| hostile != number)
}

#[test]
fn what_keeps_to_the_documented_format_is_taken() {
    // If forged segments were always refused, the other tests would prove nothing.
    let run = small_run();
    let segment = &run.segments()[0];
    let mut forged = Forged::of(&fs::read(segment).unwrap());
    forged.description["header"]["rank"] = json!(u32::MAX);
    fs::write(segment, forged.bytes()).unwrap();
    assert_eq!(scanned(&run).unwrap().rows.len(), 5);
    go_on(&run);
}

#[test]
fn hostile_numbers_under_right_digests_are_refused() {
    type Get = fn(&Forged) -> u64;
    type Set = fn(&mut Forged, u64);
    let fields: [(&str, Get, Set); 10] = [
        (
            "rows",
            |forged| forged.rows.len() as u64,
            |forged, number| forged.description["header"]["rows"] = json!(number),
        ),
        (
            "hidden size",
            |_| 3,
            |forged, number| forged.description["header"]["outputs"][0]["width"] = json!(number),
        ),
        (
            "width of the last output",
            |_| 2,
            |forged, number| forged.description["header"]["outputs"][1]["width"] = json!(number),
        ),
        (
            "version",
            |_| 5,
            |forged, number| forged.description["header"]["format_version"] = json!(number),
        ),
        (
            "bytes of ids",
            |forged| forged.ids.len() as u64,
            |forged, number| forged.description["id_bytes"] = json!(number),
        ),
        (
            "bytes of the description",
            |forged| forged.description.to_string().len() as u64,
            |forged, number| forged.description_bytes = Some(number),
        ),
        (
            "bytes of the first id",
            |forged| forged.id_lengths[0],
            |forged, number| forged.id_lengths[0] = number,
        ),
        (
            "bytes of the last id",
            |forged| forged.id_lengths[4],
            |forged, number| forged.id_lengths[4] = number,
        ),
        (
            "start of the vectors",
            |forged| forged.vectors.start,
            |forged, number| forged.vectors.start = number,
        ),
        (
            "end of the vectors",
            |forged| forged.vectors.end,
            |forged, number| forged.vectors.end = number,
        ),
    ];
    let run = small_run();
    let segment = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    for (what, get, set) in fields {
        for number in hostile_numbers(get(&segment)) {
            let mut forged = segment.clone();
            set(&mut forged, number);
            let reason = refusal(&run, &forged.bytes(), &format!("{what}: {number}"));
            assert!(
                !reason.contains("the digest that it states"),
                "{what}: {number}: {reason}"
            );
        }
    }
}

#[test]
fn hostile_columns_under_right_digests_are_refused_with_the_reason() {
    type Forge = fn(&mut Forged);
    let forgeries: [(&str, Forge); 10] = [
        ("twice", |forged| forged.rows[3] = forged.rows[1]),
        ("status", |forged| forged.status[2] = 3),
        ("status", |forged| forged.status[0] = u8::MAX),
        ("neither 0 nor 1", |forged| forged.in_f32[4] = 2),
        ("NUL", |forged| forged.ids[3] = 0),
        ("UTF-8", |forged| forged.ids[3] = 0xff),
        ("other lengths", |forged| {
            // The cut is within a letter of two bytes.
            let letter = forged
                .ids
                .windows(2)
                .position(|bytes| bytes == "é".as_bytes());
            let cut = letter.unwrap() as u64 + 1;
            forged.id_lengths[1] = forged.id_lengths[0] + forged.id_lengths[1] - cut;
            forged.id_lengths[0] = cut;
        }),
        ("other lengths", |forged| {
            // The lengths' sum is right, but only if it wraps.
            let both = forged.id_lengths[0].wrapping_add(forged.id_lengths[1]);
            forged.id_lengths[0] = u64::MAX;
            forged.id_lengths[1] = both.wrapping_add(1);
        }),
        ("more or fewer", |forged| {
            forged.rows.pop();
            forged.lengths.pop();
            forged.status.pop();
            forged.in_f32.pop();
            let last = forged.id_lengths.pop().unwrap();
            forged.ids.truncate(forged.ids.len() - last as usize);
            forged.description["header"]["rows"] = json!(4);
            forged.description["id_bytes"] = json!(forged.ids.len());
        }),
        ("room for", |forged| {
            // The ids are said to be longer than the file.
            forged.description["id_bytes"] = json!(1 << 20);
        }),
    ];
    let run = small_run();
    let segment = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    for (reason, forge) in forgeries {
        let mut forged = segment.clone();
        forge(&mut forged);
        let found = refusal(&run, &forged.bytes(), reason);
        assert!(found.contains(reason), "{found}, not {reason}");
    }
}

#[test]
fn hostile_descriptions_under_right_seals_are_refused() {
    let run = small_run();
    let segment = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    let changed = |pointer: &str, value: Value| {
        let mut description = segment.description.clone();
        *description.pointer_mut(pointer).unwrap() = value;
        description
    };
    let mut more = segment.description.clone();
    more["more"] = json!([[[[1]]]]);
    let mut less = segment.description.clone();
    less.as_object_mut().unwrap().remove("id_bytes");
    for description in [
        more,
        less,
        json!(null),
        json!({}),
        json!("text"),
        changed("/header", json!([])),
        changed("/header/format", json!("plm-fleet embeddings")),
        changed("/header/outputs", json!([])),
        changed("/header/outputs", json!("mean/layer_6")),
        changed("/header/outputs/0", json!({})),
        changed("/header/outputs/1/name", json!("mean/layer_6")),
        changed("/header/outputs/1/dtype", json!("bf16")),
        changed("/header/outputs/0/dtype", json!("f16")),
        changed("/header/outputs/0/dtype", json!("f64")),
        changed("/header/rank", json!(-1)),
        changed("/header/rank", json!(1_u64 << 32)),
        changed("/header/rows", json!(5.0)),
        changed("/header/rows", json!(-5)),
        changed("/header/run_digest", json!("another")),
        changed("/header/run_digest", json!(common::OTHER_RUN.to_string())),
        changed("/header/run_digest", json!(null)),
    ] {
        let mut forged = segment.clone();
        forged.description = description;
        let what = forged.description.to_string();
        let reason = refusal(&run, &forged.bytes(), &what);
        assert!(
            !reason.contains("the digest that it states"),
            "{what}: {reason}"
        );
    }
    // These digests are well formed, but there is not one for each output.
    for digests in [json!([]), json!([common::RUN_DIGEST.to_string()])] {
        let mut forged = segment.clone();
        forged.description["output_digests"] = digests;
        let reason = refusal(&run, &forged.bytes_as_they_are(), "digests");
        assert!(
            reason.contains("more or fewer than its outputs"),
            "{reason}"
        );
    }
    // These stand in place of a description. A parser should not follow them to their ends.
    for text in [
        "[".repeat(1 << 20),
        "{\"header\":".repeat(1 << 16),
        "1".repeat(1 << 20),
    ] {
        let mut content = segment.image.clone();
        content.extend(text.bytes());
        content.extend((text.len() as u64).to_le_bytes());
        content.extend(b"PLMBLOCK");
        refusal(&run, &seal(content, &segment.vectors), &text[..20]);
    }
}

#[test]
fn digests_inside_a_segment_are_checked_under_a_right_seal() {
    let run = small_run();
    let bytes = fs::read(&run.segments()[0]).unwrap();
    let image_bytes = Forged::of(&bytes).image.len();
    let (content, vectors) = unseal(&bytes);
    // One changed byte is in the vectors, and one in the lengths.
    for (at, reason) in [
        (vectors.start as usize + 5, "its vectors are not the ones"),
        (image_bytes + 5 * 8, "the digest that it states"),
    ] {
        let mut content = content.clone();
        content[at] ^= 1;
        let found = refusal(&run, &seal(content, &vectors), reason);
        assert!(found.contains(reason), "{found}");
    }
}

#[test]
fn a_segment_without_a_block_is_of_an_older_version_and_its_rows_are_computed_again() {
    let run = small_run();
    let forged = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    let reason = refusal(&run, &seal(forged.image, &forged.vectors), "no block");
    assert!(reason.contains("older version"), "{reason}");
    go_on(&run);
}

#[test]
fn a_segment_of_an_older_version_is_set_aside_under_its_own_name() {
    let run = small_run();
    let mut forged = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    forged.description["header"]["format_version"] = json!(3);
    let old = run.segments()[0].with_extension("h5");
    fs::remove_file(&run.segments()[0]).unwrap();
    fs::write(&old, forged.bytes()).unwrap();
    let durable = scanned(&run).unwrap();
    assert_eq!(durable.damaged[0].path, old);
    let reason = &durable.damaged[0].reason;
    assert!(reason.contains("version 3"), "{reason}");
    go_on(&run);
    assert!(old.with_extension("h5.damaged").exists());
    assert!(run.segments()[0].ends_with("segment_000001.plmseg"));
}

#[test]
fn a_segment_of_the_version_before_is_told_as_such_and_its_rows_are_computed_again() {
    // That version had one output, and other names for its shape and digest.
    let run = run_of(&[3]);
    let mut forged = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    forged.image[..8].copy_from_slice(b"PLMSEG4\n");
    forged.description = json!({
        "header": {
            "format": "plm-shards segment", "format_version": 4,
            "run_digest": common::RUN_DIGEST.to_string(),
            "rank": 0, "rows": 5, "hidden_size": 3, "dtype": "f32",
        },
        "id_bytes": forged.ids.len(),
        "embeddings_digest": "blake3:",
        "content_digest": "blake3:",
    });
    let reason = refusal(&run, &forged.bytes(), "version 4");
    assert!(reason.contains("version 4"), "{reason}");
    go_on(&run);
}

#[test]
fn vectors_that_are_not_at_a_segments_start_are_refused() {
    let run = small_run();
    let segment = Forged::of(&fs::read(&run.segments()[0]).unwrap());
    let mut other_letters = segment.clone();
    other_letters.image[3] ^= 1;
    let mut further_on = segment;
    further_on.image.splice(8..8, *b"between ");
    further_on.vectors = further_on.vectors.start + 8..further_on.vectors.end + 8;
    for forged in [other_letters, further_on] {
        let reason = refusal(&run, &forged.bytes(), "elsewhere");
        assert!(reason.contains("at its start"), "{reason}");
    }
}

#[test]
fn what_is_no_file_is_no_segment_and_is_not_waited_for() {
    let run = small_run();
    let rank = run.shards().join("rank_00000");
    let (pipe, directory) = (
        rank.join("segment_000001.plmseg"),
        rank.join("segment_000002.plmseg"),
    );
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(&directory).unwrap();
    let (shards, format) = (run.shards(), run.format.clone());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(scan(&[shards], &format)));
    let found = receiver.recv_timeout(Duration::from_secs(60));
    let damaged = found.expect("nobody will ever write").unwrap().damaged;
    // A directory is never a segment, and stays where it is.
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].path, pipe);
    go_on(&run);
    assert!(directory.is_dir());
}

#[test]
fn a_result_whose_seal_has_the_vectors_elsewhere_is_refused() {
    let run = run_of(&[3]);
    run.aggregate().unwrap();
    let (content, vectors) = unseal(&fs::read(run.output()).unwrap());
    let starts = hostile_numbers(vectors.start).map(|start| start..vectors.end);
    let ends = hostile_numbers(vectors.end).map(|end| vectors.start..end);
    for place in starts.chain(ends) {
        fs::write(run.output(), seal(content.clone(), &place)).unwrap();
        match verify(run.output(), None).unwrap_err() {
            Error::BadEmbeddings { path, .. } => assert_eq!(path, run.output()),
            other => panic!("{place:?}: {other}"),
        }
    }
    fs::write(run.output(), seal(content, &vectors)).unwrap();
    run.assert_right();
}

#[test]
fn a_result_whose_seal_has_outputs_elsewhere_is_refused() {
    let run = small_run();
    run.aggregate().unwrap();
    let (content, pieces) = unseal_pieces(&fs::read(run.output()).unwrap());
    assert_eq!(pieces.len(), 2);
    let refuse = |pieces: &[std::ops::Range<u64>]| {
        fs::write(run.output(), seal_pieces(content.clone(), pieces)).unwrap();
        match verify(run.output(), None).unwrap_err() {
            Error::BadEmbeddings { path, .. } => assert_eq!(path, run.output()),
            other => panic!("{pieces:?}: {other}"),
        }
    };
    for piece in 0..2 {
        for start in hostile_numbers(pieces[piece].start) {
            let mut pieces = pieces.clone();
            pieces[piece].start = start;
            refuse(&pieces);
        }
        for end in hostile_numbers(pieces[piece].end) {
            let mut pieces = pieces.clone();
            pieces[piece].end = end;
            refuse(&pieces);
        }
        refuse(&pieces[piece..=piece]);
    }
    refuse(&[]);
    refuse(&[pieces[1].clone(), pieces[0].clone()]);
    let end = pieces[1].end;
    refuse(&[pieces[0].clone(), pieces[1].clone(), end..end]);
    // These are a list of one piece, and lists of more pieces than any file has.
    for count in [1_u64, 1 << 17, u64::MAX] {
        let mut bytes = seal_pieces(content.clone(), &pieces);
        let at = bytes.len() - 16;
        bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        fs::write(run.output(), bytes).unwrap();
        assert!(verify(run.output(), None).is_err(), "{count}");
    }
    fs::write(run.output(), seal_pieces(content, &pieces)).unwrap();
    run.assert_right();
}

#[test]
fn ids_are_stored_as_they_are_and_are_never_paths() {
    let ids = [
        "../../../../../../../../tmp/plm-shards-escaped",
        "/tmp/plm-shards-escaped",
        "..",
        "/",
        "",
        " ",
        "a\nb\r\n",
        "\t\u{1b}[2J\u{7}",
        "%00%2e%2e",
        "C:\\con",
        "\u{202e}\u{feff}e\u{301}",
        &"\u{10ffff}".repeat(1 << 18),
        &"/..".repeat(1 << 18),
    ];
    let mut run = Run::new(ids.len() as u64, 2, Dtype::F16);
    for (record, id) in run.input.0.iter_mut().zip(ids) {
        record.0 = id.to_owned();
    }
    run.write_all();
    go_on(&run);
    assert_eq!(run.segments().len(), 1);
    let files = common::files(run.directory.path());
    assert_eq!(files, [run.output(), run.segments()[0].clone()]);
    assert!(!Path::new("/tmp/plm-shards-escaped").exists());
}
