//! What a training reads: plan, fold, cases or a spool; checked against each other before anything is computed.

use crate::feed::{Batch, Origin};
use artifact::case::{self, FOREGROUND, IMAGE, LABEL, OpenCase};
use artifact::plan::{Configuration, Plan};
use artifact::previous::{self, OpenPrevious};
use artifact::recipe::ScheduleKind;
use artifact::splits::{Fold, Splits};
use artifact::{Provenance, Record, batch, hash_bytes, hash_file, npy};
use augment::Mode;
use rayon::prelude::*;
use stage::Error;
use std::path::{Path, PathBuf};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Folder of `CASE/case.toml`.
    pub cases: PathBuf,
    /// The plan.
    pub plan: PathBuf,
    /// The folds; `splits.toml` beside the plan if not given.
    pub splits: Option<PathBuf>,
    /// Name of the configuration.
    pub configuration: String,
    /// Index of the fold.
    pub fold: usize,
    /// Replaces the plan's `schedule.epochs`.
    pub epochs: Option<usize>,
    /// Replaces the plan's `schedule.iterations_per_epoch`.
    pub iterations: Option<usize>,
    /// Second stage of a cascade: folders with the first stage's `CASE/previous.toml`.
    pub previous: Vec<PathBuf>,
    /// A spool to train from instead of augmenting here.
    pub batches: Option<PathBuf>,
    /// Predict the fold's validation cases in full at the end.
    pub validate: bool,
    /// Seed of weights and batches.
    pub seed: u64,
}

/// Everything that a training needs, in memory or mapped.
#[derive(Debug)]
pub struct Inputs {
    /// The plan with the request's length of training.
    pub plan: Plan,
    /// The plan file's bytes, for the copy beside the model.
    pub plan_bytes: Vec<u8>,
    /// The configuration to train.
    pub configuration: Configuration,
    /// The fold.
    pub fold: Fold,
    /// Cases to train on; empty when a spool is used.
    pub train: Vec<OpenCase>,
    /// What the first stage of a cascade saw in them; else empty.
    pub train_previous: Vec<OpenPrevious>,
    /// Cases to validate on.
    pub validation: Vec<OpenCase>,
    /// What the first stage of a cascade saw in them; else empty.
    pub validation_previous: Vec<OpenPrevious>,
    /// Batch records of the spool, in order.
    pub spool: Vec<PathBuf>,
    /// Hash of everything that decides the training but its number of epochs.
    pub training: String,
    /// Provenance of the model.
    pub provenance: Provenance,
    /// What is odd about the inputs.
    pub warnings: Vec<String>,
}

