//! FASTA as it is found: what editors, alignments, databases and half-done copies leave in files.

use std::fs::{self, File};
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_core::RowId;
use plm_index::{Error, FastaIndex, GapPolicy, IndexConfig, Input, Tally};

use crate::{Workspace, index_of, pairs, read_all};

/// Each record's id, its residues, and the number of its dropped letters.
fn read_with_dropped(text: impl AsRef<[u8]>) -> Vec<(String, String, u32)> {
    let workspace = Workspace::new();
    let path = workspace.write("input", text);
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let dropped = index.records().map(|record| record.dropped);
    read_all(&index)
        .into_iter()
        .zip(dropped)
        .map(|((id, residues), dropped)| (id, residues, dropped))
        .collect()
}

fn expected(records: &[(&str, &str, u32)]) -> Vec<(String, String, u32)> {
    records
        .iter()
        .map(|(id, residues, dropped)| ((*id).to_owned(), (*residues).to_owned(), *dropped))
        .collect()
}

#[test]
fn a_byte_order_mark_is_passed_over_and_offsets_count_it() {
    let text = "\u{feff}>alpha first\nMKVLLA\n>beta\nMKL\n";
    let workspace = Workspace::new();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    for content in [text.as_bytes().to_vec(), gzip.finish().unwrap()] {
        let path = workspace.write("input", &content);
        let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
        assert_eq!(
            read_all(&index),
            pairs(&[("alpha", "MKVLLA"), ("beta", "MKL")])
        );
        let places: Vec<_> = index
            .records()
            .map(|record| (record.line, record.byte_offset))
            .collect();
        assert_eq!(places, [(1, 3), (3, 23)]);
        let input = &index.inputs()[0];
        assert_eq!(input.digest.hex(), blake3::hash(&content).to_string());
        assert_eq!(input.text_bytes, text.len() as u64);
    }
}

#[test]
fn marks_where_files_were_joined_are_passed_over_and_others_are_no_residues() {
    let text =
        "\u{feff}>a\nMK\n\u{feff}>b\nVL\n\u{feff}\n\u{feff}\u{feff}>c\r\n\u{feff}GG\n\u{feff}";
    assert_eq!(
        read_with_dropped(text),
        expected(&[("a", "MK", 0), ("b", "VL", 0), ("c", "GG", 0)])
    );
    let index = index_of(text).unwrap();
    let places: Vec<_> = index
        .records()
        .map(|record| (record.line, record.byte_offset))
        .collect();
    assert_eq!(places, [(1, 3), (3, 12), (6, 28)]);
    let error = index_of(">a\nMK\u{feff}VL\n").unwrap_err().to_string();
    assert!(error.contains("a byte order mark"), "{error}");
    assert!(error.contains("line 2, byte 5"), "{error}");
}

