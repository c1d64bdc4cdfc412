//! Each test gets a part of the servers that is its own.

use std::sync::Arc;

use async_nats::jetstream;
use likeness_local_stack::process::is_alive;
use likeness_test_support::{Servers, TestContext};

#[tokio::test]
async fn a_database_holds_the_migrations_and_no_others_rows() {
    let (one, two) = tokio::try_join!(TestContext::new(), TestContext::new()).unwrap();
    let insert = "INSERT INTO tenants (id, display_name, created_at) VALUES ($1, 'a', now())";
    let id = uuid::Uuid::new_v4();
    sqlx::query(insert)
        .bind(id)
        .execute(one.pool())
        .await
        .unwrap();
    for (context, rows) in [(&one, 1), (&two, 0)] {
        let count = sqlx::query_scalar("SELECT count(*) FROM tenants");
        let found: i64 = count.fetch_one(context.pool()).await.unwrap();
        assert_eq!(found, rows);
    }
}

#[tokio::test]
async fn everything_is_gone_afterwards() {
    let context = TestContext::new().await.unwrap();
    let (url, name) = (
        context.database_url().to_owned(),
        context.namespace().to_owned(),
    );
    let (bucket, s3) = (context.bucket().to_owned(), context.s3().client());
    let body = b"x".to_vec().into();
    s3.put_object()
        .bucket(&bucket)
        .key("a/b")
        .body(body)
        .send()
        .await
        .unwrap();
    let js = jetstream::new(context.nats().clone());
    let config = jetstream::stream::Config {
        name,
        ..Default::default()
    };
    let stream = js.create_stream(config.clone()).await.unwrap();
    drop(stream);
    drop(context);
    assert!(sqlx::PgPool::connect(&url).await.is_err());
    assert!(s3.head_bucket().bucket(&bucket).send().await.is_err());
    assert!(js.get_stream(&config.name).await.is_err());
}

#[tokio::test]
async fn rows_survive_a_crash_of_the_servers() {
    let servers = tokio::task::spawn_blocking(Servers::start);
    let servers = Arc::new(servers.await.unwrap().unwrap());
    let context = TestContext::on(servers.clone()).await.unwrap();
    sqlx::query("CREATE TABLE kept (n int)")
        .execute(context.pool())
        .await
        .unwrap();
    let stack = servers.stack().unwrap();
    let pids = [stack.postgres.pid().unwrap(), stack.nats.pid().unwrap()];
    stack.postgres.kill();
    stack.nats.kill();
    assert!(!pids.into_iter().any(is_alive));
    stack.postgres.restart().unwrap();
    stack.nats.restart().unwrap();
    sqlx::query("SELECT n FROM kept")
        .fetch_all(context.pool())
        .await
        .unwrap();
    async_nats::connect(servers.nats_url()).await.unwrap();
}
