//! How a stage ends when it doesn't end well.

use std::fmt;

/// Exit codes besides 0 (done, or already up to date).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Failed while running.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// An input is missing, broken, or doesn't fit the other inputs.
    Input = 3,
    /// Stopped early by a signal, or another program is at work on the output; the same command continues.
    Stopped = 75,
    /// Interrupted.
    Interrupted = 130,
}

/// One line (object, found, expected), the way out, the exit code.
#[derive(Debug, Clone)]
pub struct Error {
    /// Exit code.
    pub exit: Exit,
    /// One line.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// Results of stages.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// Something failed that isn't the fault of an input.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Inputs are broken or don't fit each other.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::Input, message)
    }

    /// Stopped by a signal; the same command continues from the last checkpoint.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(Exit::Stopped, message)
    }

    /// Ended by a signal; nothing half-written is left.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted; nothing half-written is left")
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what: ` before the message, such as the case it concerns.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<artifact::Error> for Error {
    fn from(error: artifact::Error) -> Self {
        let exit = match error.fault {
            artifact::Fault::Input => Exit::Input,
            artifact::Fault::Io => Exit::Failed,
            artifact::Fault::Busy => Exit::Stopped,
            artifact::Fault::Interrupted => return Self::interrupted(),
        };
        Self { exit, message: error.to_string(), hint: error.hint }
    }
}
