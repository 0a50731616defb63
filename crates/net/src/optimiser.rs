//! Adam and SGD with Nesterov momentum, with torch's arithmetic in f32.

mod card;

use crate::Error;
use crate::cuda::Context;
use crate::unet::{Parameter, Topology, gather_named, named};
use card::CardMoments;
use kernels::Pointer;
use ndarray::ArrayD;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Kingma and Ba 2015, with weight decay added to the gradient (torch.optim.Adam, not AdamW).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Divide by the largest second moment so far (Reddi et al. 2018).
    pub amsgrad: bool,
}

/// torch.optim.SGD with dampening 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdOptions {
    /// Decay of the velocity.
    pub momentum: f64,
    /// Look ahead along the velocity.
    pub nesterov: bool,
    /// L2 penalty.
    pub weight_decay: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Adam(AdamOptions),
    Sgd(SgdOptions),
}

impl Rule {
    /// What is kept per parameter.
    fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(a) if a.amsgrad => {
                &["first_moment", "second_moment", "largest_second_moment"]
            }
            Self::Adam(_) => &["first_moment", "second_moment"],
            Self::Sgd(_) => &["velocity"],
        }
    }
}

/// An update rule with its state.
#[derive(Debug)]
pub struct Optimiser {
    rule: Rule,
    clip_norm: Option<f64>,
    steps: u64,
    moments: Moments,
    parameters: Vec<Parameter>,
    /// Ranges of the parameters that have no gradient, in order. torch skips them, weight decay and all.
    idle: Vec<Range<usize>>,
}

/// One flat vector per name of [`Rule::moments`], where the network is; none before the first step.
#[derive(Debug)]
enum Moments {
    Host(Vec<Vec<f32>>),
    Card(CardMoments),
}

impl Moments {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Host(vectors) if vectors.is_empty())
    }

    fn read(&self) -> Result<Cow<'_, [Vec<f32>]>, Error> {
        match self {
            Self::Host(vectors) => Ok(Cow::Borrowed(vectors)),
            Self::Card(card) => Ok(Cow::Owned(card.read()?)),
        }
    }
}

/// Numbers per parallel task; part of the clipping norm's definition, so not a function of the threads.
const CHUNK: usize = 1 << 14;

impl Optimiser {
    /// Adam; gradients are first scaled down to a joint norm of `clip_norm` if they exceed it.
    pub fn adam(options: AdamOptions, clip_norm: Option<f64>) -> Self {
        Self::new(Rule::Adam(options), clip_norm)
    }

    /// SGD; `clip_norm` as for [`Optimiser::adam`].
    pub fn sgd(options: SgdOptions, clip_norm: Option<f64>) -> Self {
        Self::new(Rule::Sgd(options), clip_norm)
    }

