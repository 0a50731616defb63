//! All cases of one call: which are up to date, how many at a time, what becomes of a failed one.

use crate::Args;
use artifact::case::Case;
use artifact::dataset::{Dataset, DatasetCase};
use artifact::plan::{Configuration, Plan};
use artifact::prediction::class_indices;
use artifact::{Provenance, Record, hash_file, image, up_to_date};
use preprocess::{configuration, preprocess, resample, target_spacing, write_case};
use rayon::prelude::*;
use stage::{Error, Exit, Progress, Result, Run};
use std::collections::BTreeSet;
use std::path::PathBuf;

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
    let dataset = Dataset::load(&args.dataset)?;
    let plan_hash = plan.preprocessing_hash(&args.configuration).map_err(Error::input)?;
    let job = Job { args, run, dataset, plan, plan_hash };
    job.check()?;
    let cases = job.chosen()?;
    let progress = run.progress("cases", cases.len());
    let mut results = Vec::new();
    for group in job.groups(&cases, &settings) {
        let one = |case: &&DatasetCase| job.one(case, &progress);
        results.par_extend(group.par_iter().map(one));
        run.check_stop()?;
    }
    drop(progress);
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
                Error::usage(format!(
                    "--case {id}: no such case in {}",
                    self.args.dataset.display()
                ))
            })
        };
        // A case named twice is done once: two writers of one output would get in each other's way.
        let mut seen = BTreeSet::new();
        self.args.case.iter().filter(|id| seen.insert(*id)).map(find).collect()
    }

    /// Cases in order, cut where the next one would exceed the memory.
    fn groups<'c>(
        &self,
        cases: &[&'c DatasetCase],
        settings: &Configuration,
    ) -> Vec<Vec<&'c DatasetCase>> {
        let budget = self.args.memory * (1u64 << 30) as f64;
        let mut groups: Vec<Vec<_>> = Vec::new();
        let mut taken = f64::INFINITY;
        for &case in cases {
            let needed = memory(case, &self.plan, settings);
            if taken + needed > budget {
                groups.push(Vec::new());
                taken = 0.0;
            }
            taken += needed;
            groups.last_mut().expect("the first case opens a group").push(case);
        }
        groups
    }

    fn one(&self, case: &DatasetCase, progress: &Progress) -> Result<Outcome> {
        if self.run.stop_requested() {
            return Ok(Outcome::Skipped);
        }
        let outcome = self.process(case).map_err(|e| e.context(format!("case {}", case.id)));
        if let Err(error) = &outcome {
            self.run.report(error);
        }
        progress.add(1);
        outcome
    }

    fn process(&self, case: &DatasetCase) -> Result<Outcome> {
        let record = self.record(case)?;
        let made = self.provenance(case)?;
        if !self.run.force() && up_to_date::<Case>(&record, &made.key::<Case>()) {
            self.run.debug(format!("{} is up to date", record.display()));
            return Ok(Outcome::UpToDate);
        }
        let image = self.dataset.read_image(case)?;
        let label = match &case.label {
            None => None,
            Some(path) => {
                let label = self.dataset.read_label(case)?;
                label
                    .geometry
                    .same_grid(&image.geometry)
                    .map_err(|e| Error::input(format!("{}: {e} as the image", path.display())))?;
                Some(class_indices(path, &label, &self.plan.labels, self.plan.ignore.as_ref())?)
            }
        };
        let done = preprocess(&case.id, image, label, &self.plan, &self.args.configuration)?;
        write_case(&record, &done, &made)?;
        self.run.debug(format!("wrote {}", record.display()));
        Ok(Outcome::Written)
    }

    fn record(&self, case: &DatasetCase) -> Result<PathBuf> {
        // Ids may come from a table in dataset.json; they become a folder's name.
        if case.id.is_empty() || case.id.starts_with('.') || case.id.contains(['/', '\\']) {
            return Err(Error::input("this id can't be a folder's name"));
        }
        Ok(self.args.out.join(&case.id).join("case.toml"))
    }

    fn provenance(&self, case: &DatasetCase) -> Result<Provenance> {
        let made = self.run.provenance();
        let made = made.option("configuration", self.args.configuration.as_str());
        let mut made = made.option("case", case.id.as_str()).input("plan", &self.plan_hash);
        let images = case.images.iter().map(|path| ("image", path));
        for (role, path) in images.chain(case.label.iter().map(|path| ("label", path))) {
            for file in image::files_of(path)? {
                made = made.input(role, hash_file(&file)?);
            }
        }
        Ok(made)
    }

    fn summary(&self, cases: &[&DatasetCase], results: &[Result<Outcome>]) -> Result<()> {
        let count = |o: Outcome| results.iter().filter(|r| matches!(r, Ok(x) if *x == o)).count();
        let (written, kept) = (count(Outcome::Written), count(Outcome::UpToDate));
        let out = self.args.out.display();
        self.run.info(format!("cases: {written} written to {out}, {kept} up to date"));
        let failed = cases.iter().zip(results).filter_map(|(case, result)| {
            result.as_ref().err().map(|error| (case.id.as_str(), error.exit))
        });
        let (ids, exits): (Vec<&str>, Vec<Exit>) = failed.unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let message = format!("{} of {} cases failed: {}", ids.len(), cases.len(), ids.join(", "));
        // A full disk outranks a broken image: the same command may succeed later.
        let inputs = exits.iter().all(|e| *e == Exit::Input);
        Err(if inputs { Error::input(message) } else { Error::failed(message) })
    }
}

/// Bytes that a case takes at its peak, from the images' headers; 0 if they can't be read, which will fail at once.
///
/// While reading: the file's bytes, taken as f32, and the f32 image. While resampling: the image, one cropped channel,
/// mask and label, the new image, a slab. While writing: the new image twice.
fn memory(case: &DatasetCase, plan: &Plan, settings: &Configuration) -> f64 {
    let Some(Ok((geometry, _))) = case.images.first().map(|path| image::read_header(path)) else {
        return 0.0;
    };
    let transpose = plan.geometry.transpose;
    let from_mm = transpose.map(|axis| geometry.spacing_mm[axis]);
    let shape = transpose.map(|axis| geometry.shape[axis]);
    let to_mm = target_spacing(settings, from_mm);
    let target = resample::new_shape(shape, from_mm, to_mm);
    let threshold = plan.recipe.preprocessing.anisotropy_threshold;
    let slab = resample::working_bytes(shape, from_mm, to_mm, target, threshold);
    let [before, after] = [shape, target].map(|s| s.iter().map(|&n| n as f64).product::<f64>());
    let channels = plan.channels.len() as f64;
    let label = 8.0 * before + 4.0 * after;
    8.0 * channels * before + 8.0 * channels * after + label + slab as f64
}
