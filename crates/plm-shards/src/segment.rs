//! One segment: a small, whole HDF5 file with the vectors of some rows.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hdf5::types::VarLenUnicode;
use plm_core::{Outcome, Rank};
use serde::Serialize;

use crate::config::RunFormat;
use crate::digest::{self, DatasetHasher};
use crate::error::At;
use crate::layout::{self, Vectors};
use crate::{Error, image, seal};

const FORMAT: &str = "plm-shards segment";
const FORMAT_VERSION: u32 = 2;
const RANK: &str = "rank";

/// The rows of a segment without their vectors, column by column: `[n]` each.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) rows: Vec<u64>,
    pub(crate) ids: Vec<String>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) status: Vec<u8>,
    pub(crate) in_f32: Vec<u8>,
}

impl Columns {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.ids.clear();
        self.lengths.clear();
        self.status.clear();
        self.in_f32.clear();
    }

    /// The digest of a segment with these columns and vectors of this digest.
    fn content_digest(&self, rank: Rank, format: &RunFormat, vectors_digest: &str) -> String {
        let [mut rows, mut ids, mut lengths, mut status, mut in_f32] =
            std::array::from_fn(|_| DatasetHasher::default());
        rows.numbers_u64(&self.rows);
        self.ids.iter().for_each(|id| ids.text(id));
        lengths.numbers_u32(&self.lengths);
        status.bytes(&self.status);
        in_f32.bytes(&self.in_f32);
        let header = serde_json::to_string(&Header {
            format: FORMAT,
            format_version: FORMAT_VERSION,
            run_digest: &format.run_digest,
            rank: rank.0,
            rows: self.rows.len(),
            hidden_size: format.hidden_size,
            dtype: format.dtype().name(),
        })
        .expect("texts and numbers make JSON");
        digest::of_content(
            &header,
            &[
                (layout::EMBEDDINGS, vectors_digest),
                (layout::SEQUENCE_IDS, &ids.finish()),
                (layout::LENGTHS, &lengths.finish()),
                (layout::STATUS, &status.finish()),
                (layout::IN_F32, &in_f32.finish()),
                (layout::ROWS, &rows.finish()),
            ],
        )
    }
}

/// What a segment's attributes say, in the order that its digest takes it.
#[derive(Serialize)]
struct Header<'a> {
    format: &'a str,
    format_version: u32,
    run_digest: &'a str,
    rank: u32,
    rows: usize,
    hidden_size: usize,
    dtype: &'a str,
}

/// The bytes of the segment of these columns and their vectors, `[n, hidden_size]` as they are to
/// be stored.
pub(crate) fn compose(
    columns: &Columns,
    vectors: &[u8],
    rank: Rank,
    format: &RunFormat,
) -> hdf5::Result<Vec<u8>> {
    // Outside of the library's lock, which all ranks share: all that takes time.
    let vectors_digest = digest::of_bytes(vectors);
    let content_digest = columns.content_digest(rank, format, &vectors_digest);
    let ids = columns
        .ids
        .iter()
        .map(|id| layout::to_stored_text(id))
        .collect::<hdf5::Result<Vec<VarLenUnicode>>>()?;

    let count = columns.rows.len();
    let mut offset = 0;
    let mut image = image::compose(|file| {
        layout::set_text(file, layout::FORMAT, FORMAT)?;
        layout::set_value(file, layout::FORMAT_VERSION, &FORMAT_VERSION)?;
        layout::set_text(file, layout::RUN_DIGEST, &format.run_digest)?;
        layout::set_value(file, RANK, &rank.0)?;
        layout::set_digest(file, layout::CONTENT_DIGEST, &content_digest)?;
        layout::create_column::<u64>(file, layout::ROWS, count)?.write(&columns.rows)?;
        layout::create_column::<u32>(file, layout::LENGTHS, count)?.write(&columns.lengths)?;
        layout::create_column::<u8>(file, layout::STATUS, count)?.write(&columns.status)?;
        layout::create_column::<u8>(file, layout::IN_F32, count)?.write(&columns.in_f32)?;
        layout::create_column::<VarLenUnicode>(file, layout::SEQUENCE_IDS, count)?.write(&ids)?;
        let dataset = layout::create_vectors(file, count, format)?;
        layout::set_digest(&dataset, layout::DIGEST, &vectors_digest)?;
        offset = dataset.offset().ok_or("a segment has rows")?;
        Ok(())
    })?;
    let start = usize::try_from(offset).expect("it is in memory");
    image[start..start + vectors.len()].copy_from_slice(vectors);
    let place = offset..offset + vectors.len() as u64;
    let seal =
        seal::seal(Cursor::new(&image), image.len() as u64, &place).expect("memory can be read");
    image.extend(seal);
    Ok(image)
}

