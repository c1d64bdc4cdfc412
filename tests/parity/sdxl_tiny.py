"""Reference numbers for crates/sdxl, made with torch, diffusers and transformers.

Builds a tiny SDXL whose weights follow from a hash of their names (so that the Rust tests can write
the same weights without a checkpoint), runs it in f32 on the CPU and writes

    FIXTURE/tiny.json           configs, tokenizer files, tensor names and shapes
    FIXTURE/expected.safetensors  text embeddings, UNet outputs, trajectories, decoded pictures, noise

Usage: python tests/parity/sdxl_tiny.py [--fixture crates/sdxl/tests/data] [--model DIR]
Tried with torch 2.15, diffusers 0.42.1, transformers 5.23.
"""

import argparse
import json
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTextConfig

TEXT = dict(
    vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=77, layer_norm_eps=1e-5, projection_dim=32, bos_token_id=0, pad_token_id=1,
)
TEXT_1 = dict(TEXT, hidden_act="quick_gelu", eos_token_id=2)
TEXT_2 = dict(TEXT, hidden_act="gelu", eos_token_id=599)
UNET = dict(
    sample_size=16, in_channels=4, out_channels=4, block_out_channels=[16, 32, 32], layers_per_block=1,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, 1, 2], attention_head_dim=[2, 2, 4], cross_attention_dim=64,
    norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32,
)
UNET_CONV = dict(UNET, use_linear_projection=False, attention_head_dim=4, transformer_layers_per_block=1)
VAE = dict(
    in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[8, 16, 16, 16], layers_per_block=1,
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    norm_num_groups=4, sample_size=64, scaling_factor=0.13025,
)
SCHEDULER = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    timestep_spacing="leading", steps_offset=1, prediction_type="epsilon", interpolation_type="linear",
)
# What SDXL's own scheduler_config.json says beside that, for the other schedulers.
SCHEDULER_EXTRA = dict(clip_sample=False, set_alpha_to_one=False)
PROMPT = "fcsks fxhks fhyks, a Portrait of  the_person's café, 42 years!! 日本"
NEGATIVE = "blurry, low quality"
STEPS = 8


def hashed(name, count):
    """Uniform numbers in [-1, 1), the same on every machine: splitmix64 over fnv1a64(name) + index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def fill(module):
    """Give every parameter its hashed values; matrices are scaled by their fan-in."""
    shapes = {}
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = hashed(name, tensor.numel())
            if tensor.ndim >= 2:
                values = values * np.float32(np.sqrt(3.0 / (tensor.numel() / tensor.shape[0])))
            elif name.endswith("weight"):
                values = values * np.float32(0.125) + np.float32(1)
            else:
                values = values * np.float32(0.125)
            tensor.copy_(torch.from_numpy(values.reshape(tensor.shape)))
            shapes[name] = list(tensor.shape)
    return shapes


def tokenizer_files():
    """A byte-level vocabulary of 600 entries in CLIP's layout, with a few merges."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    merges = ["t h", "th e</w>", "p e", "pe r", "per s", "a n", "r a", "p o", "po r", "f c", "o n</w>"]
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m.split(" ")) for m in merges]
    tokens += [f"[unused{i}]" for i in range(598 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {t: i for i, t in enumerate(tokens)}, merges


def pipeline(vocab, merges):
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges],
                                           model_max_length=77)
    tokenizer_2 = transformers.CLIPTokenizer(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges],
                                             model_max_length=77, pad_token="!")
    return diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=transformers.CLIPTextModel(CLIPTextConfig(**TEXT_1)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)),
        tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        unet=diffusers.UNet2DConditionModel(**UNET),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULER), add_watermarker=False,
    )


def schedulers():
    config = dict(SCHEDULER, **SCHEDULER_EXTRA)
    config.pop("interpolation_type")
    d = diffusers
    both = {k: v for k, v in config.items() if k not in SCHEDULER_EXTRA}
    return {
        "ddim": d.DDIMScheduler(**config),
        "euler": d.EulerDiscreteScheduler(**both),
        "euler_karras": d.EulerDiscreteScheduler(**both, use_karras_sigmas=True),
        "euler_ancestral": d.EulerAncestralDiscreteScheduler(**both),
        "dpmpp_2m": d.DPMSolverMultistepScheduler(**both),
        "dpmpp_2m_karras": d.DPMSolverMultistepScheduler(**both, use_karras_sigmas=True),
        "lcm": d.LCMScheduler(**config),
    }


def trajectory(pipe, scheduler, **request):
    pipe.scheduler = scheduler
    steps = []

    def keep(_pipe, _index, _timestep, state):
        steps.append(state["latents"][0].clone())
        return state

    out = pipe(height=80, width=96, num_inference_steps=STEPS, output_type="np",
               callback_on_step_end=keep, **request)
    return torch.stack(steps), torch.from_numpy(out.images[0])


