//! Finds the tensors among the values of a pickle, and turns all other values into JSON.

use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Map, Value as Json};

use super::Pickled;
use super::globals::Global;
use super::machine::Read;
use super::value::{Id, Value};
use crate::source::Source;
use crate::{Error, StoredTensor};

/// The most values that are looked at, over all places where one is.
const MAX_VALUES: usize = 1 << 18;
/// The most dictionaries, lists and objects that lie in each other.
const MAX_DEPTH: usize = 32;
/// The most bytes of a tensor's name.
const MAX_NAME_BYTES: usize = 1 << 10;
/// The most bytes of all texts that are no names of tensors.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// The most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// What is wrong with a tensor of which a part is missing, or is of another kind.
const FORM: &str = "is not written as PyTorch writes tensors";

/// A storage as the pickle refers to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageRef<'a> {
    /// Its name in the container.
    pub(super) key: &'a str,
    /// The format of its numbers; none if it is of bytes.
    pub(super) dtype: Option<Dtype>,
    /// The number of its numbers.
    pub(super) numbers: u64,
}

impl StorageRef<'_> {
    /// The bytes of one of its numbers.
    pub(super) fn number_bytes(&self) -> u64 {
        self.dtype.map_or(1, |dtype| dtype.bitsize() as u64 / 8)
    }

    /// All of its bytes; none if no file has so many.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.numbers.checked_mul(self.number_bytes())
    }
}

/// The storage that a tuple refers to; none if the tuple is not as PyTorch writes it.
pub(super) fn storage<'a>(read: &'a Read<'_>, reference: Id) -> Option<StorageRef<'a>> {
    let get = |id: Id| &read.heap[id as usize];
    let Value::Tuple(parts) = get(reference) else {
        return None;
    };
    let (&[kind, class, key, _device, numbers], more) = parts.split_first_chunk()?;
    // The last part described a storage inside of another, which no PyTorch since 0.4 has.
    if !matches!(more, []) && !matches!(more, &[last] if matches!(get(last), Value::None)) {
        return None;
    }
    let (Value::Text(kind), Value::Text(key)) = (get(kind), get(key)) else {
        return None;
    };
    let (&Value::Global(Global::Storage(dtype)), &Value::Int(numbers)) = (get(class), get(numbers))
    else {
        return None;
    };
    Some(StorageRef {
        key: read
            .tape
            .text(key)
            .filter(|_| read.tape.text(kind) == Some("storage"))?,
        dtype,
        numbers: numbers.try_into().ok()?,
    })
}

/// All tensors and values below the root. `find` returns where a storage begins in the file; it has
/// checked that all of the storage is there. Its error follows the words "the tensor X".
pub(super) fn collect(
    read: &Read<'_>,
    source: &Arc<Source>,
    find: impl Fn(&StorageRef<'_>) -> Result<u64, &'static str>,
) -> Result<Pickled, Error> {
    let mut walk = Walk {
        read,
        source,
        find,
        tensors: Vec::new(),
        values: 0,
        text_bytes: 0,
    };
    let values = walk.visit(read.root, &mut String::new(), 0)?;
    Ok(Pickled {
        tensors: walk.tensors,
        values: values.unwrap_or_default(),
    })
}

struct Walk<'a, F> {
    read: &'a Read<'a>,
    source: &'a Arc<Source>,
    find: F,
    tensors: Vec<(String, StoredTensor)>,
    /// The values that were looked at.
    values: usize,
    /// The bytes of texts that were copied.
    text_bytes: usize,
}

