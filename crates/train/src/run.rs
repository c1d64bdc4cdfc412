//! A stage of a training: steps from first to last, with a record, pictures of its progress, and checkpoints that it goes on
//! from.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Tensor, Var};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::cores::Cores;
use crate::record::{Record, Row};
use crate::{AdamW, Error, Gradients, Group, Ranks, Rate, Settings, checkpoint};

mod places;

/// How a stage is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Samples of a step.
    pub batch: usize,
    /// A step's samples go through in so many parts, whose gradients are added: one after another where memory is what is short (a
    /// GPU), side by side on a CPU's cores. The sum is the same to the bit on any number of cores.
    #[serde(default = "one")]
    pub parts: usize,
    /// The learning rate, and the number of steps.
    pub rate: Rate,
    /// The optimiser.
    #[serde(default)]
    pub adam: Settings,
    /// A checkpoint and a sheet of pictures after so many steps.
    pub every: u64,
}

fn one() -> usize {
    1
}

impl Plan {
    /// # Errors
    /// [`Error::Recipe`] for what no run can do.
    pub fn check(&self, stage: &str) -> Result<(), Error> {
        let wrong = |what: &str| {
            Err(Error::Recipe {
                reason: format!("[{stage}]: {what}"),
            })
        };
        if self.parts == 0 || self.batch == 0 || !self.batch.is_multiple_of(self.parts) {
            return wrong("`batch` must be a multiple of `parts`, and neither 0");
        }
        if self.every == 0 || self.rate.steps == 0 {
            return wrong("`every` and `rate.steps` must be at least 1");
        }
        if !(self.rate.peak > 0.0 && self.rate.peak.is_finite()) {
            return wrong("`rate.peak` must be above 0");
        }
        Ok(())
    }
}

/// What a stage trains, and how well it does.
pub struct Stage<'a> {
    /// Its name, and its folder's.
    pub name: &'a str,
    /// What is trained.
    pub variables: BTreeMap<String, Var>,
    /// The learning rate and decay of each.
    pub group: &'a dyn Fn(&str, &Var) -> Group,
    /// The loss of one part of a step, with its graph.
    pub loss: &'a (dyn Fn(Part) -> Result<Tensor, Error> + Sync),
    /// A sheet of pictures that shows how far it is.
    pub sheet: Option<&'a dyn Fn() -> Result<RgbImage, Error>>,
}

/// A part's loss and its gradients.
pub type Descent<'a> = dyn Fn(Part) -> Result<(f64, Gradients), Error> + Sync + 'a;

/// What a large training has beside its stage.
#[derive(Clone, Copy, Default)]
pub struct Means<'a> {
    /// Data that are read as it goes on.
    pub feed: Option<&'a dyn Feed>,
    /// Gradients from elsewhere than the graph of the stage's loss.
    pub descent: Option<&'a Descent<'a>>,
    /// Who else trains the same stage, in the same folder.
    pub ranks: Option<&'a Ranks>,
}

impl Means<'_> {
    fn rank(self) -> usize {
        self.ranks.map_or(0, Ranks::rank)
    }

    fn world(self) -> usize {
        self.ranks.map_or(1, Ranks::world)
    }

    /// The mean over all workers, who wait for each other here.
    fn mean(self, number: f64, stage: &Stage<'_>) -> Result<f64, Error> {
        let device = stage.variables.values().next().map(|var| var.device());
        match (self.ranks, device) {
            (Some(ranks), Some(device)) => ranks.mean_number(number, device),
            _ => Ok(number),
        }
    }
}

/// Data that are too many to be kept: they are read step by step, and where reading stands is part of the checkpoint.
pub trait Feed {
    /// Goes on from a place that [`Feed::place`] gave, or begins. Comes before all else.
    ///
    /// # Errors
    /// A place of other data; data that cannot be read.
    fn start(&self, place: Option<&str>) -> Result<(), Error>;
    /// Reads a step's samples. Comes before the step's parts.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn next(&self) -> Result<(), Error>;
    /// Where reading stands behind the last step's samples.
    ///
    /// # Errors
    /// None that is known of.
    fn place(&self) -> Result<String, Error>;
    /// Samples that were left out so far.
    fn skipped(&self) -> u64;
    /// Why they were left out, line by line.
    fn reasons(&self) -> String;
}

