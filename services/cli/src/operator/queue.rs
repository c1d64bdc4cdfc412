//! The queue and the workers.

use clap::Subcommand;
use likeness_wire::{json::to_json, v1};

use crate::{
    args::Output,
    connect::OperatorArgs,
    fail::Failure,
    output::{print, print_fields, short},
};

/// What to do with the queue.
#[derive(Subcommand)]
pub enum QueueCommand {
    /// Count what waits and runs, in all and by pool.
    Stats {
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// What to do with workers.
#[derive(Subcommand)]
pub enum WorkersCommand {
    /// List the workers that were seen lately.
    List {
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// Runs a queue command.
pub async fn queue(command: QueueCommand, output: Output) -> Result<(), Failure> {
    let QueueCommand::Stats { operator } = command;
    let answer = operator
        .admin()
        .await?
        .get_queue_stats(v1::GetQueueStatsRequest {})
        .await?
        .into_inner();
    if output == Output::Json {
        return crate::output::print_json(&to_json(&answer));
    }
    let states: Vec<(String, String)> = answer
        .renders
        .iter()
        .map(|count| {
            (
                short(count.state().as_str_name(), "RENDER_STATE"),
                count.count.to_string(),
            )
        })
        .chain([(
            "photos pending".to_owned(),
            answer.pending_photos.to_string(),
        )])
        .collect();
    let fields: Vec<(&str, String)> = states
        .iter()
        .map(|(state, count)| (state.as_str(), count.clone()))
        .collect();
    print_fields(output, &fields, &to_json(&answer))?;
    let rows = answer.pools.iter().map(|pool| {
        vec![
            pool.pool.clone(),
            pool.workers.to_string(),
            pool.queued.to_string(),
            pool.dispatched.to_string(),
            pool.running.to_string(),
        ]
    });
    let header = ["POOL", "WORKERS", "QUEUED", "DISPATCHED", "RUNNING"];
    print(output, &header, rows.collect(), &to_json(&answer))
}

/// Runs a workers command.
pub async fn workers(command: WorkersCommand, output: Output) -> Result<(), Failure> {
    let WorkersCommand::List { operator } = command;
    let request = v1::ListWorkersRequest {
        page_size: 1000,
        ..Default::default()
    };
    let answer = operator
        .admin()
        .await?
        .list_workers(request)
        .await?
        .into_inner();
    let rows = answer.workers.iter().map(|worker| {
        vec![
            worker.name.clone(),
            short(worker.kind().as_str_name(), "WORKER_KIND"),
            worker.pool.clone(),
            worker.device.clone(),
            worker.holding.len().to_string(),
            if worker.draining { "DRAINING" } else { "LIVE" }.to_owned(),
        ]
    });
    let json = answer.workers.iter().map(to_json).collect();
    print(
        output,
        &["NAME", "KIND", "POOL", "DEVICE", "HOLDS", "STATE"],
        rows.collect(),
        &json,
    )
}
