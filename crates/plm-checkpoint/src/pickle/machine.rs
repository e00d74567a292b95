//! Interprets the instructions of a pickle.
//!
//! These are the instructions that Python's `pickle` writes in its protocols 2 to 5 for what
//! `torch.save` is given. They are described in `Lib/pickletools.py` of CPython. PyTorch's own
//! reader that runs nothing (`torch/_weights_only_unpickler.py`) knows fewer.

use std::collections::HashMap;
use std::ops::Range;

use super::globals::{self, Global};
use super::tape::Tape;
use super::value::{Heap, Id, Value};
use crate::Error;

/// The most instructions of a pickle. One of ESM-2 15B has 40,000.
const MAX_STEPS: usize = 1 << 20;

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) tape: Tape<'a>,
    pub(super) heap: Heap,
    /// What the pickle is of.
    pub(super) root: Id,
}

/// Reads one pickle, up to its last instruction.
pub(super) fn read(tape: Tape<'_>) -> Result<Read<'_>, Error> {
    let mut machine = Machine {
        tape,
        heap: Heap::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        at: 0,
    };
    for _ in 0..MAX_STEPS {
        if let Some(root) = machine.step()? {
            return Ok(Read {
                tape: machine.tape,
                heap: machine.heap,
                root,
            });
        }
    }
    Err(machine.wrong("it goes on for longer than that of any model"))
}

struct Machine<'a> {
    tape: Tape<'a>,
    heap: Heap,
    stack: Vec<Id>,
    /// The heights that the stack had at each open mark.
    marks: Vec<usize>,
    /// The values that later instructions ask for again, by their number there.
    memo: HashMap<u64, Id>,
    /// The byte of the instruction that is being done.
    at: u64,
}

