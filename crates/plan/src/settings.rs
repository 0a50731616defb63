//! `key=value` changes to a TOML document, checked against what stands there already.

use stage::{Error, Result};
use toml_edit::{DocumentMut, Item, Table, Value};

/// One `--set key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted path, such as `schedule.epochs`.
    pub key: String,
    /// The text after `=`.
    pub value: String,
}

impl Setting {
    /// Splits `key=value`.
    ///
    /// # Errors
    /// If there is no `=` or no key.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { key: key.trim().into(), value: value.trim().into() })
            }
            _ => Err(Error::usage(format!("--set {text}: expected KEY=VALUE"))),
        }
    }

    /// The value as TOML that can stand in place of `old`; bare words are taken as strings where a string is expected.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn value_like(&self, old: &Value) -> Result<Value> {
        let parsed = match self.value.parse::<Value>() {
            Ok(value) => Some(value),
            Err(_) if old.is_str() => Some(Value::from(self.value.as_str())),
            Err(_) => None,
        };
        let found = parsed.as_ref().map_or("no TOML value", Value::type_name);
        parsed.and_then(|value| like(value, old)).ok_or_else(|| {
            Error::usage(format!(
                "--set {}={}: found {}, expected {} such as {}",
                self.key,
                self.value,
                article(found),
                expected(old),
                old.clone().decorated("", "")
            ))
        })
    }
}

/// `value`, if it has the type of `old`; an integer can stand for a float.
fn like(value: Value, old: &Value) -> Option<Value> {
    match (&value, old) {
        (Value::Integer(n), Value::Float(_)) => Some(Value::from(*n.value() as f64)),
        (Value::Array(new), Value::Array(old)) => {
            let Some(model) = old.get(0) else { return Some(value) };
            let all: Option<toml_edit::Array> =
                new.iter().map(|v| like(v.clone().decorated("", ""), model)).collect();
            all.map(Value::from)
        }
        _ => (value.type_name() == old.type_name()).then_some(value),
    }
}

fn expected(old: &Value) -> String {
    match old {
        Value::Boolean(_) => "true or false,".into(),
        Value::Float(_) => "a number".into(),
        Value::Array(array) => match array.get(0) {
            Some(Value::Float(_)) => "a list of numbers".into(),
            Some(Value::Integer(_)) => "a list of integers".into(),
            _ => "a list".into(),
        },
        other => article(other.type_name()),
    }
}

fn article(name: &str) -> String {
    match name {
        _ if name.starts_with("no ") => name.into(),
        "array" => "a list".into(),
        "integer" | "inline table" => format!("an {name}"),
        _ => format!("a {name}"),
    }
}

/// Dotted paths of all values of a document, in order.
pub fn keys(document: &DocumentMut) -> Vec<String> {
    fn walk(table: &Table, prefix: &str, found: &mut Vec<String>) {
        for (key, item) in table {
            let path = if prefix.is_empty() { key.into() } else { format!("{prefix}.{key}") };
            match item {
                Item::Table(inner) => walk(inner, &path, found),
                Item::Value(_) | Item::ArrayOfTables(_) => found.push(path),
                Item::None => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(document.as_table(), "", &mut found);
    found
}

/// The value at a dotted path.
pub fn value_mut<'a>(document: &'a mut DocumentMut, path: &str) -> Option<&'a mut Value> {
    let mut item = document.as_item_mut();
    for key in path.split('.') {
        item = item.as_table_mut()?.get_mut(key)?;
    }
    item.as_value_mut()
}

/// Puts a value at an existing path; the comment behind the old one stays, with a note of what it was.
pub fn replace(old: &mut Value, new: Value, by: &str) {
    let was = old.clone().decorated("", "").to_string();
    let new = new.decorated("", "");
    if new.to_string() == was {
        return;
    }
    let suffix = old.decor().suffix().and_then(|s| s.as_str()).unwrap_or("").trim_end();
    let comment = match suffix.find('#') {
        Some(_) => format!("{suffix}; {by}, was {was}"),
        None => format!(" # {by}, was {was}"),
    };
    *old = new.decorated(" ", &comment);
}

/// The key nearest to a mistyped one, for a hint; none if nothing is similar.
pub fn nearest<'a>(key: &str, keys: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    // Only the last part may be given: `epochs` for `schedule.epochs`.
    let last = |path: &'a str| path.rsplit('.').next().unwrap_or(path);
    let score = |path: &'a str| {
        let tail = strsim::jaro_winkler(key, last(path));
        strsim::jaro_winkler(key, path).max(if key.contains('.') { 0.0 } else { tail })
    };
    let scored = keys.map(|k| (score(k), k.as_str()));
    scored.filter(|(s, _)| *s > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// The error of a key that isn't there.
pub fn unknown<'a>(what: &str, key: &str, keys: impl Iterator<Item = &'a String>) -> Error {
    match nearest(key, keys) {
        Some(near) => Error::usage(format!("{what}: unknown key {key}, did you mean {near}?")),
        None => Error::usage(format!("{what}: unknown key {key}"))
            .hint("nnu-plan --print-recipe shows all keys"),
    }
}
