//! The transitions in SQL are those in Rust.

use likeness_domain::{PhotoState, RenderState};

use crate::world::World;

#[tokio::test]
async fn renders_change_in_sql_as_in_rust() {
    let world = World::new().await;
    for from in RenderState::ALL {
        for to in RenderState::ALL {
            let sql: bool = sqlx::query_scalar("SELECT render_may_become($1, $2)")
                .bind(from.as_str())
                .bind(to.as_str())
                .fetch_one(world.pool())
                .await
                .unwrap();
            assert_eq!(sql, from.may_become(*to), "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn photos_change_in_sql_as_in_rust() {
    let world = World::new().await;
    for from in PhotoState::ALL {
        for to in PhotoState::ALL {
            let sql: bool = sqlx::query_scalar("SELECT photo_may_become($1, $2)")
                .bind(from.as_str())
                .bind(to.as_str())
                .fetch_one(world.pool())
                .await
                .unwrap();
            assert_eq!(sql, from.may_become(*to), "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn no_statement_takes_another_way() {
    let world = World::new().await;
    let render = world.queued().await;
    let skipped = sqlx::query(
        "UPDATE renders SET state = 'RUNNING', publication = 1, attempt = 1, worker = 'w',
             lease_until = created_at, begun_at = created_at
         WHERE id = $1",
    )
    .bind(render.0)
    .execute(world.pool())
    .await
    .unwrap_err();
    assert!(
        skipped.to_string().contains("from QUEUED to RUNNING"),
        "{skipped}"
    );
    let revived = sqlx::query("UPDATE photos SET state = 'FAILED' WHERE id = $1")
        .bind(world.enrolled.photo.0)
        .execute(world.pool())
        .await
        .unwrap_err();
    assert!(
        revived.to_string().contains("from ACCEPTED to FAILED"),
        "{revived}"
    );
}
