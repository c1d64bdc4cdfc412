//! Identities: enrolled people, their consent, and how their photos stand.

use std::fmt;

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, ErrorKind, IdentityId, IdentityState, Labels, TenantId, names::IdentityName, page::Page,
    states::PhotoCounts,
};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    erasures,
    error::{breaks, corrupt, database},
    tenants,
};

/// A person's consent to be rendered.
#[derive(Clone, PartialEq, Eq)]
pub struct Consent {
    /// Where the tenant keeps the proof of it.
    pub reference: String,
    /// Since when.
    pub granted_at: DateTime<Utc>,
    /// Until when, once it was withdrawn.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl fmt::Debug for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.revoked_at.is_none() {
            "Consent(given)"
        } else {
            "Consent(revoked)"
        })
    }
}

/// One enrolled person of a tenant.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub id: IdentityId,
    /// Whose.
    pub tenant_id: TenantId,
    /// The tenant's own id for it; one identity each.
    pub external_id: Option<String>,
    /// Its name for people.
    pub display_name: String,
    /// The tenant's labels.
    pub labels: Labels,
    /// Consent, given or revoked; `None` is never given.
    pub consent: Option<Consent>,
    /// Its photos by state.
    pub counts: PhotoCounts,
    /// The etag: raised by every update.
    pub version: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Identity {
    /// Where it stands: it follows from its photos.
    pub fn state(&self) -> IdentityState {
        self.counts.identity_state()
    }

    /// Whether consent was given and not withdrawn.
    pub fn has_consent(&self) -> bool {
        self.consent
            .as_ref()
            .is_some_and(|consent| consent.revoked_at.is_none())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Identity({}, {}, version {})",
            self.id,
            self.state(),
            self.version
        )
    }
}

/// An identity to create.
pub struct NewIdentity {
    /// Its id.
    pub id: IdentityId,
    /// The tenant's own id for it.
    pub external_id: Option<String>,
    /// Its name for people.
    pub display_name: String,
    /// The tenant's labels.
    pub labels: Labels,
    /// Consent, where it was given already.
    pub consent: Option<Consent>,
}

/// Which identities to list.
#[derive(Default)]
pub struct IdentityFilter {
    /// The one with this id of the tenant's.
    pub external_id: Option<String>,
    /// Those that have all of these labels.
    pub labels: Labels,
}

/// What to change of an identity; `None` stays.
#[derive(Default)]
pub struct IdentityChange {
    /// Another id of the tenant's, or none.
    pub external_id: Option<Option<String>>,
    /// Another name.
    pub display_name: Option<String>,
    /// Other labels, all of them.
    pub labels: Option<Labels>,
    /// Other consent, or none.
    pub consent: Option<Option<Consent>>,
}

struct IdentityRow {
    id: Uuid,
    tenant_id: Uuid,
    external_id: Option<String>,
    display_name: String,
    labels: Value,
    consent_reference: Option<String>,
    consent_granted_at: Option<DateTime<Utc>>,
    consent_revoked_at: Option<DateTime<Utc>>,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    pending: i64,
    accepted: i64,
    rejected: i64,
    failed: i64,
}

impl TryFrom<IdentityRow> for Identity {
    type Error = Error;

