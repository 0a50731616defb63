//! The models of one prediction: read, held against each other, in an order of their own.

use crate::export::Decoding;
use artifact::model::{Model, PLAN, WEIGHTS};
use artifact::plan::{Configuration, Plan};
use artifact::recipe::Inference;
use artifact::{Error, Record, Result, hash_file};
use net::sliding_window::{Activation, Window};
use std::path::{Path, PathBuf};

/// Small patches go through the network together until a batch has about as many voxels. Measured on two CPU cores (features
/// 32, 64, 128): four patches of 24 × 20 at once take four fifths of the time of one after the other, 64 × 64 gain nothing.
const BATCH_VOXELS: usize = 1 << 13;

/// … but no more of them.
const MOST_TILES: usize = 16;

/// Models that are averaged: same plan, same configuration.
#[derive(Debug)]
pub struct Ensemble {
    /// The plan that all of them were trained for.
    pub plan: Plan,
    /// Hash of the plan's file.
    pub plan_hash: String,
    /// Name of the configuration.
    pub name: String,
    /// The configuration.
    pub configuration: Configuration,
    /// By fold, then by weights: the order on the command line changes no bit.
    pub members: Vec<Member>,
}

/// One trained network.
#[derive(Debug)]
pub struct Member {
    /// Its weights file.
    pub weights: PathBuf,
    /// Hash of the weights file.
    pub hash: String,
    /// Fold.
    pub fold: usize,
    /// Cases that it was validated on.
    pub validation: Vec<String>,
}

impl Ensemble {
    /// Reads the folders that `nnu-train` wrote (`model.toml`, `weights.npz`, `plan.toml`).
    ///
    /// # Errors
    /// If a file is missing or broken, was changed after its record was written, or models don't belong together.
    pub fn load(folders: &[PathBuf]) -> Result<Self> {
        let mut loaded = folders.iter().map(|folder| Self::load_one(folder));
        let mut ensemble = loaded.next().ok_or_else(|| {
            Error::input(Path::new("--model"), "no model, expected at least one")
        })??;
        for (other, folder) in loaded.zip(&folders[1..]) {
            ensemble.join(other?, folder, &folders[0])?;
        }
        ensemble.members.sort_by(|a, b| (a.fold, &a.hash).cmp(&(b.fold, &b.hash)));
        Ok(ensemble)
    }

    fn load_one(folder: &Path) -> Result<Self> {
        let path = folder.join("model.toml");
        let record = Record::<Model>::load(&path)?;
        record.verify(&path)?;
        let info = record.body.model;
        let plan_path = folder.join(PLAN);
        let plan = Record::<Plan>::load(&plan_path)?.body;
        let configuration = plan
            .configuration(&info.configuration)
            .map_err(|e| Error::input(&plan_path, e))?
            .clone();
        check_network(&plan_path, &plan, &info.configuration, &configuration)?;
        let weights = folder.join(WEIGHTS);
        // Compared with the file just now, where it is there.
        let hash = record.header.files.get(WEIGHTS).filter(|h| !h.is_empty()).cloned();
        let hash = hash.map_or_else(|| hash_file(&weights), Ok)?;
        let member = Member { hash, weights, fold: info.fold, validation: info.validation };
        let plan_hash = hash_file(&plan_path)?;
        Ok(Self { plan, plan_hash, name: info.configuration, configuration, members: vec![member] })
    }

    fn join(&mut self, other: Self, folder: &Path, first: &Path) -> Result<()> {
        let path = folder.join("model.toml");
        if other.name != self.name {
            return Err(Error::input(
                &path,
                format!(
                    "model.configuration = \"{}\", expected \"{}\" as in {}",
                    other.name,
                    self.name,
                    first.display()
                ),
            )
            .hint("predict with each configuration by itself"));
        }
        let (mine, others) = (self.plan.recipe.mirror_axes(), other.plan.recipe.mirror_axes());
        if mine != others {
            return Err(Error::input(
                &folder.join(PLAN),
                format!(
                    "mirrors along axes {others:?}, expected {mine:?} as in {}",
                    first.display()
                ),
            )
            .hint(
                "only models that are mirrored alike are averaged; predict with each by itself",
            ));
        }
        if other.plan_hash != self.plan_hash {
            return Err(Error::input(
                &folder.join(PLAN),
                format!("is another plan than that of {}", first.display()),
            )
            .hint("only models of one plan are averaged; train this fold again with the same plan.toml"));
        }
        self.members.extend(other.members);
        Ok(())
    }

    /// The configuration whose preprocessed cases the models read.
    pub fn cases(&self) -> &str {
        self.configuration.cases_from.as_deref().unwrap_or(&self.name)
    }

    /// How tiles are laid, by the plan and the command line.
    pub fn window(&self, step: Option<f64>, mirroring: bool) -> Window {
        let recipe = &self.plan.recipe;
        let Inference { step: planned, gaussian_sigma, averaged, .. } = recipe.inference;
        let patch = self.configuration.patch_shape;
        Window {
            patch,
            step: step.unwrap_or(planned),
            gaussian_sigma,
            mirror_axes: match mirroring {
                true => recipe.mirrored_in_prediction().to_vec(),
                false => Vec::new(),
            },
            averaged,
            activation: Activation::of(&self.plan),
            tile_batch: (BATCH_VOXELS / patch.iter().product::<usize>().max(1))
                .clamp(1, MOST_TILES),
        }
    }

    /// What the outputs mean, and how they reach another grid.
    pub fn decoding(&self) -> Decoding {
        let plan = &self.plan;
        // Checked with the plan: a region is written as the value of one of the labels.
        let class = |value: i32| plan.labels.iter().position(|l| l.value == value).unwrap_or(0);
        Decoding {
            activation: Activation::of(plan),
            averaged: plan.recipe.inference.averaged,
            region_classes: plan.regions.iter().map(|r| class(r.value) as i16).collect(),
            order: plan.recipe.inference.resample_order,
            order_coarse_axis: plan.recipe.inference.resample_order_coarse_axis,
            anisotropy_threshold: plan.recipe.preprocessing.anisotropy_threshold,
        }
    }

    /// Cases preprocessed by `plan` are cases of these models too, and the outputs mean the same.
    ///
    /// # Errors
    /// Says what differs.
    pub fn fits(&self, plan: &Plan) -> std::result::Result<(), String> {
        let mine = self.plan.preprocessing_hash(self.cases())?;
        match plan.preprocessing_hash(self.cases())? == mine {
            true => Ok(()),
            false => Err(format!("preprocesses cases of {} in another way", self.cases())),
        }
    }
}

/// The network takes the plan's channels (and the previous stage's classes) and gives its outputs.
fn check_network(
    path: &Path,
    plan: &Plan,
    name: &str,
    configuration: &Configuration,
) -> Result<()> {
    let net = &configuration.network;
    let (inputs, input) = match configuration.previous_stage {
        None => (plan.channels.len(), "entry of channels"),
        Some(_) => (
            plan.channels.len() + plan.labels.len() - 1,
            "entry of channels and per foreground class of the previous stage",
        ),
    };
    let output = if plan.regions.is_empty() { "entry of labels" } else { "entry of regions" };
    let counts = [
        ("input_channels", net.input_channels, inputs, input),
        ("output_channels", net.output_channels, plan.outputs(), output),
    ];
    for (field, found, expected, what) in counts {
        if found != expected {
            return Err(Error::input(
                path,
                format!(
                    "configurations.{name}.network.{field} = {found}, expected {expected}, one per {what}"
                ),
            ));
        }
    }
    Ok(())
}
