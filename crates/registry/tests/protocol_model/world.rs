//! The life of a render as a graph of states, small enough to visit all of them.
//!
//! Rows change in one step, as a transaction does. Everything between rows may come late, twice or never: prompts stay
//! until somebody acknowledges them, reports are on their way until they are applied, a worker that does nothing is
//! one that was stopped. What goes wrong is counted, so that every path has an end.

use std::collections::BTreeSet;

use likeness_domain::RenderState;
use stateright::{Model, Property};

/// Attempts that may fail before a render does.
const MAX_FAILURES: u8 = 2;
const DISPATCHERS: usize = 2;

/// A rule of the queue that a model may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A worker hears that its report is committed only when it is
    CommitFirst,
    /// Only the current attempt finishes a render
    Fence,
    /// What nobody can claim any more is published again
    Reconcile,
    /// Room in the window is counted from rows
    CountRows,
    /// Only who still leads admits
    Epoch,
    /// A render whose lease has lapsed is taken back
    Reap,
}

/// What is modelled.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub renders: usize,
    pub workers: usize,
    /// Renders that may be handed out at a time.
    pub window: usize,
    /// Things that go wrong, cancels and expiries, on a path.
    pub faults: u8,
    pub broken: Option<Rule>,
}

type Render = usize;
/// A publication of a render.
type Prompt = (Render, u8);
/// An attempt at a render.
type Attempt = (Render, u8);

/// A render's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub state: RenderState,
    pub publication: u8,
    pub attempt: u8,
    pub failures: u8,
    pub cancel_requested: bool,
    /// The attempt whose images are shown.
    pub images: Option<u8>,
    /// A change that the domain does not know.
    pub illegal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worker {
    Idle,
    /// Took a prompt and asks for its render.
    Claiming(Prompt),
    /// Was granted an attempt by a prompt.
    Working(Prompt, u8),
    /// Repeats its report until it is answered.
    Reporting(Prompt, u8),
}

/// All there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub rows: Vec<Row>,
    /// Whose epoch it is.
    epoch: u8,
    /// The dispatchers' counts of free places, each with the epoch that it was made in.
    counted: [Option<(u8, usize)>; DISPATCHERS],
    /// Places that a leader's memory says are taken, where rows are not counted.
    remembered: u8,
    /// Committed and not yet published.
    unsent: BTreeSet<Prompt>,
    stream: BTreeSet<Prompt>,
    copy: Option<BTreeSet<Prompt>>,
    workers: Vec<Worker>,
    /// Reports of success that may arrive at any time, once more too.
    reports: BTreeSet<Attempt>,
    /// Attempts that have an answer in Postgres.
    answered: BTreeSet<Attempt>,
    /// Attempts whose workers heard that they won.
    pub told: BTreeSet<Attempt>,
    faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Count(usize),
    Admit(usize),
    Publish(Prompt),
    Republish(Render),
    Take(usize, Prompt),
    Claim(usize),
    Report(usize),
    Apply(Attempt),
    Hear(usize),
    Reap(Render),
    // What goes wrong, or comes from outside.
    Fail(usize),
    Cancel(Render),
    Expire(Render),
    Crash(usize),
    Lapse(Render),
    LoseLeadership,
    LosePublications,
    RepublishEarly(Render),
    Wipe,
    BackUp,
    RollBack,
}

use RenderState::{Cancelled, Dispatched, Expired, Failed, Queued, Running, Succeeded};

impl World {
    pub fn taken(&self) -> usize {
        let taken = |row: &&Row| matches!(row.state, Dispatched | Running);
        self.rows.iter().filter(taken).count()
    }

    pub fn is_over(&self) -> bool {
        self.rows.iter().all(|row| row.state.is_terminal())
    }

    fn become_(&mut self, render: Render, state: RenderState) {
        let row = &mut self.rows[render];
        row.illegal |= !row.state.may_become(state);
        row.state = state;
    }

    fn is_worked_on(&self, (render, attempt): Attempt) -> bool {
        self.workers.iter().any(|worker| match *worker {
            Worker::Working((held, _), held_attempt)
            | Worker::Reporting((held, _), held_attempt) => {
                (held, held_attempt) == (render, attempt)
            }
            Worker::Idle | Worker::Claiming(_) => false,
        })
    }

    /// Whether somebody may yet claim a publication.
    fn is_claimable(&self, prompt: Prompt) -> bool {
        self.unsent.contains(&prompt)
            || self.stream.contains(&prompt)
            || self.workers.contains(&Worker::Claiming(prompt))
    }

    /// An attempt ended without images.
    fn lose(&mut self, render: Render, failed: bool) {
        let row = &mut self.rows[render];
        row.failures += u8::from(failed);
        let next = match (row.cancel_requested, row.failures >= MAX_FAILURES) {
            (true, _) => Cancelled,
            (false, true) => Failed,
            (false, false) => Queued,
        };
        self.become_(render, next);
    }

    fn publish_again(&mut self, render: Render) {
        let row = &mut self.rows[render];
        row.publication += 1;
        self.unsent.insert((render, row.publication));
    }
}

