//! Whether every promise was kept, from what clients were told, what the rows say and what lies in storage.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Result;
use likeness_domain::{RenderState, names::RenderName};
use likeness_test_support::{
    TestContext,
    history::{self, EndedAttempt, StoredImage, StoredRender, Transition},
};
use likeness_wire::v1;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    client::{Tenant, Told, Wish},
    services::says,
};

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// Accepted, and then gone, or without what it is said to have, or given up without a reason.
    Lost,
    /// Two effects: two renders of a request, two winners, two last states, another's file.
    Duplicated,
    /// No last state.
    Stuck,
    /// An object that no winning attempt owns.
    Orphaned,
    /// Something of one tenant at another.
    WrongOwner,
}

/// A breach, and which.
#[derive(Clone, Debug)]
pub struct Finding {
    pub breach: Breach,
    pub what: String,
}

/// Everything there is to know after a run.
pub struct Evidence {
    wishes: Vec<(Wish, Told)>,
    tenants: Vec<Tenant>,
    renders: BTreeMap<Uuid, StoredRender>,
    transitions: Vec<Transition>,
    attempts: Vec<EndedAttempt>,
    images: Vec<StoredImage>,
    objects: BTreeMap<String, Vec<u8>>,
    /// Attempts whose workers heard that they had won.
    told_to_have_won: Vec<(Uuid, i32)>,
}

impl Evidence {
    pub async fn gather(
        context: &TestContext,
        wishes: Vec<(Wish, Told)>,
        tenants: Vec<Tenant>,
        journal: &str,
    ) -> Result<Self> {
        let renders = history::renders(context.pool()).await?;
        Ok(Self {
            wishes,
            tenants,
            renders: renders.into_iter().map(|row| (row.id, row)).collect(),
            transitions: history::transitions(context.pool()).await?,
            attempts: history::attempts(context.pool()).await?,
            images: history::images(context.pool()).await?,
            objects: context.objects().await?,
            told_to_have_won: journal.lines().filter_map(win).collect(),
        })
    }

