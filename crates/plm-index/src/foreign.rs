//! Recognizes inputs of other formats by their first bytes, and says what to do with each.

use crate::Error;

/// The bytes that are needed: a tar archive has its magic at byte 257.
pub(crate) const HEAD_BYTES: usize = 512;

/// A format that is not FASTA.
struct Kind {
    /// Its name, to follow "the file is".
    what: &'static str,
    /// What to do to get FASTA.
    advice: &'static str,
}

const fn kind(what: &'static str, advice: &'static str) -> Kind {
    Kind { what, advice }
}

/// The outer compression is undone before the text is looked at here.
const TWICE: Kind = kind(
    "compressed twice",
    "unpack it once, with gzip -d or zstd -d",
);
const XZ: Kind = kind("compressed with xz", "unpack it with xz -d");
const BZIP2: Kind = kind("compressed with bzip2", "unpack it with bzip2 -d");
const ZIP: Kind = kind("a zip archive", "unpack it with unzip");
const SEVEN_ZIP: Kind = kind("a 7z archive", "unpack it with 7z x");
const RAR: Kind = kind("a rar archive", "unpack it with unrar x");
const LZ4: Kind = kind("compressed with lz4", "unpack it with lz4 -d");
const LZIP: Kind = kind("compressed with lzip", "unpack it with lzip -d");
const LZMA: Kind = kind("compressed with lzma", "unpack it with xz -d");
const LZOP: Kind = kind("compressed with lzop", "unpack it with lzop -d");
const COMPRESS: Kind = kind("compressed with compress", "unpack it with gzip -d");
const TAR: Kind = kind(
    "a tar archive",
    "unpack it with tar -xf, and name the files",
);
const UTF_16: Kind = kind(
    "text in UTF-16",
    "convert it, for example with iconv -f UTF-16 -t UTF-8",
);
const UTF_32: Kind = kind(
    "text in UTF-32",
    "convert it, for example with iconv -f UTF-32 -t UTF-8",
);
const BAM: Kind = kind("a BAM file", "write FASTA with samtools fasta");
const CRAM: Kind = kind("a CRAM file", "write FASTA with samtools fasta");
const SAM: Kind = kind("a SAM file", "write FASTA with samtools fasta");
const FASTQ: Kind = kind(
    "FASTQ, which holds reads of nucleotides",
    "assemble and translate them, and give the proteins",
);
const GENBANK: Kind = kind("a GenBank file", "save its proteins as FASTA");
const EMBL: Kind = kind("an EMBL or UniProt text file", "save it as FASTA");
const GFF: Kind = kind("a GFF file", "give the FASTA file of its proteins");
const STOCKHOLM: Kind = kind("a Stockholm alignment", "save it as FASTA or A3M");
const CLUSTAL: Kind = kind("a Clustal alignment", "save it as FASTA or A3M");
const NEXUS: Kind = kind("a NEXUS alignment", "save it as FASTA or A3M");
const VCF: Kind = kind("a VCF file", "give the FASTA file of its proteins");
const PIR: Kind = kind(
    "a PIR (NBRF) file, whose second lines are no residues",
    "save it as FASTA",
);
const COMMENT: Kind = kind(
    "text that starts with a comment",
    "remove the lines that start with #",
);
const OLD_COMMENT: Kind = kind(
    "text that starts with a comment of old FASTA",
    "remove the lines that start with ;",
);
const PDB: Kind = kind("a PDB file", "save its sequences as FASTA");
const MMCIF: Kind = kind("an mmCIF file", "save its sequences as FASTA");
const HTML: Kind = kind("an HTML page", "look at it: a download may have failed");
const XML: Kind = kind("an XML file", "save it as FASTA");
const JSON: Kind = kind("JSON", "save its sequences as FASTA");
const RTF: Kind = kind("an RTF document", "save it as plain text");
const OFFICE: Kind = kind("an Office document", "save it as plain text");
const PDF: Kind = kind("a PDF document", "save its sequences as plain text");
const HDF5: Kind = kind("an HDF5 file", "name the FASTA file that it was made of");
const PARQUET: Kind = kind("a Parquet file", "save its sequences as FASTA");
const ARROW: Kind = kind("an Arrow file", "save its sequences as FASTA");
const SQLITE: Kind = kind("an SQLite database", "save its sequences as FASTA");
const NUMPY: Kind = kind("a NumPy array", "name the FASTA file that it was made of");
const TWO_BIT: Kind = kind("a 2bit file", "give the FASTA file of its proteins");
const INDEX: Kind = kind("an index.plm", "name the FASTA files that it was made of");
const LFS: Kind = kind(
    "a Git LFS pointer",
    "fetch the file itself with git lfs pull",
);

