//! A database with one bundle, one pool, and tenants with an enrolled identity each.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{
    IdentityId, PhotoId, RenderId, RenderState, TenantId, WorkerKind,
    bundle::{BundleSummary, RenderDefaults},
    render::{ImageFormat, Priority, RenderDraft, RenderTimings, RenderedImage, Scheduler},
};
use likeness_registry::{
    PgConnection, PgPool, bundles,
    leaders::{self, Leadership},
    renders::{
        self, AttemptRow, Claimed, Finish, Grant, NewRender, Outcome, Publication, Render,
        RenderIdentity, RetryPolicy,
    },
    workers::Presence,
};
use likeness_test_support::TestContext;
use uuid::Uuid;

pub const POOL: &str = "pocket.cpu";
pub const LEASE: TimeDelta = TimeDelta::seconds(30);
pub const POLICY: RetryPolicy = RetryPolicy {
    max_failures: 3,
    max_deaths_alone: 2,
    base: TimeDelta::seconds(2),
    max: TimeDelta::seconds(60),
};

/// Seconds into the test's day.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

pub fn digest() -> String {
    "b".repeat(64)
}

pub fn bundle() -> BundleSummary {
    BundleSummary {
        digest: digest(),
        name: "pocket".to_owned(),
        version: "1".to_owned(),
        encoder: "e".repeat(64),
        tokens: 8,
        k: 4,
        models: vec!["pocket".to_owned(), "other".to_owned()],
        defaults: RenderDefaults {
            scheduler: Scheduler::Ddim,
            steps: 2,
            guidance: 3.5,
            id_scale: 0.8,
            width: 64,
            height: 64,
        },
        base: false,
    }
}

/// A tenant with a consenting identity and one accepted photo.
#[derive(Clone, Copy)]
pub struct Enrolled {
    pub tenant: TenantId,
    pub identity: IdentityId,
    pub photo: PhotoId,
}

pub struct World {
    context: TestContext,
    pub enrolled: Enrolled,
}

impl World {
    pub async fn new() -> Self {
        let context = Box::pin(TestContext::new()).await.unwrap();
        let enrolled = Enrolled {
            tenant: TenantId(Uuid::now_v7()),
            identity: IdentityId(Uuid::now_v7()),
            photo: PhotoId(Uuid::now_v7()),
        };
        let world = Self { context, enrolled };
        let mut conn = world.conn().await;
        bundles::announce(&mut conn, &bundle(), at(0))
            .await
            .unwrap();
        bundles::ensure_pool(&mut conn, POOL, &digest(), "cpu", at(0))
            .await
            .unwrap();
        world.enrol(enrolled).await;
        world
    }

    pub fn pool(&self) -> &PgPool {
        self.context.pool()
    }

    pub async fn conn(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        self.pool().acquire().await.unwrap()
    }

    pub async fn sql(&self, statement: &'static str, id: Uuid) {
        sqlx::query(statement)
            .bind(id)
            .execute(self.pool())
            .await
            .unwrap();
    }

    pub async fn another_tenant(&self) -> Enrolled {
        let enrolled = Enrolled {
            tenant: TenantId(Uuid::now_v7()),
            identity: IdentityId(Uuid::now_v7()),
            photo: PhotoId(Uuid::now_v7()),
        };
        self.enrol(enrolled).await;
        enrolled
    }

    async fn enrol(&self, enrolled: Enrolled) {
        let Enrolled {
            tenant,
            identity,
            photo,
        } = enrolled;
        sqlx::query(
            "WITH tenant AS (
                 INSERT INTO tenants (id, display_name, created_at) VALUES ($1, $1::text, $4)),
             identity AS (
                 INSERT INTO identities (id, tenant_id, consent_reference, consent_granted_at,
                                         created_at, updated_at)
                 VALUES ($2, $1, 'form', $4, $4, $4)),
             photo AS (
                 INSERT INTO photos (id, tenant_id, identity_id, state, face_choice, content_type,
                     size_bytes, sha256, quality, attempt, created_at, finished_at)
                 VALUES ($3, $1, $2, 'ACCEPTED', 'ONLY', 'image/jpeg', 1, $5, '{}', 1, $4, $4))
             INSERT INTO photo_coefficients (photo_id, encoder, tokens, k, sealing_key, sealed,
                                             created_at)
             VALUES ($3, $6, 8, 4, 'key', 'sealed', $4)",
        )
        .bind(tenant.0)
        .bind(identity.0)
        .bind(photo.0)
        .bind(at(0))
        .bind([7_u8; 32].as_slice())
        .bind(bundle().encoder)
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// A new render of the first tenant, unless `change` says otherwise.
    pub fn draft(&self, change: impl FnOnce(&mut NewRender)) -> NewRender {
        new_render(self.enrolled, change)
    }

    /// Stores a new render of the first tenant, at 0 s.
    pub async fn queued(&self) -> RenderId {
        self.queue(&self.draft(|_| {})).await
    }

    pub async fn queue(&self, new: &NewRender) -> RenderId {
        renders::create(&mut *self.conn().await, new, at(0))
            .await
            .unwrap()
            .id
    }

