//! Everything that is checked before a render is taken in: parameters, bundle, consent, coefficients, webhook.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, ErrorKind, FieldViolation, RenderId, TenantId,
    bundle::RenderDefaults,
    labels,
    render::{
        RenderDraft, RenderSpec, check_sliders, check_with, resolve_expire_time, resolve_weights,
    },
    webhook::check_url,
};
use likeness_registry::{
    PgConnection,
    bundles::{self, Placement},
    renders::{NewRender, NewWebhook, RenderIdentity},
};
use likeness_wire::{render as wire, time, v1};
use ring::rand::{SecureRandom, SystemRandom};

use super::{sources::Sources, start::StartPicture};
use crate::{app::App, auth::Caller};

/// Seconds that a denoising step of one megapixel is guessed to take.
const SECONDS_PER_MEGAPIXEL_STEP: f32 = 0.15;
/// Seconds around the steps: claim, synthesis, merge, decoding, upload.
const SECONDS_PER_RENDER: f32 = 0.5;

/// What a request asks for, its start picture apart.
pub struct Wanted {
    /// The parameters.
    pub render: v1::Render,
    /// The picture to start from.
    pub start: Option<StartPicture>,
}

impl Wanted {
    /// What a request asks for.
    pub fn take(app: &App, render: Option<v1::Render>) -> Self {
        let mut render = render.unwrap_or_default();
        let start = StartPicture::take(app, &mut render);
        Self { render, start }
    }
}

/// Checks renders, and remembers what it has looked up: those of a batch mostly ask the same.
pub struct Checks<'a> {
    app: &'a App,
    now: DateTime<Utc>,
    placements: HashMap<String, Placement>,
    /// By tenant: that an identity or a slider is a tenant's own is part of what was looked up.
    sources: HashMap<TenantId, Sources>,
}

impl<'a> Checks<'a> {
    /// Without any memory yet.
    pub fn new(app: &'a App) -> Self {
        Self {
            app,
            now: app.clock.now(),
            placements: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    /// The render to be stored.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub async fn check(
        &mut self,
        conn: &mut PgConnection,
        caller: Caller,
        wanted: &Wanted,
        id: RenderId,
    ) -> Result<NewRender, Error> {
        let Wanted { render, start } = wanted;
        let placement = self.place(conn, &render.model).await?;
        let wrong_start = start.as_ref().and_then(StartPicture::violation);
        let spec = parameters(render, &placement, wrong_start)?;
        check_base(&spec, &placement)?;
        let encoder = &placement.bundle.encoder;
        let sources = self.sources.entry(caller.tenant);
        let sources = sources.or_insert_with(|| Sources::new(caller.tenant));
        let requested = read_time("render.expire_time", render.expire_time)?;
        let start_time = read_time("render.start_time", render.start_time)?;
        Ok(NewRender {
            id,
            tenant_id: caller.tenant,
            priority: wire::priority_from(render.priority).map_err(one)?,
            cost_seconds: cost(&spec, &placement.bundle.defaults),
            identities: Self::identities(sources, conn, render, &spec, encoder).await?,
            sliders: sources.sliders(conn, &render.sliders, encoder).await?,
            bundle: placement.bundle.digest,
            pool: placement.pool,
            spec,
            labels: checked_labels(render)?,
            start_time,
            expire_time: resolve_expire_time(requested, start_time, self.now).map_err(one)?,
            retry_of: None,
            webhook: self.webhook(caller, render)?,
        })
    }

    async fn place(&mut self, conn: &mut PgConnection, model: &str) -> Result<Placement, Error> {
        if let Some(known) = self.placements.get(model) {
            return Ok(known.clone());
        }
        let found = place(conn, model).await?;
        self.placements.insert(model.to_owned(), found.clone());
        Ok(found)
    }

    /// Who the render shows: identities with consent, pinned to the photos that make their coefficients now.
    async fn identities(
        sources: &mut Sources,
        conn: &mut PgConnection,
        wanted: &v1::Render,
        spec: &RenderSpec,
        encoder: &str,
    ) -> Result<Vec<RenderIdentity>, Error> {
        let weights: Vec<Option<f32>> = wanted.identities.iter().map(|part| part.weight).collect();
        let weights = resolve_weights(&weights).map_err(one)?;
        let named = &wanted.identities;
        let pinned = sources.identities(conn, named, &weights, encoder).await?;
        if spec.base_scale > 0.0 {
            sources.check_base(conn, &pinned, encoder).await?;
        }
        Ok(pinned)
    }

    fn webhook(&self, caller: Caller, wanted: &v1::Render) -> Result<Option<NewWebhook>, Error> {
        let Some(webhook) = &wanted.webhook else {
            return Ok(None);
        };
        let url = check_url(&webhook.url, self.app.limits.webhooks)
            .map_err(|expected| Error::invalid_field("render.webhook.url", expected))?;
        Ok(Some(NewWebhook {
            url: url.into(),
            key: caller.key,
        }))
    }
}

async fn place(conn: &mut PgConnection, model: &str) -> Result<Placement, Error> {
    bundles::resolve(conn, model).await?.ok_or_else(|| {
        let message = if model.is_empty() {
            "no render worker has announced a bundle yet; start one and try again".to_owned()
        } else {
            "no bundle offers this model; ListModels names those on offer".to_owned()
        };
        Error::new(ErrorKind::FailedPrecondition, "MODEL_NOT_SERVED", message)
    })
}

/// The parameters with every default filled in; all that is wrong is told at once, the start picture included.
fn parameters(
    wanted: &v1::Render,
    placement: &Placement,
    wrong_start: Option<FieldViolation>,
) -> Result<RenderSpec, Error> {
    let draft: RenderDraft = wire::draft(wanted).map_err(Error::invalid)?;
    let seed = match draft.seed {
        Some(_) => 0,
        None => random_seed()?,
    };
    let scales: Vec<f32> = wanted.sliders.iter().map(|slider| slider.scale).collect();
    let sliders = check_sliders(&scales).err().unwrap_or_default();
    let others = sliders.into_iter().chain(wrong_start);
    match draft.resolve(&placement.model, &placement.bundle.defaults, seed) {
        Ok(spec) => {
            let shown = check_with(&spec, wanted.identities.len());
            let violations: Vec<_> = shown.err().into_iter().flatten().chain(others).collect();
            if violations.is_empty() {
                Ok(spec)
            } else {
                Err(Error::invalid(violations))
            }
        }
        Err(violations) => Err(Error::invalid(
            violations.into_iter().chain(others).collect(),
        )),
    }
}

/// Refuses a Base-LoRA where the bundle has none.
fn check_base(spec: &RenderSpec, placement: &Placement) -> Result<(), Error> {
    if spec.base_scale == 0.0 || placement.bundle.base {
        return Ok(());
    }
    let message = "the bundle that offers this model has no Base-LoRA; leave base_scale out";
    let mut error = Error::new(ErrorKind::FailedPrecondition, "BASE_NOT_SERVED", message);
    error.violations = vec![FieldViolation {
        field: "render.base_scale".to_owned(),
        description: "expected 0: the model's bundle has no Base-LoRA".to_owned(),
    }];
    Err(error)
}

fn random_seed() -> Result<u32, Error> {
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal("the system gave no random numbers"))?;
    Ok(u32::from_le_bytes(bytes))
}

