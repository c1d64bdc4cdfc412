//! What a build makes of a database that it did not migrate.

use likeness_domain::ErrorKind;
use likeness_registry::{check_migrated, connect, migrate};
use likeness_test_support::TestContext;

use crate::world::refused;

async fn changed(sql: &'static str) -> TestContext {
    let context = Box::pin(TestContext::new()).await.unwrap();
    sqlx::query(sql).execute(context.pool()).await.unwrap();
    context
}

#[tokio::test]
async fn a_migrated_database_is_ready_and_stays_so() {
    let context = Box::pin(TestContext::new()).await.unwrap();
    let pool = connect(context.database_url(), 1).await.unwrap();
    check_migrated(&pool).await.unwrap();
    migrate(&pool).await.unwrap();
    check_migrated(&pool).await.unwrap();
}

#[tokio::test]
async fn an_empty_or_older_database_is_to_be_migrated() {
    for sql in [
        "DROP TABLE _sqlx_migrations",
        "DELETE FROM _sqlx_migrations WHERE version = 2",
    ] {
        let context = changed(sql).await;
        refused(
            check_migrated(context.pool()).await,
            ErrorKind::FailedPrecondition,
            "NOT_MIGRATED",
        );
    }
}

#[tokio::test]
async fn another_schema_under_the_same_numbers_is_refused() {
    let context = changed(r"UPDATE _sqlx_migrations SET checksum = '\x00' WHERE version = 1").await;
    for answer in [
        check_migrated(context.pool()).await,
        migrate(context.pool()).await,
    ] {
        refused(answer, ErrorKind::FailedPrecondition, "MIGRATION_DIFFERS");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_still_serves() {
    let context = changed(
        r"INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
          VALUES (9999, 'later', true, '\x00', 1)",
    )
    .await;
    check_migrated(context.pool()).await.unwrap();
    migrate(context.pool()).await.unwrap();
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_showing_it() {
    for url in [
        "",
        "hunter2",
        "mysql://u:hunter2@h/d",
        "postgres://u:hunter2@h:port/d",
    ] {
        let error = connect(url, 1).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
