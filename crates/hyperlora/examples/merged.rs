//! For `tests/parity/lora_diffusers.py`, which compares with diffusers and peft.
//!
//! `merged make DIR`: a pocket bundle in DIR/bundle; an invented identity's LoRA in DIR/sgm.safetensors and
//! DIR/diffusers.safetensors; the U-Net's attention weights with it at 0.8 in DIR/merged.safetensors.
//!
//! `merged merge BUNDLE LORA SCALE OUT`: the attention weights with a LoRA file at SCALE, and on standard
//! output the keys of the file that are not used.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_bundle::{Bundle, SdxlModel, pocket};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Kind, Lora, Naming, Provenance, Stack};
use likeness_sdxl::{LoadOptions, LowRankUpdate, Sdxl};

const SCALE: f64 = 0.8;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["make", dir] => make(Path::new(dir)),
        ["merge", bundle, lora, scale, out] => {
            let imported = Lora::load(Path::new(lora))?;
            report(&imported.unknown);
            save_merged(
                Path::new(bundle),
                &imported.lora,
                scale.parse()?,
                Path::new(out),
            )
        }
        _ => Err("usage: merged make DIR | merged merge BUNDLE LORA SCALE OUT".into()),
    }
}

fn make(dir: &Path) -> Done {
    let bundle_dir = dir.join("bundle");
    pocket::make(&bundle_dir, 0)?;
    let bundle = Bundle::open(&bundle_dir)?;
    let basis = Basis::load(&bundle.hyperlora()?.dir, &Device::Cpu)?;
    let lora = basis.synthesize(&somebody(&basis)?, Kind::Id)?;
    let provenance = Provenance {
        bundle: bundle.name().to_owned(),
        bundle_version: bundle.version().to_owned(),
        bundle_digest: bundle.digest(),
        licences: vec![],
        kind: Kind::Id,
    };
    lora.save(&dir.join("sgm.safetensors"), Naming::Sgm, &provenance)?;
    lora.save(
        &dir.join("diffusers.safetensors"),
        Naming::Diffusers,
        &provenance,
    )?;
    save_merged(&bundle_dir, &lora, SCALE, &dir.join("merged.safetensors"))
}

/// Coefficients of nobody: the same every time.
fn somebody(basis: &Basis) -> Result<Coefficients, Box<dyn Error>> {
    let (tokens, k) = (basis.tokens(), basis.k());
    let values = (0..tokens * k)
        .map(|i| (i as f32 * 12.9898).sin())
        .collect();
    Ok(Coefficients::new(tokens, k, values)?.normalised())
}

fn save_merged(bundle: &Path, lora: &Lora, scale: f64, out: &Path) -> Done {
    let SdxlModel::Folder(folder) = Bundle::open(bundle)?.sdxl(None)? else {
        return Err("the pocket model is a folder".into());
    };
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
    };
    let mut sdxl = Sdxl::load(&folder, &options)?;
    let shapes: HashMap<_, _> = sdxl
        .attention_matrices()
        .into_iter()
        .map(|matrix| (matrix.name, (matrix.rows, matrix.cols)))
        .collect();
    lora.check_fits(|name| shapes.get(name).copied())?;
    let mut stack = Stack::default();
    stack.push(lora, scale)?;
    let update = |update: likeness_hyperlora::Update| LowRankUpdate {
        matrix: update.target(),
        down: update.down,
        up: update.up,
        scale: 1.0,
    };
    sdxl.merge(&stack.updates()?.into_iter().map(update).collect::<Vec<_>>())?;
    let weight = |name: &String| {
        Some((
            format!("{name}.weight"),
            sdxl.attention_weight(name)?.clone(),
        ))
    };
    let weights: HashMap<String, Tensor> = shapes.keys().filter_map(weight).collect();
    Ok(safetensors::save(&weights, out)?)
}

#[allow(clippy::print_stdout)]
fn report(unknown: &[String]) {
    for key in unknown {
        println!("{key}");
    }
}
