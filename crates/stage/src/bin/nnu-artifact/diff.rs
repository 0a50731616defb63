//! `nnu-artifact diff`.

use crate::array::{place, short};
use crate::tree::{self, FileKind};
use artifact::image::Reader;
use artifact::inspect::AnyRecord;
use artifact::npy::Mapped;
use artifact::npz;
use stage::{Common, Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One file or folder
    a: PathBuf,
    /// The other one
    b: PathBuf,
    /// Numbers agree if they differ by at most this …
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    abs: f64,
    /// … plus this part of the second one
    #[arg(long, value_name = "Y", default_value_t = 0.0)]
    rel: f64,
    /// Compare keys, hashes and provenance of records too
    #[arg(long)]
    provenance: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Lines about differences.
type Lines = Vec<String>;

/// Compares two files or folders and prints what differs.
pub fn diff(args: &Args) -> Result<()> {
    if !(args.abs >= 0.0 && args.rel >= 0.0) {
        return Err(Error::usage("--abs and --rel must be 0 or positive"));
    }
    for path in [&args.a, &args.b] {
        if !path.exists() {
            return Err(Error::input(format!("{}: no such file or folder", path.display())));
        }
    }
    let lines = match (args.a.is_dir(), args.b.is_dir()) {
        (true, true) => folders(args, &args.a, &args.b)?,
        (false, false) => with_siblings(args, &args.a, &args.b)?,
        _ => {
            return Err(Error::usage(format!(
                "{} and {}: a folder and a file, expected two of a kind",
                args.a.display(),
                args.b.display()
            )));
        }
    };
    stage::print(&lines)?;
    match lines.len() {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{} and {} differ ({n} lines)",
            args.a.display(),
            args.b.display()
        ))),
    }
}

/// By relative path.
fn folders(args: &Args, a: &Path, b: &Path) -> artifact::Result<Lines> {
    let relative = |folder: &Path| -> artifact::Result<BTreeSet<PathBuf>> {
        let files = tree::files(folder)?;
        Ok(files.iter().filter_map(|f| f.strip_prefix(folder).ok()).map(PathBuf::from).collect())
    };
    let (in_a, in_b) = (relative(a)?, relative(b)?);
    let mut lines = Lines::new();
    for name in in_a.union(&in_b) {
        let only = |folder: &Path| format!("{}: only in {}", name.display(), folder.display());
        match (in_a.contains(name), in_b.contains(name)) {
            (true, false) => lines.push(only(a)),
            (false, true) => lines.push(only(b)),
            _ => lines.extend(files(
                args,
                &a.join(name),
                &b.join(name),
                &name.display().to_string(),
            )?),
        }
    }
    Ok(lines)
}

/// Two records bring the siblings that both list.
fn with_siblings(args: &Args, a: &Path, b: &Path) -> artifact::Result<Lines> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut lines = files(args, a, b, &name(a))?;
    let both = |path: &Path| FileKind::of(path) == FileKind::Toml;
    let (Ok(record_a), Ok(record_b)) = (AnyRecord::load(a), AnyRecord::load(b)) else {
        return Ok(lines);
    };
    if !(both(a) && both(b)) {
        return Ok(lines);
    }
    for (x, y) in record_a.siblings(a)?.iter().zip(record_b.siblings(b)?) {
        if name(x) == name(&y) {
            lines.extend(files(args, x, &y, &name(x))?);
        }
    }
    Ok(lines)
}

