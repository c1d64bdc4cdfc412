//! Connections, transactions and migrations.

use std::{str::FromStr, time::Duration};

use likeness_domain::{Error, ErrorKind};
use sqlx::{
    Connection as _, PgPool, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::error::database;

/// How long a request waits for a free connection before it is told to try again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that has been idle for longer is tried before it is used: a round trip that a busy one need not pay.
const TRIED_AFTER: Duration = Duration::from_secs(1);

/// Connects to Postgres at `url` with at most `max` connections.
///
/// # Errors
/// `InvalidArgument` for a URL that is none of Postgres's, `Unavailable` if the database cannot be reached.
pub async fn connect(url: &str, max: u32) -> Result<PgPool, Error> {
    let options = options(url).ok_or_else(|| {
        Error::invalid_field(
            "database_url",
            "expected postgres://user:password@host:port/database",
        )
    })?;
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|conn, about| {
            Box::pin(async move {
                if about.idle_for > TRIED_AFTER {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options.application_name("likeness"))
        .await
        .map_err(database)
}

/// Reads a URL; `None` for one that is none of Postgres's.
fn options(url: &str) -> Option<PgConnectOptions> {
    let is_ours = url.starts_with("postgres://") || url.starts_with("postgresql://");
    PgConnectOptions::from_str(url).ok().filter(|_| is_ours)
}

/// Takes a connection of the pool, for reads that need no transaction.
///
/// # Errors
/// `Unavailable` if none is free in time.
pub async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, Error> {
    pool.acquire().await.map_err(database)
}

/// Begins a transaction; what is not committed is undone.
///
/// # Errors
/// `Unavailable` if no connection is free in time.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    pool.begin().await.map_err(database)
}

/// Commits a transaction.
///
/// # Errors
/// `Unavailable` if the connection broke: whether it was committed is then unknown.
pub async fn commit(transaction: Transaction<'static, Postgres>) -> Result<(), Error> {
    transaction.commit().await.map_err(database)
}

/// The migrations that this build carries. A database that a newer version has migrated further still serves this one.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.set_ignore_missing(true);
    migrator
}

/// Brings the schema up to what this build needs.
///
/// # Errors
/// `FailedPrecondition` if an applied migration differs from this build's, `Unavailable` if the database is away.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    migrator().run(pool).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => database(error),
        MigrateError::VersionMismatch(version) => differs(version),
        other => Error::internal(other),
    })
}

/// Checks that every migration of this build has been applied.
///
/// # Errors
/// `FailedPrecondition` if one is missing or differs, `Unavailable` if the database is away.
pub async fn check_migrated(pool: &PgPool) -> Result<(), Error> {
    let applied = applied_migrations(pool).await?;
    for migration in migrator().iter() {
        match applied
            .iter()
            .find(|(version, _)| *version == migration.version)
        {
            None => return Err(missing(migration.version)),
            Some((_, checksum)) if *checksum != *migration.checksum => {
                return Err(differs(migration.version));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Version and checksum of each migration that has been applied in full.
async fn applied_migrations(pool: &PgPool) -> Result<Vec<(i64, Vec<u8>)>, Error> {
    let migrated: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await
        .map_err(database)?;
    if !migrated {
        return Ok(Vec::new());
    }
    // Not checked at compile time: the table belongs to the migrator.
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
        .fetch_all(pool)
        .await
        .map_err(database)
}

fn missing(version: i64) -> Error {
    let message =
        format!("the database lacks migration {version}; run `likeness migrate` and start again");
    Error::new(ErrorKind::FailedPrecondition, "NOT_MIGRATED", message)
}

fn differs(version: i64) -> Error {
    let message = format!(
        "migration {version} was applied in another form; this build does not belong to this database"
    );
    Error::new(ErrorKind::FailedPrecondition, "MIGRATION_DIFFERS", message)
}