#[test]
fn text_in_16_bits_is_named_with_or_without_its_mark() {
    let text = ">a\nMKV\n";
    let units = || text.encode_utf16();
    let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
    for content in [
        [&b"\xff\xfe"[..], &little].concat(),
        [&b"\xfe\xff"[..], &big].concat(),
        little,
        big,
    ] {
        let error = index_of(&content).unwrap_err();
        assert!(matches!(error, Error::OtherFormat { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains("UTF-16") && message.contains("iconv"),
            "{message}"
        );
    }
}

#[test]
fn white_space_is_dropped_wherever_it_stands_and_counted() {
    for (text, records) in [
        // At the ends of lines, and on lines of its own.
        (
            ">alpha\nMKV   \nLLA\t\n\n   \n>beta\nMK\n",
            &[("alpha", "MKVLLA", 7), ("beta", "MK", 0)][..],
        ),
        // Groups of ten.
        (
            ">alpha\nMKVLLAAGGT MKVLLAAGGT\nMKV\n",
            &[("alpha", "MKVLLAAGGTMKVLLAAGGTMKV", 1)],
        ),
        // Every kind, anywhere, beside Windows' line ends.
        (
            " \t\r\n>alpha  \r\n  M K\u{b}V\u{c}  \r\n\t \r\nL\r\n>beta\r\nG ",
            &[("alpha", "MKVL", 9), ("beta", "G", 1)],
        ),
    ] {
        assert_eq!(read_with_dropped(text), expected(records), "{text:?}");
    }
    // White space alone makes no residues.
    let error = index_of(">a\n \t\n>b\nMK\n").unwrap_err().to_string();
    assert!(error.contains("record \"a\" has no residues"), "{error}");
}

#[test]
fn stops_at_the_end_are_dropped_whatever_their_number() {
    for (letters, dropped) in [
        ("MKVLLA*\n", 1),
        ("MKVLLA**\n", 2),
        ("MKVLLA* *\n", 3),
        ("MKVLLA\n*\n", 1),
        ("MKVLLA**  \n *\t\n\n", 7),
    ] {
        let text = format!(">alpha\n{letters}>b\nMK\n");
        let records = [("alpha", "MKVLLA", dropped), ("b", "MK", 0)];
        assert_eq!(read_with_dropped(text), expected(&records), "{letters:?}");
    }
}

#[test]
fn records_longer_than_any_buffer_lose_their_white_space_too() {
    let lines = "MKVLAWGDMK MKVLAWGDMK  \r\n".repeat(20_000);
    let text = format!("\u{feff}>a\r\n{lines}** \r\n\u{feff}>b\r\nGG\r\n");
    let records = read_with_dropped(text);
    assert_eq!(records[0].1, "MKVLAWGDMK".repeat(40_000));
    assert_eq!(records[0].2, 3 * 20_000 + 3);
    assert_eq!(records[1], ("b".to_owned(), "GG".to_owned(), 0));
}

#[test]
fn gaps_are_residues_or_dropped_and_insertions_are_counted_in_alignments_only() {
    let workspace = Workspace::new();
    let alignment = workspace.write("alignment.a3m", ">query\nMKVLLAAG\n>hit\nMK-vlLLA--\n");
    let masked = workspace.write(
        "masked.fa",
        ">masked\nMKVLllllAA\n>other\nMKVL\n>gap\nM-k\n",
    );
    for (on_gap, residues, dropped) in [
        (GapPolicy::Keep, "MK-VLLLA--", 0),
        (GapPolicy::Drop, "MKVLLLA", 3),
    ] {
        let config = IndexConfig {
            on_gap,
            ..IndexConfig::default()
        };
        let index = workspace.build(&[&alignment, &masked], &config).unwrap();
        let read = read_all(&index);
        assert_eq!(read[0].1, "MKVLLAAG");
        assert_eq!(read[1].1, residues);
        assert_eq!(read[2].1, "MKVLLLLLAA");
        let counts: Vec<_> = index
            .records()
            .map(|record| (record.dropped, record.gaps, record.insertions))
            .collect();
        let gap = u32::from(on_gap == GapPolicy::Drop);
        assert_eq!(
            counts,
            [
                (0, 0, 0),
                (dropped, 3, 2),
                (0, 0, 0),
                (0, 0, 0),
                (gap, 1, 0)
            ]
        );
        let findings = index.findings();
        let tally = |letters, records| Tally { letters, records };
        assert_eq!(findings.gaps, tally(4, 2));
        assert_eq!(findings.insertions, tally(2, 1));
        let all = u64::from(dropped + gap);
        assert_eq!(findings.dropped, tally(all, if all > 0 { 2 } else { 0 }));
        // The saved index has them too.
        let saved = workspace.path("index.plm");
        index.save(&saved).unwrap();
        let loaded = FastaIndex::load(&saved).unwrap();
        assert_eq!((loaded.findings(), &loaded), (findings, &index));
        assert!(index.records().eq(loaded.records()));
        for row in 0..index.len() {
            let by_row = index.record(RowId(row));
            assert_eq!(Some(by_row), index.records().nth(row as usize));
        }
    }
}

#[test]
fn a_record_of_gaps_alone_is_empty_if_gaps_are_dropped() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\n--..\n>b\nM-K\n");
    let config = IndexConfig {
        on_gap: GapPolicy::Drop,
        ..IndexConfig::default()
    };
    let error = workspace.build(&[&path], &config).unwrap_err().to_string();
    assert!(error.contains("record \"a\" has no residues"), "{error}");
    assert_eq!(index_of(">a\n--..\n>b\nM-K\n").unwrap().len(), 2);
}

#[test]
fn nucleotides_are_embedded_and_counted_and_short_or_simple_peptides_are_not_called_so() {
    let text = ">gene\nATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG\n>rna\nauggccauuguaaugggccgc\n\
                >peptide\nGATC\n>poly_a\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n>protein\nMKTAYIAKQRQISFVK\n";
    let index = index_of(text).unwrap();
    let found: Vec<_> = index
        .records()
        .map(|record| record.looks_like_nucleotides)
        .collect();
    assert_eq!(found, [true, true, false, false, false]);
    assert_eq!(index.findings().nucleotide_records, 2);
}

#[test]
fn what_is_packed_or_of_another_format_is_named_with_what_to_do() {
    let mut tar = b"proteins/a.fasta".to_vec();
    tar.resize(1024, 0);
    tar[257..262].copy_from_slice(b"ustar");
    for (content, what, advice) in [
        (&b"\xfd7zXZ\0\0\x04"[..], "compressed with xz", "xz -d"),
        (b"BZh91AY&SY", "compressed with bzip2", "bzip2 -d"),
        (b"PK\x03\x04\x14\0", "a zip archive", "unzip"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
        (b"Rar!\x1a\x07\0", "a rar archive", "unrar"),
        (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -d"),
        (b"\x1f\x9d\x90", "compressed with compress", "gzip -d"),
        (&tar, "a tar archive", "tar -xf"),
        (b"@read1\nACGT\n+\n!!!!\n", "FASTQ", "translate"),
        (b"LOCUS       AB000001", "a GenBank file", "FASTA"),
        (b"ID   INS_HUMAN  Reviewed;", "UniProt text", "FASTA"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page", "download"),
        (
            b"<!DOCTYPE HTML PUBLIC \"-//W3C//DTD",
            "an HTML page",
            "download",
        ),
        (b"<?xml version=\"1.0\"?>", "an XML file", "FASTA"),
        (b"{\"a\": 1}", "JSON", "FASTA"),
        (b"%PDF-1.7", "a PDF", "plain text"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "FASTA"),
        (b"PAR1", "a Parquet file", "FASTA"),
        (b"# STOCKHOLM 1.0\n", "a Stockholm alignment", "FASTA"),
        (b"#NEXUS\nbegin data;\n", "a NEXUS alignment", "FASTA"),
        (b"##fileformat=VCFv4.3\n", "a VCF file", "FASTA"),
        (
            b">P1;CRAB_ANAPL\nalpha crystallin chain\nMDITIHNPL\nKK*\n\n>P1;B\n",
            "a PIR (NBRF) file",
            "FASTA",
        ),
        (
            b"\xef\xbb\xbf>P1;A\r\nan alpha chain\r\nMK*\r\n",
            "a PIR",
            "FASTA",
        ),
        (b"#A3M#\n>a\nMK\n", "starts with a comment", "#"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer",
            "git lfs pull",
        ),
    ] {
        let error = index_of(content).unwrap_err();
        assert!(matches!(error, Error::OtherFormat { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(what) && message.contains(advice),
            "{message}"
        );
        assert!(message.contains("input"), "{message}");
    }
    // What Clustal writes as PIR has the same residues as FASTA.
    let index = index_of(">P1;a\n\nMKV\nLL*\n>P1;b\nMK VL*\n").unwrap();
    let residues: Vec<_> = index.records().map(|record| record.residue_count).collect();
    assert_eq!(residues, [5, 4]);
    // A magic alone, as zstd writes it, is a file that was cut short.
    let error = index_of(b"\x28\xb5\x2f\xfd\x04\x58").unwrap_err();
    assert!(matches!(error, Error::DamagedZstd { .. }), "{error:?}");
}

#[test]
fn an_archive_within_a_compressed_file_is_named_too() {
    let mut tar = b"proteins/a.fasta".to_vec();
    tar.resize(1024, 0);
    tar[257..262].copy_from_slice(b"ustar");
    let error = index_of(gzip_of(&tar)).unwrap_err().to_string();
    assert!(error.contains("a tar archive"), "{error}");
}

#[test]
fn what_is_compressed_twice_is_called_so() {
    let once = gzip_of(b">a\nMK\n");
    for inside in [&once[..], include_bytes!("zstd/fast.zst")] {
        let error = index_of(gzip_of(inside)).unwrap_err();
        assert!(matches!(error, Error::OtherFormat { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("compressed twice"), "{message}");
    }
}

fn gzip_of(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn a_file_that_is_still_written_to_is_told_from_one_that_is_not() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nMK\n");
    let still = workspace.write("still", ">b\nGG\n");
    let index = workspace
        .build(&[&path, &still], &IndexConfig::default())
        .unwrap();
    assert_eq!(index.changed_inputs().count(), 0);
    let mut file = File::options().append(true).open(&still).unwrap();
    file.write_all(b">c\nVL\n").unwrap();
    let changed: Vec<_> = index.changed_inputs().map(|input| &input.path).collect();
    assert_eq!(changed, [&still]);
    // An input that is gone does not count as changed.
    fs::remove_file(&still).unwrap();
    assert_eq!(index.changed_inputs().count(), 0);

    let saved = workspace.path("index.plm");
    let load_or_build = || {
        let inputs = [Input::from(&path)];
        let config = IndexConfig::default();
        FastaIndex::load_or_build(&inputs, &saved, &workspace.spool(), &config).unwrap()
    };
    load_or_build();
    let (reused, _) = load_or_build();
    assert_eq!(reused.changed_inputs().count(), 0);
    fs::write(&path, ">a\nMKV\n").unwrap();
    assert_eq!(reused.changed_inputs().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_read_saved_and_found_again() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let workspace = Workspace::new();
    let folder = workspace.folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&folder).unwrap();
    let path = folder.join(OsStr::from_bytes(b"\xff.fasta"));
    fs::write(&path, ">a\nMK\n").unwrap();
    let inputs = [Input::from(path.clone().into_os_string())];
    let saved = folder.join("index.plm");
    let spool = folder.join("spool");
    let config = IndexConfig::default();
    let (index, _) = FastaIndex::load_or_build(&inputs, &saved, &spool, &config).unwrap();
    assert!(index.inputs()[0].name.ends_with("\u{fffd}.fasta"));
    let loaded = FastaIndex::load(&saved).unwrap();
    assert_eq!(loaded, index);
    assert_eq!(loaded.inputs()[0].path, path);
    assert_eq!(read_all(&loaded), pairs(&[("a", "MK")]));

    // Compressed, its text is in a folder that is not UTF-8 either.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(b">b\nGG\n").unwrap();
    fs::write(&path, gzip.finish().unwrap()).unwrap();
    let index = FastaIndex::build(&inputs, &spool, &config).unwrap();
    assert_eq!(read_all(&index), pairs(&[("b", "GG")]));
}
