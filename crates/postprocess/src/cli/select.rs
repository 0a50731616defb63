//! `nnu-postprocess select`.

use super::candidates::{Candidate, Named, Planned};
use super::{Reading, all_named, each_case, fit, read_predicted, read_reference};
use artifact::image::{Geometry, Reader, Turn, meet};
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Found;
use artifact::selection::{self, Selected, SelectedModel, Selection};
use artifact::splits::Splits;
use artifact::{Commit, Provenance, Record, hash_file};
use ndarray::{Array3, s};
use postprocess::average::Members;
use postprocess::decision::Rule;
use postprocess::fit::{Evidence, Trial, examine};
use postprocess::scheme::Scheme;
use postprocess::score::{Counts, Overlap, mean, mean_dice};
use postprocess::{files, select};
use stage::{Common, Error, Files, Result, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of `select`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Plan: labels, configurations, the recipe's rules
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Folder with the training label maps CASE.nii.gz, such as labelsTr
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    /// Folds of the cross-validation
    #[arg(long, value_name = "FILE")]
    splits: PathBuf,
    /// A configuration and the folders of its validation predictions, one per fold; repeat it for every configuration
    #[arg(long, value_name = "NAME=DIR,…", required = true, value_parser = Named::parser())]
    candidate: Vec<Named>,
    /// Folder with the models NAME/fold_K/model.toml
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// Compare single configurations only; probabilities aren't needed then
    #[arg(long)]
    no_ensembles: bool,
    /// Selection to write; it names the models' folders relative to its own
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

impl Args {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        for candidate in &self.candidate {
            files = files.reads("--candidate", &candidate.folders);
        }
        files
            .reads("--plan", [&self.plan])
            .reads("--labels", [&self.labels])
            .reads("--splits", [&self.splits])
            .reads("--models", [&self.models])
            .record::<Selection, _>("--out", [&self.out])
    }
}

/// What everything below looks at.
struct Comparison<'a> {
    run: &'a Run,
    scheme: &'a Scheme,
    reader: Reader,
    rule: Rule,
    candidates: &'a [Candidate],
    /// Label maps of the training cases, by case.
    references: &'a [(String, PathBuf)],
}

/// One case: its reference, and its prediction by each candidate.
struct Case<'a> {
    reference: &'a Path,
    predictions: Vec<&'a Found>,
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let plan = Record::<Plan>::load(&args.plan)?.body;
    let folds = Record::<Splits>::load(&args.splits)?.body.folds;
    let scheme = Scheme::of(&plan);
    let planned = Planned {
        plan: &plan,
        plan_path: &args.plan,
        scheme: &scheme,
        folds: &folds,
        splits_path: &args.splits,
    };
    let candidates = planned.candidates(&args.candidate, run)?;
    let (references, unnamed) = fit::references(&args.labels)?;
    all_named(run, &unnamed)?;
    // The folder must be there for the way from it to the models.
    let commit = Commit::begin(&args.out)?;
    let base = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let models: Result<Vec<Vec<SelectedModel>>> =
        candidates.iter().map(|c| planned.models(c, &args.models, base)).collect();
    let models = models?;
    let provenance = provenance(args, run, &candidates, &references, &models)?;
    if run.up_to_date::<Selection>(&args.out, &provenance)? {
        let before = Record::<Selection>::load(&args.out)?.body;
        // The same models may lie elsewhere now.
        if before.models.iter().all(|model| models.iter().flatten().any(|m| m == model)) {
            return stage::print(select::text(&before, &scheme.names()).lines());
        }
    }
    let rule = Rule::for_probabilities(&scheme);
    let comparison = Comparison {
        run,
        scheme: &scheme,
        reader: plan.dataset.reader,
        rule,
        candidates: &candidates,
        references: &references,
    };
    let cases = comparison.cases(&args.labels)?;
    let compared = select::candidates(candidates.len(), !args.no_ensembles);
    let dice = comparison.dice(&cases, &compared)?;
    let Some(winner) = select::best(&dice) else {
        return Err(Error::input(format!(
            "{}: no foreground in any label or prediction; nothing to select by",
            args.labels.display()
        )));
    };
    let rules = &plan.recipe.postprocessing;
    let postprocessing = postprocess::fit::fit(&scheme, rules, &mut |trials| {
        comparison.evidence(&cases, &compared[winner], trials)
    })?;
    fit::report(&postprocessing, run);
    let selection = selection(&comparison, &compared, &dice, winner, &models, postprocessing);
    commit.finish(&provenance, &selection)?;
    run.info(format!("{} written", args.out.display()));
    stage::print(select::text(&selection, &scheme.names()).lines())
}