impl Protocol {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn room(&self, world: &World) -> usize {
        let taken = if self.keeps(Rule::CountRows) {
            world.taken()
        } else {
            usize::from(world.remembered)
        };
        self.window.saturating_sub(taken)
    }

    fn ordinary(&self, world: &World, steps: &mut Vec<Step>) {
        let leader = usize::from(world.epoch) % DISPATCHERS;
        let waits = world.rows.iter().any(|row| row.state == Queued);
        if waits && world.counted[leader].is_none() && self.room(world) > 0 {
            steps.push(Step::Count(leader));
        }
        let counted = (0..DISPATCHERS).filter(|dispatcher| world.counted[*dispatcher].is_some());
        steps.extend(counted.map(Step::Admit));
        steps.extend(world.unsent.iter().copied().map(Step::Publish));
        steps.extend(world.reports.iter().copied().map(Step::Apply));
        for (number, worker) in world.workers.iter().enumerate() {
            match *worker {
                Worker::Idle => {
                    let prompts = world.stream.iter();
                    steps.extend(prompts.map(|prompt| Step::Take(number, *prompt)));
                }
                Worker::Claiming(_) => steps.push(Step::Claim(number)),
                Worker::Working(..) => steps.push(Step::Report(number)),
                Worker::Reporting((render, _), attempt) => {
                    if world.answered.contains(&(render, attempt)) {
                        steps.push(Step::Hear(number));
                    }
                }
            }
        }
        for (render, row) in world.rows.iter().enumerate() {
            let gone = row.state == Running && !world.is_worked_on((render, row.attempt));
            if gone && self.keeps(Rule::Reap) {
                steps.push(Step::Reap(render));
            }
            let lost = row.state == Dispatched && !world.is_claimable((render, row.publication));
            if lost && self.keeps(Rule::Reconcile) {
                steps.push(Step::Republish(render));
            }
        }
    }

    fn wrong(&self, world: &World, steps: &mut Vec<Step>) {
        for (render, row) in world.rows.iter().enumerate() {
            if !row.state.is_terminal() {
                steps.push(Step::Expire(render));
                if !row.cancel_requested {
                    steps.push(Step::Cancel(render));
                }
            }
            if row.state == Running {
                steps.push(Step::Lapse(render));
            }
            if row.state == Dispatched && self.keeps(Rule::Reconcile) {
                steps.push(Step::RepublishEarly(render));
            }
        }
        for (number, worker) in world.workers.iter().enumerate() {
            if *worker != Worker::Idle {
                steps.push(Step::Crash(number));
            }
            if matches!(worker, Worker::Working(..)) {
                steps.push(Step::Fail(number));
            }
        }
        steps.push(Step::LoseLeadership);
        if !world.unsent.is_empty() {
            steps.push(Step::LosePublications);
        }
        if !world.stream.is_empty() {
            steps.push(Step::Wipe);
        }
        match &world.copy {
            None => steps.push(Step::BackUp),
            Some(copy) if *copy != world.stream => steps.push(Step::RollBack),
            Some(_) => {}
        }
    }

    fn admit(&self, world: &mut World, dispatcher: usize) {
        let Some((epoch, room)) = world.counted[dispatcher].take() else {
            return;
        };
        if self.keeps(Rule::Epoch) && epoch != world.epoch {
            return;
        }
        let queued = |row: &(Render, &Row)| row.1.state == Queued;
        let waiting: Vec<Render> = world
            .rows
            .iter()
            .enumerate()
            .filter(queued)
            .map(|row| row.0)
            .collect();
        for render in waiting.into_iter().take(room) {
            world.become_(render, Dispatched);
            world.remembered += 1;
            world.publish_again(render);
        }
    }

    fn claim(world: &mut World, number: usize) {
        let Worker::Claiming((render, publication)) = world.workers[number] else {
            return;
        };
        let row = &mut world.rows[render];
        if row.state != Dispatched || row.publication != publication {
            world.stream.remove(&(render, publication));
            world.workers[number] = Worker::Idle;
            return;
        }
        row.attempt += 1;
        world.workers[number] = Worker::Working((render, publication), row.attempt);
        world.become_(render, Running);
    }

    /// A worker says that it has uploaded its images.
    fn report(&self, world: &mut World, number: usize) {
        let Worker::Working(prompt, attempt) = world.workers[number] else {
            return;
        };
        world.reports.insert((prompt.0, attempt));
        world.workers[number] = Worker::Reporting(prompt, attempt);
        if !self.keeps(Rule::CommitFirst) {
            world.answered.insert((prompt.0, attempt));
            world.told.insert((prompt.0, attempt));
        }
    }

    fn apply(&self, world: &mut World, (render, attempt): Attempt) {
        world.reports.remove(&(render, attempt));
        world.answered.insert((render, attempt));
        let row = &mut world.rows[render];
        let current = row.state == Running && row.attempt == attempt;
        let fenced = self.keeps(Rule::Fence);
        if (fenced && !current) || row.state.is_terminal() {
            return;
        }
        row.images = Some(attempt);
        world.become_(render, Succeeded);
        world.told.insert((render, attempt));
        world.remembered = world.remembered.saturating_sub(1);
    }

