//! `nnu-postprocess evaluate`.

use super::each_case;
use artifact::image::folder::Folder;
use artifact::image::{Apart, Reader, Turn, Volume, meet};
use artifact::plan::Plan;
use artifact::prediction::Found;
use artifact::splits::Splits;
use artifact::summary::{ClassScores, Summary};
use artifact::{Commit, Provenance, Record, hash_file};
use ndarray::{Array3, Axis};
use postprocess::overlay::{self, Entry, Scene};
use postprocess::scheme::Scheme;
use postprocess::score::{Counts, Side, labels_found, summarise, voxel_ml};
use postprocess::{files, table};
use stage::{CaseFiles, Common, Error, Files, Form, Result, Run};
use std::path::{Path, PathBuf};

/// Flags of `evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with CASE/prediction.toml, or with CASE.nii.gz of another program; repeat it for every fold
    #[arg(long, value_name = "DIR", required = true)]
    predictions: Vec<PathBuf>,
    /// Folder with the reference label maps CASE.nii.gz, such as labelsTr
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    /// Plan that names labels, regions and ignore label [default: the predictions' records, else the values that occur]
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Folds; every case must be a validation case, and every fold that occurs be there as a whole
    #[arg(long, value_name = "FILE")]
    splits: Option<PathBuf>,
    /// Fold of --splits: exactly its validation cases are scored, whatever else is there
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

impl Args {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        Files::default()
            .reads("--predictions", &self.predictions)
            .reads("--labels", [&self.labels])
            .reads("--plan", &self.plan)
            .reads("--splits", &self.splits)
            .reads("--images", &self.images)
            .folder("--overlays", &self.overlays)
            .record::<Summary, _>("--out", [&self.out])
            .sibling("the .csv beside --out", [self.out.with_extension("csv")])
    }
}

const CSV: Form = Form::new("table of these scores", |bytes| {
    bytes.strip_prefix(table::CSV_HEADER.as_bytes()).is_some_and(|rest| rest.starts_with(b"\n"))
});

/// One case: where everything is.
struct Case {
    id: String,
    predicted: PathBuf,
    reference: PathBuf,
    /// Image and the picture to draw.
    overlay: Option<(PathBuf, PathBuf)>,
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let (predictions, mut unnamed) = files::merge(&args.predictions)?;
    let predictions = of_fold(args, predictions, run)?;
    if args.fold.is_some() {
        // The fold's cases have names.
        unnamed.clear();
    }
    let cases = pair(args, &predictions, run)?;
    let mut files = CaseFiles::default();
    for (case, found) in cases.iter().zip(&predictions) {
        files.reads("--predictions", found.files());
        files.reads("--labels", [case.reference.clone()]);
        if let Some((image, picture)) = &case.overlay {
            files.reads("--images", [image.clone()]);
            files.writes("--overlays", [picture.clone()]);
        }
    }
    files.check()?;
    for (_, picture) in cases.iter().filter_map(|case| case.overlay.as_ref()) {
        run.outputs().may_write(picture, Form::PNG)?;
    }
    let plan = args.plan.as_ref().map(|path| Record::<Plan>::load(path)).transpose()?;
    let plan = plan.map(|record| record.body);
    let (scheme, reader) = described(args, plan.as_ref(), &predictions)?;
    let provenance = provenance(args, &predictions, &cases, run)?;
    let pictures_there =
        || cases.iter().all(|c| c.overlay.as_ref().is_none_or(|(_, p)| p.is_file()));
    let done = || {
        let done = run.outputs().up_to_date::<Summary>(&args.out, &provenance)?;
        Ok::<_, Error>(done && pictures_there() && unnamed.is_empty())
    };
    let show = || {
        run.info(format!("{} is up to date", args.out.display()));
        print(&Record::<Summary>::load(&args.out)?.body)
    };
    if done()? {
        return show();
    }
    let csv = args.out.with_extension("csv");
    run.outputs().may_write_beside(&csv, Some(&args.out), CSV)?;
    let csv = artifact::name::of(&csv)?;
    let mut commit = Commit::begin(&args.out)?;
    // Another program may have made it meanwhile.
    if done()? {
        return show();
    }
    let how = Reading { run, reader, scheme: scheme.as_ref() };
    let counted = each_case(run, "cases", (&cases, &unnamed), |case| evaluate(case, how))?;
    let scheme = scheme
        .unwrap_or_else(|| Scheme::plain(labels_found(counted.iter().map(|(counts, _)| counts))));
    if scheme.labels.len() < 2 {
        return Err(Error::input(format!(
            "{}: holds background only, and so does {}; nothing to score",
            args.predictions[0].display(),
            args.labels.display()
        )));
    }
    let scores = counted.iter().map(|(counts, voxel_ml)| counts.scores(&scheme, *voxel_ml));
    let summary = summarise(&scheme, cases.iter().map(|c| c.id.clone()).zip(scores).collect());
    commit.bytes(csv, table::csv(&summary).as_bytes())?;
    commit.finish(&provenance, &summary)?;
    run.info(format!("{} written, {csv} beside it", args.out.display()));
    if let Some(folder) = &args.overlays {
        run.info(format!("{} pictures in {}", cases.len(), folder.display()));
    }
    print(&summary)
}

