//! Records that a policy lets pass.

use plm_core::{RowId, SequenceSource};
use plm_index::{
    BadRecordPolicy, DuplicatePolicy, Error, FastaIndex, GapPolicy, IdRule, IndexConfig, Input,
    NamelessPolicy, SkipReason,
};
use proptest::prelude::*;
use std::collections::HashSet;

use crate::{Workspace, read_all};

const SKIP_ALL: IndexConfig = IndexConfig {
    on_invalid: BadRecordPolicy::Skip,
    on_empty: BadRecordPolicy::Skip,
    on_duplicate: DuplicatePolicy::Skip,
    on_nameless: None,
    on_gap: GapPolicy::Keep,
    id: IdRule::FirstWord,
};

const RENAME: IndexConfig = IndexConfig {
    on_duplicate: DuplicatePolicy::Rename,
    ..SKIP_ALL
};

fn index(workspace: &Workspace, text: impl AsRef<[u8]>, config: &IndexConfig) -> FastaIndex {
    let inputs = [Input::from(workspace.write("input", text))];
    FastaIndex::build(&inputs, &workspace.spool(), config).unwrap()
}

fn ids(index: &FastaIndex) -> Vec<&str> {
    index.records().map(|record| record.id).collect()
}

#[test]
fn skipped_records_stay_with_their_reason() {
    let workspace = Workspace::new();
    let text = b">a\nAC\n>bad\nA1JC\n>\nDE\n>e\n>f\xff\nGH\n>g\0\nGH\n>a\nIK\n>last\nLM\n";
    let index = index(&workspace, text, &SKIP_ALL);
    let skipped: Vec<_> = index
        .records()
        .map(|record| (record.id, record.residue_count, record.skipped))
        .collect();
    assert_eq!(
        skipped,
        [
            ("a", 2, None),
            ("bad", 0, Some(SkipReason::InvalidLetter)),
            ("", 2, Some(SkipReason::NoName)),
            ("e", 0, Some(SkipReason::Empty)),
            ("f\u{fffd}", 2, Some(SkipReason::IdNotUtf8)),
            ("g\u{fffd}", 2, Some(SkipReason::IdWithNul)),
            ("a", 2, Some(SkipReason::Duplicate)),
            ("last", 2, None),
        ]
    );
    assert!(SequenceSource::record(&index, RowId(6)).skipped);

    let mut residues = Vec::new();
    let mut reader = index.reader();
    reader.read(RowId(6), &mut residues).unwrap();
    assert_eq!(residues, b"IK");
    match reader.read(RowId(1), &mut residues) {
        Err(Error::NoSequence { record, reason }) => {
            assert_eq!(
                (record.as_str(), reason),
                ("bad", SkipReason::InvalidLetter)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_skipped_record_takes_no_id_from_a_good_one() {
    let workspace = Workspace::new();
    let index = index(&workspace, ">a\n>a\nAC\n>a\nDE\n", &SKIP_ALL);
    let skipped: Vec<_> = index.records().map(|record| record.skipped).collect();
    assert_eq!(
        skipped,
        [Some(SkipReason::Empty), None, Some(SkipReason::Duplicate)]
    );
}

#[test]
fn one_policy_lets_nothing_else_pass() {
    let workspace = Workspace::new();
    let inputs = [Input::from(
        workspace.write("input", ">a\n>b\nA1\n>c\nAC\n>c\nAC"),
    )];
    for (config, left) in [
        (
            IndexConfig {
                on_invalid: BadRecordPolicy::Skip,
                ..Default::default()
            },
            2,
        ),
        (
            IndexConfig {
                on_empty: BadRecordPolicy::Skip,
                ..Default::default()
            },
            2,
        ),
        (
            IndexConfig {
                on_duplicate: DuplicatePolicy::Skip,
                ..Default::default()
            },
            2,
        ),
        (
            IndexConfig {
                on_duplicate: DuplicatePolicy::Fail,
                ..SKIP_ALL
            },
            1,
        ),
        (IndexConfig::default(), 3),
    ] {
        match FastaIndex::build(&inputs, &workspace.spool(), &config) {
            Err(Error::Problems(problems)) => assert_eq!(problems.total(), left, "{config:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn repeats_get_the_next_number_that_no_record_has() {
    let workspace = Workspace::new();
    let text = ">a\nA\n>a\nC\n>a\nD\n>a_2\nE\n>a_2\nF\n>b\nG\n>a\nH\n>a_5\n";
    let index = index(&workspace, text, &RENAME);
    assert_eq!(
        ids(&index),
        ["a", "a_3", "a_4", "a_2", "a_2_2", "b", "a_6", "a_5"]
    );
    let originals: Vec<_> = index.records().map(|record| record.renamed_from).collect();
    assert_eq!(
        originals,
        [
            None,
            Some("a"),
            Some("a"),
            None,
            Some("a_2"),
            None,
            Some("a"),
            None
        ]
    );
    let mut residues = Vec::new();
    index.reader().read(RowId(2), &mut residues).unwrap();
    assert_eq!(residues, b"D");
}

proptest! {
    #[test]
    fn renaming_leaves_no_two_ids_the_same(
        input_ids in prop::collection::vec("[ab](_[234]){0,2}", 1..60)
    ) {
        let workspace = Workspace::new();
        let text: String = input_ids.iter().map(|id| format!(">{id}\nMK\n")).collect();
        let index = index(&workspace, text, &RENAME);
        let distinct: HashSet<&str> = ids(&index).into_iter().collect();
        prop_assert_eq!(distinct.len(), input_ids.len());

        let given: HashSet<&str> = input_ids.iter().map(String::as_str).collect();
        let mut kept = HashSet::new();
        for (record, input_id) in index.records().zip(&input_ids) {
            if kept.insert(input_id) {
                prop_assert_eq!((record.id, record.renamed_from), (input_id.as_str(), None));
            } else {
                prop_assert_eq!(record.renamed_from, Some(input_id.as_str()));
                prop_assert!(!given.contains(record.id));
            }
        }
    }
}

#[test]
fn nameless_records_are_named_after_their_rows_and_no_two_ids_are_the_same() {
    let workspace = Workspace::new();
    let config = IndexConfig {
        on_nameless: Some(NamelessPolicy::Name),
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    // Rows 1, 3 and 4 have no name. `unnamed_3` is taken, so row 3 can't have it, nor row 6.
    let text = ">unnamed_3\nA\n>\nC\n>unnamed\nD\n>  \nE\n>\t\r\nF\n>unnamed\nG\n>unnamed\nH\n";
    let index = index(&workspace, text, &config);
    assert_eq!(
        ids(&index),
        [
            "unnamed_3",
            "unnamed_1",
            "unnamed",
            "unnamed_3_2",
            "unnamed_4",
            "unnamed_2",
            "unnamed_5"
        ]
    );
    let unnamed: Vec<_> = index.records().map(|record| record.is_unnamed).collect();
    assert_eq!(unnamed, [false, true, false, true, true, false, false]);
    assert_eq!(index.record(RowId(5)).renamed_from, Some("unnamed"));
    assert_eq!(index.record(RowId(1)).renamed_from, None);

    let saved = workspace.path("index.plm");
    index.save(&saved).unwrap();
    assert_eq!(FastaIndex::load(&saved).unwrap(), index);
    let residues: String = read_all(&index).into_iter().map(|(_, text)| text).collect();
    assert_eq!(residues, "ACDEFGH");
}

#[test]
fn a_policy_for_nameless_records_is_for_no_others() {
    let workspace = Workspace::new();
    let inputs = [Input::from(workspace.write("input", ">\nMK\n>b\nM1\n"))];
    let total = |on_invalid, on_nameless| {
        let config = IndexConfig {
            on_invalid,
            on_nameless,
            ..IndexConfig::default()
        };
        match FastaIndex::build(&inputs, &workspace.spool(), &config) {
            Err(Error::Problems(problems)) => problems.total(),
            Ok(_) => 0,
            Err(error) => panic!("{error:?}"),
        }
    };
    use BadRecordPolicy::{Fail, Skip};
    assert_eq!(total(Fail, None), 2);
    assert_eq!(total(Skip, None), 0);
    assert_eq!(total(Fail, Some(NamelessPolicy::Skip)), 1);
    assert_eq!(total(Fail, Some(NamelessPolicy::Name)), 1);
    assert_eq!(total(Skip, Some(NamelessPolicy::Fail)), 1);
    assert_eq!(total(Skip, Some(NamelessPolicy::Name)), 0);
}

#[test]
fn headers_tell_records_apart_whose_first_words_are_the_same() {
    let workspace = Workspace::new();
    let text = ">protein 1 of 2\nMKV\n>protein\t2 of 2 \r\nMKL\n";
    let inputs = [Input::from(workspace.write("input", text))];
    let build = |id| {
        let config = IndexConfig {
            id,
            ..IndexConfig::default()
        };
        FastaIndex::build(&inputs, &workspace.spool(), &config)
    };
    let Err(Error::Problems(problems)) = build(IdRule::FirstWord) else {
        panic!("both are called protein");
    };
    assert_eq!(problems.count(SkipReason::Duplicate), 1);
    let index = build(IdRule::Header).unwrap();
    assert_eq!(ids(&index), ["protein 1 of 2", "protein 2 of 2"]);
    let saved = workspace.path("index.plm");
    index.save(&saved).unwrap();
    assert_eq!(FastaIndex::load(&saved).unwrap(), index);
    assert_eq!(read_all(&index)[1].1, "MKL");
}

#[test]
fn accessions_are_ids_and_decide_what_is_a_duplicate() {
    let workspace = Workspace::new();
    let text = ">sp|P00001|AAAA_HUMAN Some protein OS=Homo sapiens\nMKV\n\
                >tr|A0A000|BBBB_MOUSE Other\nMKL\n>plain word\nMK\n>sp|P00001|CCCC\nM\n";
    let config = IndexConfig {
        id: IdRule::Accession,
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    let index = index(&workspace, text, &config);
    assert_eq!(ids(&index), ["P00001", "A0A000", "plain", "P00001_2"]);
    assert_eq!(read_all(&index)[3].1, "M");
}

#[test]
fn a_header_that_can_be_no_id_is_named_as_one() {
    let workspace = Workspace::new();
    let config = IndexConfig {
        id: IdRule::Header,
        on_invalid: BadRecordPolicy::Skip,
        ..IndexConfig::default()
    };
    // Latin-1 in the description, and a NUL.
    let index = index(
        &workspace,
        b">a caf\xe9\nMK\n>b x\0y\nMK\n>c\nMK\n",
        &config,
    );
    let skipped: Vec<_> = index.records().map(|record| record.skipped).collect();
    assert_eq!(
        skipped,
        [
            Some(SkipReason::IdNotUtf8),
            Some(SkipReason::IdWithNul),
            None
        ]
    );
}
