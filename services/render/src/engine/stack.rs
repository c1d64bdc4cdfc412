//! What is merged for a render: its person, the Base-LoRA, its sliders.

use likeness_domain::coefficients::{self, Coefficients};
use likeness_hyperlora::{Error, Kind, Stack};
use likeness_sdxl::LowRankUpdate;

use super::{
    Failure, Job,
    models::Models,
    paint::{bundle_mismatch, synthesis_failure},
};
use likeness_models::low_rank_updates;

/// A direction to move along: +s × LoRA(after) − s × LoRA(before).
#[derive(Clone, PartialEq)]
pub struct Slide {
    /// Normalised coefficients of where it starts.
    pub before: Coefficients,
    /// Normalised coefficients of where it leads.
    pub after: Coefficients,
    /// s: how far to move, and which way.
    pub scale: f32,
}

impl Job {
    /// Whether anything is merged that the trigger words call up.
    pub fn has_lora(&self) -> bool {
        let moves = self.sliders.iter().any(|slide| slide.scale != 0.0);
        moves || !self.sets.is_empty() || !self.base.is_empty()
    }
}

/// Whether two renders show the same person in the same strength, moved the same way: the same LoRA serves both.
#[allow(
    clippy::float_cmp,
    reason = "only the very same scale gives the same LoRA"
)]
pub fn same_person(a: &Job, b: &Job) -> bool {
    let same_id = a.sets.is_empty() || a.spec.id_scale == b.spec.id_scale;
    let same_base = a.base.is_empty() || a.spec.base_scale == b.spec.base_scale;
    a.sets == b.sets && same_id && a.base == b.base && same_base && a.sliders == b.sliders
}

impl Models {
    /// Coefficients × basis: the update of every attention matrix, none where nothing is shown.
    pub fn synthesise(&self, job: &Job) -> Result<Vec<LowRankUpdate>, Failure> {
        let mut stack = Stack::default();
        let (id, base) = (job.spec.id_scale, job.spec.base_scale);
        self.push_blend(&mut stack, &job.sets, Kind::Id, id)?;
        self.push_blend(&mut stack, &job.base, Kind::Base, base)?;
        for slide in &job.sliders {
            self.push_slide(&mut stack, slide)
                .map_err(synthesis_failure)?;
        }
        low_rank_updates(&stack).map_err(synthesis_failure)
    }

    fn push_blend(
        &self,
        stack: &mut Stack,
        sets: &[(Coefficients, f32)],
        kind: Kind,
        scale: f32,
    ) -> Result<(), Failure> {
        if sets.is_empty() || scale == 0.0 {
            return Ok(());
        }
        let lora = self.basis.synthesize(&blend(sets)?, kind);
        let pushed = lora.and_then(|lora| stack.push(&lora, f64::from(scale)));
        pushed.map_err(synthesis_failure)
    }

    fn push_slide(&self, stack: &mut Stack, slide: &Slide) -> Result<(), Error> {
        if slide.scale == 0.0 {
            return Ok(());
        }
        let before = self.basis.synthesize(&slide.before, Kind::Id)?;
        let after = self.basis.synthesize(&slide.after, Kind::Id)?;
        stack.push_slider(&before, &after, f64::from(slide.scale))
    }
}

fn blend(sets: &[(Coefficients, f32)]) -> Result<Coefficients, Failure> {
    match sets {
        [(one, _)] => Ok(one.clone()),
        several => coefficients::blend(several).map_err(bundle_mismatch),
    }
}