fn print(summary: &Summary) -> Result<()> {
    stage::print(table::text(summary).lines())
}

/// The predictions of the fold's validation cases, if a fold is asked for; else all of them, of which --splits says
/// whether they are out-of-fold.
fn of_fold(args: &Args, mut predictions: Vec<Found>, run: &Run) -> Result<Vec<Found>> {
    let Some(path) = &args.splits else { return Ok(predictions) };
    let folds = Record::<Splits>::load(path)?.body.folds;
    let place = &args.predictions[0];
    let Some(fold) = args.fold else {
        let folds = files::out_of_fold(place, &predictions, path, &folds)?;
        run.info(format!("{} cases of folds {folds:?}", predictions.len()));
        return Ok(predictions);
    };
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
        Some(id) => Err(files::no_prediction(place, id, fold).into()),
    }
}

/// Every prediction with its reference, and with its image where pictures are wanted.
fn pair(args: &Args, predictions: &[Found], run: &Run) -> Result<Vec<Case>> {
    // Labels without a name have no prediction either.
    let (mut references, _) = files::list(&args.labels)?;
    let images = args.images.as_deref().map(Folder::read).transpose()?;
    let cases: Result<Vec<Case>> = predictions
        .iter()
        .map(|found| {
            let id = found.case.clone();
            let reference =
                references.remove(&id).ok_or_else(|| missing(&args.labels, &id, "label"))?;
            let wanted = args.overlays.as_deref().zip(images.as_ref());
            let overlay = wanted.map(|(folder, images)| overlay_of(args, images, folder, &id));
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

fn overlay_of(args: &Args, images: &Folder, folder: &Path, id: &str) -> Result<(PathBuf, PathBuf)> {
    let source = args.images.as_deref().unwrap_or(Path::new("--images"));
    let image = files::first_channel(images, id)?.ok_or_else(|| missing(source, id, "image"))?;
    Ok((image, folder.join(format!("{id}.png"))))
}

fn missing(folder: &Path, id: &str, what: &str) -> Error {
    Error::input(format!("{}: no {what} for the prediction of case {id}", folder.display()))
        .hint(format!("expected {id}.nii.gz or {id}.nii in this folder"))
}

/// What the plan says, else the records: what label maps hold, and how they are read. Both must agree; the reader is none
/// where nothing names one.
fn described(
    args: &Args,
    plan: Option<&Plan>,
    predictions: &[Found],
) -> Result<(Option<Scheme>, Option<Reader>)> {
    let recorded = files::recorded(predictions)?;
    let (Some(plan), Some(path)) = (plan, &args.plan) else {
        let reader = recorded.as_ref().map(|r| r.reader).filter(|reader| !reader.is_default());
        return Ok((recorded.map(|r| r.scheme), reader));
    };
    let (planned, reader) = (Scheme::of(plan), plan.dataset.reader);
    if let Some(recorded) = recorded {
        recorded.check_plan(&args.predictions[0], &planned, reader, path)?;
    }
    Ok((Some(planned), Some(reader)))
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
    // Pictures follow their images.
    let images =
        cases.iter().filter_map(|c| Some((c.id.as_str(), c.overlay.as_ref()?.0.as_path())));
    if args.overlays.is_some() {
        provenance = provenance.input("--images", files::hash(images)?);
    }
    Ok(provenance)
}

/// How label maps are read and compared.
#[derive(Clone, Copy)]
struct Reading<'a> {
    run: &'a Run,
    /// None where neither a plan nor records name one: the default reads then.
    reader: Option<Reader>,
    scheme: Option<&'a Scheme>,
}

/// Way out where maps don't lie on each other as stored, which a reader that nothing named may turn, or places otherwise.
const NAME_READER: &str = "if the data set's reader turns images to RAS, or is one of nibabel's: give --plan, which names it";

impl Reading<'_> {
    /// Says that a map lies elsewhere.
    fn warn(&self, apart: &Apart) {
        if self.reader.is_none() && apart.turned {
            self.run.warn(format_args!("{apart}; {NAME_READER}"));
        } else {
            self.run.warn(apart);
        }
    }

    /// The error of two maps, with a way out where another reader would have taken them.
    fn explain(&self, case: &Case, error: Error) -> Error {
        if self.reader.is_some() || error.hint.is_some() {
            return error;
        }
        let taken = |reader: Reader| {
            let header = |path: &Path| reader.read_header(path).map(|(geometry, _)| geometry);
            let (Ok(predicted), Ok(reference)) = (header(&case.predicted), header(&case.reference))
            else {
                return false;
            };
            let turn = reader.turn_like(&predicted, &reference);
            predicted.turned(turn).same_grid(&reference).is_ok()
        };
        let others = [Reader::SimpleItkRas, Reader::Nibabel, Reader::NibabelRas];
        if taken(Reader::default()) || !others.into_iter().any(taken) {
            return error;
        }
        error.hint(NAME_READER)
    }
}

/// Counts one case and draws its picture; also the volume of its voxels.
fn evaluate(case: &Case, how: Reading<'_>) -> Result<(Counts, f64)> {
    count(case, how).map_err(|error| how.explain(case, error))
}

fn count(case: &Case, how: Reading<'_>) -> Result<(Counts, f64)> {
    let Reading { reader, scheme, .. } = how;
    let reader = reader.unwrap_or_default();
    if case.overlay.is_none()
        && let Some(predicted) = files::read_bytes(reader, &case.predicted)?
        && let Some(reference) = files::read_bytes(reader, &case.reference)?
        && reader.turn_like(&predicted.geometry, &reference.geometry) == Turn::NONE
    {
        let on = (case.reference.as_path(), &reference.geometry);
        let apart = meet((&case.predicted, &predicted.geometry), on)?;
        apart.iter().for_each(|apart| how.warn(apart));
        let counts = Counts::of_bytes(predicted.voxels(), reference.voxels());
        declared(case, &counts, scheme)?;
        return Ok((counts, voxel_ml(reference.geometry.spacing_mm)));
    }
    let predicted = files::read_map(reader, &case.predicted)?;
    let reference = files::read_map(reader, &case.reference)?;
    let on = (case.reference.as_path(), &reference.geometry);
    let (predicted, apart) = reader.lay(&case.predicted, predicted, on)?;
    apart.iter().for_each(|apart| how.warn(apart));
    let counts = compare(case, &predicted, &reference)?;
    declared(case, &counts, scheme)?;
    let voxel_ml = voxel_ml(reference.geometry.spacing_mm);
    if let Some((image, picture)) = &case.overlay {
        // Where the labels aren't known, a class's number is its value.
        let number = |value: i32| scheme.map_or(value as i16, |scheme| scheme.class_of(value));
        let found = || Scheme::plain(labels_found([&counts]));
        let scheme = scheme.map_or_else(found, Scheme::clone);
        let scores = counts.scores(&scheme, voxel_ml);
        let entries = entries(&scheme, &scores, number);
        files::admit(image)?;
        let (volume, apart) = reader.lay(image, reader.read(image)?, on)?;
        apart.iter().for_each(|apart| how.warn(apart));
        draw(case, &entries, number, [&predicted, &reference], &volume, picture)?;
    }
    Ok((counts, voxel_ml))
}

/// The error of a value that is no label.
fn declared(case: &Case, counts: &Counts, scheme: Option<&Scheme>) -> Result<()> {
    if let Some((side, value)) = scheme.and_then(|scheme| counts.undeclared(scheme)) {
        let labels = scheme.into_iter().flat_map(|s| s.labels.iter().chain(&s.ignore));
        let expected: Vec<i32> = labels.map(|l| l.value).collect();
        return Err(Error::input(format!(
            "{}: contains the value {value}, expected one of {expected:?}",
            case.file(side).display()
        )));
    }
    Ok(())
}

fn compare(case: &Case, predicted: &Volume, reference: &Volume) -> Result<Counts> {
    let [p, r] = [predicted, reference].map(|v| v.channels.index_axis(Axis(0), 0));
    Counts::of(p, r).map_err(|(side, value)| {
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

/// What the picture's legend says. Regions are shown by the labels that stand for them.
fn entries(scheme: &Scheme, scores: &[ClassScores], number: impl Fn(i32) -> i16) -> Vec<Entry> {
    let present = scheme.values().into_iter().zip(scores).filter(|(_, s)| !s.dice.is_nan());
    let entry = |(value, score): (i32, &ClassScores)| Entry {
        class: number(value),
        text: format!("{} Dice {:.3}", score.label, score.dice),
    };
    present.map(entry).collect()
}

/// The picture of one case.
fn draw(
    case: &Case,
    entries: &[Entry],
    number: impl Fn(i32) -> i16,
    [predicted, reference]: [&Volume; 2],
    image: &Volume,
    picture: &Path,
) -> Result<()> {
    let classes = |volume: &Volume| -> Array3<i16> {
        volume.channels.index_axis(Axis(0), 0).mapv(|v| number(v as i32))
    };
    let (expected, found) = (classes(reference), classes(predicted));
    let scene = Scene {
        title: &case.id,
        entries,
        geometry: &reference.geometry,
        image: image.channels.index_axis(Axis(0), 0),
        reference: expected.view(),
        predicted: found.view(),
    };
    Ok(overlay::draw(&scene).save(picture)?)
}
