//! Learning rate and the end of training.
//!
//! `plateau` is the 2018 paper's rule: moving averages of the training and validation loss; the rate is divided when
//! the training average hasn't improved by `min_improvement` for `reduce_after_epochs`; training ends when the
//! validation average hasn't for `stop_after_epochs`, but not before the rate is below `stop_below_learning_rate`.
//! `polynomial` is nnU-Net v2's: `learning_rate × (1 − epoch / epochs) ^ poly_power`.

use artifact::recipe::{self, ScheduleKind};
use serde::{Deserialize, Serialize};

/// The rule.
#[derive(Debug, Clone)]
pub struct Schedule {
    rule: recipe::Schedule,
    initial_rate: f64,
}

/// What the rule remembers between epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Learning rate of the coming epoch.
    pub learning_rate: f64,
    /// Moving average of the training loss; NaN before the first epoch.
    pub train_average: f64,
    /// Moving average of the validation loss; NaN before the first epoch.
    pub validation_average: f64,
    /// Lowest training average that counted as an improvement.
    pub best_train: f64,
    /// Epochs since then, or since the rate was divided.
    pub epochs_since_train: usize,
    /// Lowest validation average that counted as an improvement.
    pub best_validation: f64,
    /// Epochs since then.
    pub epochs_since_validation: usize,
}

/// What happens after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another epoch.
    Continue,
    /// The last epoch is done.
    EpochsDone,
    /// The validation loss no longer improves.
    Plateau,
}

impl Schedule {
    /// The rule of a recipe.
    pub fn new(rule: &recipe::Schedule, initial_rate: f64) -> Self {
        Self { rule: rule.clone(), initial_rate }
    }

    /// Before the first epoch.
    pub fn begin(&self) -> ScheduleState {
        ScheduleState {
            learning_rate: self.initial_rate,
            train_average: f64::NAN,
            validation_average: f64::NAN,
            best_train: f64::INFINITY,
            epochs_since_train: 0,
            best_validation: f64::INFINITY,
            epochs_since_validation: 0,
        }
    }

    /// The learning rate of `epoch` (from 0).
    pub fn rate(&self, state: &ScheduleState, epoch: usize) -> f64 {
        match self.rule.kind {
            ScheduleKind::Plateau => state.learning_rate,
            ScheduleKind::Polynomial => {
                let left = 1.0 - epoch as f64 / self.rule.epochs as f64;
                self.initial_rate * left.max(0.0).powf(self.rule.poly_power)
            }
        }
    }

    /// Takes the mean losses of `epoch` (from 0).
    pub fn after_epoch(
        &self,
        state: &mut ScheduleState,
        epoch: usize,
        train: f64,
        validation: f64,
    ) -> Verdict {
        let r = &self.rule;
        state.train_average = average(state.train_average, train, r.train_average_decay);
        state.validation_average =
            average(state.validation_average, validation, r.validation_average_decay);
        let step = |value: f64, best: &mut f64, since: &mut usize| {
            if value < *best - r.min_improvement {
                *best = value;
                *since = 0;
            } else {
                *since += 1;
            }
        };
        step(state.train_average, &mut state.best_train, &mut state.epochs_since_train);
        step(
            state.validation_average,
            &mut state.best_validation,
            &mut state.epochs_since_validation,
        );
        // The rate moves after the last epoch too: a longer training goes on from here as if it had been that long.
        let rest = if epoch + 1 >= r.epochs { Verdict::EpochsDone } else { Verdict::Continue };
        if r.kind == ScheduleKind::Polynomial {
            return rest;
        }
        if state.epochs_since_train >= r.reduce_after_epochs {
            state.learning_rate *= r.reduce_factor;
            state.epochs_since_train = 0;
        }
        let stale = state.epochs_since_validation >= r.stop_after_epochs;
        if stale && state.learning_rate < r.stop_below_learning_rate {
            return Verdict::Plateau;
        }
        rest
    }
}

