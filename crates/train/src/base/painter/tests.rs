use std::path::Path;

use candle_core::Device;
use likeness_sdxl::parts::VaeConfig;
use serde_json::json;

use super::*;
use crate::recipe::Recipe;

fn recipe(people: u64) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/pocket.toml");
    let mut recipe = Recipe::read(&path).unwrap();
    recipe.portraits = Portraits {
        side: 32,
        people,
        held_out: 1,
        pictures: 2,
    };
    recipe
}

fn autoencoder(seed: u64) -> (Vae, Variables) {
    let config = json!({
        "block_out_channels": [4, 4, 4], "layers_per_block": 1, "norm_num_groups": 2,
        "down_block_types": vec!["DownEncoderBlock2D"; 3], "up_block_types": vec!["UpDecoderBlock2D"; 3],
    });
    let config = VaeConfig::parse(config, Path::new("tiny")).unwrap();
    let variables = Variables::new(seed, &Device::Cpu);
    let vae = Vae::load(&Weights::variables(&variables, &Device::Cpu), &config).unwrap();
    (vae, variables)
}

fn numbers(latents: &Latents) -> Vec<f32> {
    latents.all.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn kept_latents_are_those_of_the_pictures_and_the_encoder_at_hand() {
    let out = tempfile::tempdir().unwrap();
    std::fs::create_dir(out.path().join("autoencoder")).unwrap();
    let encode = |people, (vae, variables): &(Vae, Variables)| {
        let recipe = recipe(people);
        let world = World {
            base: recipe.base.as_ref().unwrap(),
            recipe: &recipe,
            out: out.path(),
            device: &Device::Cpu,
        };
        encode(&world, vae, variables).unwrap()
    };
    let (one, other) = (autoencoder(1), autoencoder(2));
    let first = encode(3, &one);
    let path = out.path().join("autoencoder/latents.safetensors");
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(numbers(&encode(3, &one)), numbers(&first));
    let again = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(again, written, "they were kept");
    // The decoder is not looked at.
    let decoder = &one.1.all()["decoder.conv_in.bias"];
    decoder.set(&decoder.ones_like().unwrap()).unwrap();
    encode(3, &one);
    let again = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(again, written, "they were kept");
    assert_eq!(encode(4, &one).all.dims()[0], 6);
    assert_ne!(numbers(&encode(3, &other)), numbers(&first));
    std::fs::write(&path, b"damaged").unwrap();
    assert_eq!(numbers(&encode(3, &one)), numbers(&first));
}
