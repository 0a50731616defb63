//! `nnu-postprocess ensemble`.

use super::{each_case, ending_of, keep_inputs, write_prediction};
use artifact::image::{Geometry, Reader, meet};
use artifact::prediction::{Found, PROBABILITIES, Prediction};
use artifact::{Commit, Provenance, Record, npy};
use half::f16;
use postprocess::average::Members;
use postprocess::decision::Rule;
use postprocess::files::{self, Recorded};
use postprocess::scheme::Scheme;
use stage::{Common, Error, Files, Result, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of `ensemble`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with CASE/prediction.toml and CASE/probabilities.npy; repeat it for every model or configuration
    #[arg(long, value_name = "DIR", required = true)]
    predictions: Vec<PathBuf>,
    /// Write the mean probabilities too
    #[arg(long)]
    probabilities: bool,
    /// Folder for CASE/prediction.toml
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

impl Args {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        Files::default().reads("--predictions", &self.predictions).folder("--out", [&self.out])
    }
}

/// One case of every folder.
struct Case {
    id: String,
    members: Vec<Found>,
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    if args.predictions.len() < 2 {
        return Err(Error::usage("--predictions is given once, expected at least two folders"));
    }
    let (cases, unnamed) = cases(&args.predictions)?;
    let members = cases.iter().flat_map(|case| case.members.iter().map(|m| (case.id.as_str(), m)));
    keep_inputs(&args.out, members)?;
    each_case(run, "cases", (&cases, &unnamed), |case| {
        ensemble(args, run, case).map_err(|e| e.context(format!("case {}", case.id)))
    })?;
    run.info(format!("{} cases in {}", cases.len(), args.out.display()));
    Ok(())
}

/// The cases, which every folder must have, and what has no case's name.
fn cases(folders: &[PathBuf]) -> Result<(Vec<Case>, Vec<artifact::Error>)> {
    let found: artifact::Result<Vec<_>> =
        folders.iter().map(|folder| files::find(folder)).collect();
    let (found, unnamed): (Vec<Vec<Found>>, Vec<_>) = found?.into_iter().unzip();
    let mut cases: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for member in found.iter().flatten() {
        cases.entry(member.case.clone()).or_default().push(member.clone());
    }
    for (case, members) in &cases {
        if members.len() == folders.len() {
            continue;
        }
        let has = |at: &usize| found[*at].iter().any(|f| f.case == *case);
        let (with, without): (Vec<usize>, Vec<usize>) = (0..folders.len()).partition(has);
        let [with, without] = [with, without].map(|at| folders[at[0]].display().to_string());
        return Err(Error::input(format!("{without}: no prediction of {case}, which {with} has"))
            .hint("predict it with every model, or keep cases that are to be averaged in folders of their own"));
    }
    let cases = cases.into_iter().map(|(id, members)| Case { id, members }).collect();
    Ok((cases, unnamed.into_iter().flatten().collect()))
}

fn ensemble(args: &Args, run: &Run, case: &Case) -> Result<()> {
    let records: artifact::Result<Vec<_>> =
        case.members.iter().map(files::with_probabilities).collect();
    let (records, paths): (Vec<Record<Prediction>>, Vec<PathBuf>) = records?.into_iter().unzip();
    let Recorded { scheme, reader, .. } = agreed(&case.members, &records)?;
    let geometry = common_grid(reader, &case.members)?;
    let out = args.out.join(&case.id).join("prediction.toml");
    let mut provenance = run.provenance().option("probabilities", args.probabilities);
    for member in &case.members {
        let hash = files::hash_probabilities(std::slice::from_ref(member))?;
        provenance = provenance.input("--predictions", hash);
    }
    if run.up_to_date::<Prediction>(&out, &provenance)? {
        return Ok(());
    }
    // Before the output's folder is made: probabilities that can't be read leave none behind.
    let members = Members::open(&paths, scheme.outputs(), geometry.shape)?;
    let Some(mut commit) = run.begin::<Prediction>(&out, &provenance)? else { return Ok(()) };
    if !args.probabilities {
        // An earlier call's would not be this record's.
        commit.without(PROBABILITIES);
    }
    let ending = ending_of(&case.members[0].segmentation);
    let of = (case.id.as_str(), &scheme, reader);
    write(args.probabilities, commit, &provenance, of, &members, &geometry, ending)
}

fn write(
    probabilities: bool,
    mut commit: Commit,
    provenance: &Provenance,
    (id, scheme, reader): (&str, &Scheme, Reader),
    members: &Members,
    geometry: &Geometry,
    ending: &str,
) -> Result<()> {
    let classes = members.classes(&Rule::for_probabilities(scheme))?;
    if probabilities {
        let [z, y, x] = geometry.shape;
        commit.stream(PROBABILITIES, |out| {
            out.write_all(&npy::encode_header::<f16>(&[scheme.outputs(), z, y, x]))?;
            for output in 0..scheme.outputs() {
                for slab in members.slabs() {
                    let mean = members.mean(output, slab).map_err(std::io::Error::other)?;
                    let halves = mean.iter().flat_map(|p| f16::from_f32(*p).to_le_bytes());
                    out.write_all(&halves.collect::<Vec<u8>>())?;
                }
            }
            Ok(())
        })?;
    }
    write_prediction(commit, provenance, (id, scheme, reader), &classes, geometry, ending)
}

/// What all members say that their outputs mean, and how their maps are read.
fn agreed(members: &[Found], records: &[Record<Prediction>]) -> Result<Recorded> {
    let of = |(found, record): (&Found, &Record<Prediction>)| {
        Recorded::of(found.record.as_deref().unwrap_or(Path::new("")), &record.body)
    };
    let mut all = members.iter().zip(records).map(of).collect::<Vec<_>>().into_iter();
    let Some(first) = all.next() else { return Err(Error::input("no predictions to average")) };
    let hint = "only models of one data set can be averaged";
    all.try_for_each(|other| first.check_same(&other)).map_err(|e| e.hint(hint))?;
    Ok(first)
}

/// The grid that all members lie on.
fn common_grid(reader: Reader, members: &[Found]) -> Result<Geometry> {
    let (geometry, _) = reader.read_header(&members[0].segmentation)?;
    for member in &members[1..] {
        let (other, _) = reader.read_header(&member.segmentation)?;
        let first = (members[0].segmentation.as_path(), &geometry);
        let hint = "these are predictions of different images";
        let apart = meet((&member.segmentation, &other), first).map_err(|e| e.hint(hint))?;
        if let Some(apart) = apart {
            return Err(Error::input(apart.to_string()).hint(hint));
        }
    }
    Ok(geometry)
}
