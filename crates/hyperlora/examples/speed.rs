//! Times the encoder and synthesis at released sizes with random weights:
//! `cargo run --release --example speed -p likeness-hyperlora [f16|bf16|f32]`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_hyperlora::{Basis, Encoder, Error, Kind};

const TOKENS: usize = 1120;
const K: usize = 128;
const DIM: usize = 1024;
const INNER: usize = 768;
const RANK: usize = 8;
/// Of 140: enough to be far beyond any cache.
const MODULES: usize = 35;
const HIDDEN: usize = 1280;
const CONTEXT: usize = 2048;
const RUNS: usize = 5;

type Tensors = HashMap<String, Tensor>;

fn main() -> Result<(), Error> {
    let dtype = match std::env::args().nth(1).as_deref() {
        Some("f32") => DType::F32,
        Some("bf16") => DType::BF16,
        _ => DType::F16,
    };
    let dir = std::env::temp_dir().join(format!("likeness-speed-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|source| Error::File {
        path: dir.clone(),
        source,
    })?;
    let timed = write_encoder(&dir)
        .and_then(|()| write_basis(&dir, dtype))
        .and_then(|()| time(&dir));
    let _ = std::fs::remove_dir_all(&dir);
    timed
}

#[allow(clippy::print_stdout)]
fn time(dir: &Path) -> Result<(), Error> {
    let encoder = Encoder::load(dir, 64, &Device::Cpu)?;
    let clip = Tensor::randn(0.0_f32, 1.0, (1, 257, DIM), &Device::Cpu)?;
    let face = Tensor::full(512.0_f32.sqrt().recip(), (1, 512), &Device::Cpu)?;
    let photo = encoder.per_photo(&clip, &face)?.remove(0).normalised();
    let (best, all) = best_of(|| encoder.per_photo(&clip, &face).map(drop))?;
    println!("encoder, one photo: best {best:?} of {all:?}");

    let basis = Basis::load(dir, &Device::Cpu)?;
    let tokens = basis.tokens();
    let part = photo.values()[..tokens * K].to_vec();
    let part = likeness_domain::coefficients::Coefficients::new(tokens, K, part)?;
    let (best, all) = best_of(|| basis.synthesize(&part, Kind::Id).map(drop))?;
    let path = dir.join("hyper_lora_modules.safetensors");
    let bytes = std::fs::metadata(path)
        .map(|file| file.len())
        .unwrap_or_default();
    let rate = bytes as f64 / best.as_secs_f64() / 1e9;
    println!(
        "synthesis, {MODULES} modules, {bytes} bytes: best {best:?} of {all:?}: {rate:.1} GB/s"
    );
    Ok(())
}

fn best_of(run: impl Fn() -> Result<(), Error>) -> Result<(Duration, Vec<Duration>), Error> {
    let once = |_| {
        let start = Instant::now();
        run().map(|()| start.elapsed())
    };
    let all = (0..RUNS).map(once).collect::<Result<Vec<_>, _>>()?;
    Ok((all.iter().min().copied().unwrap_or_default(), all))
}

fn write_encoder(dir: &Path) -> Result<(), Error> {
    let mut resampler = Tensors::new();
    add(&mut resampler, "latents", &[1, TOKENS, DIM])?;
    for (name, out) in [("proj_in", DIM), ("proj_in_2", DIM), ("proj_out", K)] {
        add_linear(&mut resampler, name, out, DIM)?;
    }
    for layer in 0..4 {
        for norm in ["attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"] {
            add_norm(&mut resampler, &format!("layers.{layer}.norm_{norm}"), DIM)?;
        }
        for attention in 1..=3 {
            let at = format!("layers.{layer}.attn{attention}");
            for matrix in ["to_q", "to_k", "to_v"] {
                add(
                    &mut resampler,
                    &format!("{at}.{matrix}.weight"),
                    &[INNER, DIM],
                )?;
            }
            add(
                &mut resampler,
                &format!("{at}.to_out.0.weight"),
                &[DIM, INNER],
            )?;
        }
        add_linear(
            &mut resampler,
            &format!("layers.{layer}.ff.net.0.proj"),
            4 * DIM,
            DIM,
        )?;
        add_linear(
            &mut resampler,
            &format!("layers.{layer}.ff.net.2"),
            DIM,
            4 * DIM,
        )?;
    }
    safetensors::save(&resampler, dir.join("resampler.safetensors"))?;
    let mut projector = Tensors::new();
    add_linear(&mut projector, "0", 16 * DIM, 512)?;
    add_norm(&mut projector, "2", DIM)?;
    Ok(safetensors::save(
        &projector,
        dir.join("id_projector.safetensors"),
    )?)
}

fn write_basis(dir: &Path, dtype: DType) -> Result<(), Error> {
    let mut tensors = Tensors::new();
    let mut names = Vec::new();
    for module in 0..MODULES {
        let (transformer, attention) = (module / 2, module % 2 + 1);
        let context = if attention == 1 { HIDDEN } else { CONTEXT };
        let cross = if attention == 1 { 0 } else { CONTEXT };
        names.push(format!(
            "\"lora_unet_middle_block_1_transformer_blocks_{transformer}_attn{attention}\": \
             {{\"hidden_size\": {HIDDEN}, \"cross_attention_dim\": {cross}}}"
        ));
        for (matrix, input) in [
            ("to_q", HIDDEN),
            ("to_k", context),
            ("to_v", context),
            ("to_out", HIDDEN),
        ] {
            for (side, shape) in [("down", [K, input, RANK]), ("up", [K, RANK, HIDDEN])] {
                let name = format!("{module}.{matrix}.id_{side}_basis");
                let tensor = Tensor::randn(0.0_f32, 0.02, &shape, &Device::Cpu)?;
                tensors.insert(name, tensor.to_dtype(dtype)?);
            }
        }
    }
    let path = dir.join("hyper_lora_modules.json");
    std::fs::write(&path, format!("{{{}}}", names.join(",")))
        .map_err(|source| Error::File { path, source })?;
    Ok(safetensors::save(
        &tensors,
        dir.join("hyper_lora_modules.safetensors"),
    )?)
}

fn add(tensors: &mut Tensors, name: &str, shape: &[usize]) -> Result<(), Error> {
    tensors.insert(
        name.to_owned(),
        Tensor::randn(0.0_f32, 0.02, shape, &Device::Cpu)?,
    );
    Ok(())
}

fn add_linear(tensors: &mut Tensors, name: &str, out: usize, input: usize) -> Result<(), Error> {
    add(tensors, &format!("{name}.weight"), &[out, input])?;
    add(tensors, &format!("{name}.bias"), &[out])
}

fn add_norm(tensors: &mut Tensors, name: &str, width: usize) -> Result<(), Error> {
    let weight = Tensor::ones(width, DType::F32, &Device::Cpu)?;
    tensors.insert(format!("{name}.weight"), weight);
    add(tensors, &format!("{name}.bias"), &[width])
}