impl<F: Fn(&StorageRef<'_>) -> Result<u64, &'static str>> Walk<'_, F> {
    fn get(&self, id: Id) -> &Value {
        &self.read.heap[id as usize]
    }

    fn wrong(&self, problem: &'static str) -> Error {
        self.read.tape.wrong(problem)
    }

    /// Looks at a value with the path `name`. Returns it as JSON, or none for a tensor.
    fn visit(&mut self, id: Id, name: &mut String, depth: usize) -> Result<Option<Json>, Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.wrong("it has more values than that of any model"));
        }
        if depth > MAX_DEPTH {
            return Err(self.wrong("its values lie deeper in each other than those of any model"));
        }
        let read = self.read;
        Ok(Some(match &read.heap[id as usize] {
            &Value::Bool(value) => value.into(),
            &Value::Int(value) => value.into(),
            &Value::Float(value) => value.into(),
            Value::Text(place) => {
                self.text_bytes += place.len();
                if self.text_bytes > MAX_TEXT_BYTES {
                    return Err(self.wrong("it has longer texts than that of any model"));
                }
                read.tape.text(place).into()
            }
            Value::Dict(pairs) => {
                let mut object = Map::new();
                for &(key, value) in pairs {
                    let Some(key) = self.key(key) else { continue };
                    if let Some(json) = self.visit_part(value, &key, name, depth)? {
                        object.insert(key, json);
                    }
                }
                object.into()
            }
            Value::Tuple(items) | Value::List(items) => {
                let mut list = Vec::new();
                for (number, &item) in items.iter().enumerate() {
                    let key = number.to_string();
                    list.extend(self.visit_part(item, &key, name, depth)?);
                }
                list.into()
            }
            &Value::Object { class, args, state } => {
                if is_of_tensor(class) {
                    let tensor = self.tensor(id, 0);
                    let tensor = tensor.map_err(|problem| Error::PickledTensor {
                        path: self.source.path().to_owned(),
                        name: name.clone(),
                        problem,
                    })?;
                    self.tensors.push((name.clone(), tensor));
                    return Ok(None);
                }
                let inside = state.map(|state| self.fields(state));
                return self.visit(inside.unwrap_or(args), name, depth + 1);
            }
            Value::None
            | Value::LongInt(_)
            | Value::Bytes
            | Value::Global(_)
            | Value::Persistent(_) => Json::Null,
        }))
    }

    /// Looks at a part of the value with the path `name`.
    fn visit_part(
        &mut self,
        id: Id,
        key: &str,
        name: &mut String,
        depth: usize,
    ) -> Result<Option<Json>, Error> {
        let len = name.len();
        if len > 0 {
            name.push('.');
        }
        name.push_str(key);
        if name.len() > MAX_NAME_BYTES {
            return Err(self.wrong("it has a longer name than that of any model"));
        }
        let json = self.visit(id, name, depth + 1);
        name.truncate(len);
        json
    }

    /// A key of a dictionary as a text; none for one that no tensor and no setting has.
    fn key(&self, id: Id) -> Option<String> {
        match self.get(id) {
            Value::Text(place) if place.len() <= MAX_NAME_BYTES => {
                self.read.tape.text(place).map(str::to_owned)
            }
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The part of an object's state that has its fields. One of omegaconf's has them, or its only
    /// value, below.
    fn fields(&self, state: Id) -> Id {
        match self.get(state) {
            Value::Dict(pairs) => {
                let is_content = |&&(key, _): &&(Id, Id)| {
                    matches!(self.key(key).as_deref(), Some("_content" | "_val"))
                };
                pairs
                    .iter()
                    .find(is_content)
                    .map_or(state, |&(_, value)| value)
            }
            // With slots, the state is a pair.
            Value::Tuple(pair) if pair.len() == 2 => pair[0],
            _ => state,
        }
    }

    /// The tensor that an object describes; or what is wrong with it, to follow its name.
    fn tensor(&self, id: Id, depth: usize) -> Result<StoredTensor, &'static str> {
        let &Value::Object { class, args, .. } = self.get(id) else {
            return Err(FORM);
        };
        let Value::Tuple(args) = self.get(args) else {
            return Err(FORM);
        };
        self.call(class, args, depth)
    }

    /// The tensor that a function makes of these arguments.
    fn call(
        &self,
        function: Global,
        args: &[Id],
        depth: usize,
    ) -> Result<StoredTensor, &'static str> {
        match (function, args) {
            (Global::Tensor, args) => self.view(args, None),
            (Global::TensorOfBytes, &[storage, offset, size, stride, _, _, dtype, ..]) => {
                match self.get(dtype) {
                    &Value::Global(Global::Dtype(dtype)) => {
                        self.view(&[storage, offset, size, stride], Some(dtype))
                    }
                    _ => Err(FORM),
                }
            }
            (Global::Parameter, &[tensor, ..]) if depth < 2 => self.tensor(tensor, depth + 1),
            (Global::OfType, &[function, _, args, ..]) if depth < 2 => {
                match (self.get(function), self.get(args)) {
                    (&Value::Global(function), Value::Tuple(args)) => {
                        self.call(function, args, depth + 1)
                    }
                    _ => Err(FORM),
                }
            }
            _ => Err(FORM),
        }
    }

    /// The tensor with these parts: its storage, the number of it where the tensor begins, sizes,
    /// and strides. `dtype` is the format of a storage of bytes.
    fn view(&self, parts: &[Id], dtype: Option<Dtype>) -> Result<StoredTensor, &'static str> {
        let &[reference, offset, size, stride, ..] = parts else {
            return Err(FORM);
        };
        let &Value::Persistent(reference) = self.get(reference) else {
            return Err(FORM);
        };
        let storage = storage(self.read, reference).ok_or(FORM)?;
        let dtype = match (storage.dtype, dtype) {
            (Some(own), None) => own,
            (None, Some(given)) => given,
            _ => return Err(FORM),
        };
        let offset = self.natural(offset).ok_or("begins before its storage")?;
        let shape = self.naturals(size).ok_or("has sizes that no tensor has")?;
        let strides = self
            .naturals(stride)
            .ok_or("has strides that no tensor has")?;
        if shape.len() != strides.len() {
            return Err("has more sizes than strides, or fewer");
        }
        let start = (self.find)(&storage)?;
        let bytes = storage
            .bytes()
            .ok_or("has a storage that no file has room for")?;
        let storage = Storage { start, bytes };
        let place = Place {
            offset,
            shape,
            strides,
        };
        place.tensor(self.source, dtype, &storage)
    }

    fn natural(&self, id: Id) -> Option<u64> {
        match *self.get(id) {
            Value::Int(number) => number.try_into().ok(),
            _ => None,
        }
    }

    fn naturals(&self, id: Id) -> Option<Vec<u64>> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= MAX_RANK => {
                items.iter().map(|&item| self.natural(item)).collect()
            }
            _ => None,
        }
    }
}