    fn new(rule: Rule, clip_norm: Option<f64>) -> Self {
        let moments = Moments::Host(vec![]);
        Self { rule, clip_norm, steps: 0, moments, parameters: vec![], idle: vec![] }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state by name, `first_moment.encoder.0.conv.0.weight` and so on, each with its parameter's shape; empty
    /// before the first step. With [`Optimiser::steps`], all that [`Optimiser::restore`] needs to go on bit by bit.
    ///
    /// # Errors
    /// If it lies on a card that fails.
    pub fn state(&self) -> Result<Vec<(String, ArrayD<f32>)>, Error> {
        let vectors = self.moments.read()?;
        let moments = self.rule.moments().iter().zip(vectors.iter());
        Ok(moments.flat_map(|(name, values)| named(&self.prefixed(name), values)).collect())
    }

    /// Takes over a state; its names and shapes must be those of a state of this rule, and the next step checks them
    /// against the network.
    pub fn restore(&mut self, steps: u64, state: &[(String, ArrayD<f32>)]) -> Result<(), Error> {
        let names = self.rule.moments();
        let prefix = format!("{}.", names[0]);
        let mut parameters: Vec<Parameter> = Vec::new();
        for (name, array) in state {
            if let Some(name) = name.strip_prefix(&prefix) {
                let start = parameters.last().map_or(0, |p| p.range.end);
                let (name, shape) = (name.to_owned(), array.shape().to_vec());
                parameters.push(Parameter { name, shape, range: start..start + array.len() });
            }
        }
        let known = |name: &str| names.iter().any(|m| name.starts_with(&format!("{m}.")));
        if let Some((name, _)) = state.iter().find(|(name, _)| !known(name)) {
            return Err(Error::UnknownTensor(name.clone()));
        }
        let restored = Self { parameters, steps, ..Self::new(self.rule, self.clip_norm) };
        let mut moments = Vec::new();
        for name in if state.is_empty() { &[] } else { names } {
            let prefix = format!("{name}.");
            let mine: Vec<_> =
                state.iter().filter(|(n, _)| n.starts_with(&prefix)).cloned().collect();
            moments.push(gather_named(&restored.prefixed(name), &mine)?);
        }
        *self = Self { moments: Moments::Host(moments), ..restored };
        Ok(())
    }

    fn prefixed(&self, moment: &str) -> Vec<Parameter> {
        let rename =
            |p: &Parameter| Parameter { name: format!("{moment}.{}", p.name), ..p.clone() };
        self.parameters.iter().map(rename).collect()
    }

    /// Readies the state for a network's parameters and counts a step.
    pub(crate) fn begin(&mut self, topology: &Topology) -> Result<(), Error> {
        let parameters = &topology.parameters[..];
        if self.moments.is_empty() {
            let length = parameters.last().map_or(0, |p| p.range.end);
            self.parameters = parameters.to_vec();
            self.moments = Moments::Host(vec![vec![0.0; length]; self.rule.moments().len()]);
        }
        self.check(parameters)?;
        self.idle.clone_from(&topology.idle);
        self.steps += 1;
        Ok(())
    }

    /// As [`Optimiser::begin`], for a network on a card: the state goes there, and what differs from step to step.
    pub(crate) fn begin_on(
        &mut self,
        ctx: &Arc<Context>,
        topology: &Topology,
        learning_rate: f64,
    ) -> Result<(), Error> {
        self.begin(topology)?;
        if let Moments::Host(vectors) = &self.moments {
            self.moments = Moments::Card(CardMoments::new(ctx, vectors, &self.idle)?);
        }
        match &self.moments {
            Moments::Card(card) => card.begin(self.rule, self.steps, learning_rate),
            Moments::Host(_) => Ok(()),
        }
    }

    /// As [`Optimiser::step`], on the card.
    pub(crate) fn step_on(&self, values: Pointer, gradient: Pointer) {
        if let Moments::Card(card) = &self.moments {
            card.step(self.rule, self.clip_norm, values, gradient);
        }
    }

    /// The step that was begun; `gradient` is clipped in place.
    pub(crate) fn step(&mut self, values: &mut [f32], gradient: &mut [f32], learning_rate: f64) {
        if let Some(limit) = self.clip_norm {
            clip(gradient, limit);
        }
        let first = self.steps == 1;
        let Moments::Host(moments) = &mut self.moments else {
            unreachable!("an optimiser serves one network")
        };
        for part in between(&self.idle, values.len()) {
            let (values, gradient) = (&mut values[part.clone()], &gradient[part.clone()]);
            match (self.rule, &mut moments[..]) {
                (Rule::Adam(rule), [m, v, largest @ ..]) => {
                    let (m, v) = (&mut m[part.clone()], &mut v[part.clone()]);
                    let largest = largest.first_mut().map(|top| &mut top[part]);
                    adam(&rule, self.steps, learning_rate, values, gradient, m, v, largest);
                }
                (Rule::Sgd(rule), [velocity]) => {
                    sgd(&rule, first, learning_rate, values, gradient, &mut velocity[part]);
                }
                _ => unreachable!("as many moments as the rule names"),
            }
        }
    }

    /// All of the rule that a recorded step has built in.
    pub(crate) fn recorded_as(&self) -> String {
        let place = match &self.moments {
            Moments::Host(_) => None,
            Moments::Card(card) => Some(card.place()),
        };
        format!("{:?} {:?} {place:?}", self.rule, self.clip_norm)
    }

    fn check(&self, parameters: &[Parameter]) -> Result<(), Error> {
        for (i, p) in parameters.iter().enumerate() {
            match self.parameters.get(i) {
                Some(mine) if mine == p => {}
                Some(mine) if mine.name == p.name => {
                    let (name, found) = (p.name.clone(), mine.shape.clone());
                    return Err(Error::TensorShape { name, found, expected: p.shape.clone() });
                }
                _ => return Err(Error::MissingTensor(format!("{} (optimiser state)", p.name))),
            }
        }
        match self.parameters.get(parameters.len()) {
            Some(extra) => Err(Error::UnknownTensor(format!("{} (optimiser state)", extra.name))),
            None => Ok(()),
        }
    }
}

/// What of `0..length` lies in none of the ranges, which are in order.
fn between(ranges: &[Range<usize>], length: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|r| r.end));
    let ends = ranges.iter().map(|r| r.start).chain([length]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|r| !r.is_empty()).collect()
}

