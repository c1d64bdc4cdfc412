//! Renders and their lives, QUEUED to their last state.
//!
//! Whoever locks both locks identities before renders, and several renders in the order of their ids.

mod admit;
mod attempts;
mod cancel;
mod claim;
mod create;
mod dead;
mod estimate;
mod finish;
mod read;
mod reap;
mod settle;
mod webhooks;

use std::fmt;

use chrono::{DateTime, Utc};
use likeness_domain::{
    AttemptOutcome, IdentityId, Labels, PhotoId, RenderId, RenderState, SliderId, TenantId,
    names::RenderName,
    render::{Priority, RenderSpec, RenderTimings, RenderedImage},
};
use serde::{Deserialize, Serialize};

pub use admit::{
    PATIENCE, PoolWork, Publication, Window, admit, mark_published, pools_with_work, republish_due,
    window, withdraw,
};
pub use attempts::attempts;
pub use cancel::{cancel, fail_of_identity};
pub use claim::{Claimed, Grant, Refusal, Renewal, claim, holds, renew};
pub use create::{NewRender, NewWebhook, create, create_many};
pub use dead::{DeadFilter, DeadRender, dead, requeue, requeueable};
pub use estimate::{Queue, queue_ahead};
pub use finish::{Finish, Outcome, finish};
pub use read::{RenderFilter, created_at, created_count, get, get_any, list, queued_count};
pub use reap::{expire, reap};
pub use settle::{RetryPolicy, Settled};
pub use webhooks::{DueWebhook, delivered, take_due};

/// A render as stored.
#[derive(Clone, PartialEq)]
pub struct Render {
    /// Its id.
    pub id: RenderId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where it stands.
    pub state: RenderState,
    /// Who goes first among the tenant's own.
    pub priority: Priority,
    /// The digest of the bundle that it is pinned to.
    pub bundle: String,
    /// Which pool renders it.
    pub pool: String,
    /// Its parameters with every default filled in.
    pub spec: RenderSpec,
    /// The tenant's own labels.
    pub labels: Labels,
    /// The publication that a claim must name.
    pub publication: i32,
    /// The present attempt, or the last; 0 before the first.
    pub attempt: i32,
    /// Attempts that count against the limit.
    pub failures: i32,
    /// Its next attempt shares its worker with no other.
    pub alone: bool,
    /// Do not start before, as it was asked for.
    pub start_time: Option<DateTime<Utc>>,
    /// Nothing happens to it before this time.
    pub run_after: Option<DateTime<Utc>>,
    /// When it gives up.
    pub expire_time: DateTime<Utc>,
    /// When cancelling was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Why it FAILED.
    pub error: Option<RenderError>,
    /// Where the time went, once SUCCEEDED.
    pub timings: Option<RenderTimings>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When the present attempt began.
    pub begun_at: Option<DateTime<Utc>>,
    /// When it reached its last state.
    pub finished_at: Option<DateTime<Utc>>,
    /// The failed render that this one repeats.
    pub retry_of: Option<RenderId>,
    /// Who it shows.
    pub identities: Vec<RenderIdentity>,
    /// What it moves along.
    pub sliders: Vec<RenderSlider>,
    /// What it made, in order, once SUCCEEDED.
    pub images: Vec<StoredImage>,
    /// Where its last state is reported.
    pub webhook_url: Option<String>,
    /// What was tried there, the first one first.
    pub deliveries: Vec<WebhookDelivery>,
}

impl Render {
    /// Its resource name.
    pub const fn name(&self) -> RenderName {
        RenderName {
            tenant: self.tenant_id,
            render: self.id,
        }
    }

    /// Whether it asks for what workers of before sliders would leave away without a word.
    pub fn stacks(&self) -> bool {
        !self.sliders.is_empty() || self.spec.base_scale > 0.0 || self.spec.best_of > 1
    }
}

/// Says nothing of the prompt, the labels and who is shown.
impl fmt::Debug for Render {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Render")
            .field("id", &self.id)
            .field("state", &self.state)
            .field("publication", &self.publication)
            .field("attempt", &self.attempt)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Why a render or an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderError {
    /// UPPER_SNAKE, for programs.
    pub reason: String,
    /// For people; nothing personal in it.
    pub message: String,
}

/// One identity of a render with the photos whose coefficients it is pinned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderIdentity {
    /// Who.
    pub identity_id: IdentityId,
    /// The share in the blend; all shares sum to 1.
    pub weight: f32,
    /// Whose coefficients are averaged.
    pub photo_ids: Vec<PhotoId>,
}

/// One slider of a render with the photos whose coefficients it is pinned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderSlider {
    /// Which; it may have been deleted since.
    pub slider_id: SliderId,
    /// How far to move.
    pub scale: f32,
    /// Whose coefficients are its start.
    pub before_identity: IdentityId,
    /// Those of these photos, averaged.
    pub before_photos: Vec<PhotoId>,
    /// Whose coefficients are its end.
    pub after_identity: IdentityId,
    /// Those of these photos, averaged.
    pub after_photos: Vec<PhotoId>,
}

/// One image of a render with the attempt that made it: its object's key holds the attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The winning attempt.
    pub attempt: i32,
    /// What it is.
    pub image: RenderedImage,
}

/// One try at a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookDelivery {
    /// When it was tried.
    pub at: DateTime<Utc>,
    /// The HTTP status; 0 where there was no answer.
    pub status: i16,
}

/// One attempt at a render.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its number, from 1.
    pub attempt: i32,
    /// The publication that it claimed.
    pub publication: i32,
    /// Who had it.
    pub worker: String,
    /// When it began.
    pub begun_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How it ended.
    pub outcome: Option<AttemptOutcome>,
    /// What the render became by its end.
    pub became: Option<RenderState>,
    /// Its error, where it had one.
    pub error: Option<RenderError>,
}
