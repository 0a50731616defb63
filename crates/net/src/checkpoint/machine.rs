//! A reader of pickles that runs nothing: a stack machine for the opcodes that `torch.save` writes, whose only callables
//! are the names of [`Global`], each of them data to us. Anything else ends the reading.
//!
//! A value is made per opcode at most, of a size that the bytes read so far bound, and the number of values is limited,
//! so that memory stays within a few hundred megabytes whatever the pickle says.

use super::value::{Global, Id, Storage, Tensor, Value, Values};
use std::collections::BTreeMap;
use std::ops::Range;

/// One line: what, and at which byte.
pub(super) type Refusal = String;
type Result<T> = std::result::Result<T, Refusal>;

/// The longest byte string, as numpy's scalars need them.
const LONGEST_SCALAR: usize = 16;
/// Values in a pickle at most: ten times what a training of 1000 epochs with 100 classes logs.
const MOST_VALUES: usize = 1 << 23;
/// Axes of a tensor at most.
const MOST_AXES: usize = 8;

struct Machine {
    values: Values,
    at: usize,
    stack: Vec<Id>,
    /// Where the stack stood at each open mark.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

/// Reads a whole pickle.
pub(super) fn read(pickle: Vec<u8>) -> Result<Values> {
    let list = vec![Value::None, Value::Bool(false), Value::Bool(true)];
    let values = Values { pickle, list, root: 0 };
    let mut machine =
        Machine { values, at: 0, stack: vec![], marks: vec![], memo: BTreeMap::new() };
    loop {
        let at = machine.at;
        let go_on = machine.step().map_err(|e| format!("byte {at} of data.pkl: {e}"))?;
        if !go_on {
            return Ok(machine.values);
        }
    }
}

impl Machine {
    /// One opcode; false at the end.
    fn step(&mut self) -> Result<bool> {
        let opcode = self.byte()?;
        match opcode {
            0x80 => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(format!("pickle protocol {version}, expected 2 to 5"));
                }
            }
            0x95 => {
                self.take(8)?;
            }
            b'.' => {
                self.values.root = self.pop()?;
                return Ok(false);
            }
            b'(' if self.marks.len() >= MOST_VALUES => return Err("too many open marks".into()),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(0),
            0x89 => self.stack.push(1),
            0x88 => self.stack.push(2),
            b'}' => self.push(Value::Dict(vec![]))?,
            b']' => self.push(Value::List(vec![]))?,
            b')' => self.push(Value::Tuple(Box::default()))?,
            b'K' | b'M' | b'J' | 0x8a | b'G' => self.number(opcode)?,
            b'X' | 0x8c | b'B' | b'C' => self.string(opcode)?,
            b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memory(opcode)?,
            b's' | b'u' | b'a' | b'e' => self.fill(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => {
                let shown = if other.is_ascii_graphic() {
                    format!("'{}' (0x{other:02x})", other as char)
                } else {
                    format!("0x{other:02x}")
                };
                return Err(format!("opcode {shown} is not allowed"));
            }
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.values.pickle.len());
        let end = end.ok_or("the pickle ends here, but goes on by what it says")?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn byte(&mut self) -> Result<u8> {
        let range = self.take(1)?;
        Ok(self.values.pickle[range.start])
    }

