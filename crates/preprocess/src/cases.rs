//! All cases of one call: which are up to date, how many at a time, what becomes of a failed one.

use crate::Args;
use crate::budget::{Budget, Share};
use artifact::case::Case;
use artifact::dataset::{Dataset, DatasetCase, check_id};
use artifact::image::folder::linked;
use artifact::image::{self, Reader, Volume};
use artifact::plan::{Configuration, Plan};
use artifact::prediction::class_indices;
use artifact::{Provenance, Record, file, hash_bytes, hash_file};
use preprocess::{Extent, configuration, preprocess, write_case};
use stage::{Error, Exit, Result, Run, memory};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const GIB: f64 = (1u64 << 30) as f64;

/// What became of a case that didn't fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    UpToDate,
    /// A signal came first.
    Skipped,
}

/// What every case of the call needs.
struct Job<'a> {
    args: &'a Args,
    run: &'a Run,
    dataset: Dataset,
    plan: Plan,
    plan_hash: String,
}

pub(crate) fn run(args: &Args, run: &Run) -> Result<()> {
    if !(args.memory.is_finite() && args.memory > 0.0) {
        return Err(Error::usage(format!("--memory {}, expected a positive number", args.memory)));
    }
    let plan = Record::<Plan>::load(&args.plan)?.body;
    let settings = configuration(&plan, &args.configuration)
        .map_err(|e| e.context(args.plan.display()))?
        .clone();
    if let Some(from) = &settings.cases_from {
        let name = &args.configuration;
        return Err(Error::usage(format!(
            "--configuration {name} uses the cases of {from}, and has none of its own"
        ))
        .hint(format!("--configuration {from} writes them, once for both")));
    }
    let mut dataset = Dataset::load(&args.dataset)?;
    if dataset.reader != plan.dataset.reader {
        let [told, planned] = [dataset.reader, plan.dataset.reader].map(Reader::name);
        run.warn(format!(
            "{}: images are read by {planned}, as {} says, although dataset.json says {told}",
            args.dataset.display(),
            args.plan.display()
        ));
        dataset.reader = plan.dataset.reader;
    }
    let plan_hash = plan.preprocessing_hash(&args.configuration).map_err(Error::input)?;
    let job = Job { args, run, dataset, plan, plan_hash };
    job.check()?;
    let cases = job.chosen()?;
    job.unnamed().iter().for_each(|error| run.report(&error.clone().into()));
    let results = job.all(&cases, &settings)?;
    job.summary(&cases, &results)
}

