//! Trains the pocket recipe's autoencoder on drawn portraits and tells the rate: `cargo run --release --example autoencoder
//! -p likeness-train -- [STEPS]`.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use likeness_sdxl::parts::{Vae, VaeConfig, Variables, Weights};
use likeness_train::autoencoder::{Outcome, Terms, loss, psnr};
use likeness_train::{AdamW, Chance, Gradients, Group, Rate, Settings, pictures};
use serde_json::json;

const BATCH: usize = 16;
const SIDE: u32 = 64;
const PEOPLE: usize = 5800;

#[allow(clippy::print_stdout, reason = "a program that tells what it measured")]
fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(100), |n| n.parse())?;
    let config = json!({
        "block_out_channels": [16, 32, 32], "layers_per_block": 1, "norm_num_groups": 8,
        "latent_channels": 4, "scaling_factor": 1.0,
    });
    let config = VaeConfig::parse(config, Path::new("vae/config.json"))?;
    let variables = Variables::new(0, &Device::Cpu);
    let vae = Vae::load(&Weights::variables(&variables, &Device::Cpu), &config)?;
    let all = variables.all();
    let count: usize = all.values().map(|var| var.elem_count()).sum();
    println!("{count} weights in {} tensors", all.len());
    let rate = Rate {
        peak: 2e-3,
        warm_up: 50,
        decay_from: steps / 2,
        steps,
    };
    let mut adam = AdamW::new(&all, Settings::default(), |_, var| Group::of(var))?;
    let start = Instant::now();
    for step in 0..steps {
        let (pictures, noise) = batch(step)?;
        let Outcome {
            loss,
            pictures: found,
        } = loss(&vae, &pictures, &noise, Terms::default())?;
        let gradients = Gradients::of(&loss, &all)?;
        let norm = adam.step(&gradients, rate.at(step))?;
        if step % 25 == 0 || step + 1 == steps {
            println!(
                "step {step}: loss {:.4}, norm {norm:.2}, {:.1} dB, {:.2} steps/s",
                loss.to_scalar::<f32>()?,
                psnr(&found, &pictures)?,
                (step + 1) as f64 / start.elapsed().as_secs_f64()
            );
        }
    }
    Ok(())
}

fn batch(step: u64) -> candle_core::Result<(Tensor, Tensor)> {
    let mut chance = Chance::at(0, step, "portraits");
    let who: Vec<(u64, u64)> = (0..BATCH)
        .map(|_| (chance.below(PEOPLE) as u64, chance.below(1 << 20) as u64))
        .collect();
    let noise = Chance::at(0, step, "latents").normal(&[BATCH, 4, 16, 16], &Device::Cpu)?;
    Ok((pictures(&who, SIDE, &Device::Cpu)?, noise))
}
