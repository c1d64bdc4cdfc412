"""Gradients of training on the CPU against torch's.

The example `gradients` of likeness-train writes tiny models with random weights, a batch, and the gradient of every weight:
of the denoising loss through UNet and text encoder, and of the autoencoder's loss. Here diffusers' and transformers' models
take the same weights and the same batch, and torch computes the same gradients.

Usage: cargo build --workspace --example gradients
       python tests/parity/train_gradients.py [--example target/debug/examples/gradients]
Tried with torch 2.15, diffusers 0.42.1, transformers 5.23.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import diffusers
import torch
import transformers
from safetensors.torch import load_file

# Relative to the largest gradient of the weight's tensor.
BOUND = 1e-4
# A key's bias moves all scores of a query alike, which its softmax cancels: what is left is rounding.
CANCELLED = ("k_proj.bias", "to_k.bias")


def below(tensors, prefix):
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(model, tensors):
    """Loads all weights, whichever prefix the library's version has for the text model."""
    known = model.state_dict().keys()
    if not set(tensors) <= set(known):
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    assert not missing and not unexpected, (missing, unexpected)
    return model.train(False)


def compare(what, model, gradients):
    found, worst = dict(model.named_parameters()), (0.0, "")
    if not set(gradients) <= set(found):
        gradients = {name.removeprefix("text_model."): tensor for name, tensor in gradients.items()}
    assert set(gradients) == set(found), set(gradients) ^ set(found)
    for name, ours in gradients.items():
        theirs = found[name].grad
        scale = theirs.abs().max().item()
        if name.endswith(CANCELLED):
            continue
        assert scale > 0, name
        worst = max(worst, ((ours - theirs).abs().max().item() / scale, name))
    print(f"{what}: {len(gradients)} tensors, worst {worst[0]:.1e} ({worst[1]})")
    assert worst[0] <= BOUND, worst


def check_loss(what, found, inputs):
    expected = inputs["loss"].item()
    assert abs(found.item() / expected - 1) < 1e-5, (what, found.item(), expected)


def denoiser(configs, folder):
    read = lambda kind: load_file(folder / f"denoiser.{kind}.safetensors")
    weights, inputs, gradients = read("weights"), read("inputs"), read("gradients")
    text = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**configs["text"]))
    unet = diffusers.UNet2DConditionModel(**configs["unet"])
    fill(text, below(weights, "text."))
    fill(unet, below(weights, "unet."))
    schedule = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    encoded = text(inputs["windows"].long(), output_hidden_states=True)
    times, noise = inputs["timesteps"].long(), inputs["noise"]
    added = {"text_embeds": encoded.text_embeds, "time_ids": inputs["time_ids"].repeat(4, 1)}
    told = unet(
        schedule.add_noise(inputs["latents"], noise, times),
        times,
        encoder_hidden_states=encoded.hidden_states[-2],
        added_cond_kwargs=added,
    ).sample
    weight = (1 / schedule.alphas_cumprod[times]).clamp(max=20)
    loss = ((told - noise) ** 2 * weight[:, None, None, None]).mean()
    loss.backward()
    check_loss("denoiser", loss, inputs)
    compare("unet", unet, below(gradients, "unet."))
    compare("text encoder", text, below(gradients, "text."))


def vae(config, folder):
    read = lambda kind: load_file(folder / f"vae.{kind}.safetensors")
    weights, inputs, gradients = read("weights"), read("inputs"), read("gradients")
    model = fill(diffusers.AutoencoderKL(**config), weights)
    pictures = inputs["pictures"]
    spread = model.encode(pictures).latent_dist
    error = model.decode(spread.mean + spread.std * inputs["noise"]).sample - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    normal = 0.5 * (spread.mean**2 + spread.var - 1 - spread.logvar).mean()
    loss = error.abs().mean() + 2 * (error**2).mean() + 0.5 * edges + 1e-4 * normal
    loss.backward()
    check_loss("vae", loss, inputs)
    compare("autoencoder", model, gradients)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--example", default="target/debug/examples/gradients")
    example = parser.parse_args().example
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([example, name], check=True)
        configs = json.loads((folder / "configs.json").read_text())
        denoiser(configs, folder)
        vae(configs["vae"], folder)


if __name__ == "__main__":
    main()