fn files(args: &Args, a: &Path, b: &Path, name: &str) -> artifact::Result<Lines> {
    let bytes = |path: &Path| artifact::file::read(path, "read");
    if FileKind::of(a) != FileKind::of(b) {
        return Ok(vec![format!("{name}: different kinds of file")]);
    }
    match FileKind::of(a) {
        FileKind::Toml => records(args, a, b, name),
        FileKind::Npy => arrays(args, a, b, name),
        FileKind::Npz => archives(args, a, b, name),
        FileKind::Nifti => images(args, a, b, name),
        FileKind::Text => {
            let (a, b) = (bytes(a)?, bytes(b)?);
            Ok(texts(args, &String::from_utf8_lossy(&a), &String::from_utf8_lossy(&b), name))
        }
        FileKind::Other if bytes(a)? == bytes(b)? => Ok(Lines::new()),
        FileKind::Other => Ok(vec![format!("{name}: bytes differ")]),
    }
}

fn same(args: &Args, a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= args.abs + args.rel * b.abs()
}

fn records(args: &Args, a: &Path, b: &Path, name: &str) -> artifact::Result<Lines> {
    let table = |path: &Path| -> artifact::Result<toml::Table> {
        let record = AnyRecord::load(path);
        let Ok(record) = record else {
            // Somebody's own TOML, such as a recipe.
            let text = artifact::file::text(path, "read")?;
            return text.parse().map_err(|_| artifact::Error::input(path, "is not TOML"));
        };
        let mut table = record.body;
        let mut header = toml::Table::new();
        header.insert("kind".into(), record.header.kind.into());
        header.insert("version".into(), i64::from(record.header.version).into());
        if args.provenance {
            header.insert("key".into(), record.header.key.into());
            let files = record.header.files.into_iter().map(|(k, v)| (k, v.into()));
            header.insert("files".into(), toml::Value::Table(files.collect()));
            let provenance = toml::Value::try_from(record.provenance);
            let provenance = provenance
                .map_err(|e| artifact::Error::input(path, format!("[provenance]: {e}")))?;
            table.insert("provenance".into(), provenance);
        }
        table.insert("artifact".into(), toml::Value::Table(header));
        Ok(table)
    };
    let (a, b) = (toml::Value::Table(table(a)?), toml::Value::Table(table(b)?));
    let mut lines = Lines::new();
    values(args, name, "", &a, &b, &mut lines);
    Ok(lines)
}

/// Fields that differ, by their path such as `recipe.schedule.epochs` or `cases[3].id`.
fn values(args: &Args, name: &str, at: &str, a: &toml::Value, b: &toml::Value, lines: &mut Lines) {
    use toml::Value::{Array, Float, Table};
    match (a, b) {
        (Table(a), Table(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => values(args, name, &at, a, b, lines),
                    (Some(a), None) => lines.push(format!("{name}: {at} = {} | not there", cut(a))),
                    (None, Some(b)) => lines.push(format!("{name}: {at} not there | {}", cut(b))),
                    (None, None) => {}
                }
            }
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                values(args, name, &format!("{at}[{i}]"), a, b, lines);
            }
        }
        (Float(x), Float(y)) if same(args, *x, *y) => {}
        (a, b) if a == b => {}
        (a, b) => lines.push(format!("{name}: {at} = {} | {}", cut(a), cut(b))),
    }
}

