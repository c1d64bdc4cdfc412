"""Reference numbers for the samplers of crates/sdxl: guidance rescale, no guidance, image to image and noise.

The model is the tiny SDXL of sdxl_tiny.py; all is computed by diffusers' own pipelines in f32 on the CPU. Writes

    FIXTURE/sampling.safetensors  last latents of 8 steps per scheduler and kind of run, initial noise, decoded picture

Usage: python tests/parity/sdxl_sampling.py [--fixture crates/sdxl/tests/data]
Tried with torch 2.15, diffusers 0.42.1, transformers 5.23.
"""

import argparse
import pathlib

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

from sdxl_tiny import NEGATIVE, PROMPT, STEPS, fill, pipeline, schedulers, tokenizer_files, trajectory

BOTH = dict(prompt=PROMPT, negative_prompt=NEGATIVE)
WIDTH, HEIGHT = 96, 80
STRENGTHS = (0.6, 1.0)


def picture():
    """A picture that the Rust tests can paint, too: [h, w, 3] bytes."""
    y, x, c = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), np.arange(3), indexing="ij")
    return ((x * 5 + y * 3 + c * 40) % 256).astype(np.uint8)


def clean_latents(vae):
    pixels = torch.from_numpy(picture()).float().permute(2, 0, 1)[None] / 127.5 - 1
    return vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor


def image_to_image(pipe, scheduler, latents, strength):
    """Last latents, and how many steps were taken."""
    pipe.scheduler = scheduler
    steps = []

    def keep(_pipe, _index, _timestep, state):
        steps.append(state["latents"][0].clone())
        return state

    pipe(image=latents, strength=strength, num_inference_steps=STEPS, guidance_scale=5.0, output_type="latent",
         generator=torch.manual_seed(11), callback_on_step_end=keep, **BOTH)
    return torch.stack([steps[0], steps[-1]]), len(steps)


def noise_numbers(expected):
    for seed in (0, 7, 2**32 - 1, 2**32, 2**40 + 3, 2**63 + 5):
        for height, width in ((8, 8), (8, 24), (72, 40), (128, 64)):
            shape = (1, 4, height // 8, width // 8)
            expected[f"noise.{seed}.{height}.{width}"] = torch.randn(shape, generator=torch.manual_seed(seed))


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/sdxl/tests/data"))
    args = args.parse_args()
    torch.set_grad_enabled(False)
    pipe = pipeline(*tokenizer_files())
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        fill(part.eval())
    expected = {}
    noise_numbers(expected)
    for name, scheduler in schedulers().items():
        for kind, request in (("rescale", dict(guidance_scale=5.0, guidance_rescale=0.7)),
                              ("no_guidance", dict(guidance_scale=1.0))):
            steps, _ = trajectory(pipe, scheduler, generator=torch.manual_seed(11), **BOTH, **request)
            expected[f"{kind}.{name}"] = steps[[0, -1]]
    painter = diffusers.StableDiffusionXLImg2ImgPipeline(**pipe.components)
    painter.set_progress_bar_config(disable=True)
    latents = clean_latents(pipe.vae)
    expected["init"] = latents
    for name in schedulers():
        for strength in STRENGTHS:
            steps, count = image_to_image(painter, schedulers()[name], latents, strength)
            expected[f"image.{name}.{strength}"] = steps
            assert count == int(STEPS * strength), (name, count)
    save_file({k: v.contiguous() for k, v in expected.items()}, args.fixture / "sampling.safetensors")


if __name__ == "__main__":
    main()
