//! An intake: renders that a worker takes together. Each comes to the models by itself, and those that are there go on
//! together.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Engine, Failure, Job, Order, Painted};

/// How long those that are ready wait for those that still fetch coefficients, once all have been taken. A batch takes
/// seconds.
const PATIENCE: Duration = Duration::from_millis(100);

/// A place in an intake. Dropping it tells the others not to wait.
#[derive(Clone)]
pub struct Slot {
    orders: mpsc::Sender<Order>,
    turn: Arc<OwnedSemaphorePermit>,
}

impl Slot {
    /// Makes the images of one render, with the others of the intake where they fit each other. The models are the
    /// intake's until the last of it is painted. One that must stop ends at once, also while others are painted.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn paint(self, job: Job) -> Result<Painted, Failure> {
        let Self { orders, turn } = self;
        let (answer, painted) = oneshot::channel();
        let stop = job.stop.clone();
        orders.send(Order::new(job, answer)).await.map_err(gone)?;
        drop(orders);
        let painted = tokio::select! {
            biased;
            painted = painted => painted.map_err(gone)?,
            reason = stop.asked() => Err(Failure::Stopped(reason)),
        };
        drop(turn);
        painted
    }
}

/// An intake's first slot, to be cloned for each render; what is held as long as renders are taken; and what brings them
/// to the models: to be awaited beside.
pub fn intake(
    engine: &Engine,
    turn: OwnedSemaphorePermit,
) -> (Slot, DropGuard, impl Future<Output = ()> + use<>) {
    let (orders, coming) = mpsc::channel(1);
    let (turn, taken) = (Arc::new(turn), CancellationToken::new());
    let gathering = gather(engine.clone(), coming, taken.clone());
    (Slot { orders, turn }, taken.drop_guard(), gathering)
}

async fn gather(engine: Engine, mut coming: mpsc::Receiver<Order>, taken: CancellationToken) {
    while let Some(first) = coming.recv().await {
        let mut together = vec![first];
        let others = async {
            while let Some(order) = coming.recv().await {
                together.push(order);
            }
        };
        let patience = async {
            taken.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            () = others => {}
            () = patience => {}
        }
        // Where the models are gone, so are the answers' other ends: everyone is told by that.
        let _ = engine.orders.send(together).await;
    }
}

/// Nobody is there to paint.
pub(super) fn gone<E>(_: E) -> Failure {
    Failure::Transient {
        reason: "ENGINE_GONE",
        message: "the worker's models have stopped".to_owned(),
    }
}
