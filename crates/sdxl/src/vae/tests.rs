use std::collections::HashMap;

use super::*;
use crate::noise::TorchNoise;
use crate::testing::{TinySdxl, relative_error};

/// The tiny autoencoder, with tiles of 8 latents above 64.
fn tiny() -> Vae {
    let model = TinySdxl::write();
    let config = VaeConfig::read(&model.path("vae/config.json")).unwrap();
    let mut vae = Vae::load(&model.open("vae"), &config).unwrap();
    vae.tiling = Tiling {
        max_whole: 64,
        tiles: Tiles {
            side: 8,
            overlap: 2,
        },
    };
    vae
}

/// `tests/data/tiles.safetensors`, made by `tests/parity/sdxl_tiles.py`.
fn expected() -> HashMap<String, Tensor> {
    let data = include_bytes!("../../tests/data/tiles.safetensors");
    candle_core::safetensors::load_buffer(data, &Device::Cpu).unwrap()
}

fn random(shape: (usize, usize, usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

#[test]
fn tiles_equal_diffusers() {
    let (vae, expected) = (tiny(), expected());
    let decoded = vae.decode_unscaled(&expected["latents"]).unwrap();
    let encoded = vae.encode_mean(&expected["picture"]).unwrap();
    for (name, ours) in [("decoded", decoded), ("encoded_mean", encoded)] {
        let error = relative_error(&ours, &expected[name]);
        println!("{name} in tiles: relative error {error:.1e}");
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn what_fits_one_tile_is_exact_and_more_is_close() {
    let mut vae = tiny();
    vae.tiling = Tiling {
        max_whole: 32 * 32,
        tiles: Tiles {
            side: 32,
            overlap: 8,
        },
    };
    let error = |h: usize, w: usize| {
        let values = TorchNoise::new(3).draw(4 * h * w);
        let latents = Tensor::from_vec(values, (1, 4, h, w), &Device::Cpu).unwrap();
        let tiled = vae.decode_unscaled(&latents).unwrap();
        relative_error(&tiled, &vae.decode_whole(&latents).unwrap())
    };
    assert!(error(32, 32) == 0.0);
    // Group norms and attention see a tile instead of the picture. How far that carries depends on the
    // weights and on the tile's side, which is 128 in SDXL; tiles put in the wrong place would give 1.
    let far = error(48, 40);
    println!("tiled and whole: relative difference {far:.3}");
    assert!(far < 0.12, "{far}");
}

#[test]
fn sizes_up_to_a_megapixel_are_whole() {
    let Tiling { max_whole, tiles } = Tiling::new(8);
    assert_eq!(
        tiles,
        Tiles {
            side: 128,
            overlap: 32
        }
    );
    for (width, height) in [(1024, 1024), (1344, 768), (832, 1216), (640, 1536)] {
        assert!(width / 8 * (height / 8) <= max_whole);
    }
    assert!(128 * 129 > max_whole);
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let vae = tiny();
    for (h, w) in [(5, 6), (12, 9)] {
        let batch = random((3, 4, h, w));
        let decoded = vae.decode(&batch).unwrap();
        let encoded = vae.encode(&decoded).unwrap();
        assert_eq!(encoded.dims(), batch.dims());
        for sample in 0..3 {
            let row = |x: &Tensor| x.narrow(0, sample, 1).unwrap();
            let alone = vae.decode(&row(&batch)).unwrap();
            assert!(relative_error(&alone, &row(&decoded)) == 0.0);
            let alone = vae.encode(&row(&decoded)).unwrap();
            assert!(relative_error(&alone, &row(&encoded)) == 0.0);
        }
    }
}

#[test]
fn half_precision_latents_are_decoded_in_full() {
    let vae = tiny();
    let latents = random((1, 4, 4, 4)).to_dtype(DType::F16).unwrap();
    assert_eq!(vae.decode(&latents).unwrap().dtype(), DType::F32);
}
