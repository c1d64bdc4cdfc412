//! The queue and the workers.

use clap::{Args, Subcommand};
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
    /// Stop admission to a pool, or resume it; what its workers have goes on.
    Pause {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The pool, as `queue stats` names it.
        pool: String,
        /// Admit again.
        #[arg(long)]
        resume: bool,
    },
    /// List failed renders with what their attempts died of.
    Dead {
        #[command(flatten)]
        operator: OperatorArgs,
        #[command(flatten)]
        filter: DeadArgs,
    },
    /// Make new renders of failed ones: of those named, or of at most a thousand with one reason.
    Requeue {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…/renders/…`
        #[arg(conflicts_with_all = ["tenant", "reason"], required_unless_present = "reason")]
        names: Vec<String>,
        #[command(flatten)]
        filter: DeadArgs,
    },
}

/// Which failed renders are meant.
#[derive(Args)]
pub struct DeadArgs {
    /// Only this tenant's, `tenants/…`.
    #[arg(long, default_value = "")]
    tenant: String,
    /// Only those that failed with this reason.
    #[arg(long, default_value = "")]
    reason: String,
}

/// What to do with workers.
#[derive(Subcommand)]
pub enum WorkersCommand {
    /// List the workers that were seen lately.
    List {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Let a worker finish or hand back what it has, and end.
    Drain {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `workers/…`
        name: String,
    },
}

/// Runs a queue command.
pub async fn queue(command: QueueCommand, output: Output) -> Result<(), Failure> {
    match command {
        QueueCommand::Stats { operator } => stats(&operator, output).await,
        QueueCommand::Pause {
            operator,
            pool,
            resume,
        } => {
            let paused = !resume;
            let request = v1::PausePoolRequest { pool, paused };
            operator.admin().await?.pause_pool(request).await?;
            Ok(())
        }
        QueueCommand::Dead { operator, filter } => dead(&operator, filter, output).await,
        QueueCommand::Requeue {
            operator,
            names,
            filter,
        } => {
            let request = v1::RequeueRendersRequest {
                names,
                parent: filter.tenant,
                reason: filter.reason,
            };
            let answer = operator.admin().await?.requeue_renders(request).await?;
            print_renders(&answer.into_inner().renders, output)
        }
    }
}

async fn dead(operator: &OperatorArgs, filter: DeadArgs, output: Output) -> Result<(), Failure> {
    let request = v1::ListDeadRendersRequest {
        parent: filter.tenant,
        reason: filter.reason,
        page_size: 1000,
        ..Default::default()
    };
    let answer = operator.admin().await?.list_dead_renders(request).await?;
    let answer = answer.into_inner();
    let rows = answer.renders.iter().map(|dead| {
        let render = dead.render.clone().unwrap_or_default();
        let reason = render.error.unwrap_or_default().reason;
        vec![render.name, reason, dead.attempts.len().to_string()]
    });
    let json = answer.renders.iter().map(to_json).collect();
    let header = ["NAME", "REASON", "ATTEMPTS"];
    print(output, &header, rows.collect(), &json)
}

fn print_renders(renders: &[v1::Render], output: Output) -> Result<(), Failure> {
    let rows = renders
        .iter()
        .map(|render| vec![render.name.clone(), render.retry_of.clone()]);
    let json = renders.iter().map(to_json).collect();
    print(output, &["NAME", "RETRY OF"], rows.collect(), &json)
}

async fn stats(operator: &OperatorArgs, output: Output) -> Result<(), Failure> {
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
    match command {
        WorkersCommand::List { operator } => list(&operator, output).await,
        WorkersCommand::Drain { operator, name } => {
            let request = v1::DrainWorkerRequest { name };
            operator.admin().await?.drain_worker(request).await?;
            Ok(())
        }
    }
}

async fn list(operator: &OperatorArgs, output: Output) -> Result<(), Failure> {
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