    /// Leads admission for a day.
    pub async fn lead(&self) -> Leadership {
        let ttl = TimeDelta::days(1);
        let led = leaders::acquire(&mut *self.conn().await, "admission", "test", ttl, at(0)).await;
        led.unwrap().unwrap()
    }

    pub async fn admit(&self, room: f32, rows: i64, now: DateTime<Utc>) -> Vec<Publication> {
        let leader = self.lead().await;
        let mut conn = self.conn().await;
        renders::admit(&mut conn, &leader, POOL, room, rows, now)
            .await
            .unwrap()
    }

    /// Stores a new render and admits it.
    pub async fn dispatched(&self) -> Publication {
        let id = self.queued().await;
        let mut admitted = self.admit(1e9, 1000, at(0)).await;
        let publication = admitted.pop().unwrap();
        assert_eq!((publication.render, admitted.len()), (id, 0));
        publication
    }

    /// Stores a new render, admits it and claims it at `now`.
    pub async fn running(&self, now: DateTime<Utc>) -> Grant {
        let publication = self.dispatched().await;
        self.claim(&publication, now).await
    }

    /// Claims what must be there to be claimed.
    pub async fn claim(&self, publication: &Publication, now: DateTime<Utc>) -> Grant {
        match self.try_claim(publication, now).await {
            Claimed::Granted(grant) => *grant,
            Claimed::Refused(refusal) => panic!("{refusal:?}"),
        }
    }

    pub async fn try_claim(&self, publication: &Publication, now: DateTime<Utc>) -> Claimed {
        let mut transaction = self.pool().begin().await.unwrap();
        let Publication {
            render,
            publication,
            ..
        } = *publication;
        let claimed = claim_on(&mut transaction, render, publication, now).await;
        transaction.commit().await.unwrap();
        claimed
    }

    /// Admits the render again and claims it.
    pub async fn claim_again(&self, now: DateTime<Utc>) -> Grant {
        let admitted = self.admit(1e9, 1000, now).await;
        self.claim(admitted.first().expect("nothing to admit"), now)
            .await
    }

    pub async fn finish(&self, grant: &Grant, outcome: &Outcome, now: DateTime<Utc>) -> Finish {
        let mut transaction = self.pool().begin().await.unwrap();
        let finish = renders::finish(
            &mut transaction,
            grant.render.id,
            grant.attempt,
            outcome,
            &POLICY,
            now,
        )
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        finish
    }

    pub async fn render(&self, id: RenderId) -> Render {
        renders::get_any(&mut *self.conn().await, id).await.unwrap()
    }

    pub async fn state(&self, id: RenderId) -> RenderState {
        self.render(id).await.state
    }

    pub async fn attempts(&self, id: RenderId) -> Vec<AttemptRow> {
        renders::attempts(&mut *self.conn().await, id)
            .await
            .unwrap()
    }

    /// The prefixes to erase, with no regard to when.
    pub async fn erasures(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT prefix FROM erasures ORDER BY prefix")
            .fetch_all(self.pool())
            .await
            .unwrap()
    }
}

pub fn presence(id: &str, pool: &str) -> Presence {
    Presence {
        id: id.to_owned(),
        kind: WorkerKind::Render,
        pool: Some(pool.to_owned()),
        device: "cpu".to_owned(),
        version: "0.1.0".to_owned(),
        draining: false,
        started_at: at(0),
    }
}

pub async fn claim_on(
    conn: &mut PgConnection,
    render: RenderId,
    publication: i32,
    now: DateTime<Utc>,
) -> Claimed {
    renders::claim(conn, render, publication, "worker", LEASE, now)
        .await
        .unwrap()
}

pub fn new_render(enrolled: Enrolled, change: impl FnOnce(&mut NewRender)) -> NewRender {
    let draft = RenderDraft {
        prompt: "fxhks on a hill".to_owned(),
        ..RenderDraft::default()
    };
    let mut new = NewRender {
        id: RenderId(Uuid::now_v7()),
        tenant_id: enrolled.tenant,
        priority: Priority::Normal,
        bundle: digest(),
        pool: POOL.to_owned(),
        spec: draft.resolve("pocket", &bundle().defaults, 7).unwrap(),
        labels: [("album".to_owned(), "summer".to_owned())].into(),
        cost_seconds: 1.0,
        start_time: None,
        expire_time: at(3600),
        identities: vec![RenderIdentity {
            identity_id: enrolled.identity,
            weight: 1.0,
            photo_ids: vec![enrolled.photo],
        }],
        sliders: Vec::new(),
        retry_of: None,
        webhook: None,
    };
    change(&mut new);
    new
}

pub fn image(seed: i64) -> RenderedImage {
    RenderedImage {
        format: ImageFormat::Png,
        width: 64,
        height: 64,
        size_bytes: 1234,
        sha256: "a".repeat(64),
        seed,
        likeness: None,
    }
}

pub fn succeeded() -> Outcome {
    let timings = RenderTimings {
        synthesis: 0.25,
        sampling: 1.5,
        ..RenderTimings::default()
    };
    Outcome::Succeeded {
        images: vec![image(7)],
        timings,
    }
}

pub fn failed(retryable: bool) -> Outcome {
    Outcome::Failed {
        reason: "OUT_OF_MEMORY".to_owned(),
        message: "the device has no memory left".to_owned(),
        retryable,
    }
}
