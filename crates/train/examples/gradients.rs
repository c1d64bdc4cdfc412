//! Writes tiny models, a batch and its gradients for `tests/parity/train_gradients.py`, which computes them again in torch:
//! `gradients FOLDER`.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use likeness_sdxl::parts::{
    ClipSkip, Conditioning, TextConfig, TextEncoder, UNet, UNetConfig, Vae, VaeConfig, Variables,
    Weights,
};
use likeness_train::autoencoder::{self, Terms};
use likeness_train::denoise::{self, Noised, Noising};
use likeness_train::{Chance, Gradients, pictures};
use serde_json::{Value, json};

const TIMESTEPS: [usize; 4] = [3, 300, 600, 999];
const WINDOWS: [[u32; 4]; 4] = [[0, 1, 2, 19], [0, 2, 4, 19], [0, 3, 6, 19], [0, 4, 8, 19]];
const TIME_IDS: [f32; 6] = [64.0, 48.0, 0.0, 8.0, 64.0, 64.0];

type Named = HashMap<String, Tensor>;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("expected FOLDER")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    let configs = json!({
        "text": {
            "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": 16,
            "hidden_act": "gelu", "bos_token_id": 0, "eos_token_id": 19,
        },
        "unet": {
            "in_channels": 4, "out_channels": 4,
            "block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": 1, "attention_head_dim": [1, 2, 4],
            "cross_attention_dim": 16, "use_linear_projection": true,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 40,
        },
        "vae": {
            "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
            "latent_channels": 4, "scaling_factor": 1.0,
        },
    });
    std::fs::write(folder.join("configs.json"), configs.to_string())?;
    denoiser(&configs, folder)?;
    vae(&configs["vae"], folder)
}

fn denoiser(configs: &Value, folder: &Path) -> Result<(), Box<dyn Error>> {
    let variables = Variables::new(3, &Device::Cpu);
    let weights = Weights::variables(&variables, &Device::Cpu);
    let config = TextConfig::parse(configs["text"].clone(), folder)?;
    let text = TextEncoder::load(&weights.pp("text"), &config, true)?;
    let config = UNetConfig::parse(configs["unet"].clone(), folder)?;
    let unet = UNet::load(&weights.pp("unet"), &config)?;
    let mut chance = Chance::at(5, 0, "latents");
    let latents = chance.normal(&[4, 4, 8, 8], &Device::Cpu)?;
    let noise = chance.normal(&[4, 4, 8, 8], &Device::Cpu)?;
    let windows = WINDOWS.map(|window| window.to_vec());
    let skip = ClipSkip::new(2, text.layer_count()).ok_or("expected two layers")?;
    let encoded = text.forward(&windows, skip)?;
    let conditioning = Conditioning {
        text: encoded.states,
        pooled: encoded.pooled.ok_or("expected a projection")?,
        time_ids: TIME_IDS,
    };
    let noised = Noised {
        latents: &latents,
        noise: &noise,
        timesteps: &TIMESTEPS,
    };
    let noising = Noising::scaled_linear();
    let loss = denoise::loss(&unet, &conditioning, &noised, &[], &noising)?;
    let windows = Tensor::new(&WINDOWS, &Device::Cpu)?;
    let timesteps = Tensor::new(&TIMESTEPS.map(|t| t as u32), &Device::Cpu)?;
    let time_ids = Tensor::new(&TIME_IDS, &Device::Cpu)?;
    let inputs = [
        ("latents", latents),
        ("noise", noise),
        ("windows", windows),
        ("timesteps", timesteps),
        ("time_ids", time_ids),
        ("loss", loss.clone()),
    ];
    write(folder, "denoiser", inputs, &loss, &variables)
}

fn vae(config: &Value, folder: &Path) -> Result<(), Box<dyn Error>> {
    let variables = Variables::new(4, &Device::Cpu);
    let config = VaeConfig::parse(config.clone(), folder)?;
    let vae = Vae::load(&Weights::variables(&variables, &Device::Cpu), &config)?;
    let pictures = pictures(&[(1, 9), (2, 8), (3, 7), (4, 6)], 32, &Device::Cpu)?;
    let noise = Chance::at(6, 0, "latents").normal(&[4, 4, 16, 16], &Device::Cpu)?;
    let loss = autoencoder::loss(&vae, &pictures, &noise, Terms::default())?.loss;
    let inputs = [
        ("pictures", pictures),
        ("noise", noise),
        ("loss", loss.clone()),
    ];
    write(folder, "vae", inputs, &loss, &variables)
}

/// `NAME.inputs`, `NAME.weights` and `NAME.gradients.safetensors`.
fn write<const N: usize>(
    folder: &Path,
    name: &str,
    inputs: [(&str, Tensor); N],
    loss: &Tensor,
    variables: &Variables,
) -> Result<(), Box<dyn Error>> {
    let all = variables.all();
    let gradients = Gradients::of(loss, &all)?;
    let gradients = all
        .keys()
        .map(|name| Ok((name.clone(), gradients.named(name)?.clone())));
    let gradients = gradients.collect::<Result<Named, likeness_train::Error>>()?;
    let weights = all
        .into_iter()
        .map(|(name, var)| (name, var.as_tensor().clone()));
    let inputs = inputs.map(|(name, tensor)| (name.to_owned(), tensor));
    let files: [(&str, Named); 3] = [
        ("inputs", inputs.into_iter().collect()),
        ("weights", weights.collect()),
        ("gradients", gradients),
    ];
    for (kind, tensors) in files {
        let file = folder.join(format!("{name}.{kind}.safetensors"));
        candle_core::safetensors::save(&tensors, file)?;
    }
    Ok(())
}
