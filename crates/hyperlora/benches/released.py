"""The encoder, the synthesis and CLIP at released sizes, beside torch and transformers.

    python crates/hyperlora/benches/released.py --make [--dtype f16|bf16]   writes random weights
    cargo build --release -p likeness-hyperlora --example speed
    python crates/hyperlora/benches/released.py [--rounds 5] [--steps encoder,synthesis,clip]
    python crates/hyperlora/benches/released.py --remove

Both sides read the same files under target/released, with 2 threads each. They take turns, round by round,
in processes of their own, so that what else the machine does falls on both; the best run of each side counts,
with the median beside it. The basis is read from the page cache: a first round warms it.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

THREADS = "2"
DIR = pathlib.Path("target/released")
SPEED = pathlib.Path("target/release/examples/speed")
T, DIM, INNER, K, RANK = 1120, 1024, 768, 128, 8
CONTEXT = 2048
# SDXL's attention: stacks of transformer blocks, their depth and width.
STACKS = ([(f"input_blocks_{n}_1", 2, 640) for n in (4, 5)] + [(f"input_blocks_{n}_1", 10, 1280) for n in (7, 8)]
          + [("middle_block_1", 10, 1280)] + [(f"output_blocks_{n}_1", 10, 1280) for n in (0, 1, 2)]
          + [(f"output_blocks_{n}_1", 2, 640) for n in (3, 4, 5)])


def make_encoder(folder):
    import torch
    from safetensors.torch import save_file

    def linear(name, out, width, bias=True):
        weight = {f"{name}.weight": torch.randn(out, width) * 0.02}
        return weight | ({f"{name}.bias": torch.randn(out) * 0.02} if bias else {})

    def norm(name):
        return {f"{name}.weight": torch.ones(DIM), f"{name}.bias": torch.zeros(DIM)}

    resampler = {"latents": torch.randn(1, T, DIM)}
    resampler |= linear("proj_in", DIM, DIM) | linear("proj_in_2", DIM, DIM) | linear("proj_out", K, DIM)
    for layer in range(4):
        at = f"layers.{layer}"
        for name in ("attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"):
            resampler |= norm(f"{at}.norm_{name}")
        for attention in ("attn1", "attn2", "attn3"):
            for part in ("to_q", "to_k", "to_v"):
                resampler |= linear(f"{at}.{attention}.{part}", INNER, DIM, bias=False)
            resampler |= linear(f"{at}.{attention}.to_out.0", DIM, INNER, bias=False)
        resampler |= linear(f"{at}.ff.net.0.proj", 4 * DIM, DIM) | linear(f"{at}.ff.net.2", DIM, 4 * DIM)
    save_file(resampler, folder / "resampler.safetensors")
    save_file(linear("0", 16 * DIM, 512) | norm("2"), folder / "id_projector.safetensors")
    print(f"{sum(t.numel() for t in resampler.values()):,} resampler numbers")


def make_clip(folder):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                              num_attention_heads=16, image_size=224, patch_size=14)
    CLIPVisionModel(config).save_pretrained(folder)


def make_basis(folder, dtype):
    import torch
    from safetensors.torch import save_file

    basis, modules = {}, {}
    for place, depth, width in STACKS:
        for block in range(depth):
            for attention, context in (("attn1", width), ("attn2", CONTEXT)):
                number = len(modules)
                cross = None if attention == "attn1" else CONTEXT
                name = f"lora_unet_{place}_transformer_blocks_{block}_{attention}"
                modules[name] = {"hidden_size": width, "cross_attention_dim": cross}
                for matrix, source in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out", width)):
                    down, up = torch.empty(K, source, RANK), torch.empty(K, RANK, width)
                    for side, tensor in (("down", down), ("up", up)):
                        basis[f"{number}.{matrix}.id_{side}_basis"] = tensor.normal_(std=0.02).to(dtype)
    save_file(basis, folder / "hyper_lora_modules.safetensors")
    (folder / "hyper_lora_modules.json").write_text(json.dumps(modules))
    print(f"{sum(t.numel() for t in basis.values()):,} basis numbers")


def make(dtype):
    import torch

    torch.manual_seed(0)
    (DIR / "clip").mkdir(parents=True, exist_ok=True)
    make_encoder(DIR)
    make_basis(DIR, dtype)
    make_clip(DIR / "clip")


def torch_encoder(folder=DIR):
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    w = load_file(folder / "resampler.safetensors") | {
        f"id.{k}": v for k, v in load_file(folder / "id_projector.safetensors").items()}
    clip, face = torch.randn(1, 257, DIM), torch.full((1, 512), 512**-0.5)
    linear = lambda name, x: F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))
    norm = lambda name, x: F.layer_norm(x, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"])

    def attend(name, x, to):
        q, k, v = (linear(f"{name}.to_{part}", source).view(1, -1, 12, 64).transpose(1, 2)
                   for part, source in (("q", x), ("k", to), ("v", to)))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, -1, INNER)
        return linear(f"{name}.to_out.0", mixed)

    def run(clip=clip, face=face):
        x = linear("proj_in", norm("id.2", linear("id.0", face).view(1, 16, DIM)))
        y, z = linear("proj_in_2", clip), w["latents"]
        for layer in range(4):
            at = f"layers.{layer}"
            n = norm(f"{at}.norm_attn1", z)
            z = z + attend(f"{at}.attn1", n, n)
            z = z + attend(f"{at}.attn2", norm(f"{at}.norm_attn2_l", z), norm(f"{at}.norm_attn2_x", x))
            z = z + attend(f"{at}.attn3", norm(f"{at}.norm_attn3_l", z), norm(f"{at}.norm_attn3_y", y))
            z = z + linear(f"{at}.ff.net.2", F.gelu(linear(f"{at}.ff.net.0.proj", norm(f"{at}.norm_ff", z))))
        return linear("proj_out", z)

    return run


def torch_synthesis():
    """torch in f32, as the authors run it: the basis in memory at twice the file's size."""
    import torch
    from safetensors.torch import load_file

    basis = [t.float().flatten(1) for t in load_file(DIR / "hyper_lora_modules.safetensors").values()]
    coefficients = torch.nn.functional.normalize(torch.randn(len(basis), 1, K), dim=-1)
    return lambda: [c @ b for c, b in zip(coefficients, basis)]