impl Job<'_> {
    /// Data set and plan must belong together: said once, not per case.
    fn check(&self) -> Result<()> {
        let (found, expected) = (self.dataset.channels.len(), self.plan.channels.len());
        if found != expected {
            return Err(Error::input(format!(
                "{}: has {found} channels, but {} expects {expected}",
                self.args.dataset.display(),
                self.args.plan.display()
            ))
            .hint("give the plan that was made for this data set"));
        }
        Ok(())
    }

    fn chosen(&self) -> Result<Vec<&DatasetCase>> {
        if self.args.case.is_empty() {
            return Ok(self.dataset.training.iter().collect());
        }
        let find = |id: &String| {
            self.dataset.case(id).ok_or_else(|| {
                Error::input(format!("{}: has no case {id}", self.args.dataset.display()))
            })
        };
        // A case named twice is done once: two writers of one output would get in each other's way.
        let mut seen = BTreeSet::new();
        self.args.case.iter().filter(|id| seen.insert(*id)).map(find).collect()
    }

    /// Does the cases, begun in their order; what became of each.
    fn all(
        &self,
        cases: &[&DatasetCase],
        settings: &Configuration,
    ) -> Result<Vec<Result<Outcome>>> {
        let threads = self.run.threads();
        let budget = Budget::new(self.args.memory * GIB, threads);
        let progress = self.run.progress("cases", cases.len());
        let next = AtomicUsize::new(0);
        let results: Vec<OnceLock<Result<Outcome>>> =
            cases.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(index) else { return };
                let outcome = self.one(case, settings, &budget);
                progress.add(1);
                // Nobody else has this index.
                let _ = results[index].set(outcome);
            }
        };
        // Half of these threads may wait for the disk. They are none of rayon's: one of those, while it waits for a part
        // of its case, could begin another case, and with it wait for the memory of the first.
        std::thread::scope(|scope| {
            let workers = (0..cases.len().min(2 * threads))
                .map_while(|_| stage::threads::beside_in(scope, work));
            if workers.count() == 0 {
                work();
            }
        });
        drop(progress);
        self.run.check_stop()?;
        Ok(results.into_iter().map(|r| r.into_inner().unwrap_or(Ok(Outcome::Skipped))).collect())
    }

    fn one(
        &self,
        case: &DatasetCase,
        settings: &Configuration,
        budget: &Budget,
    ) -> Result<Outcome> {
        if self.run.stop_requested() {
            return Ok(Outcome::Skipped);
        }
        let share = budget.share(bytes(case, &self.plan, settings));
        let outcome = match stage::contain(|| self.process(case, share)) {
            Err(error) if error.exit == Exit::Interrupted => return Ok(Outcome::Skipped),
            outcome => outcome,
        };
        let outcome = outcome.map_err(|e| e.context(format!("case {}", case.id)));
        if let Err(error) = &outcome {
            self.run.report(error);
        }
        outcome
    }

    fn process(&self, case: &DatasetCase, mut share: Share<'_>) -> Result<Outcome> {
        let record = self.record(case)?;
        if !self.run.force() && record.exists() {
            let made = self.provenance(case, &stored_hashes(case)?);
            if self.run.outputs().up_to_date::<Case>(&record, &made)? {
                self.run.debug(format!("{} is up to date", record.display()));
                return Ok(Outcome::UpToDate);
            }
        }
        let possible = |bytes: &f64| memory::limit().is_none_or(|limit| *bytes <= limit as f64);
        if let Some(bytes) = share.excess().filter(possible) {
            let (most, gib) = (self.args.memory, memory::gib(bytes));
            let line = format!("case {} takes {gib} GiB, more than --memory {most}", case.id);
            self.run.info(format!("{line}: done alone"));
        }
        // Loading refuses such training cases.
        let tests = Some(case).filter(|case| case.label.is_none());
        if let Some((_, error)) = self.dataset.check_names(tests).pop() {
            return Err(error.into());
        }
        let files: Vec<PathBuf> = case.images.iter().chain(&case.label).cloned().collect();
        memory::require(image::reading_bytes(&files))?;
        linked(&case.images).iter().for_each(|linked| self.run.warn(linked));
        let mut hashes = Vec::new();
        let reader = self.dataset.reader;
        let (image, apart) =
            self.dataset.read_image_with(case, |path| read(reader, path, "image", &mut hashes))?;
        apart.iter().for_each(|apart| self.run.warn(apart));
        let label = match &case.label {
            None => None,
            Some(path) => {
                let label = self
                    .dataset
                    .read_label_with(case, |path| read(reader, path, "label", &mut hashes))?;
                let on = (case.images[0].as_path(), &image.geometry);
                let (label, apart) = reader.lay(path, label, on)?;
                apart.iter().for_each(|apart| self.run.warn(apart));
                Some(class_indices(path, &label, &self.plan.labels, self.plan.ignore.as_ref())?)
            }
        };
        let done = preprocess(&case.id, image, label, &self.plan, &self.args.configuration)?;
        if let Some(strange) = Extent::of_case(&done.case).strange() {
            self.run.warn(format!("case {}: {strange}", case.id));
        }
        share.computed(done.bytes() as f64);
        let made = self.provenance(case, &hashes);
        let Some(commit) = self.run.begin::<Case>(&record, &made)? else {
            return Ok(Outcome::UpToDate);
        };
        write_case(commit, &done, &made)?;
        self.run.debug(format!("wrote {}", record.display()));
        Ok(Outcome::Written)
    }

    fn record(&self, case: &DatasetCase) -> Result<PathBuf> {
        // Ids may come from a table in dataset.json.
        check_id(&case.id).map_err(Error::input)?;
        Ok(self.args.out.join(&case.id).join("case.toml"))
    }

    fn provenance(&self, case: &DatasetCase, hashes: &[Hash]) -> Provenance {
        let made = self.run.provenance();
        let made = made.option("configuration", self.args.configuration.as_str());
        let made = made.option("case", case.id.as_str()).input("plan", &self.plan_hash);
        hashes.iter().fold(made, |made, (role, hash)| made.input(*role, hash))
    }

    /// Cases that can't be named, where all are done.
    fn unnamed(&self) -> &[artifact::Error] {
        if self.args.case.is_empty() { &self.dataset.faults } else { &[] }
    }

    fn summary(&self, cases: &[&DatasetCase], results: &[Result<Outcome>]) -> Result<()> {
        let count = |o: Outcome| results.iter().filter(|r| matches!(r, Ok(x) if *x == o)).count();
        let (written, kept) = (count(Outcome::Written), count(Outcome::UpToDate));
        let out = self.args.out.display();
        self.run.info(format!("cases: {written} written to {out}, {kept} up to date"));
        let failed = cases.iter().zip(results).filter_map(|(case, result)| {
            result.as_ref().err().map(|error| (case.id.as_str(), error.exit))
        });
        let named = |error: &artifact::Error| {
            error.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        let unnamed = self.unnamed();
        let failed = failed.map(|(id, exit)| (id.to_owned(), exit));
        let failed = failed.chain(unnamed.iter().map(|e| (named(e), Exit::Input)));
        let (ids, exits): (Vec<String>, Vec<Exit>) = failed.unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let all = cases.len() + unnamed.len();
        let message = format!("{} of {all} cases failed: {}", ids.len(), ids.join(", "));
        // A full disk outranks a broken image: the same command may succeed later.
        let inputs = exits.iter().all(|e| *e == Exit::Input);
        Err(if inputs { Error::input(message) } else { Error::failed(message) })
    }
}