fn cut(value: &toml::Value) -> String {
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

fn arrays(args: &Args, a: &Path, b: &Path, name: &str) -> artifact::Result<Lines> {
    let (a, b) = (Mapped::open(a)?, Mapped::open(b)?);
    let (x, y) = (a.header(), b.header());
    if (&x.descriptor, &x.shape) != (&y.descriptor, &y.shape) {
        return Ok(vec![format!(
            "{name}: {} {:?} | {} {:?}",
            x.descriptor, x.shape, y.descriptor, y.shape
        )]);
    }
    let (Some(p), Some(q)) = (a.values(), b.values()) else {
        return Ok(vec![format!("{name}: {} can't be compared", x.descriptor)]);
    };
    Ok(numbers(args, name, &x.shape, p, q))
}

/// A line if any number differs: how many, and where most.
fn numbers(
    args: &Args,
    name: &str,
    shape: &[usize],
    a: impl Iterator<Item = f64>,
    b: impl Iterator<Item = f64>,
) -> Lines {
    let (mut differing, mut total) = (0u64, 0u64);
    let mut worst = (0usize, 0.0, 0.0, -1.0);
    for (i, (x, y)) in a.zip(b).enumerate() {
        total += 1;
        if same(args, x, y) {
            continue;
        }
        differing += 1;
        // A NaN against a number is the largest difference of all.
        let difference = (x - y).abs();
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        if difference > worst.3 {
            worst = (i, x, y, difference);
        }
    }
    if differing == 0 {
        return Lines::new();
    }
    let (at, x, y, difference) = worst;
    vec![format!(
        "{name}: {differing} of {total} values differ, most by {} at {:?} ({} | {})",
        short(difference),
        place(at, shape),
        short(x),
        short(y)
    )]
}

fn archives(args: &Args, a: &Path, b: &Path, name: &str) -> artifact::Result<Lines> {
    let (a, b) = (npz::read(a)?, npz::read(b)?);
    let names: BTreeSet<&String> = a.iter().chain(&b).map(|(n, _)| n).collect();
    let mut lines = Lines::new();
    for array in names {
        let find = |list: &npz::Named| list.iter().position(|(n, _)| n == array);
        let at = format!("{name}: {array}");
        match (find(&a), find(&b)) {
            (Some(i), Some(j)) => {
                let (x, y) = (&a[i].1, &b[j].1);
                if x.shape() == y.shape() {
                    let (p, q) = (x.iter().copied(), y.iter().copied());
                    lines.extend(numbers(args, &at, x.shape(), p.map(f64::from), q.map(f64::from)));
                } else {
                    lines.push(format!("{at} {:?} | {:?}", x.shape(), y.shape()));
                }
            }
            (Some(_), None) => lines.push(format!("{at} only in the first")),
            _ => lines.push(format!("{at} only in the second")),
        }
    }
    Ok(lines)
}

fn images(args: &Args, a: &Path, b: &Path, name: &str) -> artifact::Result<Lines> {
    let by = |reader: Reader| Ok((reader.read(a)?, reader.read(b)?));
    // Both by one rule: ITK's, or where it refuses one of them nibabel's.
    let read = by(Reader::SimpleItk);
    let read = read.or_else(|refused: artifact::Error| by(Reader::Nibabel).map_err(|_| refused));
    let (a, b) = read?;
    if a.channels.shape() != b.channels.shape() {
        return Ok(vec![format!("{name}: {:?} | {:?}", a.channels.shape(), b.channels.shape())]);
    }
    let mut lines = Lines::new();
    if let Err(e) = a.geometry.agrees(&b.geometry) {
        lines.push(format!("{name}: {e}"));
    }
    let (p, q) = (a.channels.iter().copied(), b.channels.iter().copied());
    lines.extend(numbers(args, name, a.channels.shape(), p.map(f64::from), q.map(f64::from)));
    Ok(lines)
}

/// The first line that differs; fields that are numbers agree within the tolerance.
fn texts(args: &Args, a: &str, b: &str, name: &str) -> Lines {
    let equal = |a: &str, b: &str| {
        a == b
            || a.split(',').count() == b.split(',').count()
                && a.split(',').zip(b.split(',')).all(|(a, b)| field(args, a, b))
    };
    let (count_a, count_b) = (a.lines().count(), b.lines().count());
    if count_a != count_b {
        return vec![format!("{name}: {count_a} lines | {count_b} lines")];
    }
    let line = a.lines().zip(b.lines()).position(|(a, b)| !equal(a, b));
    line.map(|i| format!("{name}: differs from line {}", i + 1)).into_iter().collect()
}

fn field(args: &Args, a: &str, b: &str) -> bool {
    let numbers = a.trim().parse().and_then(|x: f64| Ok((x, b.trim().parse::<f64>()?)));
    a == b || numbers.is_ok_and(|(x, y)| same(args, x, y))
}
