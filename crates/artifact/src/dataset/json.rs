//! `dataset.json`: the keys that matter, in either of the two layouts. Unknown keys are ignored, as everyone does.

use crate::image::Reader;
use crate::{Label, Region};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// Where nnU-Net's class that reads the images stands.
const READER: &str = "overwrite_image_reader_writer";

/// What `dataset.json` says.
#[derive(Debug)]
pub(super) struct Description {
    pub name: Option<String>,
    pub channels: Vec<String>,
    pub labels: Vec<Label>,
    pub regions: Vec<Region>,
    pub ignore: Option<Label>,
    pub file_ending: Option<String>,
    /// nnU-Net's class that reads the images, where the file names one, and what it is.
    pub reader: Option<(String, Reader)>,
    pub declared_training: Option<usize>,
    /// The Decathlon's list.
    pub training: Option<Vec<Entry>>,
    /// nnU-Net's explicit table.
    pub table: Option<Vec<Entry>>,
    pub test: Vec<Entry>,
}

/// A listed case; paths as written.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: Option<String>,
    pub images: Vec<String>,
    pub label: Option<String>,
}

type Parsed<T> = Result<T, String>;

impl Description {
    /// Errors are one line: key, found, expected.
    pub fn parse(text: &str) -> Parsed<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
        let Value::Object(top) = value else {
            return Err(format!("is {}, expected an object", show(&value)));
        };
        let (labels, regions, ignore) = labels(&top)?;
        let list = |key: &str| top.get(key).map(|v| entries(key, v)).transpose();
        Ok(Self {
            name: text_of(&top, "name")?,
            channels: channels(&top)?,
            labels,
            regions,
            ignore,
            file_ending: text_of(&top, "file_ending")?,
            reader: reader(&top)?,
            declared_training: declared_training(&top)?,
            training: list("training")?,
            table: top.get("dataset").map(table).transpose()?,
            test: list("test")?.unwrap_or_default(),
        })
    }

    /// Whether the named class reads these files, of which `dataset.json` may list some that end otherwise.
    pub fn check_files<'a>(&self, files: impl IntoIterator<Item = &'a Path>) -> Parsed<()> {
        let Some((class, _)) = &self.reader else { return Ok(()) };
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let Some((_, ending)) = crate::image::split_ending(&name) else { continue };
            let found = format!("an image is {name}");
            Reader::check_class(READER, class, (ending, &found))?;
        }
        Ok(())
    }

    /// Whether images of this ending can be read.
    pub fn check_ending(&self) -> Parsed<()> {
        match &self.file_ending {
            Some(e) if !crate::image::ENDINGS.contains(&e.as_str()) => Err(format!(
                "file_ending = \"{e}\", expected one of {}",
                crate::image::ENDINGS.join(" ")
            )),
            _ => Ok(()),
        }
    }
}

/// A value as it stands in the file, cut to a readable length.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{} …", &text[..cut]),
        None => text,
    }
}

fn text_of(top: &Map<String, Value>, key: &str) -> Parsed<Option<String>> {
    match top.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("{key} = {}, expected a text", show(other))),
    }
}

/// nnU-Net's class that reads the images; `"None"` is none to nnU-Net, too.
fn reader(top: &Map<String, Value>) -> Parsed<Option<(String, Reader)>> {
    let class = text_of(top, READER)?.filter(|class| class != "None");
    let Some(class) = class else { return Ok(None) };
    let reader = Reader::of_class(READER, &class)?;
    if let Some(ending) = text_of(top, "file_ending")? {
        let files = format!("file_ending = \"{ending}\"");
        Reader::check_class(READER, &class, (&ending, &files))?;
    }
    Ok(Some((class, reader)))
}

fn declared_training(top: &Map<String, Value>) -> Parsed<Option<usize>> {
    match top.get("numTraining") {
        None | Some(Value::Null) => Ok(None),
        Some(n) => match n.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("numTraining = {}, expected a count", show(n))),
        },
    }
}