    /// A little-endian number of so many bytes.
    fn unsigned(&mut self, bytes: usize) -> Result<u64> {
        let range = self.take(bytes)?;
        let byte = |sum: u64, b: &u8| sum << 8 | u64::from(*b);
        Ok(self.values.pickle[range].iter().rev().fold(0, byte))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.list.len() >= MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        let id = self.values.list.len() as Id;
        self.values.list.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("takes a value from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "takes a value from an empty stack".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'J' => Value::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            b'G' => Value::Float(f64::from_bits(self.unsigned(8)?.swap_bytes())),
            _ => {
                let bytes = usize::from(self.byte()?);
                if bytes > 8 {
                    return Err(format!("an integer of {bytes} bytes, expected up to 8"));
                }
                let value = self.unsigned(bytes)?;
                let unused = 64 - 8 * bytes as u32;
                // Sign-extended from its highest bit.
                Value::Int(if bytes == 0 { 0 } else { (value << unused) as i64 >> unused })
            }
        };
        self.push(value)
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let wide = matches!(opcode, b'X' | b'B');
        let length = self.unsigned(if wide { 4 } else { 1 })? as usize;
        let range = self.take(length)?;
        let bytes = &self.values.pickle[range.clone()];
        let value = match opcode {
            b'X' | 0x8c => {
                std::str::from_utf8(bytes).map_err(|_| "text that isn't UTF-8")?;
                Value::Text(range)
            }
            _ if length > LONGEST_SCALAR => {
                return Err(format!("{length} raw bytes, expected up to {LONGEST_SCALAR}"));
            }
            _ => Value::Bytes(bytes.into()),
        };
        self.push(value)
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let items = if opcode == b't' {
            self.pop_to_mark()?
        } else {
            let count = usize::from(opcode - 0x84);
            let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
            items.reverse();
            items
        };
        self.push(Value::Tuple(items.into()))
    }

    fn memory(&mut self, opcode: u8) -> Result<()> {
        let slot = match opcode {
            b'q' | b'h' => u32::from(self.byte()?),
            0x94 => self.memo.len() as u32,
            _ => self.unsigned(4)? as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(&slot).ok_or_else(|| format!("memo {slot} was never set"))?;
            self.stack.push(*id);
        } else {
            let top = *self.stack.last().ok_or("nothing on the stack to remember")?;
            self.memo.insert(slot, top);
            if self.memo.len() > MOST_VALUES {
                return Err(format!("remembers more than {MOST_VALUES} values"));
            }
        }
        Ok(())
    }

    /// Adds to the container under the items.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            b'a' => vec![self.pop()?],
            _ => self.pop_to_mark()?,
        };
        let container = *self.stack.last().ok_or("no container on the stack")?;
        match (&mut self.values.list[container as usize], opcode) {
            (Value::Dict(pairs), b's' | b'u') => {
                let (whole, rest) = items.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err("a key without a value".into());
                }
                pairs.extend(whole.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            (Value::List(list), b'a' | b'e') => {
                list.extend(items);
                Ok(())
            }
            _ => Err("adds items to something that isn't their container".into()),
        }
    }