fn provenance(
    args: &Args,
    run: &Run,
    candidates: &[Candidate],
    references: &[(String, PathBuf)],
    models: &[Vec<SelectedModel>],
) -> Result<Provenance> {
    let maps = references.iter().map(|(case, path)| (case.as_str(), path.as_path()));
    let mut provenance = run
        .provenance()
        .option("ensembles", !args.no_ensembles)
        .input("--plan", hash_file(&args.plan)?)
        .input("--labels", files::hash(maps)?)
        .input("--splits", hash_file(&args.splits)?);
    let pairs = !args.no_ensembles && candidates.len() > 1;
    for (candidate, models) in candidates.iter().zip(models) {
        let hash = if pairs {
            files::hash_probabilities(&candidate.predictions).map_err(or_singles)?
        } else {
            files::hash_predictions(&candidate.predictions)?
        };
        provenance = provenance.input(format!("--candidate {}", candidate.configuration), hash);
        for model in models {
            let name = format!("model {} fold {}", model.configuration, model.fold);
            if provenance.inputs.iter().all(|input| input.name != name) {
                provenance = provenance.input(name, model.hash.clone());
            }
        }
    }
    Ok(provenance)
}

/// Missing probabilities have another way out.
fn or_singles(error: artifact::Error) -> Error {
    let hint = error.hint.clone().unwrap_or_default();
    Error::from(error).hint(format!("{hint}; or compare without pairs: --no-ensembles"))
}