/// `{"0": "CT", …}` under either name, ordered by number.
fn channels(top: &Map<String, Value>) -> Parsed<Vec<String>> {
    let expected = "expected {\"0\": \"CT\", …}";
    let (key, value) = match (top.get("channel_names"), top.get("modality")) {
        (Some(v), _) => ("channel_names", v),
        (None, Some(v)) => ("modality", v),
        (None, None) => return Err(format!("channel_names (or modality) is missing, {expected}")),
    };
    let Value::Object(table) = value else {
        return Err(format!("{key} = {}, {expected}", show(value)));
    };
    let mut names = Vec::new();
    for (number, name) in table {
        let channel: usize = number.parse().map_err(|_| {
            format!("{key} has the key \"{number}\", expected channel numbers from 0")
        })?;
        let Value::String(name) = name else {
            return Err(format!("{key}.{number} = {}, expected a channel's name", show(name)));
        };
        names.push((channel, name.clone()));
    }
    names.sort();
    if names.is_empty() || names.iter().enumerate().any(|(i, (n, _))| i != *n) {
        let found: Vec<_> = names.iter().map(|(n, _)| n.to_string()).collect();
        return Err(format!(
            "{key} has channels [{}], expected 0, 1, 2, … without gaps",
            found.join(", ")
        ));
    }
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// `{"background": 0, …}` or `{"0": "background", …}`. Classes ordered by value; as soon as one label is a list of
/// values, each label but background and ignore is a region, in the file's order, written as `regions_class_order` says.
fn labels(top: &Map<String, Value>) -> Parsed<(Vec<Label>, Vec<Region>, Option<Label>)> {
    let expected = "expected {\"background\": 0, \"NAME\": 1, …}";
    let table = match top.get("labels") {
        Some(Value::Object(table)) => table,
        Some(other) => return Err(format!("labels = {}, {expected}", show(other))),
        None => return Err(format!("labels is missing, {expected}")),
    };
    let (mut entries, mut ignore) = (Vec::new(), None);
    for (key, value) in table {
        let (name, values) = match (key.parse::<i32>(), value) {
            (Ok(number), Value::String(name)) if name.parse::<i32>().is_err() => {
                (name.clone(), vec![number])
            }
            (_, Value::Array(list)) => {
                (key.clone(), list.iter().map(|v| whole(key, v)).collect::<Parsed<_>>()?)
            }
            (_, value) => (key.clone(), vec![whole(key, value)?]),
        };
        match values[..] {
            [value] if name.eq_ignore_ascii_case("ignore") => ignore = Some(Label { name, value }),
            _ => entries.push((name, values, value.is_array())),
        }
    }
    let has_regions = entries.iter().any(|(_, values, list)| *list && values.len() != 1);
    let mut labels: Vec<Label> = Vec::new();
    let mut named = BTreeSet::new();
    for (name, values, _) in &entries {
        if let [value] = values[..] {
            named.insert(value);
            labels.push(Label { name: name.clone(), value });
        }
    }
    // Values that only occur inside regions have no name of their own.
    for &value in entries.iter().flat_map(|(_, values, _)| values) {
        if named.insert(value) {
            labels.push(Label { name: format!("label {value}"), value });
        }
    }
    labels.sort_by_key(|l| l.value);
    crate::label::check_labels(&labels)?;
    let regions = if has_regions { regions(top, entries)? } else { Vec::new() };
    crate::label::check_regions(&labels, &regions, ignore.as_ref())
        .map_err(|e| format!("labels: {e}"))?;
    Ok((labels, regions, ignore))
}

fn regions(
    top: &Map<String, Value>,
    entries: Vec<(String, Vec<i32>, bool)>,
) -> Parsed<Vec<Region>> {
    let names: Vec<_> =
        entries.into_iter().filter(|(_, values, _)| values.iter().any(|v| *v != 0)).collect();
    let expected = format!("expected the values in which the {} regions are written", names.len());
    let order = match top.get("regions_class_order") {
        Some(Value::Array(order)) if order.len() == names.len() => order,
        Some(other) => return Err(format!("regions_class_order = {}, {expected}", show(other))),
        None => return Err(format!("regions_class_order is missing, {expected}")),
    };
    let region = |((name, values, _), value): ((String, Vec<i32>, bool), &Value)| {
        let value = whole("regions_class_order", value)?;
        Ok(Region { name, values, value })
    };
    names.into_iter().zip(order).map(region).collect()
}

/// An integer, also where it's written as text or as 1.0.
fn whole(key: &str, value: &Value) -> Parsed<i32> {
    let number = match value {
        Value::Number(n) => n
            .as_f64()
            .filter(|v| v.fract() == 0.0 && v.abs() < f64::from(i32::MAX))
            .map(|v| v as i32),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("labels.{key} = {}, expected a whole number", show(value)))
}

/// What `training` or `dataset` may be instead.
const FOLDERS: &str = ": then cases are the files in imagesTr and labelsTr";

/// The Decathlon's lists: `{"image": FILE, "label": FILE}`, `[FILE, FILE]`, or a bare `FILE` for test images.
fn entries(key: &str, value: &Value) -> Parsed<Vec<Entry>> {
    let Value::Array(list) = value else {
        let then = if key == "training" { FOLDERS } else { "" };
        return Err(format!(
            "{key} = {}, expected a list of cases; or leave {key} out{then}",
            show(value)
        ));
    };
    list.iter().enumerate().map(|(i, item)| entry(&format!("{key}[{i}]"), item)).collect()
}

fn entry(key: &str, item: &Value) -> Parsed<Entry> {
    let wrong = || format!("{key} = {}, expected {{\"image\": FILE, \"label\": FILE}}", show(item));
    let (images, label) = match item {
        Value::String(_) => (item, None),
        Value::Array(pair) if pair.len() == 2 => (&pair[0], Some(&pair[1])),
        Value::Object(table) => {
            let images = table.get("image").or_else(|| table.get("images")).ok_or_else(wrong)?;
            (images, table.get("label"))
        }
        _ => return Err(wrong()),
    };
    let label = match label {
        None | Some(Value::Null) => None,
        Some(Value::String(file)) => Some(file.clone()),
        Some(_) => return Err(wrong()),
    };
    Ok(Entry { id: None, images: files(images).ok_or_else(wrong)?, label })
}

/// nnU-Net's `{CASE: {"images": [FILE, …], "label": FILE}}`.
fn table(value: &Value) -> Parsed<Vec<Entry>> {
    let Value::Object(cases) = value else {
        return Err(format!(
            "dataset = {}, expected {{CASE: {{\"images\": [FILE, …], \"label\": FILE}}}}; or leave dataset out{FOLDERS}",
            show(value)
        ));
    };
    let mut entries = Vec::new();
    for (id, item) in cases {
        entries.push(Entry { id: Some(id.clone()), ..entry(&format!("dataset.{id}"), item)? });
    }
    Ok(entries)
}

/// One file or a list with at least one.
fn files(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(file) => Some(vec![file.clone()]),
        Value::Array(list) if !list.is_empty() => {
            list.iter().map(|f| f.as_str().map(String::from)).collect()
        }
        _ => None,
    }
}
