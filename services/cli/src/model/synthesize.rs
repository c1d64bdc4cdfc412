//! From coefficients to a LoRA file.

use std::path::PathBuf;

use candle_core::Device;
use clap::{Args, ValueEnum};
use likeness_bundle::Bundle;
use likeness_hyperlora::{Basis, Kind, Naming, Provenance};

use super::{
    coefficients::{self, Origin},
    whole,
};
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::print_fields,
};

/// From what to what.
#[derive(Args)]
pub struct SynthesizeArgs {
    /// The bundle whose basis is used.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: PathBuf,
    /// What `model encode` wrote.
    #[arg(long, value_name = "FILE")]
    coefficients: PathBuf,
    /// The LoRA of the identity, or the one of everything else in the photos.
    #[arg(long, value_enum, default_value_t = KindArg::Id)]
    kind: KindArg,
    /// How the U-Net's blocks are named in the file; diffusers and ComfyUI load either.
    #[arg(long, value_enum, default_value_t = NamingArg::Sgm)]
    naming: NamingArg,
    /// The LoRA file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// [`Kind`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Id,
    Base,
}

/// [`Naming`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum NamingArg {
    Sgm,
    Diffusers,
}

/// Writes the LoRA.
pub fn synthesize(args: &SynthesizeArgs, output: Output) -> Result<(), Failure> {
    whole::check(&args.out)?;
    let bundle = Bundle::open(&args.bundle).map_err(failed)?;
    let part = bundle.hyperlora().map_err(failed)?;
    let basis = Basis::load(&part.dir, &Device::Cpu).map_err(failed)?;
    let kind = match args.kind {
        KindArg::Id => Kind::Id,
        KindArg::Base => Kind::Base,
    };
    let naming = match args.naming {
        NamingArg::Sgm => Naming::Sgm,
        NamingArg::Diffusers => Naming::Diffusers,
    };
    if basis.rank(kind).is_none() {
        return Err(failed(likeness_hyperlora::Error::NoBase));
    }
    let origin = Origin::of(&bundle);
    let coefficients = coefficients::read(&args.coefficients, kind, &basis, &origin)?;
    let lora = basis.synthesize(&coefficients, kind).map_err(failed)?;
    lora.save(&args.out, naming, &provenance(&bundle, kind))
        .map_err(failed)?;
    let rank = basis.rank(kind).unwrap_or_default();
    let fields = [
        ("lora", args.out.display().to_string()),
        ("matrices", lora.matrices.len().to_string()),
        ("rank", rank.to_string()),
    ];
    let json = serde_json::json!({
        "out": args.out, "matrices": lora.matrices.len(), "rank": rank,
    });
    print_fields(output, &fields, &json)
}

fn provenance(bundle: &Bundle, kind: Kind) -> Provenance {
    Provenance {
        bundle: bundle.name().to_owned(),
        bundle_version: bundle.version().to_owned(),
        bundle_digest: bundle.digest(),
        licences: bundle.manifest().bundle.licences.clone(),
        kind,
    }
}
