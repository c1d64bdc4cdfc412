//! The lifecycle, seen from its tasks. Time is tokio's own and paused: nothing here really waits.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{anyhow, bail};
use likeness_runtime::Lifecycle;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_stop_lets_tasks_end_their_work() {
    let lifecycle = Lifecycle::new();
    let ended = Arc::new(AtomicBool::new(false));
    lifecycle.spawn("worker", {
        let (soft, ended) = (lifecycle.soft().clone(), Arc::clone(&ended));
        async move {
            soft.cancelled().await;
            tokio::time::sleep(LIMIT / 2).await;
            ended.store(true, Ordering::SeqCst);
            Ok(())
        }
    });
    lifecycle.stop();
    lifecycle.clone().run(LIMIT).await.unwrap();
    assert!(ended.load(Ordering::SeqCst));
    assert!(!lifecycle.hard().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_takes_the_others_down() {
    let lifecycle = Lifecycle::new();
    let soft = lifecycle.soft().clone();
    lifecycle.spawn("other", async move {
        soft.cancelled().await;
        bail!("a later failure")
    });
    lifecycle.spawn("first", async { Err(anyhow!("the cause")) });
    let error = lifecycle.run(LIMIT).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "the task first failed: the cause");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_takes_the_others_down() {
    let lifecycle = Lifecycle::new();
    let soft = lifecycle.soft().clone();
    lifecycle.spawn("other", async move {
        soft.cancelled().await;
        Ok(())
    });
    lifecycle.spawn("broken", async { panic!("with a reason") });
    let error = lifecycle.run(LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "the task broken panicked");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_drain_are_stopped_hard() {
    let lifecycle = Lifecycle::new();
    let hard = lifecycle.hard().clone();
    lifecycle.spawn("slow", async move {
        hard.cancelled().await;
        Ok(())
    });
    lifecycle.stop();
    let start = Instant::now();
    lifecycle.run(LIMIT).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_ignore_even_that_are_named() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn("stuck", pending());
    lifecycle.spawn("done", async { Ok(()) });
    lifecycle.stop();
    let error = lifecycle.run(LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "these tasks did not end: stuck");
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_tasks_have_all_ended_ends() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn("short", async { Ok(()) });
    let end = tokio::time::timeout(LIMIT, lifecycle.run(LIMIT)).await;
    end.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_may_spawn_others_while_the_process_drains() {
    let lifecycle = Lifecycle::new();
    let ended = Arc::new(AtomicBool::new(false));
    let (handle, inner) = (lifecycle.clone(), Arc::clone(&ended));
    lifecycle.spawn("outer", async move {
        handle.soft().cancelled().await;
        handle.spawn("inner", async move {
            tokio::time::sleep(LIMIT / 2).await;
            inner.store(true, Ordering::SeqCst);
            Ok(())
        });
        Ok(())
    });
    lifecycle.stop();
    lifecycle.run(LIMIT).await.unwrap();
    assert!(ended.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_child_stops_alone_but_fails_for_all() {
    let lifecycle = Lifecycle::new();
    let child = lifecycle.child();
    child.stop();
    assert!(child.soft().is_cancelled() && !lifecycle.soft().is_cancelled());
    let (soft, hard) = (lifecycle.soft().clone(), lifecycle.hard().clone());
    lifecycle.spawn("other", async move {
        soft.cancelled().await;
        assert!(!hard.is_cancelled());
        Ok(())
    });
    child.spawn("part", async { bail!("the cause") });
    assert!(lifecycle.run(LIMIT).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_others_need_outlives_them() {
    let lifecycle = Lifecycle::new();
    let (soft, hard) = (lifecycle.soft().clone(), lifecycle.hard().clone());
    let needed = lifecycle.outliving(&["client"]);
    let (part_soft, part_hard) = (needed.soft().clone(), needed.hard().clone());
    lifecycle.spawn("client", async move {
        soft.cancelled().await;
        assert!(!part_soft.is_cancelled());
        hard.cancelled().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!part_soft.is_cancelled() && !part_hard.is_cancelled());
        Ok(())
    });
    let part_soft = needed.soft().clone();
    needed.spawn("part", async move {
        part_soft.cancelled().await;
        Ok(())
    });
    lifecycle.stop();
    lifecycle.run(LIMIT).await.unwrap();
    assert!(needed.soft().is_cancelled());
}
