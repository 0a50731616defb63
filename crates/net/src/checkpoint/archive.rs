//! The zip archive around a pickle: `NAME/data.pkl`, `NAME/data/KEY` for each storage, as `torch.save` writes them.
//! Entries are stored, never compressed, so that nothing read is larger than the file.

use super::value::{Number, Storage, Tensor, Values};
use artifact::archive::Reader;
use artifact::{Error, Result};
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use std::io::Read;
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

/// Larger pickles aren't a network's: names and plans take less than a megabyte.
const LARGEST_PICKLE: u64 = 32 << 20;

/// Storages are read so many times the file's size at most: tensors that take turns at a few large storages would have
/// each of them read again and again.
const MOST_READ: u64 = 4;

/// An open checkpoint file.
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<Reader>,
    prefix: String,
    /// Bytes of storages that may still be read.
    left: u64,
    /// The storage that was read last, as neighbours may share it.
    last: Option<(Storage, Vec<f32>)>,
}

impl Archive {
    /// Opens a file; returns it with its pickle.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        let file = artifact::file::open_zip(path, ".pth")?;
        let length = file.metadata().map_err(|e| Error::io(path, "read", &e))?.len();
        let zip = artifact::archive::open(file).map_err(|e| {
            Error::input(path, format!("not a zip archive as torch.save writes it: {e}")).hint(
                "the file is cut off, or older than PyTorch 1.6: load and save it there again",
            )
        })?;
        let inner = zip.file_names().find_map(|name| {
            let prefix = name.strip_suffix("data.pkl")?;
            (prefix.is_empty() || prefix.ends_with('/')).then(|| prefix.to_owned())
        });
        let prefix = inner.ok_or_else(|| {
            Error::input(path, "holds no data.pkl, expected a file that torch.save wrote")
        })?;
        let left = length.saturating_mul(MOST_READ);
        let mut archive = Self { path: path.into(), zip, prefix, left, last: None };
        let pickle = archive.entry("data.pkl", Some(LARGEST_PICKLE))?;
        let order = format!("{}byteorder", archive.prefix);
        if archive.zip.index_for_name(&order).is_some()
            && archive.entry("byteorder", Some(16))? != b"little"
        {
            return Err(archive.error("its numbers are big-endian, expected little-endian"));
        }
        Ok((archive, pickle))
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::input(&self.path, message)
    }

    /// All bytes of an entry.
    fn entry(&mut self, name: &str, most: Option<u64>) -> Result<Vec<u8>> {
        let path = self.path.clone();
        let error = |e: String| Error::input(&path, format!("{name}: {e}"));
        let mut entry = self
            .zip
            .by_name(&format!("{}{name}", self.prefix))
            .map_err(|e| error(e.to_string()))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(error("is compressed, which torch.save never does".into()));
        }
        if let Some(most) = most.filter(|most| entry.size() > *most) {
            return Err(error(format!("has {} bytes, expected up to {most}", entry.size())));
        }
        let mut bytes = Vec::new();
        let most = most.map_or(u64::MAX, |most| most + 1);
        entry.by_ref().take(most).read_to_end(&mut bytes).map_err(|e| error(e.to_string()))?;
        Ok(bytes)
    }

    /// A storage's numbers as f32.
    fn numbers(&mut self, values: &Values, name: &str, storage: &Storage) -> Result<&[f32]> {
        // A key stands anew wherever it is named: the texts are compared, not their places.
        let same = |last: &Storage| {
            let (a, b) = (values.text(&last.key), values.text(&storage.key));
            a == b && (last.number, last.length) == (storage.number, storage.length)
        };
        if self.last.as_ref().is_none_or(|(last, _)| !same(last)) {
            let path = self.path.clone();
            let error = |e: String| Error::input(&path, format!("tensor {name}: {e}"));
            self.last = None;
            let key = format!("data/{}", values.text(&storage.key));
            let bytes = self.entry(&key, None)?;
            let expected = storage.length.checked_mul(storage.number.bytes());
            if expected != Some(bytes.len()) {
                let (length, found) = (storage.length, bytes.len());
                return Err(error(format!(
                    "{key} has {found} bytes, but is said to hold {length} numbers"
                )));
            }
            let left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                error(format!("shares {key} with too many others, expected a storage each"))
            })?;
            self.left = left;
            self.last = Some((storage.clone(), numbers(storage, &bytes).map_err(error)?));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, numbers)| numbers))
    }

    /// The numbers of a tensor as f32, in C order.
    pub(super) fn tensor(
        &mut self,
        values: &Values,
        name: &str,
        tensor: &Tensor,
    ) -> Result<ArrayD<f32>> {
        let storage = &tensor.storage;
        let path = self.path.clone();
        let error = |e: String| Error::input(&path, format!("tensor {name}: {e}"));
        let count = extent(tensor).map_err(error)?;
        let numbers = self.numbers(values, name, storage)?;
        let mut out = Vec::with_capacity(count);
        let mut index = vec![0; tensor.size.len()];
        for _ in 0..count {
            let steps = index.iter().zip(&tensor.stride).map(|(i, stride)| i * stride);
            out.push(numbers[tensor.offset + steps.sum::<usize>()]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < tensor.size[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        ArrayD::from_shape_vec(IxDyn(&tensor.size), out).map_err(|e| error(e.to_string()))
    }
}

/// How many numbers a tensor has; they must all lie inside its storage, and not be more than that has.
fn extent(tensor: &Tensor) -> std::result::Result<usize, String> {
    let length = tensor.storage.length;
    let whole = || {
        let count = tensor.size.iter().try_fold(1usize, |n, size| n.checked_mul(*size))?;
        let last =
            tensor.size.iter().zip(&tensor.stride).try_fold(tensor.offset, |at, (n, step)| {
                at.checked_add(n.saturating_sub(1).checked_mul(*step)?)
            })?;
        (count <= length && (count == 0 || last < length)).then_some(count)
    };
    whole().ok_or_else(|| {
        let Tensor { offset, size, stride, .. } = tensor;
        format!(
            "shape {size:?}, strides {stride:?}, offset {offset} in a storage of {length} numbers"
        )
    })
}

fn numbers(storage: &Storage, bytes: &[u8]) -> std::result::Result<Vec<f32>, String> {
    Ok(match storage.number {
        Number::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Number::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Number::F16 => {
            bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        Number::Bf16 => {
            bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        Number::Other(_) => return Err("holds integers, expected floating-point numbers".into()),
    })
}
