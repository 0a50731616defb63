//! Batches, prepared on threads of their own while the network works on the batch before.

use artifact::batch;
use augment::Loader;
use ndarray::{Array4, Array5};
use stage::Error;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Image `[n, c, z, y, x]` and label `[n, z, y, x]`.
pub type Batch = (Array5<f32>, Array4<i16>);

/// Where batches come from.
pub enum Source<'a> {
    /// Drawn and augmented here.
    Loader(&'a Loader),
    /// A spool's batch records, used in turn and again from the start when they are through.
    Spool(&'a [PathBuf]),
}

impl Source<'_> {
    /// Batch `index` of the training.
    ///
    /// # Errors
    /// If a spool's batch is missing or broken.
    pub fn batch(&self, index: u64) -> Result<Batch, Error> {
        match self {
            Source::Loader(loader) => {
                let batch = loader.batch(index);
                Ok((batch.image, batch.label))
            }
            Source::Spool(records) => {
                let at =
                    usize::try_from(index % records.len() as u64).expect("smaller than a length");
                let (_, image, label) = batch::read(&records[at])?;
                Ok((image, label))
            }
        }
    }
}

/// Consecutive batches, two of them prepared ahead.
pub struct Feed {
    batches: Receiver<Result<Batch, Error>>,
    waited: Duration,
}

impl Feed {
    /// Runs `body` with a feed of batches `from..to`; the feeding thread ends with it.
    pub fn run<T>(
        source: &Source<'_>,
        from: u64,
        to: u64,
        threads: usize,
        body: impl FnOnce(&mut Feed) -> T,
    ) -> T {
        std::thread::scope(|scope| {
            let (sender, batches) = sync_channel(1);
            scope.spawn(move || fill(source, from..to, threads, &sender));
            let mut feed = Feed { batches, waited: Duration::ZERO };
            let result = body(&mut feed);
            drop(feed);
            result
        })
    }

    /// The next batch.
    ///
    /// # Errors
    /// As [`Source::batch`].
    pub fn take(&mut self) -> Result<Batch, Error> {
        let begun = Instant::now();
        let batch = self.batches.recv();
        self.waited += begun.elapsed();
        batch.map_err(|_| Error::failed("the thread that prepares batches ended early"))?
    }

    /// Time spent waiting for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

fn fill(
    source: &Source<'_>,
    range: std::ops::Range<u64>,
    threads: usize,
    sender: &SyncSender<Result<Batch, Error>>,
) {
    // A pool of its own: samples don't queue behind the network's jobs.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(e) => {
            let _ = sender.send(Err(Error::failed(format!("cannot start threads: {e}"))));
            return;
        }
    };
    for index in range {
        let batch = pool.install(|| source.batch(index));
        let failed = batch.is_err();
        // The receiver is gone when training stopped early.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}
