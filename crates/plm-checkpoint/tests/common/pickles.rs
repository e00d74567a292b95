//! Writes pickles by hand, also such as no library would write.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Instructions of a pickle, which are added one after the other.
#[derive(Clone, Default)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let len = (text.len() as u32).to_le_bytes();
        self.raw(b"X").raw(&len).raw(text.as_bytes())
    }

    /// An integer of up to 8 bytes.
    pub(crate) fn int(self, value: i64) -> Self {
        self.raw(&[0x8a, 8]).raw(&value.to_le_bytes())
    }

    pub(crate) fn ints(self, values: &[i64]) -> Self {
        let ints = values
            .iter()
            .fold(self.raw(b"("), |pickle, &value| pickle.int(value));
        ints.raw(b"t")
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A reference to a storage of f32.
    pub(crate) fn storage(self, key: &str, numbers: i64) -> Self {
        let class = self
            .raw(b"(")
            .text("storage")
            .global("torch", "FloatStorage");
        class.text(key).text("cpu").int(numbers).raw(b"tQ")
    }

    /// The tensor of a storage that is on top of the stack.
    pub(crate) fn rebuilt(self, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        let args = self.int(offset).ints(shape).ints(strides);
        args.raw(b"\x89")
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    }

    /// A key, and a tensor of f32 that is all of a storage.
    pub(crate) fn tensor(self, name: &str, key: &str, shape: &[i64]) -> Self {
        let numbers = shape.iter().product();
        let strides: Vec<i64> = (0..shape.len())
            .map(|at| shape[at + 1..].iter().product())
            .collect();
        self.text(name).view(key, numbers, 0, shape, &strides)
    }

    /// Any tensor of f32.
    pub(crate) fn view(
        self,
        key: &str,
        numbers: i64,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        let begun = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
        begun.storage(key, numbers).rebuilt(offset, shape, strides)
    }
}

/// A pickle of a dictionary.
pub(crate) fn dict(fill: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    fill(Pickle::new().raw(b"}(")).raw(b"u.").0
}

/// The bytes of numbers in f32.
pub(crate) fn numbers(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Entries of a zip file, stored as they are.
pub(crate) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    archive_with(entries, options)
}

pub(crate) fn archive_with(entries: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A zip file with this pickle, and storages by their keys.
pub(crate) fn checkpoint(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages
        .iter()
        .map(|(key, _)| format!("a/data/{key}"))
        .collect();
    let mut entries = vec![("a/data.pkl", pickle), ("a/byteorder", b"little")];
    let storages = names.iter().zip(storages);
    entries.extend(storages.map(|(name, (_, bytes))| (name.as_str(), *bytes)));
    archive(&entries)
}

/// A file in the container of PyTorch before 1.6: storages by key, with the count that stands
/// before each.
pub(crate) fn legacy(pickle: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    legacy_of(pickle, storages, true)
}

pub(crate) fn legacy_of(
    pickle: &[u8],
    storages: &[(&str, u64, &[u8])],
    is_little_endian: bool,
) -> Vec<u8> {
    let magic = Pickle::new()
        .raw(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")
        .0;
    let version = Pickle::new().raw(b"M\xe9\x03.").0;
    let order: &[u8] = if is_little_endian { b"\x88" } else { b"\x89" };
    let machine = dict(|pickle| pickle.text("little_endian").raw(order));
    let keys = storages
        .iter()
        .fold(Pickle::new().raw(b"]("), |keys, (key, ..)| keys.text(key));
    let keys = keys.raw(b"e.").0;
    let mut file = [&magic[..], &version, &machine, pickle, &keys].concat();
    for (_, count, bytes) in storages {
        file.extend_from_slice(&count.to_le_bytes());
        file.extend_from_slice(bytes);
    }
    file
}