    fn try_from(row: IdentityRow) -> Result<Self, Error> {
        Ok(Self {
            id: IdentityId(row.id),
            tenant_id: TenantId(row.tenant_id),
            labels: serde_json::from_value(row.labels)
                .map_err(|_| corrupt("identities", "labels", row.id))?,
            consent: row.consent_reference.zip(row.consent_granted_at).map(
                |(reference, granted_at)| Consent {
                    reference,
                    granted_at,
                    revoked_at: row.consent_revoked_at,
                },
            ),
            external_id: row.external_id,
            display_name: row.display_name,
            counts: PhotoCounts {
                pending: row.pending as u32,
                accepted: row.accepted as u32,
                rejected: row.rejected as u32,
                failed: row.failed as u32,
            },
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// The identities' columns with their photos counted, once, with what follows.
macro_rules! select_identities {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            IdentityRow,
            r#"SELECT identities.id, tenant_id, external_id, display_name, labels,
                      consent_reference, consent_granted_at, consent_revoked_at,
                      version, created_at, updated_at,
                      counts.pending AS "pending!", counts.accepted AS "accepted!",
                      counts.rejected AS "rejected!", counts.failed AS "failed!"
               FROM identities CROSS JOIN LATERAL (
                   SELECT count(*) FILTER (WHERE state IN ('PENDING', 'RUNNING')) AS pending,
                          count(*) FILTER (WHERE state = 'ACCEPTED') AS accepted,
                          count(*) FILTER (WHERE state = 'REJECTED') AS rejected,
                          count(*) FILTER (WHERE state = 'FAILED') AS failed
                   FROM photos WHERE photos.identity_id = identities.id
               ) counts "# + $rest,
            $($argument),*
        )
    };
}

/// Creates an identity, in the caller's transaction.
///
/// # Errors
/// `NotFound` if there is no such tenant; `AlreadyExists` (`EXTERNAL_ID_EXISTS`) if another identity has the
/// `external_id`; `ResourceExhausted` (`MAX_IDENTITIES`) if the tenant may have no more.
pub async fn create(
    conn: &mut PgConnection,
    tenant: TenantId,
    new: &NewIdentity,
    now: DateTime<Utc>,
) -> Result<Identity, Error> {
    check_quota(conn, tenant).await?;
    let consent = new.consent.as_ref();
    sqlx::query!(
        "INSERT INTO identities (id, tenant_id, external_id, display_name, labels,
             consent_reference, consent_granted_at, consent_revoked_at, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        new.id.0,
        tenant.0,
        new.external_id,
        new.display_name,
        to_json(&new.labels)?,
        consent.map(|consent| &consent.reference),
        consent.map(|consent| consent.granted_at),
        consent.and_then(|consent| consent.revoked_at),
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(|error| refused(error, tenant))?;
    get(conn, tenant, new.id).await
}

/// Checks `max_identities`. Where there is a limit the tenant's row stays locked until the transaction ends, so that two
/// creations cannot both take the last place.
async fn check_quota(conn: &mut PgConnection, tenant: TenantId) -> Result<(), Error> {
    let limit = sqlx::query_scalar!("SELECT max_identities FROM tenants WHERE id = $1", tenant.0)
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?
        .ok_or_else(|| tenants::not_found(tenant))?;
    if limit.is_none() {
        return Ok(());
    }
    let locked = sqlx::query_scalar!(
        "SELECT max_identities FROM tenants WHERE id = $1 FOR NO KEY UPDATE",
        tenant.0
    );
    let Some(limit) = locked
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?
        .flatten()
    else {
        return Ok(());
    };
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM identities WHERE tenant_id = $1"#,
        tenant.0
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    if count < i64::from(limit) {
        Ok(())
    } else {
        Err(quota_used(limit))
    }
}

fn quota_used(limit: i32) -> Error {
    let message = format!("the tenant may have {limit} identities; delete one or ask the operator");
    Error::new(ErrorKind::ResourceExhausted, "MAX_IDENTITIES", message)
}

/// One identity.
///
/// # Errors
/// `NotFound`, also for another tenant's.
pub async fn get(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: IdentityId,
) -> Result<Identity, Error> {
    select_identities!(
        "WHERE tenant_id = $1 AND identities.id = $2",
        tenant.0,
        id.0
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?
    .ok_or_else(|| not_found(tenant, id))?
    .try_into()
}

/// One identity, locked until the caller's transaction ends: to check it and then act upon it.
///
/// # Errors
/// `NotFound`, also for another tenant's.
pub async fn lock(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: IdentityId,
) -> Result<Identity, Error> {
    sqlx::query!(
        "SELECT id FROM identities WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant.0,
        id.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?
    .ok_or_else(|| not_found(tenant, id))?;
    // Read in a statement of its own, which sees the photos as they are once the lock is held.
    get(conn, tenant, id).await
}

/// One page of a tenant's identities, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &IdentityFilter,
    page: &Page,
) -> Result<Vec<Identity>, Error> {
    let rows = select_identities!(
        "WHERE tenant_id = $1 AND identities.id > $2
             AND ($3::text IS NULL OR external_id = $3) AND labels @> $4
         ORDER BY identities.id LIMIT $5",
        tenant.0,
        page.after.unwrap_or(Uuid::nil()),
        filter.external_id.as_ref(),
        to_json(&filter.labels)?,
        i64::from(page.size)
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(Identity::try_from).collect()
}

/// Changes an identity, in the caller's transaction.
///
/// # Errors
/// `NotFound`, also for another tenant's; `Aborted` (`ETAG_MISMATCH`) if its version is not the expected one;
/// `AlreadyExists` (`EXTERNAL_ID_EXISTS`) if another identity has the new `external_id`.
pub async fn update(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: IdentityId,
    change: &IdentityChange,
    expected_version: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Identity, Error> {
    let old = lock_version(conn, tenant, id, expected_version).await?;
    let consent = change.consent.as_ref().unwrap_or(&old.consent).as_ref();
    sqlx::query!(
        "UPDATE identities SET external_id = $2, display_name = $3, labels = $4,
             consent_reference = $5, consent_granted_at = $6, consent_revoked_at = $7,
             version = version + 1, updated_at = $8
         WHERE id = $1",
        id.0,
        change
            .external_id
            .as_ref()
            .unwrap_or(&old.external_id)
            .as_ref(),
        change.display_name.as_ref().unwrap_or(&old.display_name),
        to_json(change.labels.as_ref().unwrap_or(&old.labels))?,
        consent.map(|consent| &consent.reference),
        consent.map(|consent| consent.granted_at),
        consent.and_then(|consent| consent.revoked_at),
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(|error| refused(error, tenant))?;
    get(conn, tenant, id).await
}

/// Deletes an identity with its photos and coefficients, in the caller's transaction, and asks for its objects to be
/// erased.
///
/// # Errors
/// `NotFound`, also for another tenant's; `Aborted` (`ETAG_MISMATCH`) if its version is not the expected one.
pub async fn delete(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: IdentityId,
    expected_version: Option<i64>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    lock_version(conn, tenant, id, expected_version).await?;
    let name = IdentityName {
        tenant,
        identity: id,
    };
    erasures::request(conn, &format!("{name}/"), now).await?;
    sqlx::query!("DELETE FROM identities WHERE id = $1", id.0)
        .execute(conn)
        .await
        .map_err(database)?;
    Ok(())
}

async fn lock_version(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: IdentityId,
    expected_version: Option<i64>,
) -> Result<Identity, Error> {
    let identity = lock(conn, tenant, id).await?;
    match expected_version {
        Some(version) if version != identity.version => Err(Error::etag_mismatch("identity")),
        _ => Ok(identity),
    }
}

fn to_json(labels: &Labels) -> Result<Value, Error> {
    serde_json::to_value(labels).map_err(Error::internal)
}

/// No such identity of this tenant.
pub(crate) fn not_found(tenant: TenantId, id: IdentityId) -> Error {
    Error::not_found(
        "identity",
        IdentityName {
            tenant,
            identity: id,
        },
    )
}

fn refused(error: sqlx::Error, tenant: TenantId) -> Error {
    if breaks(&error, "identities_tenant_id_external_id_key") {
        let message = "another identity has this external_id; find it with ListIdentities";
        return Error::new(ErrorKind::AlreadyExists, "EXTERNAL_ID_EXISTS", message);
    }
    if breaks(&error, "identities_tenant_id_fkey") {
        return tenants::not_found(tenant);
    }
    database(error)
}
