//! Tenants and their limits.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, ErrorKind, TenantId, TenantState, names::TenantName, page::Page};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    erasures,
    error::{breaks, corrupt, database},
};

/// What a tenant may use; `None` is without limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TenantLimits {
    /// Its share of the GPUs' time against other tenants, above 0 and at most 1000.
    pub weight: f32,
    /// Renders at work at once.
    pub max_running: Option<i32>,
    /// Renders that wait at once.
    pub max_queued: Option<i32>,
    /// Renders asked for in one minute.
    pub max_renders_per_minute: Option<i32>,
    /// Identities.
    pub max_identities: Option<i32>,
}

/// A photo app.
#[derive(Clone, PartialEq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name for people, of which there is only one.
    pub display_name: String,
    /// Whether it may work.
    pub state: TenantState,
    /// What it may use.
    pub limits: TenantLimits,
    /// The etag: raised by every update.
    pub version: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tenant({}, {}, version {})",
            self.id, self.state, self.version
        )
    }
}

/// A tenant to create.
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// Its name for people.
    pub display_name: String,
    /// What it may use.
    pub limits: TenantLimits,
}

/// What to change of a tenant; `None` stays.
#[derive(Default)]
pub struct TenantChange {
    /// Another name.
    pub display_name: Option<String>,
    /// Suspend it, or let it work again.
    pub state: Option<TenantState>,
    /// Other limits, all of them.
    pub limits: Option<TenantLimits>,
}

struct TenantRow {
    id: Uuid,
    display_name: String,
    state: String,
    weight: f32,
    max_running: Option<i32>,
    max_queued: Option<i32>,
    max_renders_per_minute: Option<i32>,
    max_identities: Option<i32>,
    version: i64,
    created_at: DateTime<Utc>,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = Error;

    fn try_from(row: TenantRow) -> Result<Self, Error> {
        Ok(Self {
            id: TenantId(row.id),
            state: row
                .state
                .parse()
                .map_err(|_| corrupt("tenants", "state", row.id))?,
            display_name: row.display_name,
            limits: TenantLimits {
                weight: row.weight,
                max_running: row.max_running,
                max_queued: row.max_queued,
                max_renders_per_minute: row.max_renders_per_minute,
                max_identities: row.max_identities,
            },
            version: row.version,
            created_at: row.created_at,
        })
    }
}

/// The tenants' columns, once, with what follows the table's name.
macro_rules! select_tenants {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            TenantRow,
            "SELECT id, display_name, state, weight, max_running, max_queued,
                    max_renders_per_minute, max_identities, version, created_at
             FROM tenants " + $rest,
            $($argument),*
        )
    };
}

/// Creates a tenant.
///
/// # Errors
/// `AlreadyExists` (`TENANT_EXISTS`) if another has the name.
pub async fn create(
    conn: &mut PgConnection,
    new: &NewTenant,
    now: DateTime<Utc>,
) -> Result<Tenant, Error> {
    sqlx::query!(
        "INSERT INTO tenants (id, display_name, weight, max_running, max_queued,
                              max_renders_per_minute, max_identities, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        new.id.0,
        new.display_name,
        new.limits.weight,
        new.limits.max_running,
        new.limits.max_queued,
        new.limits.max_renders_per_minute,
        new.limits.max_identities,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(name_taken)?;
    get(conn, new.id).await
}

/// One tenant.
///
/// # Errors
/// `NotFound`.
pub async fn get(conn: &mut PgConnection, id: TenantId) -> Result<Tenant, Error> {
    select_tenants!("WHERE id = $1", id.0)
        .fetch_optional(conn)
        .await
        .map_err(database)?
        .ok_or_else(|| not_found(id))?
        .try_into()
}

/// Several tenants, in no order; those that are not there are left out.
///
/// # Errors
/// The database fails.
pub async fn get_many(conn: &mut PgConnection, ids: &[TenantId]) -> Result<Vec<Tenant>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = select_tenants!("WHERE id = ANY ($1)", &ids)
        .fetch_all(conn)
        .await
        .map_err(database)?;
    rows.into_iter().map(Tenant::try_from).collect()
}

