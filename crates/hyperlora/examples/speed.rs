//! For `benches/released.py`: runs one step on the files that it made and prints the seconds of each run.
//!
//! `speed encoder|synthesis|clip|read DIR RUNS`; `read` adds up the bytes of the basis, as plainly as can be.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, ClipVision, Encoder, Kind};
use memmap2::Mmap;
use rayon::prelude::*;

type Done<T> = Result<T, Box<dyn Error>>;

fn main() -> Done<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [step, dir, runs] = &args[..] else {
        return Err("usage: speed encoder|synthesis|clip|read DIR RUNS".into());
    };
    let (dir, runs) = (Path::new(dir), runs.parse()?);
    match step.as_str() {
        "encoder" => encoder(dir, runs),
        "synthesis" => synthesis(dir, runs),
        "clip" => clip(dir, runs),
        "read" => read(dir, runs),
        other => Err(format!("no step {other}").into()),
    }
}

fn encoder(dir: &Path, runs: usize) -> Done<()> {
    let encoder = Encoder::load(dir, 64, &Device::Cpu)?;
    let clip = Tensor::randn(0.0_f32, 1.0, (1, 257, 1024), &Device::Cpu)?;
    let face = Tensor::full(512.0_f32.sqrt().recip(), (1, 512), &Device::Cpu)?;
    time(runs, || encoder.per_photo(&clip, &face))
}

fn synthesis(dir: &Path, runs: usize) -> Done<()> {
    let basis = Basis::load(dir, &Device::Cpu)?;
    let (tokens, k) = (basis.tokens(), basis.k());
    let values = (0..tokens * k).map(|i| (i as f32).sin()).collect();
    let coefficients = Coefficients::new(tokens, k, values)?.normalised();
    time(runs, || basis.synthesize(&coefficients, Kind::Id))
}

fn clip(dir: &Path, runs: usize) -> Done<()> {
    let vision = ClipVision::load(&dir.join("clip"), &Device::Cpu)?;
    let side = vision.image_size();
    let picture = Tensor::randn(0.0_f32, 1.0, (1, 3, side, side), &Device::Cpu)?;
    time(runs, || vision.hidden_states(&picture))
}

#[allow(unsafe_code)]
fn read(dir: &Path, runs: usize) -> Done<()> {
    let file = File::open(dir.join("hyper_lora_modules.safetensors"))?;
    // SAFETY: nothing writes to the file while it is measured.
    let map = unsafe { Mmap::map(&file)? };
    let part = map.len().div_ceil(8 * rayon::current_num_threads());
    let sum = |bytes: &[u8]| {
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().fold(0_u64, |sum, word| {
            sum.wrapping_add(u64::from_le_bytes(*word))
        })
    };
    time(runs, || {
        let total = map
            .par_chunks(part)
            .map(sum)
            .reduce(|| 0, u64::wrapping_add);
        Ok::<_, likeness_hyperlora::Error>(total)
    })
}

#[allow(clippy::print_stdout)]
fn time<T>(runs: usize, work: impl Fn() -> Result<T, likeness_hyperlora::Error>) -> Done<()> {
    for _ in 0..runs {
        let start = Instant::now();
        std::hint::black_box(work()?);
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}
