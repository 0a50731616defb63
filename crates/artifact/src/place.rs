//! Where in a TOML text something is wrong: line and key.

use std::ops::Range;
use toml::de::{DeTable, DeValue, Error};

/// One line: `line 12 (case.spacing_mm): what is wrong`. Without a key where the text isn't TOML, and without both where
/// the fault is the whole document's, such as a missing table.
pub(crate) fn describe(text: &str, error: &Error) -> String {
    // Only the first line is wanted; the rest lists alternatives or draws the place.
    let message = error.message().lines().next().unwrap_or("not TOML");
    let Some(span) = error.span() else { return message.into() };
    let before = text.as_bytes().iter().take(span.start);
    let line = 1 + before.filter(|&&byte| byte == b'\n').count();
    match DeTable::parse(text) {
        Err(_) => format!("line {line}: {message}"),
        Ok(table) if table.span() == span => message.into(),
        Ok(table) => match key_of(table.get_ref(), &span) {
            Some(key) => format!("line {line} ({key}): {message}"),
            None => message.into(),
        },
    }
}

/// The narrowest key or value that spans the place. All are tried: `[a.b]` need not stand inside the span of `[a]`.
fn key_of(table: &DeTable<'_>, place: &Range<usize>) -> Option<String> {
    let mut found: Option<(usize, String)> = None;
    let mut consider = |span: Range<usize>, path: &str| {
        let wider = |length: usize| found.as_ref().is_none_or(|(shortest, _)| length <= *shortest);
        if span.start <= place.start && place.end <= span.end && wider(span.len()) {
            found = Some((span.len(), path.to_string()));
        }
    };
    visit_table(table, "", &mut consider);
    found.map(|(_, path)| path)
}

fn visit_table(table: &DeTable<'_>, at: &str, consider: &mut impl FnMut(Range<usize>, &str)) {
    for (key, value) in table {
        let dot = if at.is_empty() { "" } else { "." };
        let path = format!("{at}{dot}{}", short(key.get_ref()));
        consider(key.span(), &path);
        consider(value.span(), &path);
        visit(value.get_ref(), &path, consider);
    }
}

/// No key of ours is longer; one of a megabyte would be copied for each thing below it.
fn short(key: &str) -> &str {
    key.char_indices().nth(100).map_or(key, |(cut, _)| &key[..cut])
}

fn visit(value: &DeValue<'_>, path: &str, consider: &mut impl FnMut(Range<usize>, &str)) {
    match value {
        DeValue::Table(table) => visit_table(table, path, consider),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                consider(item.span(), &path);
                visit(item.get_ref(), &path, consider);
            }
        }
        _ => {}
    }
}