fn average(old: f64, new: f64, decay: f64) -> f64 {
    if old.is_nan() { new } else { decay * old + (1.0 - decay) * new }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: ScheduleKind) -> recipe::Schedule {
        recipe::Schedule {
            kind,
            epochs: 1000,
            iterations_per_epoch: 250,
            validation_iterations: 50,
            poly_power: 0.9,
            train_average_decay: 0.5,
            validation_average_decay: 0.5,
            min_improvement: 5e-3,
            reduce_after_epochs: 30,
            reduce_factor: 0.2,
            stop_after_epochs: 60,
            stop_below_learning_rate: 1e-6,
        }
    }

    /// Epochs (counted from 1) after which the rate changed, and the last epoch with its verdict.
    fn run(
        schedule: &Schedule,
        loss: impl Fn(usize) -> (f64, f64),
    ) -> (Vec<usize>, usize, Verdict) {
        let mut state = schedule.begin();
        let mut changes = Vec::new();
        for epoch in 0.. {
            let before = schedule.rate(&state, epoch);
            let (train, validation) = loss(epoch);
            let verdict = schedule.after_epoch(&mut state, epoch, train, validation);
            if verdict != Verdict::Continue {
                return (changes, epoch + 1, verdict);
            }
            if schedule.rate(&state, epoch + 1) != before {
                changes.push(epoch + 1);
            }
        }
        unreachable!("epochs are bounded")
    }

    #[test]
    fn a_flat_loss_divides_the_rate_every_30_epochs_and_ends_below_1e_6() {
        // 3e-4 / 5^4 = 4.8e-7 is the first rate below 1e-6: after 1 + 4 × 30 epochs.
        let schedule = Schedule::new(&rule(ScheduleKind::Plateau), 3e-4);
        let (changes, last, verdict) = run(&schedule, |_| (0.5, 0.5));
        assert_eq!(changes, [31, 61, 91]);
        assert_eq!((last, verdict), (121, Verdict::Plateau));
    }

    #[test]
    fn an_improving_validation_loss_keeps_the_training_alive() {
        let schedule = Schedule::new(&rule(ScheduleKind::Plateau), 3e-4);
        let (_, last, verdict) = run(&schedule, |epoch| (0.5, 10.0 - 0.01 * epoch.min(300) as f64));
        // The average settles within a few epochs after epoch 300; 60 more and it ends.
        assert_eq!(verdict, Verdict::Plateau);
        assert!((360..=370).contains(&last), "ended after {last} epochs");
    }

    #[test]
    fn steps_smaller_than_the_threshold_add_up() {
        let schedule = Schedule::new(&rule(ScheduleKind::Plateau), 3e-4);
        // 1e-3 per epoch: the threshold of 5e-3 is passed every sixth epoch, so the rate never falls.
        let (changes, last, verdict) = run(&schedule, |epoch| (-1e-3 * epoch as f64, 0.0));
        assert_eq!((changes.len(), last, verdict), (0, 1000, Verdict::EpochsDone));
    }

    #[test]
    fn the_last_epoch_moves_the_rate_like_any_other() {
        let long = rule(ScheduleKind::Plateau);
        let short = recipe::Schedule { epochs: 31, ..long.clone() };
        let [a, b] = [long, short].map(|rule| {
            let schedule = Schedule::new(&rule, 3e-4);
            let mut state = schedule.begin();
            for epoch in 0..31 {
                schedule.after_epoch(&mut state, epoch, 0.5, 0.5);
            }
            state
        });
        assert_eq!(a, b);
        assert_eq!(a.learning_rate, 3e-4 * 0.2);
    }

    #[test]
    fn the_polynomial_falls_from_the_initial_rate_towards_zero() {
        let schedule = Schedule::new(&rule(ScheduleKind::Polynomial), 0.01);
        let state = schedule.begin();
        assert_eq!(schedule.rate(&state, 0), 0.01);
        assert!((schedule.rate(&state, 500) - 0.01 * 0.5f64.powf(0.9)).abs() < 1e-15);
        assert!(schedule.rate(&state, 999) > 0.0);
    }
}
