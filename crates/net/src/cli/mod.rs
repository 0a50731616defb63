//! The command line of `nnu-net`.

mod exchange;
mod tasks;

use artifact::Record;
use artifact::plan::{Encoder, Network, Plan};
use clap::{Parser, Subcommand};
pub use exchange::{Export, Import, export, import};
use net::DeviceArgs;
use stage::{Common, Error, Files, Result, Seed};
use std::path::PathBuf;
pub use tasks::{bench, describe, forward, init};

/// Describe, initialise, run and time the U-Net of a plan; exchange weights with nnU-Net.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-net",
    after_help = "\
Examples:
  nnu-net describe --plan plan.toml --configuration 3d_fullres
  nnu-net import --checkpoint fold_0/checkpoint_final.pth --plan plan.toml --model models/3d_fullres/fold_0"
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Print layers, shapes, parameters, work and memory
    Describe(Describe),
    /// Draw first weights from a seed and write them as .npz
    Init(Init),
    /// Run one patch through the network: .npy in, logits as .npy out
    Forward(Forward),
    /// Time training iterations and forward passes on noise
    Bench(Bench),
    /// Take over a checkpoint of nnU-Net (.pth), without running what it says
    Import(Import),
    /// Write a checkpoint that nnU-Net loads strictly
    Export(Export),
}

impl stage::Command for Args {
    const STAGE: &'static str = "net";
    const REVISIONS: &'static [(&'static str, u32)] = &[("net", net::REVISION)];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        match &self.command {
            Task::Describe(args) => &args.common,
            Task::Init(args) => &args.common,
            Task::Forward(args) => &args.common,
            Task::Bench(args) => &args.common,
            Task::Import(args) => &args.common,
            Task::Export(args) => &args.common,
        }
    }

    fn files(&self) -> Files {
        let files = Files::default();
        match &self.command {
            Task::Describe(args) => files.reads("--plan", &args.which.plan),
            Task::Bench(args) => files.reads("--plan", &args.which.plan),
            Task::Init(args) => files.reads("--plan", &args.which.plan).file("--out", [&args.out]),
            Task::Forward(args) => files
                .reads("--plan", &args.which.plan)
                .reads("--weights", [&args.weights])
                .reads("--image", [&args.image])
                .file("--out", [&args.out]),
            Task::Import(args) => args.files(),
            Task::Export(args) => args.files(),
        }
    }
}

/// Which network: one of a plan's, or, without a plan, an isotropic one by its features.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// Plan to read the network from
    #[arg(long, value_name = "PLAN", requires = "configuration", conflicts_with = "features")]
    pub plan: Option<PathBuf>,
    /// Configuration of the plan, such as 3d_fullres
    #[arg(long, value_name = "NAME", requires = "plan")]
    pub configuration: Option<String>,
    /// Without a plan: feature maps per stage, kernel 3, stride 2, two convolutions per stage; residual: 1, 3, 4, 6, 6, …
    /// blocks, and one convolution per decoder stage
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', required_unless_present = "plan")]
    pub features: Vec<usize>,
    /// Without a plan: plain or residual
    #[arg(long, value_name = "KIND", default_value = "plain", conflicts_with = "plan")]
    pub encoder: EncoderKind,
    /// Without a plan: image channels
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "plan")]
    pub channels: usize,
    /// Without a plan: classes, background included
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "plan")]
    pub classes: usize,
    /// Patch in voxels [default: the plan's]
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', required_unless_present = "plan")]
    pub patch: Vec<usize>,
    /// Samples per batch [default: the plan's, or 2]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
}

/// `--encoder`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum EncoderKind {
    Plain,
    Residual,
}

/// A network with the sizes it is to run at.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub network: Network,
    pub batch: usize,
    pub patch: [usize; 3],
}