impl Inputs {
    /// Reads and checks.
    ///
    /// # Errors
    /// One line that names the file, what was found and what was expected.
    pub fn load(request: &Request, provenance: Provenance, device: &str) -> Result<Self, Error> {
        let plan_bytes = artifact::file::read(&request.plan, "read this plan")?;
        let mut plan = Record::<Plan>::load(&request.plan)?.body;
        let configuration = configuration(request, &plan)?;
        let schedule = &mut plan.recipe.schedule;
        schedule.epochs = request.epochs.unwrap_or(schedule.epochs);
        schedule.iterations_per_epoch = request.iterations.unwrap_or(schedule.iterations_per_epoch);
        if schedule.epochs == 0 || schedule.iterations_per_epoch == 0 {
            return Err(Error::usage("--epochs and --iterations must be at least 1"));
        }
        let folds = load_folds(request)?;
        let fold = folds[request.fold].clone();
        let iterations = schedule.epochs.saturating_mul(schedule.iterations_per_epoch);
        let (spool, mut warnings) = match &request.batches {
            None => Default::default(),
            Some(folder) => find_spool(folder, iterations)?,
        };
        let from_cases: &[String] = if request.batches.is_some() { &[] } else { &fold.train };
        let (train, train_hash) = open_cases(request, &plan, from_cases)?;
        let (validation, validation_hash) = open_cases(request, &plan, &fold.validation)?;
        let first_stage = FirstStage { request, plan: &plan, configuration: &configuration, folds };
        let (train_previous, train_seen) = first_stage.open(&train)?;
        let (validation_previous, validation_seen) = first_stage.open(&validation)?;

        let mut lengthless = plan.clone();
        if lengthless.recipe.schedule.kind == ScheduleKind::Plateau {
            lengthless.recipe.schedule.epochs = 0;
        }
        let text = toml::to_string(&lengthless)
            .map_err(|e| Error::failed(format!("plan as TOML: {e}")))?;
        let mut provenance = provenance
            .device(device)
            .seed(request.seed)
            .option("configuration", request.configuration.as_str())
            .option("fold", i64::try_from(request.fold).unwrap_or(i64::MAX))
            .input("plan", hash_bytes(text.as_bytes()))
            .input("fold", hash_bytes(format!("{:?} {:?}", fold.train, fold.validation).as_bytes()))
            .input("training cases", train_hash)
            .input("validation cases", validation_hash);
        if configuration.previous_stage.is_some() {
            provenance = provenance
                .input("first stage", hash_bytes((train_seen + &validation_seen).as_bytes()));
        }
        if !spool.is_empty() {
            let (hash, of_others) = check_spool(&spool, request, &plan, &fold)?;
            warnings.extend(of_others);
            provenance = provenance.input("batches", hash);
        }
        let training = provenance.key::<crate::checkpoint::Checkpoint>();
        let provenance = provenance
            .option("epochs", i64::try_from(plan.recipe.schedule.epochs).unwrap_or(i64::MAX))
            .option("validate", request.validate);
        Ok(Self {
            plan,
            plan_bytes,
            configuration,
            fold,
            train,
            train_previous,
            validation,
            validation_previous,
            spool,
            training,
            provenance,
            warnings,
        })
    }

    /// A batch that others made must be what the network was planned for.
    pub(crate) fn check_batch(&self, batch: &Batch) -> Result<(), Error> {
        let Origin::Record(record) = &batch.origin else { return Ok(()) };
        let wrong = |array: &str, line: String| {
            Err(artifact::Error::input(&record.with_file_name(array), line)
                .hint("this batch was made for another plan; run nnu-augment again")
                .into())
        };
        let c = &self.configuration;
        let (found, [z, y, x]) = (batch.image.shape(), c.patch_shape);
        let expected = [c.batch_size, c.network.input_channels, z, y, x];
        // A spool may hold other batch sizes, but the network's shapes are fixed.
        if found[1..] != expected[1..] || found[0] == 0 {
            return wrong(batch::IMAGE, format!("has shape {found:?}, expected {expected:?}"));
        }
        let plan = &self.plan;
        let classes = plan.labels.len() + usize::from(plan.ignore.is_some());
        match batch.label.iter().find(|&&l| usize::try_from(l).is_ok_and(|l| l >= classes)) {
            Some(l) => {
                wrong(batch::LABEL, format!("has class index {l}, expected less than {classes}"))
            }
            None => Ok(()),
        }
    }

    /// What a loss that is no number comes from, if it comes from what the batch was made of.
    ///
    /// # Errors
    /// The file with intensities of which no network makes anything.
    pub(crate) fn check_intensities(&self, mode: Mode, origin: &Origin) -> Result<(), Error> {
        let hint = "look at the image that this was made of, and at its channel's normalisation";
        let cases = match mode {
            Mode::Training => &self.train,
            Mode::Validation => &self.validation,
        };
        let found = match origin {
            Origin::Cases(shown) => shown.iter().try_for_each(|&i| cases[i].check_intensities()),
            Origin::Record(record) => batch::read(record).and_then(|(_, image, _)| {
                let file = record.with_file_name(batch::IMAGE);
                npy::check_numbers(&file, &image.view(), case::MOST_INTENSITY)
            }),
        };
        Ok(found.map_err(|e| e.hint(hint))?)
    }
}

