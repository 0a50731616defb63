//! nnU-Net's `.pth` files: reading without running anything, and writing what nnU-Net loads strictly.
//!
//! A `.pth` is a zip archive of a pickle and the tensors' bytes. Python's own reader of pickles runs whatever the file
//! asks for; the one here knows the few names that a checkpoint needs, all of them data, and refuses the rest.

mod archive;
mod machine;
mod names;
mod plans;
#[cfg(test)]
mod tests;
mod value;
mod writer;

use crate::unet::Topology;
use archive::Archive;
use artifact::bounds::MAX_COUNT;
use artifact::npz::Named;
use artifact::plan::{Encoder, Network};
use artifact::recipe::Recipe;
use artifact::{Error, Result};
use names::Names;
pub use plans::{check_dataset, check_geometry, check_plans};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use value::{Tensor, Value, Values};
pub use writer::{Export, encode};

/// Characters of a value in a message.
const MOST_SHOWN: usize = 120;

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Parameters by nnu's names, as [`crate::UNet::set_parameters`] takes them.
    pub parameters: Named,
    /// Epochs trained.
    pub epochs: Option<usize>,
    /// Configuration that it was trained for.
    pub configuration: Option<String>,
    /// Fold, where it is a number (it can be "all").
    pub fold: Option<usize>,
    /// Class that trained it.
    pub trainer: Option<String>,
    /// Axes of the patch along which predictions are mirrored, rising; 0 is y in 2D. Empty too where nothing is said of
    /// it: nnU-Net doesn't mirror then.
    pub mirror_axes: Vec<usize>,
    /// Whether it is a 2D network.
    pub flat: bool,
}

impl Checkpoint {
    /// The axes of mirroring in the plan's order, for `inference.mirror_axes`, where a plan of this recipe would predict
    /// with others.
    ///
    /// A 2D network has no axis 0. What the recipe says of it is kept, so that models of a plan keep it as it is.
    pub fn other_mirror_axes(&self, recipe: &Recipe) -> Option<Vec<usize>> {
        let mut planned = recipe.mirror_axes().to_vec();
        planned.sort_unstable();
        let across = planned.first().copied().filter(|axis| self.flat && *axis == 0);
        let own = self.mirror_axes.iter().map(|axis| axis + usize::from(self.flat));
        let own: Vec<usize> = across.into_iter().chain(own).collect();
        (own != planned).then_some(own)
    }
}

/// The files that a checkpoint carries along.
#[derive(Debug, Clone, PartialEq)]
pub struct Carried {
    /// `plans.json`.
    pub plans: serde_json::Value,
    /// `dataset.json`.
    pub dataset: serde_json::Value,
}

/// Whether nnU-Net has this network as a 2D one: nothing in it reaches along z.
pub fn is_flat(spec: &Network, patch: [usize; 3]) -> bool {
    patch[0] == 1 && spec.kernels.iter().chain(&spec.strides).all(|axes| axes[0] == 1)
}

/// Reads a checkpoint of a network. Whether it is a 2D one is told by its tensors.
///
/// # Errors
/// If the file isn't a checkpoint, asks for anything but data, or isn't of this network: one line with the opcode,
/// the name or the tensor.
pub fn read(path: &Path, spec: &Network) -> Result<Checkpoint> {
    let topology = Topology::new(spec).map_err(|e| Error::input(path, e.to_string()))?;
    let (mut archive, values) = open(path)?;
    let weights = values.entry(values.root, "network_weights").ok_or_else(|| {
        archive
            .error("holds no network_weights, expected a checkpoint of nnU-Net v2")
            .hint("models of nnU-Net v1 are not read")
    })?;
    let mirror_axes = mirror_axes(&archive, &values)?;
    let found = tensors(&archive, &values, weights)?;
    let flat = found.values().any(|tensor| tensor.size.len() == 4);
    if flat && mirror_axes.contains(&2) {
        return Err(archive.error(format!(
            "inference_allowed_mirroring_axes = {mirror_axes:?}, but the network is a 2D one, expected 0 and 1 only"
        )));
    }
    let names = names::of(&topology, flat);
    check_names(&archive, spec, &names, &found)?;
    let mut parameters = Named::with_capacity(names.len());
    for name in &names {
        parameters.push((name.ours.clone(), parameter(&mut archive, &values, name, &found)?));
    }
    let root = values.root;
    let arguments = values.entry(root, "init_args").unwrap_or(root);
    Ok(Checkpoint {
        parameters,
        epochs: counted(&archive, &values, root, "current_epoch")?,
        configuration: values.text_at(arguments, "configuration").map(Into::into),
        fold: counted(&archive, &values, arguments, "fold")?,
        trainer: values.text_at(root, "trainer_name").map(Into::into),
        mirror_axes,
        flat,
    })
}

/// The plans and the data set's description inside a checkpoint.
///
/// # Errors
/// As [`read`]; or if they aren't there.
pub fn carried(path: &Path) -> Result<Carried> {
    let (archive, values) = open(path)?;
    let find = |key: &str| {
        let arguments = values.entry(values.root, "init_args")?;
        values.json(values.entry(arguments, key)?)
    };
    match (find("plans"), find("dataset_json")) {
        (Some(plans), Some(dataset)) => Ok(Carried { plans, dataset }),
        _ => Err(archive
            .error("holds no init_args.plans with init_args.dataset_json")
            .hint("take plans.json and dataset.json from the model's folder")),
    }
}

