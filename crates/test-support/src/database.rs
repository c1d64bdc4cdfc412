//! A database per test, copied from a template that holds the migrations.

use std::str::FromStr;

use anyhow::{Context, Result};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Held while the template is made, so that parallel test processes make it once.
const TEMPLATE_LOCK: i64 = 0x6c69_6b65;

/// Creates the database `name`, with the migrations applied, and returns its URL.
pub(crate) async fn create(admin_url: &str, name: &str) -> Result<String> {
    let options = PgConnectOptions::from_str(admin_url)?;
    let mut admin = options.connect().await.context("cannot reach Postgres")?;
    let template = template(&options, &mut admin).await?;
    let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
    sqlx::query(AssertSqlSafe(create))
        .execute(&mut admin)
        .await?;
    admin.close().await?;
    Ok(options.database(name).to_url_lossy().to_string())
}

/// Drops the database `name`, whoever is still connected.
pub(crate) async fn remove(admin_url: &str, name: &str) -> Result<()> {
    let mut admin = PgConnectOptions::from_str(admin_url)?.connect().await?;
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::query(AssertSqlSafe(drop)).execute(&mut admin).await?;
    Ok(admin.close().await?)
}

/// Drops what earlier test processes left on a server that is ours alone: their databases, and
/// templates of other migrations.
pub(crate) async fn remove_leftovers(admin_url: &str) -> Result<()> {
    let mut admin = PgConnectOptions::from_str(admin_url)?.connect().await?;
    let left = "SELECT datname FROM pg_database \
                WHERE (datname LIKE 't\\_%' OR datname LIKE 'template\\_%') AND datname <> $1";
    let names: Vec<String> = sqlx::query_scalar(left)
        .bind(template_name())
        .fetch_all(&mut admin)
        .await?;
    for name in names {
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(drop)).execute(&mut admin).await?;
    }
    Ok(admin.close().await?)
}

fn template_name() -> String {
    format!("template_{:016x}", digest())
}

/// The template's name, after the migrations in it; made if it is not there yet.
async fn template(options: &PgConnectOptions, admin: &mut PgConnection) -> Result<String> {
    let name = template_name();
    if exists(admin, &name).await? {
        return Ok(name);
    }
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *admin)
        .await?;
    if !exists(admin, &name).await? {
        make_template(options, admin, &name).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *admin)
        .await?;
    Ok(name)
}

async fn exists(admin: &mut PgConnection, name: &str) -> Result<bool> {
    let found = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    Ok(sqlx::query_scalar(found)
        .bind(name)
        .fetch_one(admin)
        .await?)
}

/// Migrates under another name first: whoever sees the template sees it whole.
async fn make_template(
    options: &PgConnectOptions,
    admin: &mut PgConnection,
    name: &str,
) -> Result<()> {
    let partial = format!("{name}_partial");
    for statement in [
        format!("DROP DATABASE IF EXISTS {partial} WITH (FORCE)"),
        format!("CREATE DATABASE {partial}"),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *admin)
            .await?;
    }
    let mut connection = options.clone().database(&partial).connect().await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .context("the migrations fail")?;
    connection.close().await?;
    let rename = format!("ALTER DATABASE {partial} RENAME TO {name}");
    sqlx::query(AssertSqlSafe(rename)).execute(admin).await?;
    Ok(())
}

/// FNV-1a over the migrations' checksums.
fn digest() -> u64 {
    MIGRATIONS
        .iter()
        .flat_map(|migration| migration.checksum.iter())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