fn configuration(request: &Request, plan: &Plan) -> Result<Configuration, Error> {
    let found = plan
        .configuration(&request.configuration)
        .map_err(|e| artifact::Error::input(&request.plan, e))?;
    let (name, folders) = (&request.configuration, request.previous.is_empty());
    match &found.previous_stage {
        Some(first) if folders => Err(Error::usage(format!(
            "configuration {name} takes the predictions of {first} as input, expected --previous DIR"
        ))
        .hint(format!(
            "nnu-infer --model {first}/fold_K --cases … --validation --next-stage … writes them, fold by fold"
        ))),
        None if !folders => Err(Error::usage(format!(
            "--previous is for the second stage of a cascade, and {name} is none"
        ))),
        _ => Ok(found.clone()),
    }
}

fn load_folds(request: &Request) -> Result<Vec<Fold>, Error> {
    let path = request.splits.clone().unwrap_or_else(|| request.plan.with_file_name("splits.toml"));
    let folds = Record::<Splits>::load(&path)?.body.folds;
    if request.fold >= folds.len() {
        return Err(Error::usage(format!(
            "--fold {}, but {} has folds 0 to {}",
            request.fold,
            path.display(),
            folds.len() - 1
        )));
    }
    Ok(folds)
}

/// Opens the cases and hashes what they hold.
fn open_cases(
    request: &Request,
    plan: &Plan,
    ids: &[String],
) -> Result<(Vec<OpenCase>, String), Error> {
    let path = |id: &String| request.cases.join(id).join("case.toml");
    let missing: Vec<&String> = ids.iter().filter(|id| !path(id).is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(Error::input(format!(
            "{}: {} of {} cases of fold {} are missing, such as {first}",
            request.cases.display(),
            missing.len(),
            ids.len(),
            request.fold
        ))
        .hint("run nnu-preprocess for this configuration first"));
    }
    let rules = plan.preprocessing_hash(&request.configuration).map_err(Error::input)?;
    let opened: Result<Vec<(OpenCase, String)>, Error> = ids
        .par_iter()
        .map(|id| {
            let path = path(id);
            let case = OpenCase::open(&path)?;
            check_case(request, plan, &rules, &path, &case)?;
            let hash = content_hash(&path, &case)?;
            Ok((case, hash))
        })
        .collect();
    let (cases, hashes): (Vec<OpenCase>, Vec<String>) = opened?.into_iter().unzip();
    Ok((cases, hash_bytes(hashes.join("\n").as_bytes())))
}

/// Whether a case was made for this plan and configuration.
fn check_case(
    request: &Request,
    plan: &Plan,
    rules: &str,
    path: &Path,
    case: &OpenCase,
) -> Result<(), Error> {
    let info = &case.record.body.case;
    let again = "this case was preprocessed for another plan; run nnu-preprocess again";
    let expected = [
        ("channels", info.channels, plan.channels.len()),
        ("classes", info.classes, plan.labels.len()),
        ("labelled", usize::from(info.labelled), 1),
    ];
    for (field, found, wanted) in expected {
        if found != wanted {
            let line =
                format!("case.{field} = {found}, but {} expects {wanted}", request.plan.display());
            return Err(artifact::Error::input(path, line).hint(again).into());
        }
    }
    let expected = plan.cases_of(&request.configuration).map_err(Error::input)?;
    if info.configuration != expected {
        let line =
            format!("case.configuration = \"{}\", expected \"{expected}\"", info.configuration);
        return Err(artifact::Error::input(path, line).into());
    }
    // Cases of foreign stages need not say which plan they follow.
    match case.record.provenance.inputs.iter().find(|i| i.name == "plan") {
        Some(made_by) if made_by.hash != rules => {
            let line =
                format!("was preprocessed by other rules than those of {}", request.plan.display());
            Err(artifact::Error::input(path, line).hint(again).into())
        }
        _ => Ok(()),
    }
}

/// The first stage's predictions for the second stage of a cascade, held against cases and folds.
struct FirstStage<'a> {
    request: &'a Request,
    plan: &'a Plan,
    configuration: &'a Configuration,
    folds: Vec<Fold>,
}