    /// How many renders ended in each state.
    pub fn states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for row in self.renders.values() {
            *states.entry(row.state.clone()).or_default() += 1;
        }
        states
    }

    /// Why renders failed.
    pub fn reasons(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for reason in self
            .renders
            .values()
            .filter_map(|row| row.error_reason.clone())
        {
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    /// How many attempts ended in each way.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for attempt in &self.attempts {
            *outcomes.entry(attempt.outcome.clone()).or_default() += 1;
        }
        outcomes
    }

    /// Every breach.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        for (wish, told) in &self.wishes {
            self.check_wish(wish, told, &mut findings);
        }
        self.check_rows(&mut findings);
        self.check_transitions(&mut findings);
        self.check_winners(&mut findings);
        self.check_objects(&mut findings);
        findings.0
    }

    /// What the client was told holds.
    fn check_wish(&self, wish: &Wish, told: &Told, findings: &mut Findings) {
        let names: BTreeSet<&String> = told.created.iter().collect();
        if names.len() > 1 {
            findings.add(Breach::Duplicated, format!("one request made {names:?}"));
        }
        for name in names {
            let Ok(name) = name.parse::<RenderName>() else {
                findings.add(Breach::Lost, format!("{name} is no render's name"));
                continue;
            };
            let Some(row) = self.renders.get(&name.render.0) else {
                findings.add(Breach::Lost, format!("{name} has no row"));
                continue;
            };
            let owner = format!("tenants/{}", row.tenant);
            if owner != self.tenants[wish.tenant].name || row.seed != wish.seed {
                findings.add(Breach::WrongOwner, format!("{name} is {owner}'s"));
            }
            check_end(wish, told, row, findings);
        }
    }

    /// No request made two rows, and every row has its end.
    fn check_rows(&self, findings: &mut Findings) {
        let mut seeds = BTreeSet::new();
        for row in self.renders.values() {
            if !seeds.insert(row.seed) {
                findings.add(
                    Breach::Duplicated,
                    format!("two renders of seed {}", row.seed),
                );
            }
            if !state(&row.state).is_some_and(RenderState::is_terminal) {
                findings.add(Breach::Stuck, format!("{} is {}", row.id, row.state));
            }
        }
    }

    /// Every change of state is one that the domain knows.
    fn check_transitions(&self, findings: &mut Findings) {
        for Transition {
            render,
            before,
            after,
        } in &self.transitions
        {
            let known = state(before).zip(state(after));
            if !known.is_some_and(|(before, after)| before.may_become(after)) {
                findings.add(
                    Breach::Duplicated,
                    format!("{render} went from {before} to {after}"),
                );
            }
        }
    }

    /// One attempt won, and no other heard that it had.
    fn check_winners(&self, findings: &mut Findings) {
        let wins = self
            .attempts
            .iter()
            .filter(|attempt| attempt.outcome == "SUCCEEDED");
        let won = wins.map(|attempt| (attempt.render, attempt.attempt));
        let told = self.told_to_have_won.iter().copied();
        let claims: BTreeSet<(Uuid, i32)> = won.chain(told).collect();
        for (render, attempt) in claims {
            let is_winner = |row: &StoredRender| row.state == "SUCCEEDED" && row.attempt == attempt;
            if !self.renders.get(&render).is_some_and(is_winner) {
                findings.add(
                    Breach::Duplicated,
                    format!("{render}: attempt {attempt} was told that it had won"),
                );
            }
        }
    }

    /// The winners' images are there, as their workers made them, and nothing else is.
    fn check_objects(&self, findings: &mut Findings) {
        let mut owned = BTreeSet::new();
        let mut complete = BTreeSet::new();
        for image in &self.images {
            let Some(row) = self.renders.get(&image.render) else {
                continue;
            };
            let key = format!(
                "tenants/{}/renders/{}/{}/0.png",
                row.tenant, row.id, row.attempt
            );
            let name = row.id;
            match self.objects.get(&key) {
                None => findings.add(Breach::Lost, format!("{name} has no image")),
                Some(file) if !file.starts_with(says(row.seed).as_bytes()) => {
                    findings.add(Breach::WrongOwner, format!("{name} has another's image"));
                }
                Some(file) if hex::encode(Sha256::digest(file)) != image.sha256 => {
                    let what = format!("{name} has another attempt's image");
                    findings.add(Breach::Duplicated, what);
                }
                Some(_) if image.attempt != row.attempt => {
                    let what = format!("{name} has an image of attempt {}", image.attempt);
                    findings.add(Breach::Duplicated, what);
                }
                Some(_) => {}
            }
            owned.insert(key);
            complete.insert(image.render);
        }
        // Photos are checked by themselves.
        let of_renders = |key: &&String| !key.contains("/photos/");
        let keys = self.objects.keys().filter(of_renders);
        for key in keys.filter(|key| !owned.contains(*key)) {
            findings.add(Breach::Orphaned, format!("{key} is nobody's"));
        }
        for row in self.renders.values() {
            if row.state == "SUCCEEDED" && !complete.contains(&row.id) {
                findings.add(Breach::Lost, format!("{} has no images", row.id));
            }
        }
    }

    /// Renders of each tenant that others ask for.
    pub async fn check_neighbours(&self, findings: &mut Vec<Finding>) -> Result<()> {
        for (wish, told) in self.wishes.iter().step_by(self.wishes.len() / 20 + 1) {
            let neighbour = &self.tenants[(wish.tenant + 1) % self.tenants.len()];
            for name in &told.created {
                if !neighbour.is_kept_from(name).await? {
                    findings.push(Finding {
                        breach: Breach::WrongOwner,
                        what: format!("{name} is shown to another tenant"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The end is one that somebody asked for or that has a reason, and the one that the client was told.
fn check_end(wish: &Wish, told: &Told, row: &StoredRender, findings: &mut Findings) {
    let (name, stored) = (row.id, row.state.as_str());
    let unasked = (stored == "EXPIRED" && wish.expires_after.is_none())
        || (stored == "CANCELLED" && wish.cancel_after.is_none())
        || (stored == "FAILED" && row.error_reason.is_none());
    if unasked {
        findings.add(Breach::Lost, format!("{name} is {stored} for no reason"));
    }
    for said in [told.cancelled, told.watched].into_iter().flatten() {
        if crate::client::is_over(said) && said != end(stored) {
            findings.add(
                Breach::Duplicated,
                format!("{name} was said to be {said:?} and is {stored}"),
            );
        }
    }
    if wish.watch && told.watched.is_none() && state(stored).is_some_and(RenderState::is_terminal) {
        findings.add(
            Breach::Stuck,
            format!("who watched {name} did not hear of its end"),
        );
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, breach: Breach, what: String) {
        self.0.push(Finding { breach, what });
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.breach, self.what)
    }
}

fn state(text: &str) -> Option<RenderState> {
    text.parse().ok()
}

/// A stored state as the front tells it.
fn end(stored: &str) -> v1::RenderState {
    v1::RenderState::from_str_name(&format!("RENDER_STATE_{stored}")).unwrap_or_default()
}

fn win(line: &str) -> Option<(Uuid, i32)> {
    let (render, attempt) = line.split_once(' ')?;
    Some((render.parse().ok()?, attempt.parse().ok()?))
}
