"""Our LoRA files in diffusers and peft, and theirs with us, on the pocket SDXL.

1. `load_lora_weights` takes our export unchanged in both namings, and after `fuse_lora` every attention
   weight equals our merge.
2. LoRA files that diffusers and peft write for the same model are merged by us as they fuse them, with
   every key listed that we do not use.

Fused and merged weights must agree to 1e-6 relative per matrix. Exits with 1 at what does not hold.

Usage: python tests/parity/lora_diffusers.py [--merged target/debug/examples/merged] [--dir DIR]
after `cargo build -p likeness-hyperlora --example merged`.
Tried with torch 2.15, diffusers 0.42.1, peft 0.21.2, transformers 5.23.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

SCALE = 0.8
TOLERANCE = 1e-6


def check(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        sys.exit(1)


def pipeline(bundle):
    return StableDiffusionXLPipeline.from_pretrained(bundle / "sdxl", dtype=torch.float32)


def weights(unet):
    return {name.replace(".base_layer", ""): value.clone() for name, value in unet.state_dict().items()
            if ".attn" in name and "lora_" not in name and name.endswith(".weight")}


def fused(bundle, lora, scale):
    pipe = pipeline(bundle)
    pipe.load_lora_weights(lora)
    pipe.fuse_lora(components=["unet"], lora_scale=scale)
    pipe.unload_lora_weights()
    return weights(pipe.unet)


def compare(what, ours, theirs, base, changed):
    check(ours.keys() == theirs.keys(), f"{what}: {len(ours)} attention matrices of the same names")
    different = sum(not torch.equal(theirs[name], base[name]) for name in base)
    check(different == changed, f"{what}: {different} of them changed by the LoRA")
    error = {name: ((ours[name].double() - theirs[name].double()).norm() / theirs[name].double().norm()).item()
             for name in ours}
    worst = max(error, key=error.get)
    check(error[worst] <= TOLERANCE, f"{what}: worst relative difference {error[worst]:.1e} ({worst})")


def our_files(directory):
    bundle = directory / "bundle"
    ours, base = load_file(directory / "merged.safetensors"), weights(pipeline(bundle).unet)
    for naming in ("sgm", "diffusers"):
        path = directory / f"{naming}.safetensors"
        with safe_open(path, "pt") as file:
            check(file.metadata()["likeness.naming"] == naming, f"{naming}: metadata {file.metadata()}")
        compare(f"{naming} export", ours, fused(bundle, path, SCALE), base, len(base))


def their_file(directory, rank, alpha, targets, text, metadata):
    torch.manual_seed(rank)
    pipe = pipeline(directory / "bundle")
    parts = {"unet": pipe.unet} | ({"text_encoder": pipe.text_encoder} if text else {})
    layers = {}
    for name, part in parts.items():
        part.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets[name]))
        for key, parameter in part.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(std=0.05)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(part)
    described = _collate_lora_metadata(parts) if metadata else {}
    name = f"theirs_{rank}_{alpha}.safetensors"
    StableDiffusionXLPipeline.save_lora_weights(directory, **layers, **described, weight_name=name)
    return directory / name


def their_files(directory, merged):
    bundle = directory / "bundle"
    base = weights(pipeline(bundle).unet)
    attention = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "v_proj"]}
    some = attention | {"unet": ["attn2.to_k", "attn2.to_v", "ff.net.2"]}
    cases = [(2, 2, attention, False, False), (4, 7, attention, True, True), (3, 6, some, True, True)]
    for rank, alpha, targets, text, metadata in cases:
        path = their_file(directory, rank, alpha, targets, text, metadata)
        out = directory / "ours.safetensors"
        command = [merged, "merge", bundle, path, str(SCALE), out]
        unknown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        expected = sorted(key for key in load_file(path) if not (key.startswith("unet.") and ".attn" in key))
        check(unknown == expected, f"{path.name}: {len(unknown)} keys listed as not used")
        theirs = fused(bundle, path, SCALE)
        count = sum(any(name.endswith(f"{target}.weight") for target in targets["unet"]) for name in base)
        compare(f"{path.name}", load_file(out), theirs, base, count)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--merged", type=pathlib.Path, default=pathlib.Path("target/debug/examples/merged"))
    parser.add_argument("--dir", type=pathlib.Path)
    arguments = parser.parse_args()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.dir or pathlib.Path(scratch)
        directory.mkdir(exist_ok=True)
        subprocess.run([arguments.merged, "make", directory], check=True)
        our_files(directory)
        their_files(directory, arguments.merged)


if __name__ == "__main__":
    main()