impl Which {
    pub fn open(&self) -> Result<Chosen> {
        let mut chosen = match (&self.plan, &self.configuration) {
            (Some(plan), Some(name)) => self.of_plan(plan, name)?,
            _ => self.of_features()?,
        };
        if let Some(batch) = self.batch {
            chosen.batch = batch;
        }
        if !self.patch.is_empty() {
            chosen.patch = <[usize; 3]>::try_from(&self.patch[..])
                .map_err(|_| Error::usage(format!("--patch {:?}, expected Z,Y,X", self.patch)))?;
        }
        let (patch, divisor) = (chosen.patch, chosen.network.divisor());
        artifact::bounds::check_batch(patch, chosen.batch)
            .map_err(|e| Error::usage(format!("--patch, --batch: {e}")))?;
        if (0..3).any(|a| patch[a] % divisor[a] != 0) {
            return Err(Error::usage(format!(
                "--patch {patch:?}, expected multiples of {divisor:?}"
            )));
        }
        Ok(chosen)
    }

    fn of_plan(&self, path: &std::path::Path, name: &str) -> Result<Chosen> {
        let plan: Plan = Record::load(path)?.body;
        let Some(c) = plan.configurations.get(name) else {
            let known: Vec<&str> = plan.configurations.keys().map(String::as_str).collect();
            return Err(Error::usage(format!(
                "--configuration {name}: {} has {}",
                path.display(),
                known.join(", ")
            )));
        };
        Ok(Chosen { network: c.network.clone(), batch: c.batch_size, patch: c.patch_shape })
    }

    fn of_features(&self) -> Result<Chosen> {
        let stages = self.features.len();
        let mut strides = vec![[2; 3]; stages];
        strides[0] = [1; 3];
        // nnU-Net's number of blocks per stage.
        let blocks = |s: usize| [1, 3, 4].get(s).copied().unwrap_or(6);
        let (encoder, encoder_convs, decoder_conv) = match self.encoder {
            EncoderKind::Plain => (Encoder::Plain, vec![2; stages], 2),
            EncoderKind::Residual => (Encoder::Residual, (0..stages).map(blocks).collect(), 1),
        };
        let network = Network {
            encoder,
            input_channels: self.channels,
            output_channels: self.classes,
            features: self.features.clone(),
            kernels: vec![[3; 3]; stages],
            strides,
            encoder_convs,
            decoder_convs: vec![decoder_conv; stages - 1],
            deep_supervision: false,
            negative_slope: 0.01,
            norm_epsilon: 1e-5,
        };
        network.check().map_err(|e| Error::usage(format!("--features: {e}")))?;
        Ok(Chosen { network, batch: 2, patch: [0; 3] })
    }
}

/// `nnu-net describe`.
#[derive(Debug, clap::Args)]
pub struct Describe {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `nnu-net init`.
#[derive(Debug, clap::Args)]
pub struct Init {
    #[command(flatten)]
    pub which: Which,
    /// Where the weights go
    #[arg(long, value_name = "WEIGHTS.npz")]
    pub out: PathBuf,
    #[command(flatten)]
    pub seed: Seed,
    #[command(flatten)]
    pub common: Common,
}

/// `nnu-net forward`.
#[derive(Debug, clap::Args)]
pub struct Forward {
    #[command(flatten)]
    pub which: Which,
    /// Weights by the names of `nnu-net init`
    #[arg(long, value_name = "WEIGHTS.npz")]
    pub weights: PathBuf,
    /// One patch, f32 [channel, z, y, x]
    #[arg(long, value_name = "X.npy")]
    pub image: PathBuf,
    /// Where the logits go, f32 [class, z, y, x]
    #[arg(long, value_name = "LOGITS.npy")]
    pub out: PathBuf,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `--optimiser`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum OptimiserKind {
    Adam,
    Sgd,
}

/// `nnu-net bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(flatten)]
    pub which: Which,
    /// Timed repetitions; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub repetitions: usize,
    /// How an iteration ends: adam with AMSGrad, or sgd with Nesterov momentum and gradients clipped as in nnU-Net v2
    #[arg(long, value_name = "KIND", default_value = "adam")]
    pub optimiser: OptimiserKind,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub common: Common,
}
