//! The flags by which programs choose a device.

use crate::{Device, PrecisionChoice};
use stage::{Error, Run};

/// `--device` and `--precision`.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Activations and factors: f32, f32-fast (CPUs with AMX, cards), bf16, or auto
    #[arg(long, value_name = "P", default_value = "auto")]
    pub precision: PrecisionChoice,
}

impl DeviceArgs {
    /// Opens the device and logs which it is, and where `auto` found no card, why.
    ///
    /// # Errors
    /// One line if there is no such device, or it can't compute so.
    pub fn open(&self, run: &Run) -> Result<Device, Error> {
        let opened = Device::open_in(&self.device, self.precision);
        let (device, no_card) = opened.map_err(|e| Error::usage(e.to_string()))?;
        let reason = no_card.map_or(String::new(), |reason| format!("; {reason}"));
        run.info(format!("device {}{reason}", device.describe()));
        Ok(device)
    }
}
