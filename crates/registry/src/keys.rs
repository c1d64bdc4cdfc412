//! API keys: a digest of each secret, never the secret.

use chrono::{DateTime, Utc};
use likeness_domain::{
    ApiKeyId, Error, ErrorKind, TenantId, TenantState,
    key::{PresentedKey, digests_equal},
    names::ApiKeyName,
    page::Page,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{breaks, database},
    tenants,
};

/// An API key as its tenant's operators see it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its name for people.
    pub display_name: String,
    /// When it ends; `None` is never.
    pub expire_time: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({} of {})", self.id, self.tenant_id)
    }
}

/// An API key to create.
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its name for people.
    pub display_name: String,
    /// What is stored of its secret: [`PresentedKey::secret_digest`].
    pub secret_sha256: [u8; 32],
    /// When it ends; `None` is never.
    pub expire_time: Option<DateTime<Utc>>,
}

struct ApiKeyRow {
    id: Uuid,
    tenant_id: Uuid,
    display_name: String,
    expire_time: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: ApiKeyId(row.id),
            tenant_id: TenantId(row.tenant_id),
            display_name: row.display_name,
            expire_time: row.expire_time,
            revoked_at: row.revoked_at,
            created_at: row.created_at,
        }
    }
}

/// Creates a key.
///
/// # Errors
/// `NotFound` if there is no such tenant.
pub async fn create(
    conn: &mut PgConnection,
    new: &NewApiKey,
    now: DateTime<Utc>,
) -> Result<ApiKey, Error> {
    let row = sqlx::query_as!(
        ApiKeyRow,
        "INSERT INTO api_keys (id, tenant_id, display_name, secret_sha256, expire_time, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, tenant_id, display_name, expire_time, revoked_at, created_at",
        new.id.0,
        new.tenant_id.0,
        new.display_name,
        new.secret_sha256.as_slice(),
        new.expire_time,
        now
    )
    .fetch_one(conn)
    .await
    .map_err(|error| refused(error, new.tenant_id))?;
    Ok(row.into())
}

/// Whose key was presented; `None` if it is unknown, has another secret, has expired or was revoked: which of these is
/// nobody's business.
///
/// # Errors
/// `PermissionDenied` (`TENANT_SUSPENDED`) for a valid key of a suspended tenant.
pub async fn authenticate(
    conn: &mut PgConnection,
    key: &PresentedKey,
    now: DateTime<Utc>,
) -> Result<Option<TenantId>, Error> {
    let found = sqlx::query!(
        "SELECT api_keys.secret_sha256, tenants.id, tenants.state
         FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id
         WHERE api_keys.id = $1 AND revoked_at IS NULL
             AND (expire_time IS NULL OR expire_time > $2)",
        key.id.0,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    let Some(row) = found else { return Ok(None) };
    if !digests_equal(&row.secret_sha256, &key.secret_digest()) {
        return Ok(None);
    }
    if row.state != TenantState::Active.as_str() {
        let message = "the tenant is suspended; ask the operator";
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "TENANT_SUSPENDED",
            message,
        ));
    }
    Ok(Some(TenantId(row.id)))
}

/// One page of a tenant's keys, the oldest first, revoked ones too.
///
/// # Errors
/// The database fails.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<ApiKey>, Error> {
    let rows = sqlx::query_as!(
        ApiKeyRow,
        "SELECT id, tenant_id, display_name, expire_time, revoked_at, created_at FROM api_keys
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        tenant.0,
        page.after.unwrap_or(Uuid::nil()),
        i64::from(page.size)
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

/// Revokes a key at once and for good. A second time changes nothing.
///
/// # Errors
/// `NotFound`.
pub async fn revoke(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: ApiKeyId,
    now: DateTime<Utc>,
) -> Result<ApiKey, Error> {
    sqlx::query_as!(
        ApiKeyRow,
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3)
         WHERE tenant_id = $1 AND id = $2
         RETURNING id, tenant_id, display_name, expire_time, revoked_at, created_at",
        tenant.0,
        id.0,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?
    .map(ApiKey::from)
    .ok_or_else(|| Error::not_found("API key", ApiKeyName { tenant, key: id }))
}

fn refused(error: sqlx::Error, tenant: TenantId) -> Error {
    if breaks(&error, "api_keys_tenant_id_fkey") {
        return tenants::not_found(tenant);
    }
    database(error)
}
