//! Malicious indexes: the digest is right, and the content is not.

use std::fs::{self, File};
use std::path::Path;

use plm_core::RowId;
use plm_index::{DuplicatePolicy, Error, FastaIndex, IndexConfig};

use crate::Workspace;

/// The bytes before the header.
const PREAMBLE: usize = 40;

/// The offsets of a record's fields in its 54 bytes.
const BYTE_OFFSET: usize = 0;
const SEQUENCE_OFFSET: usize = 8;
const LINE: usize = 16;
const HASH: usize = 24;
const ID_END: usize = 32;
const RESIDUES: usize = 40;
const SUBSTITUTIONS: usize = 44;
const INPUT: usize = 48;
const SKIPPED: usize = 52;
const FLAGS: usize = 53;

/// An index of two inputs. Rows 0 to 2 are of the first input, and row 2 was renamed.
struct Forgery {
    workspace: Workspace,
    body: Vec<u8>,
}

impl Forgery {
    fn new() -> Self {
        let workspace = Workspace::new();
        let first = workspace.write("first", ">a\nACDE\n>bb two\nFJ\nG\n>a\nHI\n");
        let second = workspace.write("second", ">c\nKL\n");
        let config = IndexConfig {
            on_duplicate: DuplicatePolicy::Rename,
            ..IndexConfig::default()
        };
        let index = workspace.build(&[&first, &second], &config).unwrap();
        let path = workspace.path("index.plm");
        index.save(&path).unwrap();
        let mut body = fs::read(path).unwrap();
        body.truncate(body.len() - blake3::OUT_LEN);
        Self { workspace, body }
    }

