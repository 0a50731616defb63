//! What `select` compares: predictions per configuration, and the models that made them.

use super::all_named;
use artifact::model::{Model, PLAN, WEIGHTS};
use artifact::plan::Plan;
use artifact::prediction::Found;
use artifact::selection::SelectedModel;
use artifact::splits::Fold;
use artifact::{Record, hash_file};
use clap::builder::{OsStringValueParser, TypedValueParser};
use postprocess::files;
use postprocess::scheme::Scheme;
use stage::{Error, Result, Run};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// `--candidate NAME=DIR[,DIR…]`.
#[derive(Debug, Clone)]
pub struct Named {
    pub configuration: String,
    pub folders: Vec<PathBuf>,
}

impl Named {
    /// Of an argument; folders may have names of any bytes, as everywhere.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text| Self::parse(&text))
    }

    fn parse(text: &OsStr) -> std::result::Result<Self, String> {
        let expected = || "expected CONFIGURATION=DIR or CONFIGURATION=DIR,DIR,…".to_string();
        let (name, folders) = split(text, b'=').ok_or_else(expected)?;
        let name = name.into_string().ok().filter(|name| !name.is_empty());
        let configuration = name.ok_or_else(expected)?;
        let (mut folders, mut rest) = (Vec::new(), Some(folders));
        while let Some(text) = rest {
            let (folder, more) = match split(&text, b',') {
                Some((folder, more)) => (folder, Some(more)),
                None => (text, None),
            };
            if folder.is_empty() {
                return Err(expected());
            }
            folders.push(folder.into());
            rest = more;
        }
        Ok(Self { configuration, folders })
    }
}

/// What stands before and behind the first of these bytes.
#[cfg(unix)]
fn split(text: &OsStr, at: u8) -> Option<(OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = text.as_bytes();
    let place = bytes.iter().position(|&byte| byte == at)?;
    let part = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    Some((part(&bytes[..place]), part(&bytes[place + 1..])))
}

#[cfg(not(unix))]
fn split(text: &OsStr, at: u8) -> Option<(OsString, OsString)> {
    let (before, behind) = text.to_str()?.split_once(char::from(at))?;
    Some((before.into(), behind.into()))
}

/// A configuration with its cross-validated predictions.
#[derive(Debug)]
pub struct Candidate {
    pub configuration: String,
    /// The first of its folders, for messages.
    pub place: PathBuf,
    /// Sorted by case.
    pub predictions: Vec<Found>,
    /// Folds whose validation cases these are.
    pub folds: Vec<usize>,
}

/// Plan and splits, with their files.
pub struct Planned<'a> {
    pub plan: &'a Plan,
    pub plan_path: &'a Path,
    pub scheme: &'a Scheme,
    pub folds: &'a [Fold],
    pub splits_path: &'a Path,
}