impl Machine<'_> {
    /// Does the next instruction. Returns the value of the whole pickle after the last.
    fn step(&mut self) -> Result<Option<Id>, Error> {
        self.at = self.tape.offset();
        match self.tape.number::<1>()? as u8 {
            b'.' => return self.pop().map(Some),
            // The protocol, and the size of a frame: no reader needs them.
            0x80 => _ = self.tape.take(1)?,
            0x95 => _ = self.tape.take(8)?,

            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => self.small_int::<1>()?,
            b'M' => self.small_int::<2>()?,
            b'J' => {
                let bits = self.tape.number::<4>()? as u32;
                self.push(Value::Int(i64::from(bits.cast_signed())));
            }
            0x8a => self.long_int()?,
            b'G' => {
                // Alone among the numbers, its highest byte comes first.
                let bits = self.tape.number::<8>()?.swap_bytes();
                self.push(Value::Float(f64::from_bits(bits)));
            }

            b'X' => self.text::<4>()?,
            0x8c => self.text::<1>()?,
            0x8d => self.text::<8>()?,
            b'U' => self.text_of_python_2::<1>()?,
            b'T' => self.text_of_python_2::<4>()?,
            b'C' => self.byte_string::<1>()?,
            b'B' => self.byte_string::<4>()?,
            0x8e | 0x96 => self.byte_string::<8>()?,

            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }

            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.pop_to_mark()?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'q' => self.remember::<1>()?,
            b'r' => self.remember::<4>()?,
            0x94 => {
                let top = self.top()?;
                self.memo.insert(self.memo.len() as u64, top);
            }
            b'h' => self.recall::<1>()?,
            b'j' => self.recall::<4>()?,

            b'c' => {
                let module = self.tape.line()?;
                let name = self.tape.line()?;
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.heap[module as usize], &self.heap[name as usize]) {
                    (Value::Text(module), Value::Text(name)) => {
                        self.global(&module.clone(), &name.clone())?;
                    }
                    _ => return Err(self.wrong("it names something by what is no text")),
                }
            }
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            b'Q' => {
                let key = self.pop()?;
                self.push(Value::Persistent(key));
            }
            _ => return Err(self.wrong("it has an instruction that no checkpoint needs")),
        }
        Ok(None)
    }

    /// The error for what is wrong with the instruction that is being done.
    fn wrong(&self, problem: &'static str) -> Error {
        self.tape.wrong_at(self.at, problem)
    }

    /// Makes a value, on top of the stack.
    fn push(&mut self, value: Value) {
        // Each instruction makes at most one value, so that their number fits.
        self.stack.push(self.heap.len() as Id);
        self.heap.push(value);
    }

    /// The top of the stack, which no mark covers.
    fn top(&self) -> Result<Id, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.wrong("it takes a value where it has made none")),
        }
    }

    fn pop(&mut self) -> Result<Id, Error> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Takes all values above the last mark, and the mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Error> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(self.wrong("it goes back to a mark where it has made none")),
        }
    }

    fn small_int<const N: usize>(&mut self) -> Result<(), Error> {
        let number = self.tape.number::<N>()?;
        self.push(Value::Int(number.cast_signed()));
        Ok(())
    }

    /// An integer of any size, with its sign.
    fn long_int(&mut self) -> Result<(), Error> {
        let len = self.tape.number::<1>()?;
        let place = self.tape.take(len)?;
        let bytes = self.tape.bytes(place.clone());
        let value = match bytes.last() {
            None => Value::Int(0),
            Some(_) if bytes.len() > size_of::<i64>() => Value::LongInt(place),
            Some(&highest) => {
                let sign = if highest < 0x80 { 0 } else { u64::MAX };
                let bits = bytes.iter().rev();
                let bits = bits.fold(sign, |bits, &byte| bits << 8 | u64::from(byte));
                Value::Int(bits.cast_signed())
            }
        };
        self.push(value);
        Ok(())
    }

    /// A text after its length of `N` bytes.
    fn text<const N: usize>(&mut self) -> Result<(), Error> {
        let len = self.tape.number::<N>()?;
        let place = self.tape.take(len)?;
        if self.tape.text(&place).is_none() {
            return Err(self.wrong("it has a text that is not UTF-8"));
        }
        self.push(Value::Text(place));
        Ok(())
    }

    /// A text of Python 2, which may be bytes of anything.
    fn text_of_python_2<const N: usize>(&mut self) -> Result<(), Error> {
        let len = self.tape.number::<N>()?;
        let place = self.tape.take(len)?;
        let is_text = self.tape.text(&place).is_some();
        self.push(if is_text {
            Value::Text(place)
        } else {
            Value::Bytes
        });
        Ok(())
    }

    fn byte_string<const N: usize>(&mut self) -> Result<(), Error> {
        let len = self.tape.number::<N>()?;
        self.tape.take(len)?;
        self.push(Value::Bytes);
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Result<(), Error> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    /// Adds to the list or set on top.
    fn append(&mut self, items: Vec<Id>) -> Result<(), Error> {
        let top = self.top()?;
        match &mut self.heap[top as usize] {
            Value::List(list) => list.extend(items),
            // An object that is a list too: what it holds is of no interest.
            Value::Object { .. } => {}
            _ => return Err(self.wrong("it adds to a list that is none")),
        }
        Ok(())
    }

    /// Adds keys and values, which alternate, to the dictionary on top.
    fn set_items(&mut self, items: &[Id]) -> Result<(), Error> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks();
        match &mut self.heap[top as usize] {
            Value::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err(self.wrong("it adds to a dictionary that is none")),
        }
        Ok(())
    }

    fn remember<const N: usize>(&mut self) -> Result<(), Error> {
        let number = self.tape.number::<N>()?;
        let top = self.top()?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall<const N: usize>(&mut self) -> Result<(), Error> {
        let number = self.tape.number::<N>()?;
        match self.memo.get(&number) {
            Some(&value) => self.stack.push(value),
            None => return Err(self.wrong("it takes a value again that it has not kept")),
        }
        Ok(())
    }

    /// A class or a function by its name. Nothing is looked up outside of the list.
    fn global(&mut self, module: &Range<usize>, name: &Range<usize>) -> Result<(), Error> {
        let text = |place: &Range<usize>| {
            let bytes = self.tape.bytes(place.clone());
            String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned()
        };
        let (module, name) = (text(module), text(name));
        match globals::find(&module, &name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let shown: String = format!("{module}.{name}").chars().take(200).collect();
                return Err(self.tape.unknown_name(self.at, shown));
            }
        }
        Ok(())
    }

    /// A call of a function, or of a class. It becomes its own description.
    fn call(&mut self) -> Result<(), Error> {
        let args = self.pop()?;
        let class = self.pop()?;
        let (&Value::Global(class), Value::Tuple(items)) =
            (&self.heap[class as usize], &self.heap[args as usize])
        else {
            return Err(self.wrong("it calls what is no function"));
        };
        // Nothing is copied, so the one argument that would be is refused.
        let is_list = |&id: &Id| matches!(self.heap[id as usize], Value::List(_));
        let value = match class {
            Global::Dict if items.first().is_some_and(is_list) => {
                return Err(self.wrong("it has a dictionary as Python 2 writes them"));
            }
            Global::Dict => Value::Dict(Vec::new()),
            _ => Value::Object {
                class,
                args,
                state: None,
            },
        };
        self.push(value);
        Ok(())
    }

    /// Fills the object on top. A dictionary's own attributes are of no interest.
    fn build(&mut self) -> Result<(), Error> {
        let filling = self.pop()?;
        let top = self.top()?;
        match &mut self.heap[top as usize] {
            Value::Object { state, .. } => *state = Some(filling),
            Value::Dict(_) => {}
            _ => return Err(self.wrong("it fills an object that is none")),
        }
        Ok(())
    }
}