/// One part of one step.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Counted over all parts of all steps and workers from 0: what is drawn for a part follows from it.
    pub number: u64,
    /// Which of the step's parts it is, from 0.
    pub place: usize,
    /// Its samples.
    pub samples: usize,
    /// The step, from 0.
    pub step: u64,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The stage.
    pub stage: &'a str,
    /// Steps done, of all.
    pub done: u64,
    /// All steps.
    pub steps: u64,
    /// The last step's loss.
    pub loss: f64,
    /// Steps per second since this run began.
    pub rate: f64,
    /// Samples of the data that were left out so far.
    pub skipped: u64,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done; the variables hold their averages.
    Done,
    /// It was told to stop, and can be gone on with.
    Stopped,
}

/// Trains a stage in `folder`, from its checkpoint if there is one. Afterwards the variables hold their moving averages.
///
/// # Errors
/// A failing device, a loss that is not finite, files that cannot be written, a checkpoint of something else.
pub fn run(
    stage: &Stage<'_>,
    plan: &Plan,
    folder: &Path,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Ended, Error> {
    run_with(stage, Means::default(), plan, folder, watch)
}

/// As [`run`], with further means.
///
/// # Errors
/// As [`run`], and those of the means.
pub fn run_with(
    stage: &Stage<'_>,
    means: Means<'_>,
    plan: &Plan,
    folder: &Path,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Ended, Error> {
    plan.check(stage.name)?;
    let folder = folder.join(stage.name);
    std::fs::create_dir_all(&folder).map_err(|e| unwritable(&folder, &e))?;
    let mut adam = AdamW::new(&stage.variables, plan.adam, stage.group)?;
    resume(&mut adam, means, plan, &folder)?;
    let cores = Cores::of(plan.parts, &stage.variables)?;
    let first = means.rank() == 0;
    let record = first.then(|| Record::open(&folder, adam.steps()));
    let mut record = record.transpose()?;
    let (start, from) = (Instant::now(), adam.steps());
    let mut stops = false;
    while adam.steps() < plan.rate.steps && !stops {
        if let Some(feed) = means.feed {
            feed.next()?;
        }
        let row = step(stage, means, plan, &cores, &mut adam)?;
        if let Some(record) = &mut record {
            record.add(row)?;
        }
        let done = adam.steps();
        let flow = watch(Progress {
            stage: stage.name,
            done,
            steps: plan.rate.steps,
            loss: row.loss,
            rate: (done - from) as f64 / start.elapsed().as_secs_f64(),
            skipped: means.feed.map_or(0, Feed::skipped),
        });
        // One that is told to stop stops all, behind the same step.
        stops = means.mean(f64::from(flow.is_break()), stage)? > 0.0;
        if done.is_multiple_of(plan.every) || done == plan.rate.steps || stops {
            save(stage, &adam, means, &folder)?;
            if let Some(record) = &record {
                record.draw()?;
                show(stage, &adam, &folder)?;
            }
        }
    }
    if stops && adam.steps() < plan.rate.steps {
        return Ok(Ended::Stopped);
    }
    for (name, average) in adam.averages()? {
        if let Some(var) = stage.variables.get(&name) {
            var.set(&average)?;
        }
    }
    Ok(Ended::Done)
}

/// Goes on from a checkpoint, if there is one, and starts the feed where it stood.
fn resume(adam: &mut AdamW, means: Means<'_>, plan: &Plan, folder: &Path) -> Result<(), Error> {
    let saved = folder.join("checkpoint.safetensors");
    let mut place = if saved.exists() {
        checkpoint::load_with_place(adam, &saved)?
    } else {
        None
    };
    let Some(feed) = means.feed.filter(|_| adam.steps() < plan.rate.steps) else {
        return Ok(());
    };
    if means.rank() > 0 && adam.steps() > 0 {
        place = Some(places::read(folder, means.rank(), adam.steps())?);
    }
    feed.start(place.as_deref())
}

/// Writes the checkpoint, and what was left out of the data. The first worker's is written when all others have written where
/// their feeds stand.
fn save(stage: &Stage<'_>, adam: &AdamW, means: Means<'_>, folder: &Path) -> Result<(), Error> {
    let (rank, steps) = (means.rank(), adam.steps());
    if let Some(feed) = means.feed.filter(|_| rank > 0) {
        places::write(folder, rank, steps, &feed.place()?)?;
    }
    means.mean(0.0, stage)?;
    if rank > 0 {
        return Ok(());
    }
    let saved = folder.join("checkpoint.safetensors");
    let Some(feed) = means.feed else {
        return checkpoint::save(adam, &saved);
    };
    checkpoint::save_with_place(adam, &feed.place()?, &saved)?;
    let path = folder.join("skipped.txt");
    std::fs::write(&path, feed.reasons()).map_err(|e| unwritable(&path, &e))?;
    places::keep(folder, steps)
}

/// One step, in parts.
fn step(
    stage: &Stage<'_>,
    means: Means<'_>,
    plan: &Plan,
    cores: &Cores,
    adam: &mut AdamW,
) -> Result<Row, Error> {
    let step = adam.steps();
    let Stage {
        loss, variables, ..
    } = stage;
    let (rank, world) = (means.rank() as u64, means.world() as u64);
    let descent = means.descent;
    let one = |part: usize| {
        let part = Part {
            number: (step * plan.parts as u64 + part as u64) * world + rank,
            place: part,
            samples: plan.batch / plan.parts,
            step,
        };
        if let Some(descent) = descent {
            return descent(part);
        }
        let loss = loss(part)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        Ok::<_, Error>((value, Gradients::of(&loss, variables)?))
    };
    let mut total = 0.0;
    let mut sum: Option<Gradients> = None;
    cores.each(plan.parts, &one, |part| {
        let (loss, more) = part?;
        total += loss;
        match &mut sum {
            Some(sum) => sum.add(&more)?,
            None => sum = Some(more),
        }
        Ok(())
    })?;
    let mut gradients = sum.ok_or_else(|| Error::Recipe {
        reason: format!("[{}]: `parts` must be at least 1", stage.name),
    })?;
    gradients.mean_of(plan.parts)?;
    if let Some(ranks) = means.ranks {
        ranks.mean(&mut gradients)?;
    }
    let rate = plan.rate.at(step);
    Ok(Row {
        step,
        loss: means.mean(total / plan.parts as f64, stage)?,
        norm: adam.step(&gradients, rate)?,
        rate,
    })
}

/// Writes the stage's sheet, painted with the averages; the weights are what they were afterwards.
fn show(stage: &Stage<'_>, adam: &AdamW, folder: &Path) -> Result<(), Error> {
    let Some(sheet) = stage.sheet else {
        return Ok(());
    };
    let held = stage.variables.iter();
    let held: Vec<(&Var, Tensor)> = held
        .map(|(_, var)| Ok((var, var.as_tensor().copy()?)))
        .collect::<Result<_, Error>>()?;
    for (name, average) in adam.averages()? {
        if let Some(var) = stage.variables.get(&name) {
            var.set(&average)?;
        }
    }
    let painted = sheet();
    for (var, weight) in held {
        var.set(&weight)?;
    }
    let path: PathBuf = folder.join(format!("sheet-{:06}.png", adam.steps()));
    painted?
        .save(&path)
        .map_err(|e| unwritable(&path, &std::io::Error::other(e)))
}

/// What could not be written, and why.
pub(crate) fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
