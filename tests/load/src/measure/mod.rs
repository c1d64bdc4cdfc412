//! The measurements.

mod busy;
mod cost;
mod idle;
mod submit;

use std::sync::Arc;

use anyhow::Result;
use likeness_test_support::Servers;

use crate::{
    plan::{Part, Plan},
    report::Report,
};

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Fair => "fair",
            Self::Cost => "cost",
        }
    }

    /// Measures, and notes what was found.
    pub async fn measure(
        self,
        plan: &Plan,
        servers: &Arc<Servers>,
        report: &mut Report,
    ) -> Result<()> {
        match self {
            Self::Submit => submit::singles(plan, servers, report).await,
            Self::Batch => submit::batches(plan, servers, report).await,
            Self::Idle => idle::measure(plan, servers, report).await,
            Self::Busy => busy::busy(plan, servers, report).await,
            Self::Fair => busy::fair(plan, servers, report).await,
            Self::Cost => cost::measure(plan, servers, report).await,
        }
    }
}