impl Planned<'_> {
    /// Finds the predictions; all candidates must have the same cases.
    pub fn candidates(&self, named: &[Named], run: &Run) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for named in named {
            if candidates.iter().any(|c| c.configuration == named.configuration) {
                return Err(Error::usage(format!(
                    "--candidate {} is given twice, expected all its folders behind one, separated by commas",
                    named.configuration
                )));
            }
            let candidate = self.candidate(named, run)?;
            if let Some(first) = candidates.first() {
                same_cases(first, &candidate)?;
                same_cases(&candidate, first)?;
            }
            candidates.push(candidate);
        }
        Ok(candidates)
    }

    fn candidate(&self, named: &Named, run: &Run) -> Result<Candidate> {
        let in_plan = |e| Error::input(format!("{}: {e}", self.plan_path.display()));
        self.plan.configuration(&named.configuration).map_err(in_plan)?;
        let place = &named.folders[0];
        let (predictions, unnamed) = files::merge(&named.folders)?;
        all_named(run, &unnamed)?;
        if let Some(recorded) = files::recorded(&predictions)? {
            let reader = self.plan.dataset.reader;
            recorded.check_plan(place, self.scheme, reader, self.plan_path)?;
        }
        let folds = files::out_of_fold(place, &predictions, self.splits_path, self.folds)?;
        let configuration = named.configuration.clone();
        Ok(Candidate { configuration, place: place.clone(), predictions, folds })
    }

    /// The models of a candidate's folds, after those of the stages before it. `base` is the folder that paths are
    /// relative to.
    pub fn models(
        &self,
        candidate: &Candidate,
        models: &Path,
        base: &Path,
    ) -> Result<Vec<SelectedModel>> {
        let mut chain = vec![candidate.configuration.clone()];
        while let Some(previous) = chain
            .last()
            .and_then(|name| self.plan.configurations.get(name)?.previous_stage.clone())
            .filter(|previous| !chain.contains(previous))
        {
            chain.push(previous);
        }
        let mut found = Vec::new();
        for configuration in chain.iter().rev() {
            // Of an earlier stage all models that there are, as nnu-infer takes them where it isn't told.
            let own = *configuration == candidate.configuration;
            let there = |fold: &usize| {
                models.join(configuration).join(format!("fold_{fold}")).join("model.toml").is_file()
            };
            let every: Vec<usize> = (0..self.folds.len()).filter(there).collect();
            let folds = if own || every.is_empty() { &candidate.folds } else { &every };
            for &fold in folds {
                let folder = models.join(configuration).join(format!("fold_{fold}"));
                let record = self.model(&folder, configuration, fold)?;
                if own {
                    made_by(candidate, fold, &self.folds[fold], &folder, &record)?;
                }
                found.push(SelectedModel {
                    configuration: configuration.clone(),
                    fold,
                    folder: relative(&folder, base)?,
                    hash: hash_file(&folder.join("model.toml"))?,
                });
            }
        }
        Ok(found)
    }

    /// The model of a fold, held against plan and splits.
    fn model(&self, folder: &Path, configuration: &str, fold: usize) -> Result<Record<Model>> {
        let path = folder.join("model.toml");
        let again = format!("nnu-train --configuration {configuration} --fold {fold}");
        let record = Record::<Model>::load(&path)
            .map_err(|e| Error::from(e).hint(format!("train this fold: {again}")))?;
        let info = &record.body.model;
        let wrong = |message: String| {
            Error::input(format!("{}: {message}", path.display()))
                .hint(format!("train this fold again: {again}"))
        };
        if info.configuration != configuration || info.fold != fold {
            return Err(wrong(format!(
                "is fold {} of {}, expected fold {fold} of {configuration}",
                info.fold, info.configuration
            )));
        }
        let [found, expected] = [&info.validation, &self.folds[fold].validation]
            .map(|ids| ids.iter().collect::<BTreeSet<_>>());
        if found != expected {
            return Err(wrong(format!(
                "model.validation isn't that of fold {fold} of {}",
                self.splits_path.display()
            )));
        }
        let plan_path = folder.join(PLAN);
        let plan = Record::<Plan>::load(&plan_path)?.body;
        if plan.configurations.get(configuration) != self.plan.configurations.get(configuration)
            || Scheme::of(&plan) != *self.scheme
        {
            return Err(Error::input(format!(
                "{}: configuration {configuration} isn't that of {}",
                plan_path.display(),
                self.plan_path.display()
            ))
            .hint(format!("train this fold again: {again}")));
        }
        Ok(record)
    }
}

/// Every case of `a` must be in `b`.
fn same_cases(a: &Candidate, b: &Candidate) -> Result<()> {
    let missing = a.predictions.iter().find(|f| b.predictions.iter().all(|g| g.case != f.case));
    missing.map_or(Ok(()), |found| {
        Err(Error::input(format!(
            "{}: no prediction of {} by {}, which {} has",
            b.place.display(),
            found.case,
            b.configuration,
            a.configuration
        ))
        .hint("all candidates are compared on the same cases: predict the same folds with each"))
    })
}

/// The fold's cases must have been predicted with the model's weights, where their records say by which.
fn made_by(
    candidate: &Candidate,
    fold: usize,
    split: &Fold,
    folder: &Path,
    model: &Record<Model>,
) -> Result<()> {
    let Some(expected) = model.header.files.get(WEIGHTS).filter(|hash| !hash.is_empty()) else {
        return Ok(());
    };
    for found in candidate.predictions.iter().filter(|f| split.validation.contains(&f.case)) {
        let weights = files::weights_of(found)?;
        if !weights.is_empty() && weights != [expected.clone()] {
            return Err(Error::input(format!(
                "{}: case {} of fold {fold} was not predicted with the weights of {} alone",
                candidate.place.display(),
                found.case,
                folder.display()
            ))
            .hint(format!(
                "predict it again: nnu-infer --model {} --cases DIR --validation --probabilities",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// The way from one folder to another, with `/` between its parts.
fn relative(to: &Path, from: &Path) -> Result<String> {
    let absolute = |path: &Path| {
        path.canonicalize()
            .map_err(|e| Error::input(format!("{}: cannot find this folder: {e}", path.display())))
    };
    let (to, from) = (absolute(to)?, absolute(from)?);
    let (to, from): (Vec<Component>, Vec<Component>) =
        (to.components().collect(), from.components().collect());
    let common = to.iter().zip(&from).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_string(), from.len() - common);
    let part = |part: &Component| artifact::name::of(part.as_ref()).map(str::to_owned);
    let down: artifact::Result<Vec<String>> = to[common..].iter().map(part).collect();
    Ok(up.chain(down?).collect::<Vec<_>>().join("/"))
}
