//! `nnu-postprocess evaluate`.

use super::each_case;
use artifact::nifti::Volume;
use artifact::plan::Plan;
use artifact::prediction::{self, Found};
use artifact::splits::Splits;
use artifact::summary::Summary;
use artifact::{Commit, Label, Provenance, Record, hash_file};
use ndarray::{Array3, Axis};
use postprocess::overlay::{self, Entry, Scene};
use postprocess::score::{Counts, Side, labels_found, summarise};
use postprocess::{files, table};
use stage::{Common, Error, Result, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of `evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with CASE/prediction.toml, or with CASE.nii.gz of another program
    #[arg(long, value_name = "DIR")]
    predictions: PathBuf,
    /// Folder with the reference label maps CASE.nii.gz, such as labelsTr
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    /// Plan that names the labels [default: the predictions' records, else the values that occur]
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Folds; with --fold, exactly that fold's validation cases are scored
    #[arg(long, value_name = "FILE", requires = "fold")]
    splits: Option<PathBuf>,
    /// Fold of --splits
    #[arg(long, value_name = "K", requires = "splits")]
    fold: Option<usize>,
    /// Folder with the images CASE_0000.nii.gz or CASE.nii.gz, such as imagesTr; for --overlays
    #[arg(long, value_name = "DIR", requires = "overlays")]
    images: Option<PathBuf>,
    /// Folder for a picture per case: reference and prediction outlined on the image
    #[arg(long, value_name = "DIR", requires = "images")]
    overlays: Option<PathBuf>,
    /// Summary to write; a .csv with the same numbers goes beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

/// One case: where everything is.
struct Case {
    id: String,
    predicted: PathBuf,
    reference: PathBuf,
    /// Image and the picture to draw.
    overlay: Option<(PathBuf, PathBuf)>,
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let predictions = of_fold(args, prediction::find(&args.predictions)?)?;
    let cases = pair(args, &predictions, run)?;
    let labels = labels(args, &predictions)?;
    let provenance = provenance(args, &predictions, &cases, run)?;
    let pictures_there = cases.iter().all(|c| c.overlay.as_ref().is_none_or(|(_, p)| p.is_file()));
    if pictures_there && run.up_to_date::<Summary>(&args.out, &provenance) {
        return print(&Record::<Summary>::load(&args.out)?.body);
    }
    let mut commit = Commit::begin(&args.out)?;
    let counts = each_case(run, "cases", &cases, |case| evaluate(case, labels.as_deref()))?;
    let labels = labels.unwrap_or_else(|| labels_found(&counts));
    if labels.len() < 2 {
        return Err(Error::input(format!(
            "{}: holds background only, and so does {}; nothing to score",
            args.predictions.display(),
            args.labels.display()
        )));
    }
    let summary = summarise(&labels, cases.iter().map(|c| c.id.clone()).zip(counts).collect());
    let csv = args.out.with_extension("csv");
    let csv = csv.file_name().unwrap_or_default().to_string_lossy().into_owned();
    commit.bytes(&csv, table::csv(&summary).as_bytes())?;
    commit.finish(&provenance, &summary)?;
    run.info(format!("{} written, {csv} beside it", args.out.display()));
    if let Some(folder) = &args.overlays {
        run.info(format!("{} pictures in {}", cases.len(), folder.display()));
    }
    print(&summary)
}

fn print(summary: &Summary) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(table::text(summary).as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// The predictions of the fold's validation cases, if a fold is asked for; one that is missing is an error.
fn of_fold(args: &Args, mut predictions: Vec<Found>) -> Result<Vec<Found>> {
    let (Some(path), Some(fold)) = (&args.splits, args.fold) else { return Ok(predictions) };
    let folds = Record::<Splits>::load(path)?.body.folds;
    let Some(wanted) = folds.get(fold).map(|f| &f.validation) else {
        let last = folds.len() - 1;
        return Err(Error::usage(format!(
            "--fold {fold}, but {} has folds 0 to {last}",
            path.display()
        )));
    };
    predictions.retain(|p| wanted.contains(&p.case));
    match wanted.iter().find(|id| !predictions.iter().any(|p| p.case == **id)) {
        None => Ok(predictions),
        Some(id) => Err(Error::input(format!(
            "{}: no prediction of {id}, a validation case of fold {fold}",
            args.predictions.display()
        ))
        .hint("predict it first: nnu-infer --cases DIR --validation")),
    }
}

/// Every prediction with its reference, and with its image where pictures are wanted.
fn pair(args: &Args, predictions: &[Found], run: &Run) -> Result<Vec<Case>> {
    if predictions.is_empty() {
        return Err(Error::input(format!(
            "{}: holds no predictions, expected CASE/prediction.toml or CASE.nii.gz",
            args.predictions.display()
        )));
    }
    let mut references = files::list(&args.labels)?;
    let images = args.images.as_deref().map(files::list).transpose()?.unwrap_or_default();
    let cases: Result<Vec<Case>> = predictions
        .iter()
        .map(|found| {
            let id = found.case.clone();
            let reference =
                references.remove(&id).ok_or_else(|| missing(&args.labels, &id, "label"))?;
            let overlay =
                args.overlays.as_deref().map(|folder| overlay_of(args, &images, folder, &id));
            let overlay = overlay.transpose()?;
            Ok(Case { id, predicted: found.segmentation.clone(), reference, overlay })
        })
        .collect();
    if !references.is_empty() {
        run.info(format!(
            "{} of the labels in {} have no prediction and are left out",
            references.len(),
            args.labels.display()
        ));
    }
    cases
}

fn overlay_of(
    args: &Args,
    images: &BTreeMap<String, PathBuf>,
    folder: &Path,
    id: &str,
) -> Result<(PathBuf, PathBuf)> {
    let source = args.images.as_deref().unwrap_or(Path::new("--images"));
    let image = files::first_channel(images, id).ok_or_else(|| missing(source, id, "image"))?;
    Ok((image.clone(), folder.join(format!("{id}.png"))))
}

fn missing(folder: &Path, id: &str, what: &str) -> Error {
    Error::input(format!("{}: no {what} for the prediction of case {id}", folder.display()))
        .hint(format!("expected {id}.nii.gz or {id}.nii in this folder"))
}

/// Labels of the plan, else of the records. Both must agree.
fn labels(args: &Args, predictions: &[Found]) -> Result<Option<Vec<Label>>> {
    let recorded = files::recorded_labels(predictions)?;
    let Some(plan) = &args.plan else { return Ok(recorded) };
    let planned = Record::<Plan>::load(plan)?.body.labels;
    match recorded {
        Some(recorded) if recorded != planned => {
            Err(files::disagree(&args.predictions, &recorded, &planned, plan).into())
        }
        _ => Ok(Some(planned)),
    }
}

fn provenance(args: &Args, predictions: &[Found], cases: &[Case], run: &Run) -> Result<Provenance> {
    let references = cases.iter().map(|c| (c.id.as_str(), c.reference.as_path()));
    let mut provenance = run
        .provenance()
        .input("--predictions", files::hash_predictions(predictions)?)
        .input("--labels", files::hash(references)?);
    if let Some(plan) = &args.plan {
        provenance = provenance.input("--plan", hash_file(plan)?);
    }
    Ok(provenance)
}

/// Counts one case and draws its picture.
fn evaluate(case: &Case, labels: Option<&[Label]>) -> Result<Counts> {
    let predicted = files::read_map(&case.predicted)?;
    let reference = files::read_map(&case.reference)?;
    let counts = compare(case, &predicted, &reference)?;
    if let Some((side, value)) = labels.and_then(|labels| counts.undeclared(labels)) {
        let expected: Vec<i32> = labels.unwrap_or_default().iter().map(|l| l.value).collect();
        return Err(Error::input(format!(
            "{}: contains the value {value}, expected one of {expected:?}",
            case.file(side).display()
        )));
    }
    if let Some((image, picture)) = &case.overlay {
        draw(case, &counts, labels, [&predicted, &reference], image, picture)?;
    }
    Ok(counts)
}

fn compare(case: &Case, predicted: &Volume, reference: &Volume) -> Result<Counts> {
    predicted.geometry.same_grid(&reference.geometry).map_err(|e| {
        Error::input(format!(
            "{}: {e} as in {}",
            case.predicted.display(),
            case.reference.display()
        ))
    })?;
    let [p, r] = [predicted, reference].map(|v| v.channels.index_axis(Axis(0), 0));
    Counts::of(p, r, reference.geometry.spacing_mm).map_err(|(side, value)| {
        Error::input(format!(
            "{}: contains the value {value}, expected whole numbers from 0 to {}",
            case.file(side).display(),
            i16::MAX
        ))
    })
}

impl Case {
    fn file(&self, side: Side) -> &Path {
        match side {
            Side::Prediction => &self.predicted,
            Side::Reference => &self.reference,
        }
    }
}

/// The picture of one case. Where the labels aren't known, a class's number is its value.
fn draw(
    case: &Case,
    counts: &Counts,
    labels: Option<&[Label]>,
    [predicted, reference]: [&Volume; 2],
    image: &Path,
    picture: &Path,
) -> Result<()> {
    let volume = artifact::nifti::read(image)?;
    volume.geometry.same_grid(&reference.geometry).map_err(|e| {
        Error::input(format!("{}: {e} as in {}", image.display(), case.reference.display()))
    })?;
    let known = labels.map_or_else(|| labels_found([counts]), <[Label]>::to_vec);
    let number = |value: i32| match labels {
        Some(labels) => labels.iter().position(|l| l.value == value).unwrap_or(0) as i16,
        None => value as i16,
    };
    let classes = |volume: &Volume| -> Array3<i16> {
        volume.channels.index_axis(Axis(0), 0).mapv(|v| number(v as i32))
    };
    let scores = counts.scores(&known);
    let present = known.iter().skip(1).zip(&scores).filter(|(_, s)| !s.dice.is_nan());
    let entries: Vec<Entry> = present
        .map(|(label, score)| Entry {
            class: number(label.value),
            text: format!("{} Dice {:.3}", label.name, score.dice),
        })
        .collect();
    let (expected, found) = (classes(reference), classes(predicted));
    let scene = Scene {
        title: &case.id,
        entries: &entries,
        geometry: &reference.geometry,
        image: volume.channels.index_axis(Axis(0), 0),
        reference: expected.view(),
        predicted: found.view(),
    };
    Ok(overlay::draw(&scene).save(picture)?)
}