/// A guess at the seconds of a worker's time; two UNet passes a step where there is guidance.
/// Every candidate counts. A second pass over faces counts as one face of the model's own size in each image.
fn cost(spec: &RenderSpec, defaults: &RenderDefaults) -> f32 {
    let megapixels = |width: u32, height: u32| (width * height) as f32 / 1e6;
    let passes = if spec.guidance > 1.0 { 1.0 } else { 0.5 };
    let face_steps = spec
        .face_strength
        .map_or(0, |strength| strength.steps_of(spec.steps));
    let work = megapixels(spec.width, spec.height) * spec.steps_taken() as f32
        + megapixels(defaults.width, defaults.height) * face_steps as f32;
    SECONDS_PER_RENDER + SECONDS_PER_MEGAPIXEL_STEP * passes * work * spec.candidates() as f32
}

fn checked_labels(wanted: &v1::Render) -> Result<labels::Labels, Error> {
    let mut violations = Vec::new();
    labels::check("render.labels", &wanted.labels, &mut violations);
    if violations.is_empty() {
        Ok(wanted.labels.clone())
    } else {
        Err(Error::invalid(violations))
    }
}

fn read_time(
    field: &str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<chrono::DateTime<chrono::Utc>>, Error> {
    time.map(|time| time::from_proto(field, time))
        .transpose()
        .map_err(one)
}

fn one(violation: FieldViolation) -> Error {
    Error::invalid(vec![violation])
}

#[cfg(test)]
mod tests {
    use likeness_domain::render::{RenderDraft, Scheduler};

    use super::*;

    #[test]
    fn an_estimate_grows_with_the_work() {
        let defaults = RenderDefaults {
            scheduler: Scheduler::Euler,
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            width: 1024,
            height: 1024,
        };
        let cost = |draft: RenderDraft| {
            let spec = draft.resolve("m", &defaults, 0).unwrap();
            super::cost(&spec, &defaults)
        };
        let plain = cost(RenderDraft::default());
        let dearer = [
            RenderDraft {
                image_count: Some(2),
                ..RenderDraft::default()
            },
            RenderDraft {
                face_strength: Some(0.4),
                ..RenderDraft::default()
            },
            RenderDraft {
                best_of: Some(4),
                ..RenderDraft::default()
            },
        ];
        let cheaper = [
            RenderDraft {
                guidance: Some(1.0),
                ..RenderDraft::default()
            },
            RenderDraft {
                init_strength: Some(0.5),
                ..RenderDraft::default()
            },
        ];
        assert!(dearer.into_iter().all(|draft| cost(draft) > plain));
        assert!(cheaper.into_iter().all(|draft| cost(draft) < plain));
    }
}
