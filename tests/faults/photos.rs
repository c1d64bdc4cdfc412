//! Photos under the same faults: apps that upload them until they are told OK, and the check of what became of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_domain::names::PhotoName;
use likeness_registry::photos::queue::MAX_ATTEMPTS;
use likeness_test_support::{
    TestContext,
    history::{self, StoredPhoto},
};
use likeness_wire::v1;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    checker::{Breach, Finding},
    client::{PAUSE, Tenant, is_transient, timely},
};

/// Uploads under way at a time.
const CLIENTS: usize = 4;

/// An identity of each tenant, and what was told of their photos.
pub struct Albums {
    tenants: Vec<Tenant>,
    identities: Vec<String>,
    /// The names in all OK answers to one upload, by its number.
    told: Mutex<BTreeMap<usize, Vec<String>>>,
}

/// Makes an identity for each tenant.
pub async fn albums(tenants: &[Tenant]) -> Result<Albums> {
    let mut identities = Vec::with_capacity(tenants.len());
    for (number, tenant) in tenants.iter().enumerate() {
        let identity = v1::Identity {
            consent: Some(v1::Consent {
                reference: "form 7".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::CreateIdentityRequest {
            identity: Some(identity),
            request_id: format!("identity-{number}"),
            ..Default::default()
        };
        let made = insisting(number, |front| {
            let (mut front, request) = (tenant.albums[front].clone(), request.clone());
            async move { timely(front.create_identity(request)).await }
        });
        identities.push(made.await?.identity.context("no identity")?.name);
    }
    Ok(Albums {
        tenants: tenants.to_vec(),
        identities,
        told: Mutex::default(),
    })
}

/// One front after the other until one says OK.
async fn insisting<T, Fut>(first: usize, ask: impl Fn(usize) -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<T, Status>>,
{
    let mut front = first;
    loop {
        match ask(front % 2).await {
            Ok(answer) => return Ok(answer),
            Err(status) if is_transient(&status) => tokio::time::sleep(PAUSE).await,
            Err(status) => return Err(status.into()),
        }
        front += 1;
    }
}

/// No two photos are alike.
fn file(number: usize) -> Vec<u8> {
    format!("the photo number {number}, ")
        .repeat(50)
        .into_bytes()
}

impl Albums {
    /// Uploads so many photos over that time, each until it is taken in.
    pub async fn upload(&self, count: usize, lasting: Duration) -> Result<()> {
        let begun = Instant::now();
        let each = lasting / u32::try_from(count.max(1))?;
        let uploads = (0..count).map(|number| async move {
            tokio::time::sleep_until(begun + each * number as u32).await;
            self.upload_one(number).await
        });
        let mut uploads = futures::stream::iter(uploads).buffer_unordered(CLIENTS);
        while let Some(done) = uploads.next().await {
            done?;
        }
        Ok(())
    }

    async fn upload_one(&self, number: usize) -> Result<()> {
        let place = number % self.tenants.len();
        let request = v1::AddPhotosRequest {
            parent: self.identities[place].clone(),
            photos: vec![file(number).into()],
            face: v1::FaceChoice::Only.into(),
            request_id: format!("photo-{number}"),
        };
        let added = insisting(number, |front| {
            let mut front = self.tenants[place].albums[front].clone();
            let request = request.clone();
            async move { timely(front.add_photos(request)).await }
        });
        let names = added.await?.photos.into_iter().map(|photo| photo.name);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.entry(number).or_default().extend(names);
        Ok(())
    }

    /// How many photos are in each state.
    pub async fn states(&self, context: &TestContext) -> Result<BTreeMap<String, usize>> {
        let mut states = BTreeMap::new();
        for photo in history::photos(context.pool()).await? {
            *states.entry(photo.state).or_default() += 1;
        }
        Ok(states)
    }

    /// Every breach.
    pub async fn check(&self, context: &TestContext) -> Result<Vec<Finding>> {
        let rows = history::photos(context.pool()).await?;
        let objects = context.objects().await?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut findings = Vec::new();
        let mut add = |breach, what| findings.push(Finding { breach, what });
        if rows.len() > told.len() {
            let what = format!("{} uploads made {} photos", told.len(), rows.len());
            add(Breach::Duplicated, what);
        }
        let mut owned = BTreeSet::new();
        for (number, names) in told.iter() {
            let Some((row, key)) = names.first().and_then(|name| find(&rows, name)) else {
                add(Breach::Lost, format!("upload {number} has no row"));
                continue;
            };
            if let Some(breach) = end(row) {
                add(breach, format!("{} is {}", row.id, row.state));
            }
            match objects.get(&key) {
                Some(bytes) if *bytes == file(*number) => {}
                Some(_) => add(Breach::WrongOwner, format!("{key} is another's")),
                None => add(Breach::Lost, format!("{key} is not there")),
            }
            owned.insert(key);
        }
        // Three attempts may meet three faults, but where most photos fail, nothing was tried.
        let failed = rows.iter().filter(|row| row.state == "FAILED").count();
        if 2 * failed > rows.len() {
            let what = format!("{failed} of {} photos failed", rows.len());
            add(Breach::Lost, what);
        }
        let originals = objects.keys().filter(|key| key.contains("/photos/"));
        for key in originals.filter(|key| !owned.contains(*key)) {
            add(Breach::Orphaned, format!("{key} is nobody's"));
        }
        Ok(findings)
    }
}

/// A photo's row and where its original is.
fn find<'a>(rows: &'a [StoredPhoto], name: &str) -> Option<(&'a StoredPhoto, String)> {
    let parsed: PhotoName = name.parse().ok()?;
    let row = rows.iter().find(|row| row.id == parsed.photo.0)?;
    let at_home = row.tenant == parsed.tenant.0 && row.identity == parsed.identity.0;
    at_home.then(|| (row, format!("{name}/original")))
}

/// What is wrong with a photo's end.
fn end(row: &StoredPhoto) -> Option<Breach> {
    match (row.state.as_str(), row.coefficients) {
        ("ACCEPTED", 1) => None,
        ("FAILED", 0) if row.attempt >= MAX_ATTEMPTS => None,
        ("PENDING" | "RUNNING", _) => Some(Breach::Stuck),
        _ => Some(Breach::Lost),
    }
}