/// torch.nn.utils.clip_grad_norm_ with the norm summed in f64.
fn clip(gradient: &mut [f32], limit: f64) {
    let sum = |chunk: &[f32]| chunk.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(sum).collect();
    let factor = limit / (sums.iter().sum::<f64>().sqrt() + 1e-6);
    if factor < 1.0 {
        gradient.par_iter_mut().for_each(|g| *g *= factor as f32);
    }
}

fn adam(
    rule: &AdamOptions,
    step: u64,
    learning_rate: f64,
    values: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    largest: Option<&mut [f32]>,
) {
    let step = i32::try_from(step).unwrap_or(i32::MAX);
    let size = (learning_rate / (1.0 - rule.beta1.powi(step))) as f32;
    let root = (1.0 - rule.beta2.powi(step)).sqrt() as f32;
    let (decay, epsilon) = (rule.weight_decay as f32, rule.epsilon as f32);
    let (one_beta1, beta2, one_beta2) =
        ((1.0 - rule.beta1) as f32, rule.beta2 as f32, (1.0 - rule.beta2) as f32);
    let one = |p: &mut f32, g: f32, m: &mut f32, v: &mut f32, top: Option<&mut f32>| {
        let g = g + decay * *p;
        *m += one_beta1 * (g - *m);
        *v = *v * beta2 + one_beta2 * g * g;
        let v = match top {
            Some(top) => {
                *top = top.max(*v);
                *top
            }
            None => *v,
        };
        *p -= size * *m / (v.sqrt() / root + epsilon);
    };
    let chunks = (values.par_chunks_mut(CHUNK), gradient.par_chunks(CHUNK))
        .into_par_iter()
        .zip((first.par_chunks_mut(CHUNK), second.par_chunks_mut(CHUNK)).into_par_iter());
    match largest {
        Some(largest) => {
            let chunks = chunks.zip(largest.par_chunks_mut(CHUNK));
            chunks.for_each(|(((p, g), (m, v)), top)| {
                for i in 0..p.len() {
                    one(&mut p[i], g[i], &mut m[i], &mut v[i], Some(&mut top[i]));
                }
            });
        }
        None => chunks.for_each(|((p, g), (m, v))| {
            for i in 0..p.len() {
                one(&mut p[i], g[i], &mut m[i], &mut v[i], None);
            }
        }),
    }
}

fn sgd(
    rule: &SgdOptions,
    first: bool,
    learning_rate: f64,
    values: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
) {
    let (decay, momentum, rate) =
        (rule.weight_decay as f32, rule.momentum as f32, learning_rate as f32);
    let chunks = (values.par_chunks_mut(CHUNK), gradient.par_chunks(CHUNK)).into_par_iter();
    chunks.zip(velocity.par_chunks_mut(CHUNK)).for_each(|((p, g), velocity)| {
        for i in 0..p.len() {
            let g = g[i] + decay * p[i];
            velocity[i] = if first { g } else { momentum * velocity[i] + g };
            p[i] -= rate * if rule.nesterov { g + momentum * velocity[i] } else { velocity[i] };
        }
    });
}
