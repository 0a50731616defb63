//! A checkpoint as nnU-Net v2 saves it: the pickle in protocol 2, and a storage per parameter.

use super::names::{self, Names};
use crate::Error;
use crate::unet::{Topology, gather_named, named};
use artifact::model::Epoch;
use artifact::npz::Named;
use artifact::plan::Network;
use serde_json::Value;
use std::io::{Cursor, Write};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// What goes into a checkpoint beside the weights.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    /// The network.
    pub network: &'a Network,
    /// Whether nnU-Net has it as a 2D network; see [`super::is_flat`].
    pub flat: bool,
    /// Contents of `plans.json`.
    pub plans: &'a Value,
    /// Contents of `dataset.json`.
    pub dataset: &'a Value,
    /// Configuration of the plans.
    pub configuration: &'a str,
    /// Fold.
    pub fold: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// The training so far, for nnU-Net's curves; may be empty.
    pub history: &'a [Epoch],
    /// Axes of the patch along which predictions may be mirrored, rising.
    pub mirror_axes: &'a [usize],
}

/// Bytes of the `.pth`; the same inputs give the same bytes.
///
/// # Errors
/// If the parameters aren't those of the network.
pub fn encode(parameters: &Named, export: &Export<'_>) -> Result<Vec<u8>, Error> {
    let topology = Topology::new(export.network)?;
    let flat = gather_named(&topology.parameters, parameters)?;
    let names = names::of(&topology, export.flat);
    let pickle = pickle(export, &names);
    let storages = named(&topology.parameters, &flat);
    let bytes = |array: &ndarray::ArrayD<f32>| -> Vec<u8> {
        array.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let mut entries =
        vec![("data.pkl".to_owned(), pickle), ("byteorder".to_owned(), b"little".to_vec())];
    for (key, (_, array)) in storages.iter().enumerate() {
        entries.push((format!("data/{key}"), bytes(array)));
    }
    entries.push(("version".to_owned(), b"3\n".to_vec()));
    Ok(archive(&entries).expect("writing to memory"))
}

/// A zip of stored entries, each aligned as PyTorch aligns them, without clock.
fn archive(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>, ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(64)
            .large_file(u32::try_from(bytes.len()).is_err())
            .last_modified_time(DateTime::default());
        archive.start_file(format!("checkpoint/{name}"), options)?;
        archive.write_all(bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

/// nnU-Net's order: the encoder, the encoder again, the decoder's convolutions, its upsamplings, its heads.
fn ordered(names: &[Names]) -> Vec<(String, usize)> {
    let mut out = Vec::new();
    for prefix in
        ["encoder.", "decoder.encoder.", "decoder.stages.", "decoder.transp", "decoder.seg"]
    {
        for (i, one) in names.iter().enumerate() {
            let mine = one.theirs.iter().filter(|name| name.starts_with(prefix));
            out.extend(mine.map(|name| (name.clone(), i)));
        }
    }
    out
}

fn pickle(export: &Export<'_>, names: &[Names]) -> Vec<u8> {
    let mut p = Pickle(b"\x80\x02".to_vec());
    p.dict(|p| {
        p.entry("network_weights", |p| weights(p, names));
        p.entry("optimizer_state", |p| optimiser(p, names.len()));
        p.entry("grad_scaler_state", Pickle::none);
        p.entry("logging", |p| logging(p, export.history));
        let best = moving_dice(export.history).into_iter().reduce(f64::max);
        p.entry("_best_ema", |p| match best {
            Some(best) => p.float(best),
            None => p.none(),
        });
        p.entry("current_epoch", |p| p.int(export.epochs as i64));
        p.entry("init_args", |p| {
            p.dict(|p| {
                p.entry("plans", |p| p.json(export.plans));
                p.entry("configuration", |p| p.text(export.configuration));
                p.entry("fold", |p| p.int(export.fold as i64));
                p.entry("dataset_json", |p| p.json(export.dataset));
                p.entry("device", |p| {
                    p.global("torch", "device");
                    p.tuple(|p| p.text("cpu"));
                    p.reduce();
                });
            });
        });
        p.entry("trainer_name", |p| p.text(trainer(export.mirror_axes, export.flat)));
        p.entry("inference_allowed_mirroring_axes", |p| match export.mirror_axes {
            [] => p.none(),
            axes => p.tuple(|p| axes.iter().for_each(|axis| p.int(*axis as i64))),
        });
    });
    p.0.push(b'.');
    p.0
}

/// The class of nnU-Net that mirrors these axes (rising) in training, where there is one.
fn trainer(mirror_axes: &[usize], flat: bool) -> &'static str {
    match (mirror_axes, flat) {
        ([], _) => "nnUNetTrainerNoMirroring",
        ([0], true) | ([0, 1], false) => "nnUNetTrainer_onlyMirror01",
        _ => "nnUNetTrainer",
    }
}

/// An OrderedDict of tensors; names of one parameter share its storage.
fn weights(p: &mut Pickle, names: &[Names]) {
    p.global("collections", "OrderedDict");
    p.tuple(|_| ());
    p.reduce();
    p.0.push(b'(');
    for (name, i) in ordered(names) {
        let shape = &names[i].shape;
        let count: usize = shape.iter().product();
        p.text(&name);
        p.global("torch._utils", "_rebuild_tensor_v2");
        p.tuple(|p| {
            p.tuple(|p| {
                p.text("storage");
                p.global("torch", "FloatStorage");
                p.text(&i.to_string());
                p.text("cpu");
                p.int(count as i64);
            });
            p.0.push(b'Q');
            p.int(0);
            p.tuple(|p| shape.iter().for_each(|n| p.int(*n as i64)));
            let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<usize>());
            p.tuple(|p| strides.for_each(|n| p.int(n as i64)));
            p.bool(false);
            p.global("collections", "OrderedDict");
            p.tuple(|_| ());
            p.reduce();
        });
        p.reduce();
    }
    p.0.push(b'u');
}

/// nnU-Net's SGD before its first step.
fn optimiser(p: &mut Pickle, parameters: usize) {
    let group = serde_json::json!({
        "lr": 0.01, "momentum": 0.99, "dampening": 0, "weight_decay": 3e-5, "nesterov": true,
        "maximize": false, "foreach": null, "differentiable": false, "fused": null,
        "params": (0..parameters).collect::<Vec<_>>(),
    });
    p.json(&serde_json::json!({ "state": {}, "param_groups": [group] }));
}

/// Mean pseudo-Dice of each epoch, classes that never occurred left out.
fn mean_dice(epoch: &Epoch) -> f64 {
    let known: Vec<f64> = epoch.pseudo_dice.iter().copied().filter(|d| d.is_finite()).collect();
    if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
}

/// nnU-Net's moving average of it.
fn moving_dice(history: &[Epoch]) -> Vec<f64> {
    let mut last = None;
    let step = |epoch: &Epoch| {
        let dice = mean_dice(epoch);
        let next = last.map_or(dice, |last: f64| 0.9 * last + 0.1 * dice);
        last = Some(next);
        next
    };
    history.iter().map(step).collect()
}

/// The lists that nnU-Net keeps. No clock runs here: every epoch took no time.
fn logging(p: &mut Pickle, history: &[Epoch]) {
    let column = |of: fn(&Epoch) -> f64| history.iter().map(of).collect::<Vec<f64>>();
    p.dict(|p| {
        p.entry("mean_fg_dice", |p| p.floats(&column(mean_dice)));
        p.entry("ema_fg_dice", |p| p.floats(&moving_dice(history)));
        p.entry("dice_per_class_or_region", |p| {
            p.list(|p| history.iter().for_each(|e| p.floats(&e.pseudo_dice)));
        });
        p.entry("train_losses", |p| p.floats(&column(|e| e.train_loss)));
        p.entry("val_losses", |p| p.floats(&column(|e| e.validation_loss)));
        p.entry("lrs", |p| p.floats(&column(|e| e.learning_rate)));
        p.entry("epoch_start_timestamps", |p| p.floats(&column(|_| 0.0)));
        p.entry("epoch_end_timestamps", |p| p.floats(&column(|_| 0.0)));
    });
}

/// Opcodes one behind the other.
struct Pickle(Vec<u8>);

impl Pickle {
    fn none(&mut self) {
        self.0.push(b'N');
    }

    fn bool(&mut self, value: bool) {
        self.0.push(if value { 0x88 } else { 0x89 });
    }

    fn int(&mut self, value: i64) {
        match (u8::try_from(value), i32::try_from(value)) {
            (Ok(value), _) => self.0.extend([b'K', value]),
            (_, Ok(value)) => {
                self.0.push(b'J');
                self.0.extend(value.to_le_bytes());
            }
            _ => {
                self.0.extend([0x8a, 8]);
                self.0.extend(value.to_le_bytes());
            }
        }
    }

    fn float(&mut self, value: f64) {
        self.0.push(b'G');
        self.0.extend(value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn reduce(&mut self) {
        self.0.push(b'R');
    }

    fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.0.push(b'(');
        items(self);
        self.0.push(b't');
    }

    fn list(&mut self, items: impl FnOnce(&mut Self)) {
        self.0.extend(b"](");
        items(self);
        self.0.push(b'e');
    }

    fn floats(&mut self, values: &[f64]) {
        self.list(|p| values.iter().for_each(|value| p.float(*value)));
    }

    fn dict(&mut self, entries: impl FnOnce(&mut Self)) {
        self.0.extend(b"}(");
        entries(self);
        self.0.push(b'u');
    }

    fn entry(&mut self, key: &str, value: impl FnOnce(&mut Self)) {
        self.text(key);
        value(self);
    }

    fn json(&mut self, value: &Value) {
        match value {
            Value::Null => self.none(),
            Value::Bool(value) => self.bool(*value),
            Value::Number(n) => match n.as_i64() {
                Some(n) => self.int(n),
                None => self.float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.text(text),
            Value::Array(items) => self.list(|p| items.iter().for_each(|item| p.json(item))),
            Value::Object(entries) => self.dict(|p| {
                entries.iter().for_each(|(key, value)| p.entry(key, |p| p.json(value)));
            }),
        }
    }
}
