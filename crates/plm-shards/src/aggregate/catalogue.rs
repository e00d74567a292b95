//! Writes the catalogue of a result of several files: which file has which records.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use plm_core::{Digest, DurableFile};

use super::Aggregation;
use super::columns::{self, RecordColumns, Records};
use super::digests::{self, Placeholders};
use super::file::FileDraft;
use super::skeleton::{describe_file, reserve};
use crate::error::At;
use crate::expect::ExpectedRows;
use crate::layout::kinds_with_offsets;
use crate::provenance::CATALOGUE_VERSION;
use crate::verify::read_catalogue;
use crate::wide::RowOffsets;
use crate::{EmbeddingsFile, Error, StoredRows, image, layout, seal, superblock};

/// The datasets that list files: names, digests and offsets.
const OF_FILES: usize = 3;

/// A file of the result, which has its name.
pub(super) struct NamedFile {
    name: String,
    content_digest: Digest,
    rows: usize,
}

impl NamedFile {
    /// Files that are complete, with the digests of their content.
    pub(super) fn list(files: &[FileDraft], digests: &[Digest]) -> Vec<Self> {
        let named = |(file, &content_digest): (&FileDraft, &Digest)| Self {
            name: name_of(&file.path),
            content_digest,
            rows: file.expected_rows.count(),
        };
        files.iter().zip(digests).map(named).collect()
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// All that a catalogue says.
pub(super) struct Catalogue<'a> {
    pub(super) request: &'a Aggregation<'a>,
    pub(super) expected_rows: &'a ExpectedRows,
    /// The status is the code of each row's outcome, `[n]`.
    pub(super) status: &'a [u8],
    pub(super) files: &'a [NamedFile],
}

impl Catalogue<'_> {
    /// Makes the catalogue, durable and under the result's name, and gives the digest of its
    /// content. All files have their names.
    pub(super) fn write(&self) -> Result<Digest, Error> {
        let Aggregation {
            expected, output, ..
        } = self.request;
        let mut file = DurableFile::create(*output).at("make a file here", *output)?;
        let path = file.temporary_path().to_owned();
        let empty = image::compose(|_| Ok(())).at("compose an empty file", &path)?;
        file.file().write_all(&empty).at("write to it", &path)?;
        let most_bytes =
            (self.stored()).catalogue_bytes(self.request.provenance, self.files.len() as u64);
        reserve(file.file(), empty.len() as u64..most_bytes)
            .at("reserve the space that the catalogue needs", &path)?;
        let kinds = kinds_with_offsets(expected.format).len();
        let placeholders = Placeholders::new(columns::OF_RECORDS + OF_FILES + kinds);
        let fill = |file: &hdf5::File| self.fill(file, &placeholders);
        image::fill_in(&path, file.file(), fill).at("lay it out", &path)?;
        let raw = file.file();
        let places = placeholders.find(raw, &[]).at("lay it out", &path)?;
        let seal_offset = superblock::lengthen(raw, seal::seal_bytes(0) as u64)
            .at("make room for its seal", &path)?;

        let written = EmbeddingsFile::open(&path)?;
        let found = read_catalogue(&written, Some((expected, self.expected_rows)))?;
        let content_digest = found.of_file(&written);
        let of_datasets = found.datasets().iter().map(|&(_, digest)| digest);
        let of_file = [content_digest].into_iter().chain(of_datasets);
        digests::fill_in(raw, &places, of_file).at("write the digests", &path)?;
        seal::seal(&mut &*raw, seal_offset, &[])
            .and_then(|seal| raw.write_all_at(&seal, seal_offset))
            .at("seal it", &path)?;
        drop(written);
        file.commit().at("make it durable", *output)?;
        Ok(content_digest)
    }

    fn fill(&self, file: &hdf5::File, placeholders: &Placeholders) -> hdf5::Result<()> {
        let Aggregation {
            expected,
            provenance,
            ..
        } = self.request;
        let format = expected.format;
        placeholders.of_file(file)?;
        let records = RecordColumns::create(file, self.status.len())?;
        let files = self.write_files(file)?;
        let row_offsets = RowOffsets::new(
            format,
            expected.source,
            self.expected_rows,
            expected.truncated_to,
        );
        let offsets = columns::write_offsets(file, format, |per| row_offsets.of(per))?;
        placeholders.of_datasets(records.all().into_iter().chain(&files).chain(&offsets))?;
        describe_file(file, format, provenance, CATALOGUE_VERSION)?;
        let of_records = Records {
            source: expected.source,
            expected_rows: self.expected_rows,
            status: self.status,
        };
        records.write(&of_records, &|| true)
    }

    /// Writes the list of files, and a link to each. Gives the datasets of the list.
    fn write_files(&self, file: &hdf5::File) -> hdf5::Result<[Dataset; OF_FILES]> {
        let texts = |name: &str, text: &dyn Fn(&NamedFile) -> String| {
            let dataset = layout::create_column::<VarLenUnicode>(file, name, self.files.len())?;
            let texts = self
                .files
                .iter()
                .map(|file| layout::to_stored_text(&text(file)));
            dataset.write(&texts.collect::<hdf5::Result<Vec<_>>>()?)?;
            Ok::<_, hdf5::Error>(dataset)
        };
        let names = texts(layout::FILE_NAMES, &|file| file.name.clone())?;
        let digests = texts(layout::FILE_DIGESTS, &|file| {
            file.content_digest.to_string()
        })?;
        let offsets = self.files.iter().scan(0, |end, file| {
            *end += file.rows as u64;
            Some(*end)
        });
        let offsets: Vec<u64> = [0].into_iter().chain(offsets).collect();
        let dataset = layout::create_column::<u64>(file, layout::FILE_OFFSETS, offsets.len())?;
        dataset.write(&offsets)?;
        let group = file.group(layout::FILES)?;
        for NamedFile { name, .. } in self.files {
            group.link_external(name, "/", name)?;
        }
        Ok([names, digests, dataset])
    }

    /// What an upper bound of the file's bytes depends on.
    fn stored(&self) -> StoredRows<'_> {
        let source = self.request.expected.source;
        let ids = self
            .expected_rows
            .iter()
            .map(|row| source.record(row).id.len() as u64);
        StoredRows {
            format: self.request.expected.format,
            rows: self.status.len() as u64,
            id_bytes: ids.sum(),
            residues: 0,
            pairs: 0,
        }
    }
}