/// The first bytes of each kind. A longer start stands before a shorter one that begins it.
const MAGICS: &[(&[u8], &Kind)] = &[
    (b"\x1f\x8b", &TWICE),
    (b"\x28\xb5\x2f\xfd", &TWICE),
    (b"\xfd7zXZ\0", &XZ),
    (b"BZh", &BZIP2),
    (b"PK\x03\x04", &ZIP),
    (b"PK\x05\x06", &ZIP),
    (b"PK\x07\x08", &ZIP),
    (b"7z\xbc\xaf\x27\x1c", &SEVEN_ZIP),
    (b"Rar!\x1a\x07", &RAR),
    (b"\x04\x22\x4d\x18", &LZ4),
    (b"\x02\x21\x4c\x18", &LZ4),
    (b"LZIP", &LZIP),
    (b"\x5d\0\0", &LZMA),
    (b"\x89LZO", &LZOP),
    (b"\x1f\x9d", &COMPRESS),
    (b"\xff\xfe\0\0", &UTF_32),
    (b"\0\0\xfe\xff", &UTF_32),
    (b"\xff\xfe", &UTF_16),
    (b"\xfe\xff", &UTF_16),
    (b"\0>\0", &UTF_16),
    (b"BAM\x01", &BAM),
    (b"CRAM", &CRAM),
    (b"@HD\t", &SAM),
    (b"@SQ\t", &SAM),
    (b"\x89HDF\r\n\x1a\n", &HDF5),
    (b"PAR1", &PARQUET),
    (b"ARROW1", &ARROW),
    (b"SQLite format 3\0", &SQLITE),
    (b"\x93NUMPY", &NUMPY),
    (b"\x43\x27\x41\x1a", &TWO_BIT),
    (b"\x1a\x41\x27\x43", &TWO_BIT),
    (b"PLMINDEX", &INDEX),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", &OFFICE),
];

/// The first bytes of kinds of text, after any white space, in the same order.
const TEXTS: &[(&[u8], &Kind)] = &[
    (b"LOCUS ", &GENBANK),
    (b"ID   ", &EMBL),
    (b"##gff", &GFF),
    (b"# STOCKHOLM", &STOCKHOLM),
    (b"CLUSTAL", &CLUSTAL),
    (b"#NEXUS", &NEXUS),
    (b"##fileformat=VCF", &VCF),
    (b"#", &COMMENT),
    (b";", &OLD_COMMENT),
    (b"HEADER    ", &PDB),
    (b"ATOM  ", &PDB),
    (b"data_", &MMCIF),
    (b"<?xml", &XML),
    (b"{\\rtf", &RTF),
    (b"{", &JSON),
    (b"[", &JSON),
    (b"%PDF", &PDF),
    (b"version https://git-lfs", &LFS),
];

/// The error for an input `file` that starts with `head`, if that is the start of a known format.
pub(crate) fn error(file: &str, head: &[u8]) -> Option<Error> {
    kind_of(head).map(|kind| Error::OtherFormat {
        file: file.to_owned(),
        what: kind.what,
        advice: kind.advice,
    })
}

