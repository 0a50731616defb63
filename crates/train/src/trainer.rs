//! The loop over epochs.

use crate::batches::Batches;
use crate::checkpoint::{self, Checkpoint, Position};
use crate::feed::{Feed, Origin, Taken};
use crate::schedule::Verdict;
use crate::{Inputs, Schedule, ScheduleState, progress};
use artifact::model::{self, Epoch, History, Model, ModelInfo};
use artifact::npz::Named;
use artifact::plan::Normalisation;
use artifact::recipe::OptimiserKind;
use artifact::{Commit, npz, text};
use augment::{Loader, Mode};
use kernels::GpuError;
use net::{AdamOptions, ClassCounts, Device, Loss, LossOptions, Optimiser, SgdOptions, UNet};
use stage::{Error, Exit, Run};
use std::path::Path;
use std::time::{Duration, Instant};

/// A checkpoint is written after each epoch, and within one at least this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// How often a checkpoint is tried to be written that a training must not end without.
const SAVE_ATTEMPTS: usize = 4;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// Curves and history of a training under way.
const LIVE_PROGRESS: &str = "checkpoint_progress.png";
const LIVE_HISTORY: &str = "checkpoint_history.toml";

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why.
    pub ended_by: String,
    /// One row per epoch.
    pub epochs: Vec<Epoch>,
}

/// A training under way.
pub struct Trainer<'a> {
    run: &'a Run,
    inputs: &'a Inputs,
    out: &'a Path,
    /// The model to be, and the lock on its folder.
    model: Commit,
    device: Device,
    net: UNet,
    optimiser: Optimiser,
    schedule: Schedule,
    state: ScheduleState,
    loss: LossOptions,
    epochs: Vec<Epoch>,
    /// Finished iterations of the current epoch and the sum of their losses.
    iteration: usize,
    loss_sum: f64,
    ended_by: String,
    last_save: Instant,
    /// The state that `checkpoint.toml` names, if there is one.
    saved: String,
    /// The last attempt to save failed.
    unsaved: bool,
}

fn net_error(error: net::Error) -> Error {
    error.into()
}

/// The error of a checkpoint's state that isn't this network's.
fn unfit(state: &Path, error: net::Error) -> Error {
    use net::Error as E;
    match error {
        E::MissingTensor(_)
        | E::UnknownTensor(_)
        | E::RepeatedTensor(_)
        | E::TensorShape { .. } => Error::input(format!("{}: {error}", state.display())),
        error => error.into(),
    }
}

