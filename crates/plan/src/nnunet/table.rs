//! A JSON object that is read key by key; what nobody asked for is an error.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// One object, and where it stands.
pub(super) struct Table {
    path: String,
    map: Map<String, Value>,
}

impl Table {
    /// At the top `path` is empty.
    pub fn new(path: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self { path: path.into(), map }),
            other => {
                let key = if path.is_empty() { String::new() } else { format!("{path} = ") };
                Err(format!("{key}{}, expected an object", show(&other)))
            }
        }
    }

    /// Full path of a key.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key that must be there.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str, expected: &str) -> Result<T, String> {
        self.maybe(key, expected)?
            .ok_or_else(|| format!("{} is missing, expected {expected}", self.at(key)))
    }

    /// Takes a key that may be missing.
    pub fn maybe<T: DeserializeOwned>(
        &mut self,
        key: &str,
        expected: &str,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.map.shift_remove(key) else { return Ok(None) };
        let wrong = format!("{} = {}, expected {expected}", self.at(key), show(&value));
        serde_json::from_value(value).map(Some).map_err(|_| wrong)
    }

    /// Takes an object.
    pub fn table(&mut self, key: &str) -> Result<Self, String> {
        let value = self.take::<Value>(key, "an object")?;
        Self::new(&self.at(key), value)
    }

    /// Takes a key that can have one value only.
    pub fn fixed(&mut self, key: &str, expected: &Value) -> Result<(), String> {
        let text = expected.to_string();
        let found: Value = self.take(key, &text)?;
        if found == *expected {
            return Ok(());
        }
        Err(format!("{} = {}, expected {text}", self.at(key), show(&found)))
    }

    /// Takes a key and ignores it.
    pub fn ignore(&mut self, key: &str) {
        self.map.shift_remove(key);
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), String> {
        match self.map.iter().next() {
            Some((key, value)) => {
                let (key, value) = (self.at(key), show(value));
                Err(format!("unknown key {key} = {value}, expected only what nnU-Net v2 writes"))
            }
            None => Ok(()),
        }
    }
}

/// A value as it stands in the file, cut to a readable length.
pub(super) fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{} …", &text[..cut]),
        None => text,
    }
}
