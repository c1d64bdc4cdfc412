//! The encoder, the synthesis and CLIP at released sizes. `python crates/hyperlora/benches/released.py --make`
//! writes the files first (about 5 GB under `target/released`); without it there is nothing to measure.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, ClipVision, Encoder, Kind};

fn files() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/released");
    if dir.join("resampler.safetensors").exists() {
        return Some(dir);
    }
    eprintln!("no files: run `python crates/hyperlora/benches/released.py --make` first");
    None
}

fn encoder(criterion: &mut Criterion) {
    let Some(dir) = files() else { return };
    let encoder = Encoder::load(&dir, 64, &Device::Cpu).unwrap();
    let clip = Tensor::randn(0.0_f32, 1.0, (1, 257, 1024), &Device::Cpu).unwrap();
    let face = Tensor::full(512.0_f32.sqrt().recip(), (1, 512), &Device::Cpu).unwrap();
    criterion.bench_function("id projector and resampler, one photo", |bencher| {
        bencher.iter(|| encoder.per_photo(&clip, &face).unwrap());
    });
}

fn synthesis(criterion: &mut Criterion) {
    let Some(dir) = files() else { return };
    let basis = Basis::load(&dir, &Device::Cpu).unwrap();
    let (tokens, k) = (basis.tokens(), basis.k());
    let values = (0..tokens * k).map(|i| (i as f32).sin()).collect();
    let coefficients = Coefficients::new(tokens, k, values).unwrap().normalised();
    let bytes = std::fs::metadata(dir.join("hyper_lora_modules.safetensors"))
        .unwrap()
        .len();
    let mut group = criterion.benchmark_group("synthesis");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("from the mapped basis", |bencher| {
        bencher.iter(|| basis.synthesize(&coefficients, Kind::Id).unwrap());
    });
    group.finish();
}

fn clip(criterion: &mut Criterion) {
    let Some(dir) = files() else { return };
    let vision = ClipVision::load(&dir.join("clip"), &Device::Cpu).unwrap();
    let picture = Tensor::randn(0.0_f32, 1.0, (1, 3, 224, 224), &Device::Cpu).unwrap();
    criterion.bench_function("CLIP ViT-L/14, one picture", |bencher| {
        bencher.iter(|| vision.hidden_states(&picture).unwrap());
    });
}

criterion_group! {
    name = released;
    config = Criterion::default().sample_size(10);
    targets = encoder, synthesis, clip
}
criterion_main!(released);
