//! `nnu-artifact show`.

use crate::array::{Statistics, bytes};
use crate::tree::FileKind;
use artifact::inspect::AnyRecord;
use artifact::npy::Mapped;
use artifact::{Error, npz};
use std::path::Path;

/// Lines about a file.
pub fn show(path: &Path) -> artifact::Result<Vec<String>> {
    if FileKind::of(path) == FileKind::Toml {
        return record(path);
    }
    let mut lines = vec![path.display().to_string()];
    lines.extend(contents(path)?.into_iter().map(|line| format!("  {line}")));
    Ok(lines)
}

fn record(path: &Path) -> artifact::Result<Vec<String>> {
    let record = AnyRecord::load(path)?;
    let (header, from) = (&record.header, &record.provenance);
    let or =
        |text: &str, other: &str| if text.is_empty() { other.into() } else { text.to_string() };
    let mut lines = vec![
        path.display().to_string(),
        format!("  kind     {} {}", header.kind, header.version),
        format!("  key      {}", or(&header.key, "not given")),
        format!("  stage    {}", or(&from.stage, "not given")),
    ];
    if !from.revisions.is_empty() {
        let revisions: Vec<_> = from.revisions.iter().map(|(n, r)| format!("{n} {r}")).collect();
        lines.push(format!("  revision {}", revisions.join(", ")));
    }
    if !from.device.is_empty() {
        lines.push(format!("  device   {}", from.device));
    }
    if let Some(seed) = from.seed {
        lines.push(format!("  seed     {seed}"));
    }
    lines.extend(from.options.iter().map(|(name, value)| format!("  option   {name} = {value}")));
    lines.extend(from.inputs.iter().map(|i| format!("  input    {} {}", i.name, i.hash)));
    lines.push(format!("  tables   {}", record.body.keys().cloned().collect::<Vec<_>>().join(" ")));
    for sibling in record.siblings(path)? {
        let name = sibling.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match contents(&sibling) {
            Ok(contents) => {
                lines.extend(contents.iter().map(|line| format!("  file     {name}  {line}")));
            }
            Err(error) => lines.push(format!("  file     {name}  {}", error.message)),
        }
    }
    Ok(lines)
}

/// Type, shape, size and statistics; several lines for an archive.
fn contents(path: &Path) -> artifact::Result<Vec<String>> {
    let opened = artifact::file::open(path, "read")?.metadata();
    let size = opened.map_err(|e| Error::io(path, "read", &e))?.len();
    let size = bytes(size);
    Ok(match FileKind::of(path) {
        FileKind::Npy => {
            let array = Mapped::open(path)?;
            let header = array.header();
            let statistics = array.values().map(|values| Statistics::of(values).text());
            let statistics = statistics.unwrap_or_default();
            vec![format!("{} {:?}  {size}  {statistics}", header.descriptor, header.shape)]
        }
        FileKind::Npz => {
            let arrays = npz::read(path)?;
            let count: usize = arrays.iter().map(|(_, a)| a.len()).sum();
            let first = format!("{} arrays, {count} numbers  {size}", arrays.len());
            let line = |(name, array): &(String, ndarray::ArrayD<f32>)| {
                let statistics = Statistics::of(array.iter().map(|&v| f64::from(v)));
                format!("{name}  <f4 {:?}  {}", array.shape(), statistics.text())
            };
            std::iter::once(first).chain(arrays.iter().map(line)).collect()
        }
        FileKind::Nifti => {
            let volume = artifact::image::read_by_any(path)?;
            let statistics = Statistics::of(volume.channels.iter().map(|&v| f64::from(v)));
            let g = &volume.geometry;
            vec![
                format!(
                    "NIfTI [channel, z, y, x] {:?}  {size}  {}",
                    volume.channels.shape(),
                    statistics.text()
                ),
                format!(
                    "spacing {:?} mm (z, y, x), origin {:?} mm (x, y, z, LPS)",
                    g.spacing_mm, g.origin_mm
                ),
                format!("direction {:?}", g.direction),
            ]
        }
        FileKind::Toml | FileKind::Text | FileKind::Other => vec![size],
    })
}