impl Comparison<'_> {
    fn reading(&self) -> Reading<'_> {
        Reading { run: self.run, scheme: self.scheme, reader: self.reader }
    }

    /// The cases that the candidates predicted, each with its label.
    fn cases(&self, labels: &Path) -> Result<BTreeMap<&str, Case<'_>>> {
        let reference = |case: &str| {
            let at = self.references.binary_search_by(|(id, _)| id.as_str().cmp(case));
            let missing = || {
                Error::input(format!(
                    "{}: no label for the prediction of case {case}",
                    labels.display()
                ))
                .hint(format!("expected {case}.nii.gz or {case}.nii in this folder"))
            };
            at.map(|at| self.references[at].1.as_path()).map_err(|_| missing())
        };
        // All candidates have the same cases in the same order.
        let first = self.candidates[0].predictions.iter().enumerate();
        first
            .map(|(at, found)| {
                let predictions = self.candidates.iter().map(|c| &c.predictions[at]).collect();
                let case = found.case.as_str();
                Ok((case, Case { reference: reference(case)?, predictions }))
            })
            .collect()
    }

    /// Mean Dice per class or region over the cases, of everything that is compared.
    fn dice(
        &self,
        cases: &BTreeMap<&str, Case<'_>>,
        compared: &[Vec<usize>],
    ) -> Result<Vec<Vec<f64>>> {
        let list: Vec<(&&str, &Case<'_>)> = cases.iter().collect();
        let overlaps: Vec<Vec<Vec<Overlap>>> =
            each_case(self.run, "cases compared", (&list, &[]), |(id, case)| {
                self.overlaps(case, compared).map_err(|e| e.context(format!("case {id}")))
            })?;
        let targets = self.scheme.names().len();
        let of = |at: usize| -> Vec<f64> {
            let cases: Vec<&Vec<Overlap>> = overlaps.iter().map(|case| &case[at]).collect();
            mean_dice(targets, cases.iter().copied())
        };
        Ok((0..compared.len()).map(of).collect())
    }

    /// One case by everything that is compared. Of pairs only a slab is in memory.
    fn overlaps(&self, case: &Case<'_>, compared: &[Vec<usize>]) -> Result<Vec<Vec<Overlap>>> {
        let targets = self.scheme.by_class();
        let (reference, geometry) = read_reference(self.reading(), case.reference)?;
        let mut all = Vec::with_capacity(compared.len());
        for members in compared {
            let mut counts = Counts::default();
            if let [one] = members[..] {
                let path = &case.predictions[one].segmentation;
                let map = read_predicted(self.reading(), path, (&geometry, case.reference))?;
                counts.add_classes(map.view(), reference.view());
            } else {
                let turn = self.turn(case, members, &geometry)?.inverse();
                let reference = turn.view(reference.view());
                let pair = self.pair(case, members, turn.order(geometry.shape))?;
                pair.segment(&self.rule, &mut |z, slab| {
                    counts.add_classes(slab, reference.slice(s![z, .., ..]));
                })?;
            }
            all.push(counts.overlaps(&targets));
        }
        Ok(all)
    }

    /// From the axes of the members' predictions to the reference's, which has this geometry; warns of those that lie
    /// elsewhere in space.
    fn turn(&self, case: &Case<'_>, members: &[usize], geometry: &Geometry) -> Result<Turn> {
        let mut turns = Vec::new();
        for &at in members {
            let path = &case.predictions[at].segmentation;
            let (own, _) = self.reader.read_header(path)?;
            let turn = self.reader.turn_like(&own, geometry);
            let apart = meet((path, &own.turned(turn)), (case.reference, geometry))?;
            apart.iter().for_each(|apart| self.run.warn(apart));
            turns.push((turn, path));
        }
        match turns.iter().find(|(turn, _)| *turn != turns[0].0) {
            None => Ok(turns[0].0),
            Some((_, path)) => Err(Error::input(format!(
                "{}: its axes aren't those of {}",
                path.display(),
                turns[0].1.display()
            ))
            .hint("these are predictions of different images")),
        }
    }

    fn pair(&self, case: &Case<'_>, members: &[usize], shape: [usize; 3]) -> Result<Members> {
        let paths: artifact::Result<Vec<PathBuf>> = members
            .iter()
            .map(|&at| Ok(files::with_probabilities(case.predictions[at])?.1))
            .collect();
        Ok(Members::open(&paths.map_err(or_singles)?, self.scheme.outputs(), shape)?)
    }

    /// What the training cases say about the winner's postprocessing.
    fn evidence(
        &self,
        cases: &BTreeMap<&str, Case<'_>>,
        members: &[usize],
        trials: &[Trial],
    ) -> Result<Vec<Evidence>> {
        each_case(self.run, "cases for postprocessing", (self.references, &[]), |(id, path)| {
            let (reference, geometry) = read_reference(self.reading(), path)?;
            let predicted = cases.get(id.as_str()).map(|case| -> Result<Array3<i16>> {
                if let [one] = members[..] {
                    let path = &case.predictions[one].segmentation;
                    return read_predicted(self.reading(), path, (&geometry, case.reference));
                }
                let turn = self.turn(case, members, &geometry)?;
                let pair = self.pair(case, members, turn.inverse().order(geometry.shape))?;
                Ok(turn.view(pair.classes(&self.rule)?).as_standard_layout().into_owned())
            });
            let predicted = predicted.transpose()?;
            Ok(examine(self.scheme, reference.view(), predicted.as_ref(), trials))
        })
    }
}

fn selection(
    comparison: &Comparison<'_>,
    compared: &[Vec<usize>],
    dice: &[Vec<f64>],
    winner: usize,
    models: &[Vec<SelectedModel>],
    postprocessing: Postprocessing,
) -> Selection {
    let names = |members: &[usize]| -> Vec<String> {
        members.iter().map(|&at| comparison.candidates[at].configuration.clone()).collect()
    };
    let cases = comparison.candidates[0].predictions.len();
    let candidates = compared.iter().zip(dice).map(|(members, dice)| selection::Candidate {
        configurations: names(members),
        mean_dice: mean(dice.iter().copied()),
        dice: dice.clone(),
        cases,
    });
    let mut needed: Vec<SelectedModel> = Vec::new();
    for model in compared[winner].iter().flat_map(|&at| &models[at]) {
        if !needed.contains(model) {
            needed.push(model.clone());
        }
    }
    Selection {
        selection: Selected {
            configurations: names(&compared[winner]),
            mean_dice: mean(dice[winner].iter().copied()),
            mean_dice_postprocessed: postprocessing
                .decision
                .as_ref()
                .map_or(f64::NAN, |decision| decision.mean_dice_after),
        },
        labels: comparison.scheme.labels.clone(),
        regions: comparison.scheme.regions.clone(),
        candidates: candidates.collect(),
        models: needed,
        postprocessing,
    }
}
