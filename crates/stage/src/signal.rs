//! SIGINT and SIGTERM set a flag that stages ask between units of work. The second signal ends the process at once, from
//! within the signal handler, whatever its threads are doing; so does a unit of work that goes on long after the first.

use crate::Exit;
use crate::say::say;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;

/// How long a unit of work may go on after the first signal. Outputs are complete or absent at any moment, so ending in
/// the middle loses no more than what is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a signal came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    came: Arc<AtomicBool>,
    /// The stage ends by itself, when it has saved its state.
    saves: Arc<AtomicBool>,
}

impl Stop {
    /// Registers the handlers.
    pub(crate) fn install(label: &str) -> std::io::Result<Self> {
        let stop = Self::default();
        let code = Exit::Interrupted as i32;
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the conditional shutdown sees the flag of the previous signal, whichever of the two it was.
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&stop.came))?;
            signal_hook::flag::register(signal, Arc::clone(&stop.came))?;
        }
        stop.watch(label)?;
        Ok(stop)
    }

    /// Ends the process some time after the first signal, unless the stage does before.
    fn watch(&self, label: &str) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (saves, label) = (Arc::clone(&self.saves), label.to_string());
        let watch = move || {
            if signals.forever().next().is_none() {
                return;
            }
            std::thread::sleep(PATIENCE);
            if !saves.load(Ordering::Acquire) {
                say(format_args!(
                    "{label}: stopped: interrupted within a long unit of work; nothing half-written is left"
                ));
                low_level::exit(Exit::Interrupted as i32);
            }
        };
        // Where no thread can be had, the second signal is left.
        let _ = Builder::new().spawn(watch);
        Ok(())
    }

    /// See [`crate::Run::saves_at_signal`].
    pub(crate) fn wait_for_stage(&self) {
        self.saves.store(true, Ordering::Release);
    }

    pub(crate) fn requested(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
