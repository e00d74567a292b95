//! HDF5 files of many small datasets, written from start to end without the library.
//!
//! The library keeps such files open for long, copes badly with a full disk, and takes its time for
//! each dataset. What is needed here is small: contiguous datasets with one attribute, in one
//! group. So the bytes are written as the HDF5 File Format Specification, version 3.0, describes
//! them: superblock 0, object headers 1, and a group that is a B-tree 1 with a local heap. Any HDF5
//! since 1.8 reads them. This module must not know what the datasets are.

mod group;
mod message;

use std::io::{self, Write};

use plm_core::Values;

use crate::bytes::write_values;
pub(crate) use message::{Attribute, Text};

/// An address that leads nowhere.
const UNDEFINED: u64 = u64::MAX;

/// The superblock takes this many bytes at the start of the file.
const SUPERBLOCK_BYTES: u64 = 96;

/// A collection of texts takes at least this many bytes.
const LEAST_COLLECTION_BYTES: usize = 4096;
/// A collection numbers its texts with 16 bits, from 1.
pub(crate) const MOST_TEXTS: usize = u16::MAX as usize;

/// A dataset whose values come from a column.
pub(crate) struct Dataset<'a> {
    /// The name, without `/`, NUL, and other than `.` and the empty text.
    pub(crate) name: String,
    /// The sizes of its dimensions.
    pub(crate) shape: &'a [u64],
    /// The values of all datasets that are written together.
    pub(crate) values: &'a Values,
    /// Where its own values are in these.
    pub(crate) range: std::ops::Range<usize>,
    /// The text of its attribute.
    pub(crate) text: Text,
}

/// Writes a file: texts and datasets in any order, and [`finish`](Self::finish) at the end.
pub(crate) struct Writer {
    /// The bytes that were given out already end here.
    position: u64,
    /// Bytes that are not given out yet.
    bytes: Vec<u8>,
    /// The datasets: their names, and where their object headers are.
    links: Vec<(String, u64)>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            position: 0,
            bytes: vec![0; SUPERBLOCK_BYTES as usize],
            links: Vec::new(),
        }
    }

    /// The address of the next byte.
    fn address(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    /// Adds texts for attributes, at most [`MOST_TEXTS`].
    pub(crate) fn texts<'t>(&mut self, texts: impl Iterator<Item = &'t str>) -> Vec<Text> {
        let (address, start) = (self.address(), self.bytes.len());
        self.bytes.extend(b"GCOL\x01\0\0\0");
        self.bytes.extend([0; 8]);
        let mut placed = Vec::new();
        for (index, text) in (1_u16..).zip(texts) {
            self.bytes.extend(index.to_le_bytes());
            self.bytes.extend([0; 6]);
            self.bytes.extend((text.len() as u64).to_le_bytes());
            self.bytes.extend(text.bytes());
            self.align();
            placed.push(Text {
                bytes: text.len() as u32,
                collection: address,
                index: u32::from(index),
            });
        }
        let free = LEAST_COLLECTION_BYTES.saturating_sub(self.bytes.len() - start);
        if free >= 16 {
            // What is free is an object of its own, with the number 0.
            self.bytes.extend([0; 8]);
            self.bytes.extend((free as u64).to_le_bytes());
        }
        let end = self.bytes.len().max(start + LEAST_COLLECTION_BYTES);
        self.bytes.resize(end, 0);
        let size = (end - start) as u64;
        self.bytes[start + 8..start + 16].copy_from_slice(&size.to_le_bytes());
        placed
    }

    /// Adds a dataset, whose attribute has this name.
    pub(crate) fn dataset(&mut self, dataset: Dataset<'_>, attribute: &str) {
        let values = self.address();
        let before = self.bytes.len();
        write_values(dataset.values, dataset.range, &mut self.bytes)
            .expect("memory takes all bytes");
        let values_bytes = (self.bytes.len() - before) as u64;
        self.align();
        let header = self.address();
        let address = if values_bytes == 0 { UNDEFINED } else { values };
        let attribute = Attribute {
            name: attribute,
            text: dataset.text,
        };
        let dtype = dataset.values.dtype();
        message::dataset_header(
            dataset.shape,
            dtype,
            (address, values_bytes),
            &attribute,
            &mut self.bytes,
        );
        self.links.push((dataset.name, header));
    }

    /// Gives out the bytes so far.
    pub(crate) fn flush(&mut self, file: &mut impl Write) -> io::Result<()> {
        file.write_all(&self.bytes)?;
        self.position += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Adds the group of all datasets, with attributes, and gives out the rest. It returns the
    /// superblock, which belongs at the start of the file.
    pub(crate) fn finish(
        mut self,
        attributes: &[Attribute<'_>],
        file: &mut impl Write,
    ) -> io::Result<Vec<u8>> {
        let mut links = std::mem::take(&mut self.links);
        links.sort_unstable();
        let (tree, heap) = group::add(&links, &mut self, file)?;
        let root = self.address();
        message::group_header(tree, heap, attributes, &mut self.bytes);
        self.flush(file)?;
        Ok(group::superblock(root, tree, heap, self.position))
    }

    /// Adds zeros up to an address that is a multiple of 8.
    fn align(&mut self) {
        let padding = self.address().next_multiple_of(8) - self.address();
        self.bytes.extend(std::iter::repeat_n(0, padding as usize));
    }
}