    fn line(&mut self) -> Result<Range<usize>> {
        let rest = &self.values.pickle[self.at..];
        let length = rest.iter().position(|b| *b == b'\n').ok_or("a name without an end")?;
        let range = self.take(length)?;
        self.take(1)?;
        Ok(range)
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            (self.expect_text(module)?, self.expect_text(name)?)
        };
        let (module, name) = (self.values.text(&module), self.values.text(&name));
        let global = Global::find(module, name).ok_or_else(|| {
            let short = |s: &str| s.chars().take(60).collect::<String>();
            format!("asks for {}.{}, which is not allowed", short(module), short(name))
        })?;
        self.push(Value::Global(global))
    }

    fn expect_text(&self, id: Id) -> Result<Range<usize>> {
        match self.values.get(id) {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("expected text".into()),
        }
    }

    fn expect_tuple(&self, id: Id) -> Result<&[Id]> {
        match self.values.get(id) {
            Value::Tuple(items) => Ok(items),
            _ => Err("expected a tuple".into()),
        }
    }

    fn expect_count(&self, id: Id) -> Result<usize> {
        match self.values.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("{n}, expected a count")),
            _ => Err("expected a count".into()),
        }
    }

    fn expect_counts(&self, id: Id) -> Result<Vec<usize>> {
        let items = self.expect_tuple(id)?;
        if items.len() > MOST_AXES {
            return Err(format!("a tensor of {} axes, expected up to {MOST_AXES}", items.len()));
        }
        items.iter().map(|id| self.expect_count(*id)).collect()
    }

    /// `("storage", type, key, location, length)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let &[what, number, key, _, length] = self.expect_tuple(id)? else {
            return Err("a persistent id that isn't a storage of five parts".into());
        };
        if self.values.text(&self.expect_text(what)?) != "storage" {
            return Err("a persistent id that isn't a storage".into());
        }
        let &Value::Global(Global::Storage(number)) = self.values.get(number) else {
            return Err("a storage of unknown type".into());
        };
        let (key, length) = (self.expect_text(key)?, self.expect_count(length)?);
        self.push(Value::Storage(Box::new(Storage { number, key, length })))
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let &Value::Global(global) = self.values.get(callable) else {
            return Err("calls something that isn't a name".into());
        };
        let arguments = self.expect_tuple(arguments)?;
        let value = match (global, arguments) {
            (Global::OrderedDict, []) => Value::Dict(vec![]),
            (Global::RebuildTensor, &[storage, offset, size, stride, ..]) => {
                let Value::Storage(storage) = self.values.get(storage) else {
                    return Err("a tensor without a storage".into());
                };
                let (size, stride) = (self.expect_counts(size)?, self.expect_counts(stride)?);
                if size.len() != stride.len() {
                    return Err("a tensor with more or fewer strides than axes".into());
                }
                let (storage, offset) = (Storage::clone(storage), self.expect_count(offset)?);
                Value::Tensor(Box::new(Tensor { storage, offset, size, stride }))
            }
            (Global::RebuildParameter, &[tensor, ..]) => {
                self.stack.push(tensor);
                return Ok(());
            }
            (Global::Size, &[sizes]) => {
                self.expect_tuple(sizes)?;
                self.stack.push(sizes);
                return Ok(());
            }
            (Global::Device, _) => Value::Opaque,
            (Global::Dtype, &[name, ..]) => Value::Dtype(self.expect_text(name)?),
            (Global::Encode, &[text, _]) => Value::Bytes(self.latin1(text)?),
            (Global::Scalar, &[kind, bytes]) => self.scalar(kind, bytes)?,
            _ => return Err(format!("{global:?} with {} arguments", arguments.len())),
        };
        self.push(value)
    }

    /// Text whose characters stand for bytes.
    fn latin1(&self, text: Id) -> Result<Box<[u8]>> {
        let text = self.expect_text(text)?;
        let text = self.values.text(&text);
        if text.len() > 2 * LONGEST_SCALAR {
            let most = LONGEST_SCALAR;
            return Err(format!("encodes {} bytes of text, expected up to {most}", text.len()));
        }
        text.chars().map(|c| u8::try_from(c).map_err(|_| "not Latin-1".to_string())).collect()
    }

    /// A numpy scalar.
    fn scalar(&self, kind: Id, bytes: Id) -> Result<Value> {
        let (Value::Dtype(kind), Value::Bytes(bytes)) =
            (self.values.get(kind), self.values.get(bytes))
        else {
            return Err("a numpy scalar without type or bytes".into());
        };
        Ok(match (self.values.text(kind), &bytes[..]) {
            ("f8", &[a, b, c, d, e, f, g, h]) => {
                Value::Float(f64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            ("f4", &[a, b, c, d]) => Value::Float(f64::from(f32::from_le_bytes([a, b, c, d]))),
            ("i8", &[a, b, c, d, e, f, g, h]) => {
                Value::Int(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => Value::Opaque,
        })
    }

    /// State of a dictionary (`_metadata` of a state_dict: not needed) or of a numpy type (its byte order).
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = *self.stack.last().ok_or("no object on the stack")?;
        match self.values.get(object) {
            Value::Dict(_) => Ok(()),
            Value::Dtype(_) => {
                let order = *self.expect_tuple(state)?.get(1).ok_or("an empty state")?;
                match self.values.text(&self.expect_text(order)?) {
                    "<" | "|" => Ok(()),
                    order => Err(format!("a numpy type of byte order {order:?}, expected \"<\"")),
                }
            }
            _ => Err("sets the state of something that has none".into()),
        }
    }
}
