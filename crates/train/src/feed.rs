//! Batches, prepared on threads of their own while the network works on the batch before.

use artifact::batch;
use augment::Loader;
use augment::device::{DeviceBatch, DeviceLoader};
use kernels::{GpuError, Stream};
use ndarray::{Array4, Array5};
use stage::Error;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Numbers of a batch in this machine's memory.
pub struct Batch {
    /// `[n, c, z, y, x]`.
    pub image: Array5<f32>,
    /// `[n, z, y, x]`.
    pub label: Array4<i16>,
    /// What they were made of.
    pub origin: Origin,
}

/// Where a batch's numbers come from.
pub enum Origin {
    /// The loader's cases of these indices.
    Cases(Vec<usize>),
    /// A batch record of a spool.
    Record(PathBuf),
}

/// Where batches come from.
pub enum Source<'a> {
    /// Drawn and augmented on threads of this machine.
    Loader(&'a Loader),
    /// Drawn here, augmented on the network's card.
    Card(&'a mut DeviceLoader),
    /// A spool's batch records, used in turn and again from the start when they are through.
    Spool(&'a [PathBuf]),
}

/// What is prepared on threads.
#[derive(Clone, Copy)]
enum OnThreads<'a> {
    Loader(&'a Loader),
    Spool(&'a [PathBuf]),
}

impl OnThreads<'_> {
    /// Batch `index` of the training.
    fn batch(self, index: u64) -> Result<Batch, Error> {
        match self {
            Self::Loader(loader) => {
                let batch = loader.batch(index);
                let origin = Origin::Cases(batch.cases);
                Ok(Batch { image: batch.image, label: batch.label, origin })
            }
            Self::Spool(records) => {
                let at =
                    usize::try_from(index % records.len() as u64).expect("smaller than a length");
                let (_, image, label) = batch::read(&records[at])?;
                Ok(Batch { image, label, origin: Origin::Record(records[at].clone()) })
            }
        }
    }
}

/// A batch of a feed.
pub enum Taken {
    /// In this machine's memory.
    Host(Batch),
    /// In the card's; to be given to [`Feed::give_back`] before the next but one is taken.
    Card(DeviceBatch),
}

/// Consecutive batches, prepared ahead.
pub struct Feed<'a> {
    from: From<'a>,
    waited: Duration,
}

enum From<'a> {
    Threads(Receiver<Result<Batch, Error>>),
    /// No thread could be started: each batch is prepared when it is taken.
    Here(OnThreads<'a>, Range<u64>),
    Card {
        loader: &'a mut DeviceLoader,
        ahead: Option<DeviceBatch>,
        next: u64,
        end: u64,
    },
}

impl Feed<'_> {
    /// Runs `body` with a feed of batches `from..to`; what prepares them ends with it.
    pub fn run<T>(
        source: Source<'_>,
        from: u64,
        to: u64,
        threads: usize,
        body: impl FnOnce(&mut Feed<'_>) -> T,
    ) -> T {
        let on_threads = match source {
            Source::Card(loader) => {
                let from = From::Card { loader, ahead: None, next: from, end: to };
                return body(&mut Feed { from, waited: Duration::ZERO });
            }
            Source::Loader(loader) => OnThreads::Loader(loader),
            Source::Spool(records) => OnThreads::Spool(records),
        };
        std::thread::scope(|scope| {
            let (sender, batches) = sync_channel(1);
            let thread = stage::threads::beside_in(scope, move || {
                fill(on_threads, from..to, threads, &sender);
            });
            let from = match thread {
                Some(_) => From::Threads(batches),
                None => From::Here(on_threads, from..to),
            };
            let mut feed = Feed { from, waited: Duration::ZERO };
            let result = body(&mut feed);
            drop(feed);
            result
        })
    }

    /// The next batch.
    ///
    /// # Errors
    /// If a spool's batch is missing or broken, or the card fails.
    pub fn take(&mut self) -> Result<Taken, Error> {
        match &mut self.from {
            From::Threads(batches) => {
                let begun = Instant::now();
                let batch = batches.recv();
                self.waited += begun.elapsed();
                let ended = "the thread that prepares batches ended early";
                batch.map_err(|_| Error::failed(ended))?.map(Taken::Host)
            }
            From::Here(source, range) => {
                let begun = Instant::now();
                let index = range.next().ok_or_else(|| Error::failed("no batch is left"))?;
                let batch = source.batch(index);
                self.waited += begun.elapsed();
                batch.map(Taken::Host)
            }
            From::Card { loader, ahead, next, .. } => {
                let batch = match ahead.take() {
                    Some(batch) => batch,
                    None => loader.batch(*next).map_err(gpu_error)?,
                };
                *next += 1;
                Ok(Taken::Card(batch))
            }
        }
    }

    /// Has the card make the next batch, if there is one, while it works on the present one. (Threads do without.)
    ///
    /// # Errors
    /// If the card fails.
    pub fn prepare(&mut self) -> Result<(), Error> {
        if let From::Card { loader, ahead, next, end } = &mut self.from
            && next < end
            && ahead.is_none()
        {
            *ahead = Some(loader.batch(*next).map_err(gpu_error)?);
        }
        Ok(())
    }

    /// The card's stream `reader` was asked for all that reads this batch; `waited` is how long it had to wait for it.
    ///
    /// # Errors
    /// If the card fails.
    pub fn give_back(
        &mut self,
        batch: DeviceBatch,
        reader: &Stream,
        waited: Duration,
    ) -> Result<(), Error> {
        self.waited += waited;
        if let From::Card { loader, .. } = &mut self.from {
            loader.give_back(batch.done(reader).map_err(gpu_error)?);
        }
        Ok(())
    }

    /// Time that the network spent waiting for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

fn gpu_error(error: GpuError) -> Error {
    Error::failed(error.to_string())
}

fn fill(
    source: OnThreads<'_>,
    range: Range<u64>,
    threads: usize,
    sender: &SyncSender<Result<Batch, Error>>,
) {
    // A pool of its own: samples don't queue behind the network's jobs, if there are threads to be had for it.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok();
    for index in range {
        let batch = match &pool {
            Some(pool) => pool.install(|| source.batch(index)),
            None => source.batch(index),
        };
        let failed = batch.is_err();
        // The receiver is gone when training stopped early.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}