def text_numbers(pipe, expected):
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=77).input_ids
    ids_2 = pipe.tokenizer_2(PROMPT, padding="max_length", max_length=77).input_ids
    expected["ids"] = torch.tensor(ids, dtype=torch.int64)
    expected["ids_2"] = torch.tensor(ids_2, dtype=torch.int64)
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(
        PROMPT, device="cpu", negative_prompt=NEGATIVE)
    expected.update(prompt_embeds=embeds, pooled=pooled, negative_prompt_embeds=negative[:, :8],
                    negative_pooled=negative_pooled)
    return embeds, pooled


def unet_numbers(unet, embeds, pooled):
    sample = torch.randn(2, 4, 10, 12, generator=torch.manual_seed(5))
    added = dict(text_embeds=pooled.repeat(2, 1), time_ids=torch.tensor([[80.0, 96, 0, 0, 80, 96]]).repeat(2, 1))
    return unet(sample, 541.5, encoder_hidden_states=embeds.repeat(2, 1, 1), added_cond_kwargs=added).sample


def vae_numbers(vae, expected):
    latents = torch.randn(1, 4, 3, 5, generator=torch.manual_seed(6))
    expected["decoded"] = vae.decode(latents).sample
    image = torch.randn(1, 3, 24, 40, generator=torch.manual_seed(7)).clamp(-1, 1)
    expected["encoded_mean"] = vae.encode(image).latent_dist.mean


def noise_numbers(expected):
    for count in (1, 5, 15, 16, 17, 40):
        expected[f"noise.{count}"] = torch.randn(count, generator=torch.manual_seed(1234567))
    generator = torch.manual_seed(2**40 + 3)
    expected["noise.twice"] = torch.cat([torch.randn(5, generator=generator), torch.randn(20, generator=generator)])


def trajectories(pipe, expected):
    both = dict(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0)
    for name, scheduler in schedulers().items():
        steps, image = trajectory(pipe, scheduler, generator=torch.manual_seed(11), **both)
        expected[f"trajectory.{name}"] = steps[[0, 3, 7]]
        expected[f"timesteps.{name}"] = pipe.scheduler.timesteps.double()
        if hasattr(pipe.scheduler, "sigmas"):
            expected[f"sigmas.{name}"] = pipe.scheduler.sigmas.double()
        if name == "dpmpp_2m_karras":
            expected["image"] = (image * 255).round().to(torch.uint8)
    zeros, _ = trajectory(pipe, schedulers()["euler"], generator=torch.manual_seed(11), prompt=PROMPT, guidance_scale=5.0)
    single, _ = trajectory(pipe, schedulers()["euler"], generator=torch.manual_seed(11), prompt=PROMPT, guidance_scale=1.0)
    expected["trajectory.no_negative"], expected["trajectory.no_guidance"] = zeros[-1:], single[-1:]


def fixture(pipe, shapes, vocab, merges):
    scheduler = dict(SCHEDULER, **SCHEDULER_EXTRA)
    plain = lambda config: {k: v for k, v in config.items() if not k.startswith("_")}
    return {
        "vocab": vocab, "merges": merges, "prompt": PROMPT, "negative": NEGATIVE,
        "configs": {"unet": UNET, "unet_conv": UNET_CONV, "vae": VAE, "text_encoder": TEXT_1,
                    "text_encoder_2": TEXT_2, "scheduler": plain(scheduler)},
        "shapes": shapes,
    }


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/sdxl/tests/data"))
    args.add_argument("--model", type=pathlib.Path, help="also save the pipeline as a diffusers folder")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    vocab, merges = tokenizer_files()
    pipe = pipeline(vocab, merges)
    pipe.set_progress_bar_config(disable=True)
    parts = {n: getattr(pipe, n) for n in ("unet", "vae", "text_encoder", "text_encoder_2")}
    parts["unet_conv"] = diffusers.UNet2DConditionModel(**UNET_CONV)
    shapes = {name: fill(part.eval()) for name, part in parts.items()}
    if args.model:
        pipe.save_pretrained(args.model)
    expected = {}
    embeds, pooled = text_numbers(pipe, expected)
    expected["unet"] = unet_numbers(pipe.unet, embeds, pooled)
    expected["unet_conv"] = unet_numbers(parts["unet_conv"], embeds, pooled)
    vae_numbers(pipe.vae, expected)
    noise_numbers(expected)
    trajectories(pipe, expected)
    args.fixture.mkdir(parents=True, exist_ok=True)
    text = json.dumps(fixture(pipe, shapes, vocab, merges), ensure_ascii=False, separators=(",", ":"))
    (args.fixture / "tiny.json").write_text(text + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in expected.items()}, args.fixture / "expected.safetensors")


if __name__ == "__main__":
    main()