impl<'a> Trainer<'a> {
    /// A new training, or the one that `out`'s checkpoint holds; `model` is `out`'s `model.toml`.
    ///
    /// # Errors
    /// If the checkpoint is broken or belongs to another training.
    pub fn new(
        run: &'a Run,
        inputs: &'a Inputs,
        device: &Device,
        seed: u64,
        (out, model): (&'a Path, Commit),
    ) -> Result<Self, Error> {
        let recipe = &inputs.plan.recipe;
        let mut net = UNet::new(&inputs.configuration.network, device).map_err(net_error)?;
        net.initialise(seed).map_err(net_error)?;
        let configuration = &inputs.configuration;
        net.reserve_training(configuration.batch_size, configuration.patch_shape)
            .map_err(net_error)?;
        let schedule = Schedule::new(&recipe.schedule, recipe.optimiser.learning_rate);
        let state = schedule.begin();
        let mut trainer = Self {
            run,
            inputs,
            out,
            model,
            device: device.clone(),
            net,
            optimiser: optimiser(&recipe.optimiser),
            schedule,
            state,
            loss: LossOptions {
                dice_weight: recipe.loss.dice_weight as f32,
                cross_entropy_weight: recipe.loss.cross_entropy_weight as f32,
                smooth: recipe.loss.dice_smooth as f32,
                dice_background: recipe.loss.dice_background,
                batch_dice: inputs.configuration.batch_dice,
                targets: net::Targets::of_plan(&inputs.plan),
            },
            epochs: Vec::new(),
            iteration: 0,
            loss_sum: 0.0,
            ended_by: String::new(),
            last_save: Instant::now(),
            saved: String::new(),
            unsaved: false,
        };
        if !run.force() {
            trainer.resume().map_err(|error| match error.exit {
                Exit::Input => {
                    error.hint("give another --out, or --force to start again from epoch 0")
                }
                _ => error,
            })?;
        }
        Ok(trainer)
    }

    fn resume(&mut self) -> Result<(), Error> {
        let Some((found, arrays)) = checkpoint::load(self.out)? else { return Ok(()) };
        let at = found.checkpoint;
        if at.training != self.inputs.training {
            return Err(Error::input(format!(
                "{}: belongs to a training with other settings or inputs",
                checkpoint::path(self.out).display()
            )));
        }
        let epochs = self.inputs.plan.recipe.schedule.epochs;
        if at.epoch > epochs || (at.epoch == epochs && at.iteration > 0) {
            return Err(Error::input(format!(
                "{}: is at epoch {}, iteration {} already, but the training asked for has {epochs} epochs",
                checkpoint::path(self.out).display(),
                at.epoch,
                at.iteration
            )));
        }
        checkpoint::tidy(self.out, &at.state);
        self.saved.clone_from(&at.state);
        let state = self.out.join(&at.state);
        let (mut weights, mut moments) = (Named::new(), Named::new());
        for (name, array) in arrays {
            match name.split_once('/') {
                Some(("weights", name)) => weights.push((name.into(), array)),
                Some(("optimiser", name)) => moments.push((name.into(), array)),
                _ => {
                    return Err(Error::input(format!(
                        "{}: holds an array {name}",
                        state.display()
                    )));
                }
            }
        }
        // The optimiser takes none for one that hasn't begun.
        if moments.is_empty() && at.steps > 0 {
            return Err(Error::input(format!(
                "{}: holds nothing of the optimiser, expected its state after {} steps",
                state.display(),
                at.steps
            )));
        }
        self.net.set_parameters(&weights).map_err(|e| unfit(&state, e))?;
        self.optimiser.restore(at.steps, &moments).map_err(|e| unfit(&state, e))?;
        self.state = found.schedule;
        self.epochs = found.epochs;
        self.iteration = at.iteration;
        self.loss_sum = at.loss_sum;
        self.ended_by = at.ended_by;
        self.run.info(format!("resuming at epoch {}, iteration {}", at.epoch, at.iteration));
        Ok(())
    }

    /// Saves a checkpoint that isn't the last chance to: a full disk is warned of, and the one before stays.
    fn save_or_warn(&mut self) -> Result<(), Error> {
        let written = self.save()?;
        self.warn_of(written, "the checkpoint before stays until the next is written");
        Ok(())
    }

    /// A warning of what couldn't be written and can wait.
    fn warn_of(&self, written: artifact::Result<()>, meanwhile: &str) {
        if let Err(error) = written {
            self.run.warn(format!("{error}; {meanwhile}"));
        }
    }

    /// Saves a checkpoint that the training can't end without.
    fn save_or_fail(&mut self) -> Result<(), Error> {
        for _ in 1..SAVE_ATTEMPTS {
            match self.save()? {
                Ok(()) => return Ok(()),
                Err(error) => self.run.warn(format!("{error}; trying again")),
            }
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
        Ok(self.save()?.map_err(|e| e.hint("the checkpoint before is still there"))?)
    }

    /// The inner result says whether the files could be written.
    fn save(&mut self) -> Result<artifact::Result<()>, Error> {
        let mut arrays = Named::new();
        let weights = self.net.parameters().map_err(net_error)?;
        arrays.extend(weights.into_iter().map(|(n, a)| (format!("weights/{n}"), a)));
        let state = self.optimiser.state().map_err(net_error)?;
        arrays.extend(state.into_iter().map(|(n, a)| (format!("optimiser/{n}"), a)));
        let position = Position {
            training: self.inputs.training.clone(),
            state: String::new(),
            epoch: self.epochs.len(),
            iteration: self.iteration,
            loss_sum: self.loss_sum,
            steps: self.optimiser.steps(),
            ended_by: self.ended_by.clone(),
        };
        let checkpoint = Checkpoint {
            checkpoint: position,
            schedule: self.state.clone(),
            epochs: self.epochs.clone(),
        };
        let made = self.run.provenance();
        let written = checkpoint::save(&self.model, self.out, &made, checkpoint, &arrays);
        self.last_save = Instant::now();
        self.unsaved = written.is_err();
        Ok(written.map(|name| self.saved = name))
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Exit code 75 after a signal, with a checkpoint of the last finished iteration.
    pub fn train(&mut self) -> Result<Outcome, Error> {
        let recipe = &self.inputs.plan.recipe;
        let (epochs, per_epoch) = (recipe.schedule.epochs, recipe.schedule.iterations_per_epoch);
        let mut training = match self.inputs.spool.is_empty() {
            true => self.batches(Mode::Training)?,
            false => Batches::Spool(self.inputs.spool.clone()),
        };
        let mut validation = match self.inputs.validation.is_empty() {
            true => None,
            false => Some(self.batches(Mode::Validation)?),
        };
        while self.epochs.len() < epochs && self.ended_by.is_empty() {
            let epoch = self.epochs.len();
            let begun = Instant::now();
            let first = (epoch * per_epoch + self.iteration) as u64;
            let end = ((epoch + 1) * per_epoch) as u64;
            let threads = self.run.threads().div_ceil(2);
            let waited = Feed::run(training.source(), first, end, threads, |feed| {
                self.train_epoch(feed, per_epoch)?;
                Ok::<_, Error>(feed.waited())
            })?;
            let share = waited.as_secs_f64() / begun.elapsed().as_secs_f64();
            self.finish_epoch(validation.as_mut(), epoch, begun, share)?;
        }
        if self.unsaved {
            self.save_or_fail()?;
        }
        if self.ended_by.is_empty() {
            self.ended_by = "epochs".into();
        }
        Ok(Outcome { ended_by: self.ended_by.clone(), epochs: self.epochs.clone() })
    }

    /// Batches of one mode, made on the network's card if it has one.
    fn batches(&self, mode: Mode) -> Result<Batches, Error> {
        let loader = self.loader(mode)?;
        let Device::Cuda(cuda) = &self.device else {
            return Ok(Batches::Threads(Box::new(loader)));
        };
        match Batches::on_card(loader, cuda.gpu(), mode) {
            Err(GpuError::Memory { what, wanted, free, .. }) => {
                self.run.warn(format!(
                    "{mode:?} batches are made on the CPU: {what} needs {wanted} bytes of GPU memory, {free} are free"
                ));
                Ok(Batches::Threads(Box::new(self.loader(mode)?)))
            }
            made => made.map_err(|e| Error::failed(e.to_string())),
        }
    }

    fn loader(&self, mode: Mode) -> Result<Loader, Error> {
        let inputs = self.inputs;
        let (cases, previous) = match mode {
            Mode::Training => (&inputs.train, &inputs.train_previous),
            Mode::Validation => (&inputs.validation, &inputs.validation_previous),
        };
        let (seed, plan) = (inputs.provenance.seed.unwrap_or(0), &inputs.plan);
        let masked: Vec<bool> =
            plan.channels.iter().map(|c| c.normalisation == Normalisation::ZScoreMasked).collect();
        let loader = Loader::new(cases.clone(), &inputs.configuration, &plan.recipe, mode, seed)?;
        let loader = loader.with_masked_channels(&masked);
        if previous.is_empty() { Ok(loader) } else { loader.with_previous(previous.clone()) }
    }

    fn train_epoch(&mut self, feed: &mut Feed, iterations: usize) -> Result<(), Error> {
        let epoch = self.epochs.len();
        let rate = self.schedule.rate(&self.state, epoch);
        let bar = self.run.progress(&format!("epoch {epoch}"), iterations);
        bar.add(self.iteration);
        while self.iteration < iterations {
            let loss = self.step(feed, Some(rate))?;
            if !loss.total.is_finite() {
                return Err(Error::failed(format!(
                    "the loss is {} at epoch {epoch}, iteration {}",
                    loss.total, self.iteration
                ))
                .hint("plan again with a lower optimiser.learning_rate or with optimiser.clip_norm=12"));
            }
            self.loss_sum += loss.total;
            self.iteration += 1;
            bar.add(1);
            self.stop_here()?;
            if self.last_save.elapsed() > CHECKPOINT_EVERY {
                self.save_or_warn()?;
            }
        }
        Ok(())
    }

    /// An iteration over the feed's next batch; without a learning rate its loss alone.
    fn step(&mut self, feed: &mut Feed<'_>, rate: Option<f64>) -> Result<Loss, Error> {
        let (options, optimiser) = (&self.loss, &mut self.optimiser);
        let (loss, origin) = match feed.take()? {
            Taken::Host(batch) => {
                self.inputs.check_batch(&batch)?;
                let (image, label) = (batch.image.view(), batch.label.view());
                let loss = match rate {
                    Some(rate) => self.net.step(image, label, options, optimiser, rate),
                    None => self.net.loss(image, label, options),
                };
                (loss.map_err(net_error)?, batch.origin)
            }
            Taken::Card(batch) => {
                let seen = net::DeviceBatch {
                    image: batch.image,
                    label: batch.label,
                    samples: batch.cases.len(),
                    patch: self.inputs.configuration.patch_shape,
                    ready: &batch.ready,
                };
                match rate {
                    Some(rate) => self.net.begin_step_on_device(&seen, options, optimiser, rate),
                    None => self.net.begin_loss_on_device(&seen, options),
                }
                .map_err(net_error)?;
                // Queued behind this iteration, not before it: the card has work while the host draws.
                feed.prepare()?;
                let loss = self.net.loss_of_device(options).map_err(net_error)?;
                let waited = self.net.waited_for_batch().map_err(net_error)?;
                let origin = Origin::Cases(batch.cases.clone());
                if let Some(stream) = self.net.card_stream() {
                    feed.give_back(batch, stream, waited)?;
                }
                (loss, origin)
            }
        };
        if !loss.total.is_finite() {
            let mode = if rate.is_some() { Mode::Training } else { Mode::Validation };
            self.inputs.check_intensities(mode, &origin)?;
        }
        Ok(loss)
    }

    /// Saves a checkpoint and ends if a signal asked to stop.
    fn stop_here(&mut self) -> Result<(), Error> {
        if !self.run.stop_requested() {
            return Ok(());
        }
        self.save_or_fail()?;
        let at = format!("at epoch {}, iteration {}", self.epochs.len(), self.iteration);
        Err(Error::stopped(at).hint("the same command continues from here"))
    }

    fn finish_epoch(
        &mut self,
        validation: Option<&mut Batches>,
        epoch: usize,
        begun: Instant,
        waited: f64,
    ) -> Result<(), Error> {
        let rate = self.schedule.rate(&self.state, epoch);
        let train_loss = self.loss_sum / self.iteration as f64;
        let validated = validation.is_some();
        let (validation_loss, pseudo_dice) = match validation {
            Some(batches) => self.validation_batches(batches, epoch)?,
            None => (f64::NAN, vec![f64::NAN; self.inputs.plan.targets().len()]),
        };
        // Without validation cases the training loss stands in, so that the plateau rule can end the training.
        let watched = if validated { validation_loss } else { train_loss };
        let verdict = self.schedule.after_epoch(&mut self.state, epoch, train_loss, watched);
        self.epochs.push(Epoch {
            epoch,
            learning_rate: rate,
            train_loss,
            validation_loss,
            train_loss_average: self.state.train_average,
            validation_loss_average: self.state.validation_average,
            pseudo_dice,
        });
        (self.iteration, self.loss_sum) = (0, 0.0);
        if verdict == Verdict::Plateau {
            self.ended_by = "plateau".into();
        }
        self.save_or_warn()?;
        let history = self.history()?;
        // Not the names of the finished model's files: an earlier model in this folder stays whole until the end.
        let live = self
            .model
            .file_beside(LIVE_PROGRESS, &self.curves())
            .and_then(|()| self.model.file_beside(LIVE_HISTORY, history.as_bytes()));
        self.warn_of(
            live,
            "it shows how the training goes, and is written again after the next epoch",
        );
        self.run.info(self.epoch_line(begun.elapsed(), waited));
        Ok(())
    }

    fn validation_batches(
        &mut self,
        batches: &mut Batches,
        epoch: usize,
    ) -> Result<(f64, Vec<f64>), Error> {
        let count = self.inputs.plan.recipe.schedule.validation_iterations;
        let first = (epoch * count) as u64;
        let mut counts = vec![ClassCounts::default(); self.inputs.plan.outputs()];
        let mut sum = 0.0;
        let (source, last) = (batches.source(), first + count as u64);
        Feed::run(source, first, last, self.run.threads().div_ceil(2), |feed| {
            for _ in 0..count {
                self.stop_here()?;
                let loss = self.step(feed, None)?;
                sum += loss.total;
                for (all, one) in counts.iter_mut().zip(&loss.counts) {
                    all.tp += one.tp;
                    all.fp += one.fp;
                    all.fn_ += one.fn_;
                }
            }
            Ok::<_, Error>(())
        })?;
        let dice = |c: &ClassCounts| match 2 * c.tp + c.fp + c.fn_ {
            0 => f64::NAN,
            sum => 2.0 * c.tp as f64 / sum as f64,
        };
        let mean = if count == 0 { f64::NAN } else { sum / count as f64 };
        // Regions have no background among them.
        let background = usize::from(self.inputs.plan.regions.is_empty());
        Ok((mean, counts[background..].iter().map(dice).collect()))
    }

    fn epoch_line(&self, took: Duration, waited: f64) -> String {
        let Some(e) = self.epochs.last() else { return String::new() };
        let names = self.inputs.plan.targets().into_iter();
        let dice: Vec<String> =
            names.zip(&e.pseudo_dice).map(|(name, d)| format!("{name} {d:.3}")).collect();
        format!(
            "epoch {}/{}: train loss {:.4}, validation loss {:.4}, pseudo-Dice {}, learning rate {:.2e}, {:.1} s, {:.1} % waiting for data",
            e.epoch,
            self.inputs.plan.recipe.schedule.epochs,
            e.train_loss,
            e.validation_loss,
            dice.join(", "),
            e.learning_rate,
            took.as_secs_f64(),
            100.0 * waited
        )
    }

    fn curves(&self) -> Vec<u8> {
        progress::draw(&self.epochs, &self.inputs.plan.targets()).encode()
    }

    fn history(&self) -> Result<String, Error> {
        text(&self.inputs.provenance, &History { epochs: self.epochs.clone() })
            .map_err(Error::failed)
    }

    /// Predicts the fold's validation cases in full; mean Dice per foreground class.
    ///
    /// # Errors
    /// As [`crate::validate`].
    pub fn validate(&mut self) -> Result<Vec<f64>, Error> {
        self.net.release_training();
        crate::validate(self.run, &mut self.net, self.inputs)
    }

    /// Writes the model.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn finish(self, info: ModelInfo) -> Result<(), Error> {
        let (curves, history) = (self.curves(), self.history()?);
        let mut commit = self.model;
        commit.bytes(model::WEIGHTS, &npz::encode(&self.net.parameters().map_err(net_error)?))?;
        commit.bytes(model::PLAN, &self.inputs.plan_bytes)?;
        commit.bytes(model::HISTORY, history.as_bytes())?;
        commit.bytes(model::PROGRESS, &curves)?;
        // Once more: the last chance for what couldn't be removed.
        checkpoint::tidy(self.out, &self.saved);
        commit.without(LIVE_PROGRESS);
        commit.without(LIVE_HISTORY);
        Ok(commit.finish(&self.inputs.provenance, &Model { model: info })?)
    }
}

fn optimiser(o: &artifact::recipe::Optimiser) -> Optimiser {
    let clip = (o.clip_norm > 0.0).then_some(o.clip_norm);
    match o.kind {
        OptimiserKind::Adam => Optimiser::adam(
            AdamOptions {
                beta1: o.beta1,
                beta2: o.beta2,
                epsilon: o.epsilon,
                weight_decay: o.weight_decay,
                amsgrad: o.amsgrad,
            },
            clip,
        ),
        OptimiserKind::Sgd => Optimiser::sgd(
            SgdOptions { momentum: o.momentum, nesterov: o.nesterov, weight_decay: o.weight_decay },
            clip,
        ),
    }
}