/// Whether a text is no FASTA although it starts with a `>`.
pub(crate) fn only_starts_as_fasta(head: &[u8]) -> bool {
    is_utf_16(head) || is_pir(head)
}

/// Whether a text starts with a `>` of 16 bits. Its first name would hold NUL bytes.
fn is_utf_16(head: &[u8]) -> bool {
    matches!(head, [b'>', 0, _, 0, ..])
}

/// Whether the first entry is PIR: it has a code and `;` before its name, words on its second line,
/// and a `*` at its end. The words would become residues. An entry with an empty second line may
/// pass: read as FASTA, it has the same residues.
fn is_pir(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let [b'>', code @ .., _] = &text[..text.len().min(5)] else {
        return false;
    };
    if !matches!(
        code,
        b"P1;" | b"F1;" | b"DL;" | b"DC;" | b"RL;" | b"RC;" | b"N1;" | b"N3;" | b"XX;"
    ) {
        return false;
    }
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let has_words = lines.nth(1).is_some_and(|second| {
        !second.is_empty() && !second.ends_with(b"*") && second.contains(&b' ')
    });
    let entry = lines.take_while(|line| !line.starts_with(b">"));
    has_words
        && entry
            .filter(|line| !line.is_empty())
            .last()
            .is_some_and(|last| last.ends_with(b"*"))
}

/// The format of a text that starts with `head`; `None` for FASTA and for unknown formats.
fn kind_of(head: &[u8]) -> Option<&'static Kind> {
    let starts = |(magic, _): &&(&[u8], &Kind)| head.starts_with(magic);
    if let Some((_, kind)) = MAGICS.iter().find(starts) {
        return Some(kind);
    }
    if is_utf_16(head) {
        return Some(&UTF_16);
    }
    if is_pir(head) {
        return Some(&PIR);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(&TAR);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = text.trim_ascii_start();
    let is_html = |start: &[u8]| {
        text.get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    if is_html(b"<!doctype html") || is_html(b"<html") {
        return Some(&HTML);
    }
    let starts = |(start, _): &&(&[u8], &Kind)| text.starts_with(start);
    if let Some((_, kind)) = TEXTS.iter().find(starts) {
        return Some(kind);
    }
    is_fastq(text).then_some(&FASTQ)
}

/// Whether the first line starts with a `@` and the third with a `+`.
fn is_fastq(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n');
    let third = lines.nth(2);
    text.starts_with(b"@") && third.is_some_and(|line| line.starts_with(b"+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_start_hides_a_longer_one_and_none_is_fasta() {
        for table in [MAGICS, TEXTS] {
            for (at, (start, _)) in table.iter().enumerate() {
                assert!(!start.starts_with(b">"));
                let earlier = &table[..at];
                assert!(
                    !earlier.iter().any(|(other, _)| start.starts_with(other)),
                    "{start:?} is never reached"
                );
            }
        }
        assert!(kind_of(b">a\nMK\n").is_none());
        assert!(kind_of(b">P1;X\n\nMK*\n").is_none());
        assert!(kind_of(b">P1;X\nMK VL\nMK\n>b\nMK*\n").is_none());
        assert!(kind_of(b">P1").is_none());
        assert!(kind_of(b"hello\n").is_none());
        assert!(kind_of(b"").is_none());
    }

    #[test]
    fn a_tar_archive_and_fastq_are_known_by_later_bytes() {
        let mut tar = b"proteins/a.fasta".to_vec();
        tar.resize(512, 0);
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(kind_of(&tar).unwrap().what, TAR.what);
        assert!(kind_of(&tar[..256]).is_none());
        let reads = b"@read1 x\nACGT\n+\n!!!!\n";
        assert_eq!(kind_of(reads).unwrap().what, FASTQ.what);
        assert!(kind_of(b"@article{a,\n title\n}\n").is_none());
    }
}