/// The configuration that a checkpoint was trained for.
///
/// # Errors
/// As [`read`]; or if it doesn't say.
pub fn configuration(path: &Path) -> Result<String> {
    let (archive, values) = open(path)?;
    let arguments = values.entry(values.root, "init_args").unwrap_or(values.root);
    let found = values.text_at(arguments, "configuration").map(Into::into);
    found.ok_or_else(|| {
        archive.error("holds no init_args.configuration").hint("say --configuration NAME")
    })
}

fn open(path: &Path) -> Result<(Archive, Values)> {
    let (archive, pickle) = Archive::open(path)?;
    let values = machine::read(pickle).map_err(|e| {
        archive
            .error(e)
            .hint("nothing in the file was run; a checkpoint that nnU-Net saved has none of this")
    })?;
    Ok((archive, values))
}

/// A number of epochs or of a fold.
fn counted(
    archive: &Archive,
    values: &Values,
    dict: value::Id,
    key: &str,
) -> Result<Option<usize>> {
    match values.count_at(dict, key) {
        Some(n) if n > MAX_COUNT => {
            Err(archive.error(format!("{key} = {n}, expected at most {MAX_COUNT}")))
        }
        count => Ok(count),
    }
}

/// `inference_allowed_mirroring_axes`: None, or axes in any order.
fn mirror_axes(archive: &Archive, values: &Values) -> Result<Vec<usize>> {
    const KEY: &str = "inference_allowed_mirroring_axes";
    let Some(found) = values.entry(values.root, KEY) else { return Ok(vec![]) };
    let axes = match values.get(found) {
        Value::None => Some(vec![]),
        Value::Tuple(axes) => axes.iter().map(|id| count(values.get(*id))).collect(),
        Value::List(axes) => axes.iter().map(|id| count(values.get(*id))).collect(),
        _ => None,
    };
    let mut axes: Vec<usize> = axes.unwrap_or(vec![usize::MAX]);
    axes.sort_unstable();
    if axes.windows(2).any(|pair| pair[0] == pair[1]) || axes.last().is_some_and(|last| *last > 2) {
        let mut found = values.json(found).map_or("an object".into(), |json| json.to_string());
        if let Some((end, _)) = found.char_indices().nth(MOST_SHOWN) {
            found.replace_range(end.., "…");
        }
        let expected = "None or axes of the patch, each at most once, such as (0, 1, 2)";
        return Err(archive.error(format!("{KEY} = {found}, expected {expected}")));
    }
    Ok(axes)
}

fn count(value: &Value) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

/// Tensors by name, without prefixes.
fn tensors<'a>(
    archive: &Archive,
    values: &'a Values,
    weights: value::Id,
) -> Result<BTreeMap<&'a str, &'a Tensor>> {
    let Value::Dict(pairs) = values.get(weights) else {
        return Err(archive.error("network_weights is not a dictionary of tensors"));
    };
    let mut found = BTreeMap::new();
    for (key, value) in pairs {
        let (Value::Text(key), Value::Tensor(tensor)) = (values.get(*key), values.get(*value))
        else {
            return Err(archive.error("network_weights holds something that is not a named tensor"));
        };
        found.insert(names::bare(values.text(key)), &**tensor);
    }
    Ok(found)
}

/// Every tensor of the network is there, and no other.
fn check_names(
    archive: &Archive,
    spec: &Network,
    names: &[Names],
    found: &BTreeMap<&str, &Tensor>,
) -> Result<()> {
    let residual = found.keys().any(|name| name.starts_with("encoder.stem."));
    if residual != (spec.encoder == Encoder::Residual) {
        let [found, expected] =
            if residual { ["residual", "plain"] } else { ["plain", "residual"] };
        return Err(archive
            .error(format!("has a {found} encoder, but the plan's network a {expected} one"))
            .hint("take the plans.json that lies beside the checkpoint: nnu-plan import"));
    }
    let known: BTreeSet<&str> =
        names.iter().flat_map(|n| n.theirs.iter().map(String::as_str)).collect();
    if let Some(missing) = names.iter().map(|n| &n.theirs[0]).find(|n| !found.contains_key(&n[..]))
    {
        return Err(archive.error(format!("tensor {missing}: missing")));
    }
    if let Some(extra) = found.keys().find(|name| !known.contains(**name)) {
        let extra: String = extra.chars().take(MOST_SHOWN).collect();
        return Err(archive
            .error(format!("tensor {extra}: found, but there is no such tensor in this network")));
    }
    Ok(())
}

/// One parameter with the z axis that 2D networks lack. Its other names must say the same.
fn parameter(
    archive: &mut Archive,
    values: &Values,
    names: &Names,
    found: &BTreeMap<&str, &Tensor>,
) -> Result<ndarray::ArrayD<f32>> {
    let own = &names.theirs[0];
    let Some(tensor) = found.get(&own[..]) else {
        return Err(archive.error(format!("tensor {own}: missing")));
    };
    if tensor.size != names.shape {
        let (found, expected) = (&tensor.size, &names.shape);
        return Err(
            archive.error(format!("tensor {own}: found shape {found:?}, expected {expected:?}"))
        );
    }
    let array = archive.tensor(values, own, tensor)?;
    if let Some((at, value)) = array.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        let line = format!("tensor {own}: number {at} is {value}, expected finite numbers");
        return Err(archive
            .error(line)
            .hint("the training diverged; take another checkpoint of it"));
    }
    for again in &names.theirs[1..] {
        let Some(other) = found.get(&again[..]).filter(|other| *other != tensor) else { continue };
        let same = other.size == names.shape && {
            let other = archive.tensor(values, again, other)?;
            other.iter().zip(&array).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        if !same {
            return Err(
                archive.error(format!("tensor {again}: differs from {own}, which it repeats"))
            );
        }
    }
    Ok(if array.ndim() == 4 { array.insert_axis(ndarray::Axis(2)) } else { array })
}