/// A file's role and the hash of its bytes.
type Hash = (&'static str, String);

/// Of all files of a case, without decoding them.
fn stored_hashes(case: &DatasetCase) -> Result<Vec<Hash>> {
    let mut hashes = Vec::new();
    let images = case.images.iter().map(|path| ("image", path));
    for (role, path) in images.chain(case.label.iter().map(|path| ("label", path))) {
        for file in image::files_of(path)? {
            hashes.push((role, hash_file(&file)?));
        }
    }
    Ok(hashes)
}

/// Reads an image, and adds the hashes of its files.
fn read(
    reader: Reader,
    path: &Path,
    role: &'static str,
    hashes: &mut Vec<Hash>,
) -> artifact::Result<Volume> {
    let mut stored = Vec::new();
    for file in image::files_of(path)? {
        let bytes = file::read(&file, "read")?;
        hashes.push((role, hash_bytes(&bytes)));
        stored.push(bytes);
    }
    reader.decode(path, stored)
}

/// Bytes that a case takes at its peak, from the images' headers; 0 if they can't be read, which will fail at once.
///
/// While reading: the image, and of one file the stored voxels and the same as f32. After that see [`Extent::bytes`].
fn bytes(case: &DatasetCase, plan: &Plan, settings: &Configuration) -> f64 {
    let reader = plan.dataset.reader;
    let Some(Ok((geometry, _))) = case.images.first().map(|path| reader.read_header(path)) else {
        return 0.0;
    };
    let extent = Extent::of_image(&geometry, settings, plan);
    let voxels: f64 = geometry.shape.iter().map(|&n| n as f64).product();
    let reading = (4.0 * plan.channels.len() as f64 + 12.0) * voxels;
    reading.max(extent.bytes(plan))
}