    fn header_bytes(&self) -> usize {
        u32::from_le_bytes(self.body[12..16].try_into().unwrap()) as usize
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.body[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes over a field of a record.
    fn set(&mut self, row: usize, field: usize, bytes: &[u8]) {
        self.put(PREAMBLE + self.header_bytes() + 54 * row + field, bytes);
    }

    /// Writes over the ids, which are `abba_2c`.
    fn set_ids(&mut self, at: usize, bytes: &[u8]) {
        self.put(PREAMBLE + self.header_bytes() + 54 * 4 + at, bytes);
    }

    fn set_header(&mut self, header: &str) {
        let size = u32::try_from(header.len()).unwrap();
        let end = PREAMBLE + self.header_bytes();
        self.body.splice(PREAMBLE..end, header.bytes());
        self.put(12, &size.to_le_bytes());
    }

    fn header(&self) -> &str {
        std::str::from_utf8(&self.body[PREAMBLE..][..self.header_bytes()]).unwrap()
    }

    fn load(&self) -> Result<FastaIndex, Error> {
        let digest = blake3::hash(&self.body);
        let sealed = [&self.body, digest.as_bytes().as_slice()].concat();
        FastaIndex::load(&self.workspace.write("forged.plm", sealed))
    }

    /// Why an index is refused whose digest is right.
    fn refusal(&self) -> String {
        match self.load() {
            Err(Error::DamagedIndex { path, what }) => {
                assert!(path.ends_with("forged.plm"));
                what
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_not_forged_is_an_index() {
    assert_eq!(Forgery::new().load().unwrap().len(), 4);
}

#[test]
fn records_that_lie_about_their_place_are_refused_by_row() {
    for (row, field, value, what) in [
        // Beyond the text, over the next record, before the one before.
        (
            2,
            SEQUENCE_OFFSET,
            40,
            "goes beyond the next one or the text",
        ),
        (
            3,
            SEQUENCE_OFFSET,
            7,
            "goes beyond the next one or the text",
        ),
        (
            0,
            SEQUENCE_OFFSET,
            9,
            "goes beyond the next one or the text",
        ),
        (1, BYTE_OFFSET, 0, "goes beyond the next one or the text"),
        (2, BYTE_OFFSET, 0, "goes beyond the next one or the text"),
        (3, BYTE_OFFSET, u64::MAX - 4, "definition line can't be"),
        (0, SEQUENCE_OFFSET, 0, "definition line can't be"),
        (0, SEQUENCE_OFFSET, 1 << 40, "definition line can't be"),
        (2, LINE, 3, "line can't be"),
        (0, LINE, 0, "line can't be"),
        (0, LINE, u64::MAX, "line can't be"),
        (3, LINE, 2, "line can't be"),
        (1, ID_END, 0, "id is out of bounds"),
        (1, ID_END, 8, "id is out of bounds"),
        (0, ID_END, u64::MAX, "id is out of bounds"),
    ] {
        let mut forgery = Forgery::new();
        forgery.set(row, field, &value.to_le_bytes());
        let found = forgery.refusal();
        assert!(found.contains(what), "{row} {field} {value}: {found}");
        // A record that starts too early is reported as the end of the one before.
        let named = if field == BYTE_OFFSET && value == 0 {
            row - 1
        } else {
            row
        };
        assert!(found.starts_with(&format!("record {named}: ")), "{found}");
    }
}

#[test]
fn counts_that_can_not_be_are_refused() {
    for (field, value) in [
        (RESIDUES, 6_u32),
        (RESIDUES, 0),
        (RESIDUES, u32::MAX),
        (SUBSTITUTIONS, 5),
    ] {
        let mut forgery = Forgery::new();
        forgery.set(0, field, &value.to_le_bytes());
        assert!(forgery.refusal().contains("residues can't be as many"));
    }
    // More residues than any record may have, in a text that claims to have room for them.
    let mut forgery = Forgery::new();
    let header = forgery
        .header()
        .replace("\"text_bytes\":6", "\"text_bytes\":9999999999");
    forgery.set_header(&header);
    forgery.set(3, RESIDUES, &((1_u32 << 28) + 1).to_le_bytes());
    assert!(forgery.refusal().contains("residues can't be as many"));
}

#[test]
fn sizes_beyond_the_file_are_refused_and_those_of_a_sparse_one_not_believed() {
    for (at, size) in [(12, 4), (16, 8), (24, 8), (32, 8)] {
        for byte in [0x01, 0x7f, 0xff] {
            let mut forgery = Forgery::new();
            forgery.put(at, &vec![byte; size]);
            let found = forgery.refusal();
            assert!(found.contains("do not add up"), "{found}");
        }
    }
    // Files that are as large as they say, and hold only zeros.
    let forgery = Forgery::new();
    let header_bytes = forgery.header_bytes() as u64;
    for (records, id_bytes, notes) in [
        (1 << 32, 0, 0),
        (1 << 37, 0, 0),
        (0, 1 << 42, 0),
        (1 << 31, 1 << 42, 0),
        (0, 0, 1 << 38),
    ] {
        let path = forgery.workspace.path("sparse.plm");
        let mut preamble = forgery.body[..PREAMBLE + header_bytes as usize].to_vec();
        preamble[16..24].copy_from_slice(&u64::to_le_bytes(records));
        preamble[24..32].copy_from_slice(&u64::to_le_bytes(id_bytes));
        preamble[32..40].copy_from_slice(&u64::to_le_bytes(notes));
        fs::write(&path, preamble).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        if file
            .set_len(40 + header_bytes + 54 * records + id_bytes + 16 * notes + 32)
            .is_err()
        {
            // This file system has no files of that size.
            continue;
        }
        match FastaIndex::load(&path) {
            Err(Error::DamagedIndex { .. } | Error::ReadIndex { .. }) => {}
            other => panic!("{records} {id_bytes} {notes}: {other:?}"),
        }
    }
}

#[test]
fn ids_that_would_break_what_they_are_written_into_are_refused() {
    for byte in [b'\t', b'\n', b'\r', b' ', 0x0c, 0] {
        for at in 0..7 {
            let mut forgery = Forgery::new();
            forgery.set_ids(at, &[byte]);
            let found = forgery.refusal();
            assert!(found.contains("id is not one word"), "{byte} {at}: {found}");
        }
    }
    let mut forgery = Forgery::new();
    forgery.set_ids(0, &[0xff]);
    assert!(forgery.refusal().contains("not UTF-8"));
    let mut forgery = Forgery::new();
    forgery.set(0, ID_END, &0_u64.to_le_bytes());
    assert!(forgery.refusal().contains("has no id"));
    // The last record's id must end with all ids.
    let mut forgery = Forgery::new();
    forgery.set(3, ID_END, &6_u64.to_le_bytes());
    assert!(forgery.refusal().contains("do not end with the last"));
}

#[test]
fn a_path_for_an_id_is_read_as_no_path_and_not_as_another_records_id() {
    let mut forgery = Forgery::new();
    forgery.set_ids(1, b"..");
    let index = forgery.load().unwrap();
    // The text has another name at that place.
    let error = index.reader().read(RowId(1), &mut Vec::new()).unwrap_err();
    assert!(
        matches!(&error, Error::InputChanged { record, .. } if record == ".."),
        "{error:?}"
    );
}

#[test]
fn records_are_of_the_inputs_in_their_order() {
    for (row, input, what) in [
        (3, 0_u32, "of other inputs"),
        (3, 2, "is of no input"),
        (3, u32::MAX, "is of no input"),
        (0, 1, "earlier input than the one before"),
    ] {
        let mut forgery = Forgery::new();
        forgery.set(row, INPUT, &input.to_le_bytes());
        // With the old line, the line would be refused first.
        forgery.set(3, LINE, &1_u64.to_le_bytes());
        let found = forgery.refusal();
        let is_found = found.contains(what) || found.contains("line can't be");
        assert!(is_found, "{row} {input}: {found}");
    }
}

#[test]
fn no_record_is_left_out_or_renamed_against_the_policies() {
    for code in 1..=6 {
        let mut forgery = Forgery::new();
        forgery.set(0, SKIPPED, &[code]);
        forgery.refusal();
    }
    let mut forgery = Forgery::new();
    forgery.set(0, SKIPPED, &[5]);
    assert!(forgery.refusal().contains("policy"));
    let mut forgery = Forgery::new();
    forgery.set(0, FLAGS, &[1]);
    assert!(forgery.refusal().contains("has no number"));
    let mut forgery = Forgery::new();
    forgery.set(0, FLAGS, &[2]);
    assert!(forgery.refusal().contains("another row"));
    for (field, byte) in [(SKIPPED, 7), (SKIPPED, 0xff), (FLAGS, 8)] {
        let mut forgery = Forgery::new();
        forgery.set(0, field, &[byte]);
        assert!(forgery.refusal().contains("unknown"));
    }
    let mut forgery = Forgery::new();
    let header = forgery
        .header()
        .replace("\"on_duplicate\":\"rename\"", "\"on_duplicate\":\"fail\"");
    forgery.set_header(&header);
    assert!(forgery.refusal().contains("policy"));
}

#[test]
fn notes_that_can_not_be_are_refused() {
    // Row 1 has the note: one blank dropped.
    let text = ">a\nACDE\n>b\nF G-\n>c\nHI\n";
    let forged = |change: &dyn Fn(&mut Vec<u8>, usize)| {
        let workspace = Workspace::new();
        let input = workspace.write("input", text);
        let index = workspace.build(&[&input], &IndexConfig::default()).unwrap();
        let path = workspace.path("index.plm");
        index.save(&path).unwrap();
        let mut body = fs::read(&path).unwrap();
        body.truncate(body.len() - blake3::OUT_LEN);
        let note = body.len() - 16;
        change(&mut body, note);
        let digest = blake3::hash(&body);
        body.extend_from_slice(digest.as_bytes());
        fs::write(&path, body).unwrap();
        FastaIndex::load(&path)
    };
    let set = |at: usize, number: u32| {
        forged(&|body, note| {
            body[note + at..note + at + 4].copy_from_slice(&number.to_le_bytes());
        })
    };
    assert_eq!(forged(&|_, _| {}).unwrap().record(RowId(1)).dropped, 1);
    for (at, number) in [
        (0, 3),        // no such record
        (0, u32::MAX), // no such record
        (4, 3),        // more letters than the text has
        (4, u32::MAX),
        (8, 4), // more gaps than residues
        (12, 4),
    ] {
        let error = set(at, number).expect_err("it is refused");
        assert!(matches!(error, Error::DamagedIndex { .. }), "{error:?}");
        assert!(error.to_string().contains("note"), "{error}");
    }
    // A note of zeros alone, and two notes of one record.
    let error = forged(&|body, note| body[note + 4..].fill(0)).unwrap_err();
    assert!(error.to_string().contains("note can't be"), "{error}");
    let error = forged(&|body, note| {
        let again = body[note..].to_vec();
        body.extend_from_slice(&again);
        body[32..40].copy_from_slice(&2_u64.to_le_bytes());
    })
    .unwrap_err();
    assert!(error.to_string().contains("out of order"), "{error}");
}

#[test]
fn ids_that_are_headers_keep_to_one_line() {
    let header = |rule: &str, id: &[u8]| {
        let mut forgery = Forgery::new();
        let header = forgery.header().replace("first-word", rule);
        forgery.set_header(&header);
        forgery.set_ids(1, id);
        forgery
    };
    // A header may hold a blank, and a word may not.
    assert!(header("header", b"b").load().is_ok());
    for id in [&b"\t"[..], b"\n", b"\r", b"\0", b"\x1b", b" "] {
        let found = header("header", id).refusal();
        assert!(found.contains("id is not one line"), "{id:?}: {found}");
    }
    assert!(header("accession", b" ").refusal().contains("not one word"));
}

#[test]
fn a_header_is_what_was_written_and_nothing_else() {
    let header = Forgery::new().header().to_owned();
    for forged in [
        String::new(),
        "[".repeat(1 << 20),
        format!("{{\"config\":{}}}", "[".repeat(1 << 20)),
        header.replace("\"bytes\"", "\"bites\""),
        header.replace("\"config\"", "\"more\":1,\"config\""),
        header.replace("\"fail\"", "\"run\""),
        header.replace("blake3:", "blake3:zz"),
        header.replace("\"text_bytes\":6", "\"text_bytes\":-6"),
        header.replace("\"text_bytes\":6", "\"text_bytes\":1e400"),
    ] {
        assert_ne!(forged, header);
        let mut forgery = Forgery::new();
        forgery.set_header(&forged);
        let found = forgery.refusal();
        assert!(found.contains("header is no JSON"), "{found}");
    }
    // A name of megabytes is only a name.
    let mut forgery = Forgery::new();
    let name = "n".repeat(1 << 24);
    let forged = header.replacen("\"name\":\"", &format!("\"name\":\"{name}"), 1);
    forgery.set_header(&forged);
    forgery.load().unwrap();
}

#[test]
fn no_other_file_is_read_as_the_residues_of_an_input() {
    let secrets = Workspace::new();
    for content in [
        "ACDEACDEACDEACDEACDEACDEACDEACDE",     // letters, and no record
        ">a\nACDF\n>bb two\nFJ\nH\n>a\nHK\n",   // other residues
        ">b\nACDE\n>bc two\nFJ\nG\n>b\nHI\n",   // the residues under other names
        "\n>a\nACDE\n>bb two\nFJ\nG\n>a\nHI\n", // other places
        ">a\nACD",                              // shorter
        "",
    ] {
        let secret = secrets.write("secret", content);
        let mut forgery = Forgery::new();
        let first = forgery.workspace.path("first");
        let header = forgery
            .header()
            .replace(first.to_str().unwrap(), secret.to_str().unwrap());
        forgery.set_header(&header);
        let index = forgery.load().unwrap();
        let mut residues = b"untouched".to_vec();
        let error = index.reader().read(RowId(0), &mut residues).unwrap_err();
        match error {
            Error::InputChanged { path, record, .. } => {
                assert_eq!((path, record.as_str()), (secret.clone(), "a"));
            }
            other => panic!("{content:?}: {other:?}"),
        }
        assert_eq!(residues, b"untouched");
    }
}

#[test]
fn a_device_without_end_is_not_read_to_its_end() {
    let mut forgery = Forgery::new();
    let first = forgery.workspace.path("first");
    let header = forgery
        .header()
        .replace(first.to_str().unwrap(), "/dev/zero")
        .replacen("\"text_bytes\":27", "\"text_bytes\":9999999999999", 1);
    assert!(header.contains("9999999999999"));
    forgery.set_header(&header);
    let index = forgery.load().unwrap();
    let error = index.reader().read(RowId(2), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::InputChanged { .. }), "{error:?}");
}

#[test]
fn a_hash_that_was_forged_is_not_the_residues() {
    let mut forgery = Forgery::new();
    forgery.set(0, HASH, &[7; 8]);
    let index = forgery.load().unwrap();
    let error = index.reader().read(RowId(0), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::InputChanged { .. }), "{error:?}");
}

#[test]
fn what_is_no_file_is_no_index() {
    for path in ["/dev/zero", "/dev/null"] {
        let error = FastaIndex::load(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::NotAnIndex { .. }), "{error:?}");
    }
}
