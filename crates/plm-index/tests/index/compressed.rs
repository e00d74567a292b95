//! Inputs that can't be seeked.

use std::error::Error as _;
use std::fs;
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_index::{Error, FastaIndex, IndexConfig, Input};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::{Workspace, read_all};

fn text() -> String {
    (0..3000)
        .map(|row| format!(">r{row}\n{}\n", "MKVLAWGD".repeat(1 + row % 9)))
        .collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn bgzip(text: &[u8]) -> Vec<u8> {
    let mut writer = noodles_bgzf::io::Writer::new(Vec::new());
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

/// Two frames that split a record, with a skippable one between them.
fn two_frames(text: &[u8]) -> Vec<u8> {
    let (head, tail) = text.split_at(text.len() / 2);
    let skipped = b"\x51\x2a\x4d\x18\x03\0\0\0abc";
    [zstd(head), skipped.to_vec(), zstd(tail)].concat()
}

/// Two members that split a record.
fn two_members(text: &[u8]) -> Vec<u8> {
    let (head, tail) = text.split_at(text.len() / 2);
    [gzip(head), gzip(tail)].concat()
}

#[test]
fn compression_changes_no_residue_and_no_offset() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let text = text();
    let plain = workspace.write("plain", &text);
    let plain = workspace.build(&[&plain], &config).unwrap();
    for compress in [gzip, two_members, bgzip, zstd, two_frames] {
        let compressed = compress(text.as_bytes());
        // The name is wrong: only the content counts.
        let path = workspace.write("compressed.fasta", &compressed);
        let index = workspace.build(&[&path], &config).unwrap();
        assert_eq!(read_all(&index), read_all(&plain));
        for (record, expected) in index.records().zip(plain.records()) {
            assert_eq!(record.byte_offset, expected.byte_offset);
            assert_eq!(record.line, expected.line);
        }
        let input = &index.inputs()[0];
        assert_eq!(input.bytes, compressed.len() as u64);
        assert_eq!(input.digest.hex(), blake3::hash(&compressed).to_string());
        assert_eq!(input.text_bytes, text.len() as u64);
        assert_eq!(input.text_digest, plain.inputs()[0].digest);
    }
}

#[test]
fn a_whole_spool_file_is_used_again_and_a_damaged_one_is_not() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input.gz", gzip(text().as_bytes()));
    let index = workspace.build(&[&path], &config).unwrap();
    let spooled = &index.inputs()[0].path;
    let written = fs::metadata(spooled).unwrap();
    let again = workspace.build(&[&path], &config).unwrap();
    assert_eq!(again, index);
    let found = fs::metadata(spooled).unwrap();
    // A file that is written again gets its name by a rename, so its inode is another.
    #[cfg(unix)]
    assert_eq!(found.ino(), written.ino());
    assert_eq!(found.modified().unwrap(), written.modified().unwrap());

    fs::write(spooled, &text()[..5000]).unwrap();
    let mended = workspace.build(&[&path], &config).unwrap();
    assert_eq!(mended, index);
    assert_eq!(fs::read_to_string(spooled).unwrap(), text());
}

#[test]
fn a_cut_gzip_is_an_error_wherever_it_is_cut() {
    let text = b">a\nMKVL\n>b\nGGWD\n";
    let workspace = Workspace::new();
    for (compressed, member_end) in [
        (two_members(text), gzip(&text[..text.len() / 2]).len()),
        (bgzip(text), usize::MAX),
    ] {
        for length in 3..compressed.len() {
            let path = workspace.write("cut.gz", &compressed[..length]);
            let result = workspace.build(&[&path], &IndexConfig::default());
            if length == member_end {
                // To gzip, half of the text is a whole file: nothing says that there was more.
                result.unwrap();
                continue;
            }
            match result {
                Err(Error::DamagedGzip { file, .. }) => assert!(file.ends_with("cut.gz")),
                other => panic!("cut at {length}: {other:?}"),
            }
        }
    }
    let left = names(&workspace.spool());
    assert!(
        left.len() == 1 && left[0].ends_with(".fasta"),
        "only the whole half has a spool file: {left:?}"
    );
}

#[test]
fn zeros_after_a_gzip_are_passed_over_and_nothing_else_is() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let plain = workspace.write("plain", text());
    let plain = workspace.build(&[&plain], &config).unwrap();
    for compress in [gzip, two_members] {
        let whole = compress(text().as_bytes());
        // As many zeros as are read at once, and more.
        for zeros in [1, 511, 1 << 19] {
            let padded = [&whole[..], &vec![0; zeros]].concat();
            let path = workspace.write("padded.gz", &padded);
            let index = workspace.build(&[&path], &config).unwrap();
            let (found, input) = (&index.inputs()[0], &plain.inputs()[0]);
            assert_eq!(found.text_digest, input.text_digest);
            assert_eq!(found.bytes, padded.len() as u64);

            for more in [b"x", &whole[..]] {
                let path = workspace.write("more.gz", [&padded[..], more].concat());
                let refused = workspace.build(&[&path], &config).unwrap_err();
                assert!(matches!(refused, Error::DamagedGzip { .. }), "{refused}");
            }
        }
    }
}

