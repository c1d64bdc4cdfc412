//! A database with two tenants, and what most tests need in it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{
    Error, ErrorKind, IdentityId, Labels, PhotoId, TenantId,
    coefficients::{Coefficients, StoredCoefficients},
    names::PhotoName,
    photo::{FaceChoice, FaceQuality, LandmarkSource, QualityReport, Rejection, RejectionReason},
};
use likeness_registry::{
    KeyRing, PgConnection, PgPool, SealedCoefficients, SealingContext, acquire, erasures,
    identities::{self, Consent, NewIdentity},
    photos::{self, NewPhoto, queue},
    tenants::{self, NewTenant, TenantLimits},
};
use likeness_test_support::TestContext;
use uuid::Uuid;

pub const ENCODER: &str = "1111111111111111111111111111111111111111111111111111111111111111";
pub const OTHER_ENCODER: &str = "2222222222222222222222222222222222222222222222222222222222222222";
pub const LEASE: TimeDelta = TimeDelta::seconds(60);
pub const UNLIMITED: TenantLimits = TenantLimits {
    weight: 1.0,
    max_running: None,
    max_queued: None,
    max_renders_per_minute: None,
    max_identities: None,
};

/// Seconds into the test's day.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

pub fn id<T: From<Uuid>>() -> T {
    Uuid::now_v7().into()
}

pub fn key_ring() -> KeyRing {
    KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
}

pub fn consent() -> Consent {
    Consent {
        reference: "form 7".to_owned(),
        granted_at: at(-60),
        revoked_at: None,
    }
}

pub fn new_identity(external_id: Option<&str>) -> NewIdentity {
    NewIdentity {
        id: id(),
        external_id: external_id.map(str::to_owned),
        display_name: String::new(),
        labels: Labels::new(),
        consent: Some(consent()),
    }
}

pub fn quality() -> QualityReport {
    QualityReport {
        width: 640,
        height: 480,
        faces_found: 1,
        face: Some(FaceQuality {
            size: 200.0,
            detector_score: 0.9,
            sharpness: 0.5,
            brightness: 0.5,
            overexposed: 0.0,
            landmarks: LandmarkSource::Template,
            pose: None,
            occlusion: None,
        }),
        same_person: None,
    }
}

pub fn no_face() -> Rejection {
    Rejection {
        reason: RejectionReason::NoFace,
        message: "no face was found; send a photo that shows one".to_owned(),
    }
}

pub fn stored(first: f32) -> StoredCoefficients {
    let values = vec![first, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    StoredCoefficients::from_coefficients(&Coefficients::new(2, 4, values).unwrap())
}

pub fn sealed(name: &PhotoName, encoder: &str, first: f32) -> SealedCoefficients {
    let context = SealingContext {
        tenant: name.tenant,
        identity: name.identity,
        photo: name.photo,
        encoder,
    };
    key_ring().seal(&context, &stored(first)).unwrap()
}

pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, reason: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.reason), (kind, reason), "{error:?}");
}

pub fn not_found<T: std::fmt::Debug>(result: Result<T, Error>) {
    refused(result, ErrorKind::NotFound, "NOT_FOUND");
}

pub struct World {
    context: TestContext,
    pub tenant: TenantId,
    pub other: TenantId,
}

impl World {
    pub async fn new() -> Self {
        let context = Box::pin(TestContext::new()).await.unwrap();
        let world = Self {
            context,
            tenant: id(),
            other: id(),
        };
        for (tenant, name) in [(world.tenant, "first"), (world.other, "second")] {
            let new = NewTenant {
                id: tenant,
                display_name: name.to_owned(),
                limits: UNLIMITED,
            };
            tenants::create(&mut *world.conn().await, &new, at(0))
                .await
                .unwrap();
        }
        world
    }

    pub fn pool(&self) -> &PgPool {
        self.context.pool()
    }

    pub async fn conn(&self) -> impl std::ops::DerefMut<Target = PgConnection> + use<> {
        acquire(self.pool()).await.unwrap()
    }

    /// Runs a statement of the test's own.
    pub async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(self.pool()).await.unwrap();
    }

    pub async fn identity(&self) -> IdentityId {
        let new = new_identity(None);
        identities::create(&mut *self.conn().await, self.tenant, &new, at(0))
            .await
            .unwrap()
            .id
    }

    /// A photo that waits for enrolment.
    pub async fn pending(&self, identity: IdentityId) -> PhotoName {
        let photo: PhotoId = id();
        self.insert(identity, photo, None).await
    }

    pub async fn insert(
        &self,
        identity: IdentityId,
        photo: PhotoId,
        rejection: Option<Rejection>,
    ) -> PhotoName {
        let new = NewPhoto {
            id: photo,
            tenant_id: self.tenant,
            identity_id: identity,
            face_choice: FaceChoice::Largest,
            content_type: "image/jpeg".to_owned(),
            size_bytes: 1234,
            sha256: [7; 32],
            rejection,
        };
        photos::insert(&mut *self.conn().await, &new, at(0))
            .await
            .unwrap()
            .name()
    }

    /// A photo that a worker holds from now, and its attempt.
    pub async fn running(&self, identity: IdentityId, now: DateTime<Utc>) -> (PhotoName, i32) {
        let name = self.pending(identity).await;
        let conn = &mut *self.conn().await;
        let due = queue::publish_due(conn, 100, LEASE, now).await.unwrap();
        let own = due.iter().find(|due| due.photo == name.photo).unwrap();
        let claim = queue::claim(conn, own.photo, own.publication, "w1", LEASE, now)
            .await
            .unwrap();
        (name, claim.unwrap().attempt)
    }

    /// An accepted photo with coefficients of [`ENCODER`], that of one that begins with `first`.
    pub async fn accepted(&self, identity: IdentityId, first: f32) -> PhotoName {
        let (name, attempt) = self.running(identity, at(0)).await;
        let sealed = sealed(&name, ENCODER, first);
        let conn = &mut *self.conn().await;
        let applied = queue::accept(conn, name.photo, attempt, &quality(), &sealed, at(1))
            .await
            .unwrap();
        assert!(applied);
        name
    }

    /// The prefixes that are to be erased by then.
    pub async fn erasures(&self, by: DateTime<Utc>) -> Vec<String> {
        let mut due = erasures::due(&mut *self.conn().await, 100, by)
            .await
            .unwrap();
        due.sort();
        due
    }

    /// Waits until some statement in this database waits for a lock.
    pub async fn someone_waits(&self) {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = async {
            while sqlx::query_scalar::<_, i64>(sql)
                .fetch_one(self.pool())
                .await
                .unwrap()
                == 0
            {}
        };
        tokio::time::timeout(Duration::from_secs(30), waits)
            .await
            .unwrap();
    }
}
