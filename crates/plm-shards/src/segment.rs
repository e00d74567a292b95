//! One segment: a small, whole file with some rows of every output.
//!
//! It holds a magic number, the rows of one output after the other, all else that is known of the
//! rows ([`block`]), and the [`seal`], in this order. The rows of wide outputs are in the draft. A
//! segment has their digests.

use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice;

use plm_core::Digest;

use crate::block::{self, BlockReader, Columns, Description, Origin};
use crate::digest::{self, DatasetHasher};
use crate::error::At;
use crate::run_format::RunFormat;
use crate::{Error, seal, wide};

/// The first bytes of a segment. They identify even one that was cut short.
const MAGIC: [u8; 8] = *b"PLMSEG5\n";
/// The first bytes of a segment that vouches for rows in the draft.
const MAGIC_OF_WIDE: [u8; 8] = *b"PLMSEG6\n";

fn magic(format: &RunFormat) -> [u8; 8] {
    if format.is_wide() {
        MAGIC_OF_WIDE
    } else {
        MAGIC
    }
}

/// Makes the bytes of a segment with these columns and outputs. Each output is `[n, width]`, in its
/// stored bytes, and empty if it is wide.
pub(crate) fn compose(
    columns: &Columns,
    outputs: &[Vec<u8>],
    origin: Origin,
    format: &RunFormat,
) -> Vec<u8> {
    let mut digests: Vec<Digest> = (outputs.iter())
        .map(|values| digest::of_bytes(values))
        .collect();
    for (position, records) in format.wide().zip(&columns.wide) {
        digests[position] = wide::digest_of_records(records);
    }
    let description = Description::of(columns, digests, origin, format);
    let block = block::compose(columns, &description);
    let values_bytes: usize = outputs.iter().map(Vec::len).sum();
    let mut segment =
        Vec::with_capacity(MAGIC.len() + values_bytes + block.len() + seal::seal_bytes(1));
    segment.extend(magic(format));
    outputs.iter().for_each(|values| segment.extend(values));
    let place = MAGIC.len() as u64..segment.len() as u64;
    segment.extend(block);
    let seal = seal::seal(
        Cursor::new(&segment),
        segment.len() as u64,
        slice::from_ref(&place),
    )
    .expect("memory can be read");
    segment.extend(seal);
    segment
}

/// A segment whose bytes are those that were written, except perhaps the outputs'. These are
/// checked when they are read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) columns: Columns,
    /// The mark of the draft with the rows of wide outputs, if there are any.
    pub(crate) draft: Option<Digest>,
    pub(crate) values: SegmentValues,
}

impl Segment {
    pub(crate) fn open(path: &Path, expected: &RunFormat) -> Result<Self, Error> {
        let damaged = |reason: &str| Error::damaged(path, reason);
        // Opening a pipe would wait until someone writes to it.
        if !fs::metadata(path).at("read it", path)?.is_file() {
            return Err(damaged("it is not a file"));
        }
        let file = File::open(path).at("open it", path)?;
        let sealed = seal::check(&file)
            .at("read it", path)?
            .ok_or_else(|| damaged("its bytes are not the ones that were sealed"))?;
        let [Range { start, end }] = sealed.vectors[..] else {
            return Err(damaged("its vectors are in several pieces"));
        };
        let mut block = BlockReader::new(path, &file, end..sealed.content_bytes);
        let description = block.description()?;
        let found = description.shape().map_err(|reason| damaged(&reason))?;
        if let Some((what, expected, found)) = expected.shape().difference(&found) {
            return Err(Error::OtherRun {
                path: path.to_owned(),
                what,
                expected,
                found,
            });
        }
        let columns = block.columns(&description, expected.wide().count())?;
        let mut found = [0; MAGIC.len()];
        file.read_exact_at(&mut found, 0).at("read it", path)?;
        if found != magic(expected) || start != MAGIC.len() as u64 {
            return Err(damaged("its vectors are not at its start"));
        }
        let rows = columns.rows.len() as u64;
        if rows.checked_mul(expected.all_row_bytes() as u64) != Some(end - start) {
            return Err(damaged("its vectors are more or fewer than its rows"));
        }
        let digests = description.output_digests.clone();
        if digests.len() != expected.outputs().len() {
            return Err(damaged("its digests are more or fewer than its outputs"));
        }
        let mut wide = expected.wide().zip(&columns.wide);
        if wide.any(|(position, records)| digests[position] != wide::digest_of_records(records)) {
            return Err(damaged(
                "its digests of records are not the ones of its outputs",
            ));
        }
        let origin = description.origin();
        if Description::of(&columns, digests, origin, expected) != description {
            return Err(damaged(
                "its content does not have the digest that it states",
            ));
        }
        let mut next = start;
        let outputs = expected.narrow().map(|position| {
            let start = next;
            next += rows * expected.row_bytes(position) as u64;
            OutputValues {
                place: start..next,
                digest: description.output_digests[position],
            }
        });
        Ok(Self {
            draft: origin.draft,
            values: SegmentValues {
                path: path.to_owned(),
                outputs: outputs.collect(),
                content_digest: description.content_digest,
            },
            columns,
        })
    }
}

/// The outputs of a segment, which are still in the file.
#[derive(Debug)]
pub(crate) struct SegmentValues {
    pub(crate) path: PathBuf,
    /// The outputs with one row per record are in the order of the run's.
    outputs: Vec<OutputValues>,
    /// This digest covers all that the segment holds.
    pub(crate) content_digest: Digest,
}

/// The place of an output's rows in the file, and the digest that they should have.
#[derive(Debug)]
struct OutputValues {
    place: Range<u64>,
    digest: Digest,
}

impl SegmentValues {
    /// Reads the rows of all these outputs piece by piece, checks them, and keeps none.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for output in &self.outputs {
            let mut hasher = DatasetHasher::default();
            File::open(&self.path)
                .and_then(|mut file| {
                    file.seek(SeekFrom::Start(output.place.start))?;
                    hasher.reader(file.take(output.bytes()))
                })
                .at("read it", &self.path)?;
            self.compare(output, hasher.finish())?;
        }
        Ok(())
    }

    /// Replaces `values` by the stored rows of the `nth` of these outputs, and checks them.
    pub(crate) fn read(&self, nth: usize, values: &mut Vec<u8>) -> Result<(), Error> {
        let output = &self.outputs[nth];
        let bytes = usize::try_from(output.bytes()).expect("a segment was composed in memory");
        values.resize(bytes, 0);
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(values, output.place.start))
            .at("read it", &self.path)?;
        self.compare(output, digest::of_bytes(values))
    }

    fn compare(&self, output: &OutputValues, found: Digest) -> Result<(), Error> {
        if found != output.digest {
            let reason = "its vectors are not the ones that were written";
            return Err(Error::damaged(&self.path, reason));
        }
        Ok(())
    }
}

impl OutputValues {
    fn bytes(&self) -> u64 {
        self.place.end - self.place.start
    }
}
