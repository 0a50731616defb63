//! What the subcommands do.

use super::{Bench, Chosen, Describe, Forward, Init, OptimiserKind};
use artifact::{Commit, npy};
use ndarray::{Array4, Axis};
use net::{BenchOptions, Cpu, Device, UNet, Update, weights};
use stage::{Error, Form, Result, Run};

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed(error.to_string())
}

/// Prints the table.
pub fn describe(args: &Describe, run: &Run) -> Result<()> {
    let Chosen { network, batch, patch } = args.which.open()?;
    let device = args.on.open(run)?;
    stage::print(net::describe::table(&network, &device, batch, patch).map_err(failed)?.lines())
}

/// Writes first weights.
pub fn init(args: &Init, run: &Run) -> Result<()> {
    let chosen = args.which.open()?;
    run.outputs().may_write(&args.out, Form::NPZ)?;
    let device = Device::Cpu(Cpu::detect());
    let mut net = UNet::new(&chosen.network, &device)?;
    net.initialise(args.seed.seed).map_err(failed)?;
    Commit::file(&args.out, &weights::to_npz(&net.parameters().map_err(failed)?))?;
    run.info(format!("wrote {}", args.out.display()));
    Ok(())
}

/// One patch through the network.
pub fn forward(args: &Forward, run: &Run) -> Result<()> {
    let chosen = args.which.open()?;
    run.outputs().may_write(&args.out, Form::NPY)?;
    let device = args.on.open(run)?;
    let mut net = UNet::new(&chosen.network, &device)?;
    let named = weights::read(&args.weights, &chosen.network)?;
    let at =
        |path: &std::path::Path, e: net::Error| Error::input(format!("{}: {e}", path.display()));
    net.set_parameters(&named).map_err(|e| at(&args.weights, e))?;
    let image: Array4<f32> = npy::read(&args.image)?;
    let logits = net.forward(image.view().insert_axis(Axis(0))).map_err(|e| at(&args.image, e))?;
    Commit::file(&args.out, &npy::encode(&logits.index_axis(Axis(0), 0)))?;
    run.info(format!("wrote {}", args.out.display()));
    Ok(())
}

/// Prints seconds and rates.
pub fn bench(args: &Bench, run: &Run) -> Result<()> {
    let Chosen { network, batch, patch } = args.which.open()?;
    let device = args.on.open(run)?;
    let update = match args.optimiser {
        OptimiserKind::Adam => Update::Adam,
        OptimiserKind::Sgd => Update::Sgd,
    };
    let options = BenchOptions { batch, patch, repetitions: args.repetitions, update };
    let t = net::bench(&network, &device, &options)?;
    for (what, seconds, flops) in [
        ("training iteration", t.training, t.training_flops),
        ("forward", t.forward, t.forward_flops),
    ] {
        let cpu = seconds.cpu.map_or(String::new(), |cpu| format!(" ({cpu:.2} s of CPU)"));
        let (gflop, rate) = (flops / 1e9, flops / seconds.wall / 1e9);
        let share = t.peak.map_or(String::new(), |peak| {
            format!(", {:.0} % of the {:.0} GF/s at its peak", 1e11 * rate / peak, peak / 1e9)
        });
        let seconds = seconds.wall;
        let line = format!("{what}: {seconds:.6} s{cpu}, {gflop:.0} GFLOP, {rate:.0} GF/s{share}");
        stage::print([line])?;
    }
    Ok(())
}