/// One page of the tenants, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(conn: &mut PgConnection, page: &Page) -> Result<Vec<Tenant>, Error> {
    let after = page.after.unwrap_or(Uuid::nil());
    let size = i64::from(page.size);
    let rows = select_tenants!("WHERE id > $1 ORDER BY id LIMIT $2", after, size)
        .fetch_all(conn)
        .await
        .map_err(database)?;
    rows.into_iter().map(Tenant::try_from).collect()
}

/// Changes a tenant, in the caller's transaction.
///
/// # Errors
/// `NotFound`; `Aborted` (`ETAG_MISMATCH`) if its version is not the expected one; `AlreadyExists` (`TENANT_EXISTS`) if
/// another has the new name.
pub async fn update(
    conn: &mut PgConnection,
    id: TenantId,
    change: &TenantChange,
    expected_version: Option<i64>,
) -> Result<Tenant, Error> {
    let old = lock(conn, id, expected_version).await?;
    let limits = change.limits.unwrap_or(old.limits);
    sqlx::query!(
        "UPDATE tenants SET display_name = $2, state = $3, weight = $4, max_running = $5,
                max_queued = $6, max_renders_per_minute = $7, max_identities = $8,
                version = version + 1
         WHERE id = $1",
        id.0,
        change.display_name.as_ref().unwrap_or(&old.display_name),
        change.state.unwrap_or(old.state).as_str(),
        limits.weight,
        limits.max_running,
        limits.max_queued,
        limits.max_renders_per_minute,
        limits.max_identities
    )
    .execute(&mut *conn)
    .await
    .map_err(name_taken)?;
    get(conn, id).await
}

/// Deletes a tenant with everything it owns, in the caller's transaction, and asks for its objects to be erased: what is
/// there now at once, and what running renders may still upload when their links have ended.
///
/// # Errors
/// `NotFound`; `Aborted` (`ETAG_MISMATCH`) if its version is not the expected one.
pub async fn delete(
    conn: &mut PgConnection,
    id: TenantId,
    expected_version: Option<i64>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    lock(conn, id, expected_version).await?;
    let name = TenantName { tenant: id };
    erasures::request(conn, &format!("{name}/"), now).await?;
    let links_end = now + erasures::UPLOAD_LINK_LIFETIME;
    erasures::request(conn, &format!("{name}/renders/"), links_end).await?;
    sqlx::query!("DELETE FROM tenants WHERE id = $1", id.0)
        .execute(conn)
        .await
        .map_err(database)?;
    Ok(())
}

/// Keeps the tenant's other requests that are counted against its limits waiting until the caller's transaction ends.
///
/// # Errors
/// The database fails.
pub async fn lock_limits(conn: &mut PgConnection, id: TenantId) -> Result<(), Error> {
    // Not the tenant's row: admission updates it.
    let key = id.0.as_u128() as i64;
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", key)
        .execute(conn)
        .await
        .map(drop)
        .map_err(database)
}

async fn lock(
    conn: &mut PgConnection,
    id: TenantId,
    expected_version: Option<i64>,
) -> Result<Tenant, Error> {
    let row = select_tenants!("WHERE id = $1 FOR UPDATE", id.0)
        .fetch_optional(conn)
        .await
        .map_err(database)?
        .ok_or_else(|| not_found(id))?;
    if expected_version.is_some_and(|version| version != row.version) {
        return Err(Error::etag_mismatch("tenant"));
    }
    row.try_into()
}

/// No such tenant.
pub(crate) fn not_found(id: TenantId) -> Error {
    Error::not_found("tenant", TenantName { tenant: id })
}

fn name_taken(error: sqlx::Error) -> Error {
    if breaks(&error, "tenants_display_name_key") {
        let message = "another tenant has this display_name; choose another";
        return Error::new(ErrorKind::AlreadyExists, "TENANT_EXISTS", message);
    }
    database(error)
}
