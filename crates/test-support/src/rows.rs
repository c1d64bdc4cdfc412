//! Rows by the thousand, and one at a time without anything around it, for measuring.

use anyhow::Result;
use sqlx::PgPool;
use uuid::Uuid;

/// What renders of a measurement have in common.
#[derive(Clone, Debug)]
pub struct Sort {
    /// The pool that they wait for.
    pub pool: String,
    /// The digest of its bundle.
    pub bundle: String,
    /// Their parameters, as JSON.
    pub spec: String,
    /// What each is estimated at.
    pub cost_seconds: f32,
}

/// Inserts one queued render and nothing else: what Postgres takes for a durable row.
///
/// # Errors
/// The database fails.
pub async fn insert_one(pool: &PgPool, tenant: Uuid, id: Uuid, sort: &Sort) -> Result<()> {
    sqlx::query(
        "INSERT INTO renders (id, tenant_id, priority, bundle, pool, spec, cost_seconds,
                              expire_time, created_at)
         VALUES ($1, $2, 1, $3, $4, $5::text::jsonb, $6, now() + interval '1 day', now())",
    )
    .bind(id)
    .bind(tenant)
    .bind(&sort.bundle)
    .bind(&sort.pool)
    .bind(&sort.spec)
    .bind(sort.cost_seconds)
    .execute(pool)
    .await?;
    Ok(())
}

/// Inserts so many tenants, each with a part of `renders` queued renders, all older than any that is made now.
///
/// # Errors
/// The database fails.
pub async fn seed(pool: &PgPool, tenants: i32, renders: i64, sort: &Sort) -> Result<Vec<Uuid>> {
    let made: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO tenants (id, display_name, created_at)
         SELECT id, 'seeded ' || id, now()
         FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $1)) AS new
         RETURNING id",
    )
    .bind(tenants)
    .fetch_all(pool)
    .await?;
    top_up(pool, &made, renders, sort).await?;
    Ok(made)
}

/// Inserts further queued renders until the tenants have `renders` of them, taking turns.
///
/// # Errors
/// The database fails.
pub async fn top_up(pool: &PgPool, tenants: &[Uuid], renders: i64, sort: &Sort) -> Result<()> {
    sqlx::query(
        "INSERT INTO renders (id, tenant_id, priority, bundle, pool, spec, cost_seconds,
                              expire_time, created_at)
         SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(numbers.made + n), 12, '0'))::uuid,
             ($1::uuid[])[1 + n % cardinality($1)], 1, $3, $4, $5::text::jsonb, $6,
             now() + interval '1 day', now()
         FROM (SELECT count(*) AS made,
                   count(*) FILTER (WHERE state = 'QUEUED' AND tenant_id = ANY ($1)) AS waiting
               FROM renders) AS numbers,
             LATERAL generate_series(1, greatest($2 - numbers.waiting, 0)) AS n",
    )
    .bind(tenants)
    .bind(renders)
    .bind(&sort.bundle)
    .bind(&sort.pool)
    .bind(&sort.spec)
    .bind(sort.cost_seconds)
    .execute(pool)
    .await?;
    // As it would be found later: planned by statistics, without rows that autovacuum has yet to see.
    sqlx::query("VACUUM ANALYZE renders").execute(pool).await?;
    sqlx::query("VACUUM ANALYZE tenants").execute(pool).await?;
    Ok(())
}

/// Gives a tenant a weight.
///
/// # Errors
/// The database fails.
pub async fn weigh(pool: &PgPool, tenant: Uuid, weight: f32) -> Result<()> {
    sqlx::query("UPDATE tenants SET weight = $2 WHERE id = $1")
        .bind(tenant)
        .bind(weight)
        .execute(pool)
        .await?;
    Ok(())
}

/// Forgets every worker, and puts back into the queue what was dispatched to them.
///
/// # Errors
/// The database fails.
pub async fn forget_workers(pool: &PgPool) -> Result<()> {
    sqlx::query("DELETE FROM workers").execute(pool).await?;
    sqlx::query(
        "UPDATE renders SET state = 'QUEUED', dispatched_at = NULL, published_at = NULL
         WHERE state = 'DISPATCHED'",
    )
    .execute(pool)
    .await?;
    sqlx::query(
        "UPDATE renders SET state = 'QUEUED', worker = NULL, lease_until = NULL
         WHERE state = 'RUNNING'",
    )
    .execute(pool)
    .await?;
    Ok(())
}
