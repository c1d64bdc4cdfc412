//! `likeness bench swap`.

use std::time::Instant;

use clap::Args;
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Kind, Lora, Stack};
use likeness_models::low_rank_updates;
use likeness_sdxl::{AttentionMatrix, BareMatrices, LowRankUpdate, NumberType};
use serde_json::json;

use super::{
    Common, Place, count,
    report::{Report, Stage},
};
use crate::{
    args::Output,
    fail::{Failure, failed},
};

/// The usual weight of an identity.
const SCALE: f64 = 0.8;

/// What to swap.
#[derive(Args)]
pub struct SwapArgs {
    #[command(flatten)]
    common: Common,
    /// The number type of the merged weights: f32, f16 or bf16; by default f32 on the cpu, bf16 on a GPU. The basis is
    /// f16, as it is released.
    #[arg(long)]
    dtype: Option<NumberType>,
}

/// Measures a swap.
pub fn swap(args: &SwapArgs, output: Output) -> Result<(), Failure> {
    let (common, place) = (&args.common, args.common.place(args.dtype)?);
    let begun = Instant::now();
    let sizes = common.size.hyperlora();
    let basis = Basis::random(&sizes, common.seed, &place.device).map_err(failed)?;
    let lora = synthesize(&basis, &coefficients(&basis, 0)?)?;
    let mut matrices = matrices(&lora, common, &place)?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    let mut synthesis = Stage::new("synthesis", count::synthesis(&sizes));
    let mut merge = Stage::new("merge", count::merge(&sizes, place.dtype));
    for run in 0..=common.runs {
        let (person, measured) = (coefficients(&basis, run)?, run > 0);
        let lora = synthesis.time(&place, measured, || synthesize(&basis, &person))?;
        merge.time(&place, measured, || {
            matrices.merge(&updates(&lora)?).map_err(failed)
        })?;
    }
    let report = Report {
        bench: "swap",
        settings: vec![
            ("lora_numbers", json!(sizes.lora_numbers())),
            ("matrix_numbers", json!(sizes.matrix_numbers())),
        ],
        prepare_seconds,
        stages: vec![synthesis, merge],
    };
    report.print(common, &place, output)
}

/// Somebody else in every run.
fn coefficients(basis: &Basis, run: u32) -> Result<Coefficients, Failure> {
    let (tokens, k) = (basis.tokens(), basis.k());
    let value = |i: usize| ((i + 1) as f32 * (run + 1) as f32).sin();
    let values = (0..tokens * k).map(value).collect();
    let predicted = Coefficients::new(tokens, k, values).map_err(failed)?;
    Ok(predicted.normalised())
}

fn synthesize(basis: &Basis, person: &Coefficients) -> Result<Lora, Failure> {
    basis.synthesize(person, Kind::Id).map_err(failed)
}

fn updates(lora: &Lora) -> Result<Vec<LowRankUpdate>, Failure> {
    let mut stack = Stack::default();
    stack.push(lora, SCALE).map_err(failed)?;
    low_rank_updates(&stack).map_err(failed)
}

/// Weights of the shapes that the LoRA is for.
fn matrices(lora: &Lora, common: &Common, place: &Place) -> Result<BareMatrices, Failure> {
    let matrix = |update: &likeness_hyperlora::LoraMatrix| AttentionMatrix {
        name: update.target(),
        rows: update.up.dims()[0],
        cols: update.down.dims()[1],
    };
    let list: Vec<_> = lora.matrices.iter().map(matrix).collect();
    BareMatrices::random(&list, place.dtype, &place.device, common.seed).map_err(failed)
}
