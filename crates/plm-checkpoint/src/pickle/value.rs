//! The values that a pickle makes.

use std::ops::Range;

use super::globals::Global;

/// The number of a value in a [`Heap`].
pub(super) type Id = u32;

/// All values of a pickle, in the order in which they were made. They refer to each other by
/// number: a value that is in two places is there once, and to drop them takes no recursion.
pub(super) type Heap = Vec<Value>;

/// A value, of which nothing was run.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: the place of its bytes, the lowest first.
    LongInt(Range<usize>),
    Float(f64),
    /// The place of a text.
    Text(Range<usize>),
    /// Bytes, or a text of Python 2 that is not UTF-8.
    Bytes,
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary of any kind: keys and values in the order of the file.
    Dict(Vec<(Id, Id)>),
    /// A class or a function.
    Global(Global),
    /// What a class or a function would have made of a tuple of arguments.
    Object {
        class: Global,
        args: Id,
        /// What the object was to be filled with.
        state: Option<Id>,
    },
    /// What is stored outside of the pickle, by the tuple that says where.
    Persistent(Id),
}