    /// A worker was answered: now it acknowledges its prompt, and whoever else holds it has none.
    fn hear(world: &mut World, number: usize) {
        let Worker::Reporting(prompt, _) = world.workers[number] else {
            return;
        };
        world.stream.remove(&prompt);
        world.workers[number] = Worker::Idle;
    }

    /// A worker reports that its attempt failed, at once: only a success has something to lose on its way.
    fn fail(world: &mut World, number: usize) {
        let Worker::Working(prompt, attempt) = world.workers[number] else {
            return;
        };
        let row = &world.rows[prompt.0];
        if row.state == Running && row.attempt == attempt {
            world.lose(prompt.0, true);
            world.remembered = world.remembered.saturating_sub(1);
        }
        world.stream.remove(&prompt);
        world.workers[number] = Worker::Idle;
    }

    fn go_wrong(world: &mut World, step: Step) {
        world.faults += 1;
        match step {
            Step::Fail(number) => Self::fail(world, number),
            Step::Cancel(render) => match world.rows[render].state {
                Running => world.rows[render].cancel_requested = true,
                _ => world.become_(render, Cancelled),
            },
            Step::Expire(render) => world.become_(render, Expired),
            // Its report may be on its way.
            Step::Crash(number) => world.workers[number] = Worker::Idle,
            Step::Lapse(render) => world.lose(render, true),
            Step::LoseLeadership => {
                world.epoch += 1;
                world.remembered = 0;
            }
            Step::LosePublications => world.unsent.clear(),
            Step::RepublishEarly(render) => world.publish_again(render),
            Step::Wipe => world.stream.clear(),
            Step::BackUp => world.copy = Some(world.stream.clone()),
            Step::RollBack => world.stream = world.copy.clone().unwrap_or_default(),
            _ => {}
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let row = Row {
            state: Queued,
            publication: 0,
            attempt: 0,
            failures: 0,
            cancel_requested: false,
            images: None,
            illegal: false,
        };
        vec![World {
            rows: vec![row; self.renders],
            epoch: 0,
            counted: [None; DISPATCHERS],
            remembered: 0,
            unsent: BTreeSet::new(),
            stream: BTreeSet::new(),
            copy: None,
            workers: vec![Worker::Idle; self.workers],
            reports: BTreeSet::new(),
            answered: BTreeSet::new(),
            told: BTreeSet::new(),
            faults: 0,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.ordinary(world, steps);
        if world.faults < self.faults {
            self.wrong(world, steps);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = last.clone();
        let world = &mut next;
        match step {
            Step::Count(dispatcher) => {
                world.counted[dispatcher] = Some((world.epoch, self.room(world)));
            }
            Step::Admit(dispatcher) => self.admit(world, dispatcher),
            Step::Publish(prompt) => {
                world.unsent.remove(&prompt);
                world.stream.insert(prompt);
            }
            Step::Republish(render) => world.publish_again(render),
            Step::Take(number, prompt) => world.workers[number] = Worker::Claiming(prompt),
            Step::Claim(number) => Self::claim(world, number),
            Step::Report(number) => self.report(world, number),
            Step::Apply(attempt) => self.apply(world, attempt),
            Step::Hear(number) => Self::hear(world, number),
            Step::Reap(render) => world.lose(render, true),
            wrong => Self::go_wrong(world, wrong),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one effect", |_, world: &World| {
                world.rows.iter().all(has_one_effect)
            }),
            Property::always("winners are told the truth", |_, world: &World| {
                let won =
                    |(render, attempt): &Attempt| world.rows[*render].images == Some(*attempt);
                world.told.iter().all(won)
            }),
            Property::always("the window holds", |model: &Self, world: &World| {
                world.taken() <= model.window
            }),
            // No path goes round, see `tests`: whoever can do nothing more has come to the end of its path.
            Property::always(
                "every path ends with every render",
                |model: &Self, world: &World| {
                    let mut ordinary = Vec::new();
                    model.ordinary(world, &mut ordinary);
                    !ordinary.is_empty() || world.is_over()
                },
            ),
            Property::sometimes("succeeds", |_, world: &World| ended(world, Succeeded)),
            Property::sometimes("fails", |_, world: &World| ended(world, Failed)),
            Property::sometimes("is cancelled", |_, world: &World| ended(world, Cancelled)),
            Property::sometimes("expires", |_, world: &World| ended(world, Expired)),
        ]
    }
}

/// Images are shown of the attempt that won, and of no other render; no end was left again.
fn has_one_effect(row: &Row) -> bool {
    let shown = match row.state {
        Succeeded => row.images == Some(row.attempt),
        _ => row.images.is_none(),
    };
    shown && !row.illegal
}

fn ended(world: &World, state: RenderState) -> bool {
    world.rows.iter().any(|row| row.state == state)
}