def torch_clip():
    import torch
    from transformers import CLIPVisionModel

    model = CLIPVisionModel.from_pretrained(DIR / "clip").eval()
    picture = torch.randn(1, 3, 224, 224)
    return lambda: model(picture, output_hidden_states=True).hidden_states[-2]


def run_torch(step, runs):
    import torch

    torch.set_num_threads(int(THREADS))
    with torch.inference_mode():
        work = {"encoder": torch_encoder, "synthesis": torch_synthesis, "clip": torch_clip}[step]()
        for _ in range(runs):
            start = time.perf_counter()
            work()
            print(time.perf_counter() - start)


def measured(command):
    """Seconds of each run but the first, and the peak memory of the process in bytes."""
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "RAYON_NUM_THREADS": THREADS, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
    seconds = [float(line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command} failed"
    return seconds, usage.ru_maxrss * 1024


def compare(step, rounds, runs):
    ours, theirs, reads, memory = [], [], [], 0
    for _ in range(rounds):
        seconds, peak = measured([SPEED, step, DIR, str(runs + 1)])
        ours, memory = ours + seconds[1:], max(memory, peak)
        theirs += measured([sys.executable, __file__, "--torch", step, "--runs", str(runs + 1)])[0][1:]
        if step == "synthesis":
            reads += measured([SPEED, "read", DIR, str(runs + 1)])[0][1:]
    describe = lambda name, all: print(f"{step:10} {name:7} best {min(all):.3f} s, median {statistics.median(all):.3f} s")
    describe("ours", ours)
    describe("torch", theirs)
    print(f"{step:10} ratio   best {min(ours) / min(theirs):.2f}, median "
          f"{statistics.median(ours) / statistics.median(theirs):.2f} (ours / torch; below 1 is faster)")
    if reads:
        size = (DIR / "hyper_lora_modules.safetensors").stat().st_size
        describe("read", reads)
        print(f"{step:10} {min(reads) / min(ours):.0%} of a plain read of the same {size / 1e9:.2f} GB "
              f"(median {statistics.median(reads) / statistics.median(ours):.0%}); peak memory {memory / size:.2f} x the file")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--dtype", choices=("f16", "bf16", "f32"), default="f16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", default="encoder,synthesis,clip")
    parser.add_argument("--torch")
    options = parser.parse_args()
    if options.remove:
        shutil.rmtree(DIR)
    elif options.make:
        import torch
        make({"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[options.dtype])
    elif options.torch:
        run_torch(options.torch, options.runs)
    else:
        for step in options.steps.split(","):
            compare(step, options.rounds, options.runs)


if __name__ == "__main__":
    main()
