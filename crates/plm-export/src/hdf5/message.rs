//! Object headers, version 1, and the messages in them.

use plm_core::Dtype;

/// A text in a collection of texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(super) bytes: u32,
    /// The address of the collection.
    pub(super) collection: u64,
    /// The number of the text in the collection.
    pub(super) index: u32,
}

/// An attribute whose value is a text.
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: Text,
}

/// The kinds of messages.
const DATASPACE: u16 = 0x01;
const DATATYPE: u16 = 0x03;
const FILL_VALUE: u16 = 0x05;
const LAYOUT: u16 = 0x08;
const ATTRIBUTE: u16 = 0x0c;
const SYMBOL_TABLE: u16 = 0x11;

/// Adds the header of a dataset whose values lie in one piece, at an address and of some bytes.
pub(super) fn dataset_header(
    shape: &[u64],
    dtype: Dtype,
    (address, values_bytes): (u64, u64),
    attribute: &Attribute<'_>,
    bytes: &mut Vec<u8>,
) {
    // Version 3, in one piece.
    let mut layout = vec![3, 1];
    layout.extend(address.to_le_bytes());
    layout.extend(values_bytes.to_le_bytes());
    // Version 2: space is taken late, and a fill value is written if one is set. It is not: its
    // size is 0.
    let fill_value = vec![2, 2, 2, 1, 0, 0, 0, 0];
    let messages = [
        (DATASPACE, dataspace(shape)),
        (DATATYPE, float(dtype)),
        (FILL_VALUE, fill_value),
        (LAYOUT, layout),
        (ATTRIBUTE, attribute.message()),
    ];
    header(&messages, bytes);
}

/// Adds the header of a group, by the addresses of its tree and its heap.
pub(super) fn group_header(
    tree: u64,
    heap: u64,
    attributes: &[Attribute<'_>],
    bytes: &mut Vec<u8>,
) {
    let table = [tree.to_le_bytes(), heap.to_le_bytes()].concat();
    let mut messages = vec![(SYMBOL_TABLE, table)];
    messages.extend(attributes.iter().map(|one| (ATTRIBUTE, one.message())));
    header(&messages, bytes);
}

fn header(messages: &[(u16, Vec<u8>)], bytes: &mut Vec<u8>) {
    let of_message = |(_, data): &(u16, Vec<u8>)| 8 + data.len().next_multiple_of(8);
    let size: usize = messages.iter().map(of_message).sum();
    bytes.extend([1, 0]);
    bytes.extend((messages.len() as u16).to_le_bytes());
    // One link leads to the object.
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend([0; 4]);
    for (kind, data) in messages {
        let size = data.len().next_multiple_of(8);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((size as u16).to_le_bytes());
        bytes.extend([0; 4]);
        extend_padded(bytes, data);
    }
}

/// Version 1; no dimension stands for one value.
fn dataspace(shape: &[u64]) -> Vec<u8> {
    let mut bytes = vec![1, shape.len() as u8, 0, 0, 0, 0, 0, 0];
    bytes.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
    bytes
}

/// An IEEE 754 number, little-endian.
fn float(dtype: Dtype) -> Vec<u8> {
    let (bits, exponent_bits, mantissa_bits, bias) = match dtype {
        Dtype::F16 => (16_u8, 5_u8, 10_u8, 15_u32),
        _ => (32, 8, 23, 127),
    };
    // Version 1 of class 1. The first bit of the mantissa is not stored. The sign is the last bit.
    let mut bytes = vec![0x11, 0x20, bits - 1, 0];
    bytes.extend(u32::from(bits / 8).to_le_bytes());
    // The number starts at bit 0.
    bytes.extend([0, 0, bits, 0]);
    bytes.extend([mantissa_bits, exponent_bits, 0, mantissa_bits]);
    bytes.extend(bias.to_le_bytes());
    bytes
}

/// A text of any length in UTF-8.
fn text_type() -> Vec<u8> {
    // Version 1 of class 9: a text that ends with a zero, in UTF-8, by its place in a collection.
    let mut bytes = vec![0x19, 1, 1, 0];
    bytes.extend(16_u32.to_le_bytes());
    // Its parts are version 1 of class 0: whole numbers of 8 bits without a sign.
    bytes.extend([0x10, 0, 0, 0]);
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0, 0, 8, 0]);
    bytes
}

impl Attribute<'_> {
    /// Version 1, in which each part is padded.
    fn message(&self) -> Vec<u8> {
        let name = [self.name.as_bytes(), &[0]].concat();
        let (kind, space) = (text_type(), dataspace(&[]));
        let mut bytes = vec![1, 0];
        for part in [&name, &kind, &space] {
            bytes.extend((part.len() as u16).to_le_bytes());
        }
        for part in [&name, &kind, &space] {
            extend_padded(&mut bytes, part);
        }
        bytes.extend(self.text.bytes.to_le_bytes());
        bytes.extend(self.text.collection.to_le_bytes());
        bytes.extend(self.text.index.to_le_bytes());
        bytes
    }
}

/// Adds bytes, and zeros up to a multiple of 8.
fn extend_padded(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(part);
    let padding = part.len().next_multiple_of(8) - part.len();
    bytes.extend(std::iter::repeat_n(0, padding));
}
