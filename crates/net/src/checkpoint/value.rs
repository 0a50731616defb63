//! What a pickle can hold here: plain data in one list, containers by index. Nothing is nested in memory, so that
//! cycles and depth cost nothing, neither when values are made nor when they are dropped.

use std::ops::Range;

/// Limits of [`Values::json`]; nnU-Net's plans stay far below.
const MOST_JSON_LEVELS: usize = 32;
/// Counted as the text's length and so many bytes per value.
const MOST_JSON_BYTES: usize = 64 << 20;
const JSON_VALUE_BYTES: usize = 64;
/// What the smallest pickle may say.
const LEAST_JSON_BYTES: usize = 1 << 20;

/// Index of a [`Value`] in [`Values`].
pub(super) type Id = u32;

/// Number formats of storages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    F64,
    F32,
    F16,
    Bf16,
    /// Not for weights; the bytes per number.
    Other(usize),
}

impl Number {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(bytes) => bytes,
        }
    }
}

/// The names that a checkpoint may ask for; none of them is code that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Number),
    Scalar,
    Dtype,
    Encode,
    Device,
    Size,
}

impl Global {
    /// By module and name.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "DoubleStorage") => Self::Storage(Number::F64),
            ("torch", "FloatStorage") => Self::Storage(Number::F32),
            ("torch", "HalfStorage") => Self::Storage(Number::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Number::Bf16),
            ("torch", "LongStorage") => Self::Storage(Number::Other(8)),
            ("torch", "IntStorage") => Self::Storage(Number::Other(4)),
            ("torch", "ShortStorage") => Self::Storage(Number::Other(2)),
            ("torch", "ByteStorage" | "CharStorage" | "BoolStorage") => {
                Self::Storage(Number::Other(1))
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::Scalar,
            ("numpy", "dtype") => Self::Dtype,
            ("_codecs", "encode") => Self::Encode,
            ("torch", "device") => Self::Device,
            ("torch", "Size") => Self::Size,
            _ => return None,
        })
    }
}

/// Numbers in an entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub number: Number,
    pub key: Range<usize>,
    pub length: usize,
}

/// A view of a storage; not checked against it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub storage: Storage,
    pub offset: usize,
    pub size: Vec<usize>,
    pub stride: Vec<usize>,
}

/// One value. Text lies in the pickle.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Range<usize>),
    Bytes(Box<[u8]>),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
    /// Type letter and size of a numpy scalar.
    Dtype(Range<usize>),
    /// A `torch.device`, or a numpy scalar of a kind that nobody asks for.
    Opaque,
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Values {
    pub pickle: Vec<u8>,
    pub list: Vec<Value>,
    pub root: Id,
}

impl Values {
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.list[id as usize]
    }

    /// Text that the machine has found to be UTF-8.
    pub(super) fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.pickle[range.clone()]).unwrap_or_default()
    }

    /// The entry of a dictionary; the last one counts, as in Python.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(pairs) = self.get(dict) else { return None };
        let named = |id: Id| matches!(self.get(id), Value::Text(t) if self.text(t) == key);
        pairs.iter().rev().find(|(name, _)| named(*name)).map(|(_, value)| *value)
    }

    pub(super) fn text_at(&self, dict: Id, key: &str) -> Option<&str> {
        match self.get(self.entry(dict, key)?) {
            Value::Text(text) => Some(self.text(text)),
            _ => None,
        }
    }

    pub(super) fn count_at(&self, dict: Id, key: &str) -> Option<usize> {
        match self.get(self.entry(dict, key)?) {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A value as JSON, if it is made of nothing else. A few bytes can say a list of lists of the same list, so that
    /// depth and number of values are limited, in proportion to the pickle.
    pub(super) fn json(&self, id: Id) -> Option<serde_json::Value> {
        let most = self.pickle.len().saturating_mul(JSON_VALUE_BYTES) + LEAST_JSON_BYTES;
        let mut left = most.min(MOST_JSON_BYTES);
        self.json_within(id, MOST_JSON_LEVELS, &mut left)
    }

    fn json_within(&self, id: Id, levels: usize, left: &mut usize) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        let text = if let Value::Text(text) = self.get(id) { text.len() } else { 0 };
        *left = left.checked_sub(JSON_VALUE_BYTES + text)?;
        let levels = levels.checked_sub(1)?;
        let mut list = |ids: &[Id]| -> Option<Json> {
            ids.iter()
                .map(|id| self.json_within(*id, levels, left))
                .collect::<Option<_>>()
                .map(Json::Array)
        };
        match self.get(id) {
            Value::None => Some(Json::Null),
            Value::Bool(value) => Some((*value).into()),
            Value::Int(n) => Some((*n).into()),
            Value::Float(x) => Some((*x).into()),
            Value::Text(text) => Some(self.text(text).into()),
            Value::Tuple(ids) => list(ids),
            Value::List(ids) => list(ids),
            Value::Dict(pairs) => {
                let mut object = serde_json::Map::new();
                for (key, value) in pairs {
                    let key = match self.get(*key) {
                        Value::Text(key) => {
                            *left = left.checked_sub(key.len())?;
                            self.text(key).to_owned()
                        }
                        // Keys of a label or channel can be numbers, which JSON writes as text.
                        Value::Int(n) => n.to_string(),
                        _ => return None,
                    };
                    object.insert(key, self.json_within(*value, levels, left)?);
                }
                Some(Json::Object(object))
            }
            _ => None,
        }
    }
}