#[test]
fn a_gzip_of_what_is_no_fasta_is_refused_before_it_is_put_aside() {
    let workspace = Workspace::new();
    let table = [b"\n".as_slice(), &b"@id,sequence\n1,MKV\n".repeat(100_000)].concat();
    let mut tar = b"proteins/a.fasta\0\0\0\0".to_vec();
    tar.resize(1 << 20, 0);
    for (content, line, byte_offset, found) in [(table, 2, 1, b'@'), (tar, 1, 0, b'p')] {
        // Cut short: read to its end, it would be a damaged gzip.
        let mut compressed = gzip(&content);
        compressed.truncate(compressed.len() - 4);
        let path = workspace.write("input.gz", compressed);
        match workspace.build(&[&path], &IndexConfig::default()) {
            Err(Error::NotFasta {
                file,
                line: l,
                byte_offset: b,
                found: f,
            }) => {
                assert_eq!((l, b, f), (line, byte_offset, found));
                assert!(file.ends_with("input.gz"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(names(&workspace.spool()), [""; 0]);
    }
}

#[test]
fn what_a_killed_run_left_half_written_is_removed_by_the_next() {
    let workspace = Workspace::new();
    let path = workspace.write("input.gz", gzip(text().as_bytes()));
    fs::create_dir(workspace.spool()).unwrap();
    let of_spool = workspace.spool().join(".text.4000000000-0.tmp");
    let of_index = workspace.path(".index.plm.4000000000-0.tmp");
    let inputs = [Input::from(path)];
    for _ in ["built", "reused"] {
        fs::write(&of_spool, ">half").unwrap();
        fs::write(&of_index, "PLMI").unwrap();
        FastaIndex::load_or_build(
            &inputs,
            &workspace.path("index.plm"),
            &workspace.spool(),
            &IndexConfig::default(),
        )
        .unwrap();
        assert!(!of_spool.exists() && !of_index.exists());
    }
    assert_eq!(names(&workspace.spool()).len(), 1);
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_flipped_byte_of_a_gzip_is_an_error() {
    let workspace = Workspace::new();
    let mut compressed = gzip(text().as_bytes());
    let middle = compressed.len() / 2;
    compressed[middle] ^= 0x10;
    let path = workspace.write("flipped.gz", compressed);
    let error = workspace
        .build(&[&path], &IndexConfig::default())
        .unwrap_err();
    assert!(matches!(error, Error::DamagedGzip { .. }), "{error:?}");
}

/// [`text`] as `zstd` 1.5.4 compressed it, with the options in the names.
const BY_ZSTD: [(&str, &[u8]); 4] = [
    ("-1", include_bytes!("zstd/fast.zst")),
    ("-19 --no-check", include_bytes!("zstd/best.zst")),
    ("--ultra -22 --long=27", include_bytes!("zstd/long.zst")),
    ("-3, from a pipe", include_bytes!("zstd/pipe.zst")),
];

#[test]
fn what_the_program_zstd_wrote_is_read_whatever_its_options() {
    let workspace = Workspace::new();
    for (options, compressed) in BY_ZSTD {
        let path = workspace.write("input", compressed);
        let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
        let input = &index.inputs()[0];
        let expected = blake3::hash(text().as_bytes()).to_string();
        assert_eq!(input.text_digest.hex(), expected, "{options}");
    }
}

#[test]
fn a_cut_zstd_is_an_error_wherever_it_is_cut() {
    let workspace = Workspace::new();
    let whole = two_frames(b">a\nMKVL\n>b\nGGWD\n");
    let first_frame = zstd(b">a\nMKVL\n").len();
    assert_eq!(zstd(b">a\nMKVL\n"), whole[..first_frame]);
    for length in 4..whole.len() {
        let path = workspace.write("cut.zst", &whole[..length]);
        let result = workspace.build(&[&path], &IndexConfig::default());
        if [first_frame, first_frame + 11].contains(&length) {
            // To zstd, half of the text is a whole file: nothing in it says that there was more.
            result.unwrap();
            continue;
        }
        match result {
            Err(Error::DamagedZstd { file, .. }) => assert!(file.ends_with("cut.zst")),
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn a_zstd_that_was_changed_or_goes_on_with_something_else_is_an_error() {
    let workspace = Workspace::new();
    let refusal = |content: &[u8]| {
        let path = workspace.write("input.zst", content);
        workspace
            .build(&[&path], &IndexConfig::default())
            .unwrap_err()
    };
    let whole = BY_ZSTD[0].1;
    let mut flipped = whole.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let mut checksum = whole.to_vec();
    *checksum.last_mut().unwrap() ^= 1;
    let garbage = [whole, b"garbage"].concat();
    let cut = whole[..whole.len() / 2].to_vec();
    let cut_in_header = whole[..4].to_vec();
    for (content, reason) in [
        (flipped, None),
        (checksum, Some("the checksum does not match")),
        (garbage, Some("what follows its last frame is no frame")),
        (cut, Some("it ends within a frame")),
        (cut_in_header, Some("it ends within a frame")),
    ] {
        match refusal(&content) {
            Error::DamagedZstd { source, .. } => {
                let found = source.to_string();
                assert!(reason.is_none_or(|reason| found == reason), "{found}");
                assert!(!found.contains("Error"), "{found}");
                assert!(source.source().is_none(), "said once: {source:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // A frame that asks for 2 GiB, as `zstd --long=31` writes.
    let error = refusal(&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0]);
    match &error {
        Error::ZstdWindow { window_bytes, .. } => assert_eq!(*window_bytes, 1 << 31),
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("2147483648 bytes"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_once() {
    let workspace = Workspace::new();
    let pipe = workspace.path("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, bgzip(b">a\nMK\n>b\nGG")).unwrap()
    });
    let index = workspace.build(&[&pipe], &IndexConfig::default()).unwrap();
    writer.join().unwrap();
    assert_eq!(read_all(&index), crate::pairs(&[("a", "MK"), ("b", "GG")]));
}