impl FirstStage<'_> {
    /// One per case, and a text that changes with their content; nothing for configurations that stand alone.
    fn open(&self, cases: &[OpenCase]) -> Result<(Vec<OpenPrevious>, String), Error> {
        let Some(first) = &self.configuration.previous_stage else { return Ok(Default::default()) };
        let id = |case: &OpenCase| case.record.body.case.id.clone();
        let found: Vec<_> =
            cases.iter().map(|c| previous::find(&self.request.previous, &id(c))).collect();
        if let Some(missing) = found.iter().position(Option::is_none) {
            let folders: Vec<_> =
                self.request.previous.iter().map(|f| f.display().to_string()).collect();
            return Err(Error::input(format!(
                "{}: {} of {} cases have no prediction of {first}, such as {}",
                folders.join(", "),
                found.iter().filter(|f| f.is_none()).count(),
                cases.len(),
                id(&cases[missing])
            ))
            .hint(format!(
                "train {first} for every fold and predict its validation cases with nnu-infer --validation --next-stage"
            )));
        }
        let opened: Vec<(OpenPrevious, String)> = cases
            .par_iter()
            .zip(found.into_iter().flatten().collect::<Vec<_>>())
            .map(|(case, path)| {
                let open = OpenPrevious::open(&path)?;
                self.check(first, case, &open, &path)?;
                let file = path.with_file_name(previous::ARRAY);
                Ok::<_, Error>((open, hash_file(&file)?))
            })
            .collect::<Result<_, _>>()?;
        let (opened, hashes): (Vec<_>, Vec<String>) = opened.into_iter().unzip();
        Ok((opened, hashes.join("\n")))
    }

    fn check(
        &self,
        first: &str,
        case: &OpenCase,
        open: &OpenPrevious,
        path: &Path,
    ) -> Result<(), Error> {
        let (info, case) = (&open.record.body.previous, &case.record.body.case);
        let plan = self.request.plan.display();
        let wrong = |line: String, hint: String| -> Result<(), Error> {
            Err(artifact::Error::input(path, line).hint(hint).into())
        };
        let again =
            || format!("predict with the {first} models of {plan} again, with --next-stage");
        if info.configuration != first {
            let line = format!(
                "previous.configuration = \"{}\", expected \"{first}\"",
                info.configuration
            );
            return wrong(line, again());
        }
        if info.shape != case.shape {
            let line =
                format!("previous.shape = {:?}, but its case has {:?}", info.shape, case.shape);
            return wrong(line, again());
        }
        if info.classes != self.plan.labels.len() {
            let expected = self.plan.labels.len();
            let line =
                format!("previous.classes = {}, but {plan} has {expected} labels", info.classes);
            return wrong(line, again());
        }
        let of_plan = self.plan.preprocessing_hash(first).map_err(Error::input)?;
        // Predictions of foreign programs need not say which plan they follow.
        let mut inputs = open.record.provenance.inputs.iter();
        if inputs.any(|i| i.name == previous::PREPROCESSING && i.hash != of_plan) {
            return wrong(format!("was predicted by models of another plan than {plan}"), again());
        }
        open.record.verify(path)?;
        let fold = self.folds.iter().position(|f| f.validation.contains(&case.id));
        if let Some(unseen) = fold.filter(|fold| info.folds.iter().any(|f| f != fold)) {
            return wrong(
                format!(
                    "previous.folds = {:?}, expected [{unseen}], the fold that was not trained on case {}",
                    info.folds, case.id
                ),
                "a second stage that learns from predictions of seen cases trusts them too much"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Hash of what a case holds; siblings are held against the record's hashes where it gives any.
fn content_hash(path: &Path, case: &OpenCase) -> Result<String, Error> {
    case.record.verify(path)?;
    let mut text = format!("{:?}", case.record.body);
    for name in [IMAGE, LABEL, FOREGROUND] {
        text += match case.record.header.files.get(name) {
            Some(hash) if !hash.is_empty() => hash.clone(),
            _ => hash_file(&path.with_file_name(name))?,
        }
        .as_str();
    }
    Ok(hash_bytes(text.as_bytes()))
}

/// The records `000000/batch.toml`, … of a spool, in order, and what is odd about it for this many iterations.
fn find_spool(folder: &Path, iterations: usize) -> Result<(Vec<PathBuf>, Vec<String>), Error> {
    let spool: Vec<PathBuf> =
        (0..).map(|i| batch::path(folder, i)).take_while(|p| p.is_file()).collect();
    let (there, shown) = (spool.len(), folder.display());
    let behind: Vec<usize> = batch::numbers(folder)?.into_iter().filter(|n| *n > there).collect();
    let mut warnings = Vec::new();
    if let Some(first) = behind.first() {
        let count = behind.len();
        warnings.push(format!(
            "{shown}: batch {there:06} is missing; {count} behind it, from {first:06} on, aren't used"
        ));
    }
    if spool.is_empty() {
        let found = warnings.pop().unwrap_or_else(|| format!("{shown}: no batches"));
        return Err(Error::input(format!("{found}, expected 000000/batch.toml, 000001/…"))
            .hint("write them with nnu-augment or a program of your own; crates/artifact/README.md has the format"));
    }
    if there < iterations {
        warnings.push(format!(
            "{shown}: {there} batches for {iterations} iterations; they are used again in turn"
        ));
    }
    Ok((spool, warnings))
}

/// Hash of what a spool holds, checked against plan and fold; and a warning if batches follow another plan.
fn check_spool(
    spool: &[PathBuf],
    request: &Request,
    plan: &Plan,
    fold: &Fold,
) -> Result<(String, Option<String>), Error> {
    let configuration = plan.configuration(&request.configuration).map_err(Error::input)?;
    let plan_hash = augment::spool::plan_hash(plan, configuration);
    let checked: Result<Vec<(String, bool)>, Error> = spool
        .par_iter()
        .enumerate()
        .map(|(index, path)| check_record(path, index, request, fold, &plan_hash))
        .collect();
    let (hashes, of_plan): (Vec<String>, Vec<bool>) = checked?.into_iter().unzip();
    let warning = of_plan.iter().position(|ours| !ours).map(|first| {
        format!(
            "{}: {} of {} batches were made by other rules than those of {} for {} (patch, batch size, sampling, augmentation)",
            spool[first].display(),
            of_plan.iter().filter(|ours| !**ours).count(),
            spool.len(),
            request.plan.display(),
            request.configuration
        )
    });
    Ok((hash_bytes(hashes.concat().as_bytes()), warning))
}

/// Holds the record of batch `index` against plan and fold. Hash of what the batch holds, siblings held against the record's
/// hashes where it gives any; and whether it follows the plan, as far as it says.
fn check_record(
    path: &Path,
    index: usize,
    request: &Request,
    fold: &Fold,
    plan_hash: &str,
) -> Result<(String, bool), Error> {
    let record = Record::<batch::Batch>::load(path)?;
    let info = &record.body.batch;
    if info.index != index {
        let line = format!("batch.index = {}, but its folder says {index}", info.index);
        let hint = "batches of two spools are mixed, or one was renamed; run nnu-augment again";
        return Err(artifact::Error::input(path, line).hint(hint).into());
    }
    if let Some(seen) = info.cases.iter().find(|case| fold.validation.contains(case)) {
        let line = format!(
            "batch.cases has {seen}, expected none that fold {} is validated on",
            request.fold
        );
        let hint = format!("give the spool that nnu-augment --fold {} writes", request.fold);
        return Err(artifact::Error::input(path, line).hint(hint).into());
    }
    record.verify(path)?;
    let mut text = hash_file(path)?;
    for name in [batch::IMAGE, batch::LABEL] {
        text += &match record.header.files.get(name) {
            Some(hash) if !hash.is_empty() => hash.clone(),
            _ => hash_file(&path.with_file_name(name))?,
        };
    }
    // Batches of foreign programs need not say which plan they follow.
    let mut inputs = record.provenance.inputs.iter();
    Ok((text, inputs.all(|i| i.name != "plan" || i.hash == plan_hash)))
}