/// A segment whose bytes are those that were written, its vectors' excepted: those are checked
/// when they are read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) columns: Columns,
    pub(crate) vectors: SegmentVectors,
}

impl Segment {
    pub(crate) fn open(path: &Path, expected: &RunFormat) -> Result<Self, Error> {
        let damaged = |reason: String| Error::DamagedSegment {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).at("open it", path)?;
        let file_bytes = file.metadata().at("read it", path)?.len();
        let place = seal::check(&file)
            .at("read it", path)?
            .ok_or_else(|| damaged("its bytes are not the ones that were sealed".to_owned()))?;

        let read = image::portable_file()
            .open(path)
            .and_then(|file| Stored::read(&file, file_bytes))
            .map_err(|error| damaged(error.to_string()))?;
        if let Some((what, expected, found)) = expected.difference(&read.format) {
            return Err(Error::OtherRun {
                path: path.to_owned(),
                what,
                expected,
                found,
            });
        }
        if read.vectors.offset != place.start {
            return Err(damaged(
                "its vectors are not where the seal has them".to_owned(),
            ));
        }
        let columns = read.columns;
        if columns.content_digest(read.rank, expected, &read.vectors_digest) != read.content_digest
        {
            return Err(damaged(
                "its content has another digest than it says".to_owned(),
            ));
        }
        Ok(Self {
            vectors: SegmentVectors {
                path: path.to_owned(),
                start: place.start,
                bytes: columns.rows.len() * expected.row_bytes(),
                digest: read.vectors_digest,
            },
            columns,
        })
    }
}

/// All that HDF5 has to say of a segment.
struct Stored {
    rank: Rank,
    format: RunFormat,
    content_digest: String,
    vectors: Vectors,
    vectors_digest: String,
    columns: Columns,
}

impl Stored {
    fn read(file: &hdf5::File, file_bytes: u64) -> hdf5::Result<Self> {
        let format = layout::get_text(file, layout::FORMAT)?;
        let version = layout::get_value::<u32>(file, layout::FORMAT_VERSION)?;
        if (&*format, version) != (FORMAT, FORMAT_VERSION) {
            return Err(format!("it is a {format:?}, version {version}").into());
        }
        let vectors = Vectors::locate(file, file_bytes)?;
        // The vectors are as many as the file has room for, so that no column takes more.
        let ids = read_column::<VarLenUnicode>(file, layout::SEQUENCE_IDS, vectors.rows)?;
        let status = read_column::<u8>(file, layout::STATUS, vectors.rows)?;
        let known = |&code: &u8| Outcome::from_code(code).is_some_and(Outcome::has_vector);
        if !status.iter().all(known) {
            return Err("a status is none of a record with a vector".into());
        }
        let embeddings = file.dataset(layout::EMBEDDINGS)?;
        Ok(Self {
            rank: Rank(layout::get_value(file, RANK)?),
            format: RunFormat {
                run_digest: layout::get_text(file, layout::RUN_DIGEST)?,
                hidden_size: vectors.hidden_size,
                element: vectors.element,
            },
            content_digest: layout::get_digest(file, layout::CONTENT_DIGEST)?,
            vectors_digest: layout::get_digest(&embeddings, layout::DIGEST)?,
            columns: Columns {
                rows: read_column(file, layout::ROWS, vectors.rows)?,
                ids: ids
                    .iter()
                    .map(|id| layout::from_stored_text(id).map(str::to_owned))
                    .collect::<hdf5::Result<_>>()?,
                lengths: read_column(file, layout::LENGTHS, vectors.rows)?,
                status,
                in_f32: read_column(file, layout::IN_F32, vectors.rows)?,
            },
            vectors,
        })
    }
}

fn read_column<T: hdf5::H5Type>(
    file: &hdf5::File,
    name: &str,
    rows: usize,
) -> hdf5::Result<Vec<T>> {
    let (dataset, found) = layout::open_column::<T>(file, name)?;
    if found != rows {
        return Err(format!("/{name} has {found} values for {rows} vectors").into());
    }
    dataset.read_raw()
}

/// The vectors of a segment, still in the file.
#[derive(Debug)]
pub(crate) struct SegmentVectors {
    pub(crate) path: PathBuf,
    start: u64,
    bytes: usize,
    digest: String,
}

impl SegmentVectors {
    /// Replaces `vectors` by the stored vectors, row by row.
    pub(crate) fn read(&self, vectors: &mut Vec<u8>) -> Result<(), Error> {
        vectors.resize(self.bytes, 0);
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(vectors, self.start))
            .at("read it", &self.path)?;
        if digest::of_bytes(vectors) != self.digest {
            return Err(Error::DamagedSegment {
                path: self.path.clone(),
                reason: "its vectors are not the ones that were written".to_owned(),
            });
        }
        Ok(())
    }
}
