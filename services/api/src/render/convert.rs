//! Registry rows as messages.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use likeness_blob::ObjectKey;
use likeness_domain::{
    Error, RenderState, TenantId,
    names::{IdentityName, NameError, RenderName},
};
use likeness_registry::renders::{Render, StoredImage, WebhookDelivery};
use likeness_wire::{render as wire, time, v1};

use crate::{app::App, auth};

/// A render as sent, with fresh links to its images.
pub async fn render(app: &App, row: &Render) -> Result<v1::Render, Error> {
    let images = match row.state {
        RenderState::Succeeded => images(app, row).await?,
        _ => Vec::new(),
    };
    Ok(v1::Render {
        images,
        error: row.error.as_ref().map(|error| v1::RenderError {
            reason: error.reason.clone(),
            message: error.message.clone(),
        }),
        timings: row
            .timings
            .map(|timings| wire::timings(timings, queued_seconds(row))),
        ..life(row, parameters(row))
    })
}

fn parameters(row: &Render) -> v1::Render {
    let spec = &row.spec;
    v1::Render {
        name: render_name(row).to_string(),
        model: spec.model.clone(),
        identities: row
            .identities
            .iter()
            .map(|part| weighted(row.tenant_id, part))
            .collect(),
        id_scale: Some(spec.id_scale),
        base_scale: Some(spec.base_scale),
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        seed: Some(spec.seed),
        steps: Some(signed(spec.steps)),
        guidance: Some(spec.guidance),
        scheduler: wire::scheduler(spec.scheduler).into(),
        width: Some(signed(spec.width)),
        height: Some(signed(spec.height)),
        image_count: Some(signed(spec.image_count)),
        output_format: wire::image_format(spec.output_format).into(),
        init_image: spec.init_strength.map(wire::init_image),
        face_detail: spec.face_strength.map(wire::face_detail),
        best_of: Some(signed(spec.best_of)),
        sliders: row
            .sliders
            .iter()
            .map(|slider| scaled(row.tenant_id, slider))
            .collect(),
        priority: wire::priority(row.priority).into(),
        expire_time: Some(time::to_proto(row.expire_time)),
        start_time: row.start_time.map(time::to_proto),
        webhook: row.webhook_url.clone().map(|url| v1::Webhook { url }),
        labels: row.labels.clone(),
        bundle: row.bundle.clone(),
        ..v1::Render::default()
    }
}

fn life(row: &Render, render: v1::Render) -> v1::Render {
    let retry_of = row.retry_of.map(|first| {
        RenderName {
            tenant: row.tenant_id,
            render: first,
        }
        .to_string()
    });
    v1::Render {
        state: wire::state(row.state).into(),
        attempt: row.attempt,
        retry_of: retry_of.unwrap_or_default(),
        create_time: Some(time::to_proto(row.created_at)),
        begin_time: row.begun_at.map(time::to_proto),
        finish_time: row.finished_at.map(time::to_proto),
        cancel_time: row.cancel_requested_at.map(time::to_proto),
        webhook_deliveries: row.deliveries.iter().map(delivery).collect(),
        ..render
    }
}

fn delivery(row: &WebhookDelivery) -> v1::WebhookDelivery {
    v1::WebhookDelivery {
        time: Some(time::to_proto(row.at)),
        status: row.status.into(),
    }
}

fn weighted(
    tenant: TenantId,
    part: &likeness_registry::renders::RenderIdentity,
) -> v1::WeightedIdentity {
    let name = IdentityName {
        tenant,
        identity: part.identity_id,
    };
    v1::WeightedIdentity {
        identity: name.to_string(),
        weight: Some(part.weight),
    }
}

fn scaled(tenant: TenantId, slider: &likeness_registry::renders::RenderSlider) -> v1::ScaledSlider {
    v1::ScaledSlider {
        slider: crate::slider::slider_name(tenant, slider.slider_id),
        scale: slider.scale,
    }
}

fn queued_seconds(row: &Render) -> f64 {
    row.begun_at
        .map_or(0.0, |begun| (begun - row.created_at).as_seconds_f64())
}

async fn images(app: &App, row: &Render) -> Result<Vec<v1::RenderedImage>, Error> {
    let mut images = Vec::with_capacity(row.images.len());
    for (position, stored) in row.images.iter().enumerate() {
        images.push(image(app, row, position, stored).await?);
    }
    Ok(images)
}

async fn image(
    app: &App,
    row: &Render,
    position: usize,
    stored: &StoredImage,
) -> Result<v1::RenderedImage, Error> {
    let image = &stored.image;
    let key = ObjectKey::RenderImage {
        tenant: row.tenant_id,
        render: row.id,
        attempt: u32::try_from(stored.attempt).map_err(Error::internal)?,
        position: u32::try_from(position).map_err(Error::internal)?,
        format: image.format,
    };
    let ttl = app.limits.download_ttl;
    Ok(v1::RenderedImage {
        url: app.blob.presign_get(&key, ttl).await?.into(),
        url_expire_time: Some(time::to_proto(after(app.clock.now(), ttl))),
        content_type: image.format.content_type().to_owned(),
        width: signed(image.width),
        height: signed(image.height),
        size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
        sha256: image.sha256.clone(),
        seed: image.seed,
        likeness: image.likeness,
    })
}

fn after(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(ttl).unwrap_or(TimeDelta::zero())
}

/// A render's own name.
pub fn render_name(row: &Render) -> RenderName {
    RenderName {
        tenant: row.tenant_id,
        render: row.id,
    }
}

/// A render's name, checked to be the tenant's own.
pub fn own_render(tenant: TenantId, name: &str) -> Result<RenderName, Error> {
    let parsed: RenderName = name
        .parse()
        .map_err(|error: NameError| Error::invalid_field("name", error.to_string()))?;
    auth::own(tenant, parsed.tenant, "render", name)?;
    Ok(parsed)
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
