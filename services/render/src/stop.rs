//! Why an attempt must stop, told once and seen by the models' thread at the next denoising step.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why an attempt must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The render was cancelled.
    Cancelled,
    /// The lease is not ours any more: somebody else may have the render by now.
    LeaseLost,
    /// This worker ends; the render is given back unharmed.
    HandBack,
}

/// Stops an attempt. The first reason counts.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    reason: Arc<OnceLock<StopReason>>,
    token: CancellationToken,
}

impl Stop {
    /// Stops the attempt for a reason.
    pub fn now(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Why the attempt must stop, if it must.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Waits until the attempt must stop, and says why.
    pub async fn asked(&self) -> StopReason {
        self.token.cancelled().await;
        // The reason is set before the token is cancelled; the default is for the compiler.
        self.reason().unwrap_or(StopReason::HandBack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        stop.now(StopReason::Cancelled);
        stop.now(StopReason::HandBack);
        assert_eq!(stop.reason(), Some(StopReason::Cancelled));
    }
}