/// Whether a call makes a tensor.
fn is_of_tensor(class: Global) -> bool {
    matches!(
        class,
        Global::Tensor | Global::TensorOfBytes | Global::Parameter | Global::OfType
    )
}

/// A storage in the file, of which all bytes are there.
struct Storage {
    start: u64,
    bytes: u64,
}

/// A tensor in its storage, counted in numbers.
struct Place {
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl Place {
    fn tensor(
        &self,
        source: &Arc<Source>,
        dtype: Dtype,
        storage: &Storage,
    ) -> Result<StoredTensor, &'static str> {
        const TOO_LARGE: &str = "has a shape that no file has room for";
        const OUTSIDE: &str = "goes beyond the end of its storage";

        let number_bytes = dtype.bitsize() as u64 / 8;
        let numbers = (self.shape.iter())
            .try_fold(1_u64, |numbers, &size| numbers.checked_mul(size))
            .ok_or(TOO_LARGE)?;
        // The numbers from the first of the tensor to its last, of which some may be others'.
        let span = match numbers {
            0 => 0,
            _ => (self.shape.iter().zip(&self.strides))
                .try_fold(1_u64, |span, (size, stride)| {
                    span.checked_add((size - 1).checked_mul(*stride)?)
                })
                .ok_or(OUTSIDE)?,
        };
        let in_bytes = |numbers: u64| numbers.checked_mul(number_bytes);
        let end = self.offset.checked_add(span).and_then(in_bytes);
        if end.is_none_or(|end| end > storage.bytes) {
            return Err(OUTSIDE);
        }
        if numbers > span {
            return Err("repeats numbers of its storage: save it again with `.contiguous()`");
        }
        let shape = self.shape.iter().map(|&size| size as usize).collect();
        let start = storage.start + self.offset * number_bytes;
        let strides = (!self.is_row_major()).then_some(self.strides.as_slice());
        Ok(StoredTensor::in_storage(
            source, dtype, shape, start, strides,
        ))
    }

    /// Whether its numbers lie one after the other, row by row.
    fn is_row_major(&self) -> bool {
        let mut next = 1;
        // Sizes beside a 0 may be of any size.
        self.shape.contains(&0)
            || (self.shape.iter().zip(&self.strides).rev()).all(|(&size, &stride)| {
                let fits = size == 1 || stride == next;
                next *= size;
                fits
            })
    }
}
