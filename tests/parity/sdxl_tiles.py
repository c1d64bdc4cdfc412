"""Reference numbers for the tiled autoencoder of crates/sdxl, made with torch and diffusers.

Takes the tiny autoencoder of sdxl_tiny.py with its tiling switched on (tiles of 8 latents) and writes
FIXTURE/tiles.safetensors: latents and their picture, a picture and its latents, all in f32 on the CPU.

Usage: python tests/parity/sdxl_tiles.py [--fixture crates/sdxl/tests/data]
Tried with torch 2.15, diffusers 0.42.1.
"""

import argparse
import pathlib

import diffusers
import torch
from safetensors.torch import save_file

from sdxl_tiny import VAE, fill


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/sdxl/tests/data"))
    args = args.parse_args()
    torch.set_grad_enabled(False)
    vae = diffusers.AutoencoderKL(**VAE).eval()
    fill(vae)
    vae.enable_tiling()
    assert (vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor) == (8, 64, 0.25)
    expected = {"latents": torch.randn(1, 4, 17, 9, generator=torch.manual_seed(8))}
    expected["decoded"] = vae.decode(expected["latents"]).sample
    expected["picture"] = torch.randn(1, 3, 136, 72, generator=torch.manual_seed(9)).clamp(-1, 1)
    expected["encoded_mean"] = vae.encode(expected["picture"]).latent_dist.mean
    save_file({k: v.contiguous() for k, v in expected.items()}, args.fixture / "tiles.safetensors")
    print({k: tuple(v.shape) for k, v in expected.items()})


if __name__ == "__main__":
    main()
