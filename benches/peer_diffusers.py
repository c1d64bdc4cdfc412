"""Our benches beside the same work in torch and diffusers, for ratios in one run.

    pip install torch diffusers
    cargo build --release --workspace --bin likeness          (or take the program that `cargo xtask cuda-build` packs)
    python benches/peer_diffusers.py [--steps swap,sample] [--rounds 3]
    python benches/peer_diffusers.py --device cuda:0 --dtype bf16 --likeness target/cuda/likeness-cuda/likeness
    python benches/peer_diffusers.py --size pocket --likeness target/debug/likeness      to see that it works

swap:    coefficients × basis, and the merge into the U-Net's attention weights. Ours reads the basis in f16, as it is
         released; torch holds it in f32 on the CPU, where its products of f16 are slower, and in f16 on a GPU.
sample:  one pass of the U-Net at --side² (512) and --batch (1), and the decoding of one picture in f32.

Both sides have random weights and --threads threads. They take turns, round by round, in processes of their own, so that
what else the machine does falls on both; the best run of each side counts, with the median beside it. Full size in f32
takes 14 GB of memory, one process at a time. The result is a table in Markdown.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {"full": ROOT / "crates/bundle/tests/full_size", "pocket": ROOT / "crates/bundle/assets/pocket"}
# Stacks of transformer blocks (how many of them, blocks, width), width of the text, K, rank.
HYPERLORA = {
    "full": ([(2, 2, 640), (2, 10, 1280), (1, 10, 1280), (3, 10, 1280), (3, 2, 640)], 2048, 128, 8),
    "pocket": ([(1, 1, 32), (1, 1, 48)], 32, 16, 4),
}
SCALE = 0.8 * 0.5
STAGES = {"swap": ("synthesis", "merge"), "sample": ("unet_step", "decode")}


def matrices(size):
    """Input and output width of every attention matrix."""
    stacks, context, _, _ = HYPERLORA[size]
    for count, depth, width in stacks:
        for _ in range(count * depth):
            for source in (width, context):
                yield from ((width, width), (source, width), (source, width), (width, width))


def clock(args, work):
    """Seconds of each run, after one that is not counted."""
    import torch

    def wait():
        if args.device != "cpu":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(args.runs + 1):
        wait()
        start = time.perf_counter()
        result = work()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], result


def dtype_of(name):
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name]


def torch_swap(args):
    import torch

    _, _, k, rank = HYPERLORA[args.size]
    basis_type = torch.float32 if args.device == "cpu" else torch.float16
    random = lambda *shape, dtype: torch.randn(shape, device=args.device, dtype=dtype).mul_(0.02)
    shapes = list(matrices(args.size))
    basis = [(random(k, source * rank, dtype=basis_type), random(k, rank * out, dtype=basis_type)) for source, out in shapes]
    person = torch.nn.functional.normalize(random(2 * len(shapes), k, dtype=torch.float32), dim=1).to(basis_type)
    base = [random(out, source, dtype=dtype_of(args.dtype)) for source, out in shapes]
    merged = [torch.empty_like(weight) for weight in base]

    def synthesis():
        factors = []
        for number, ((source, out), (down, up)) in enumerate(zip(shapes, basis)):
            factors.append(((person[2 * number] @ down).view(source, rank).t(), (person[2 * number + 1] @ up).view(rank, out).t()))
        return factors

    seconds, factors = clock(args, synthesis)
    factors = [(down.to(base[0].dtype), up.to(base[0].dtype)) for down, up in factors]

    def merge():
        for weight, into, (down, up) in zip(base, merged, factors):
            torch.addmm(weight, up, down, alpha=SCALE, out=into)

    return {"synthesis": seconds, "merge": clock(args, merge)[0]}


def random_model(kind, config, device, dtype):
    """A model with weights that keep the spread of what passes through them."""
    import torch

    with torch.device("meta"):
        model = kind.from_config({key: value for key, value in config.items() if key != "_class_name"})
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=1 / math.sqrt(weight[0].numel()))
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def config_of(size, part):
    """diffusers' configuration; at full size it stands beside a list of tensors."""
    config = json.loads((CONFIGS[size] / f"{part}.json").read_text())
    return config.get("config", config)


def torch_sample(args):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config, vae_config = (config_of(args.size, part) for part in ("unet", "vae"))
    dtype, factor = dtype_of(args.dtype), 2 ** (len(vae_config["block_out_channels"]) - 1)
    random = lambda *shape, dtype=dtype: torch.randn(shape, device=args.device, dtype=dtype)
    side, rows = args.side // factor, args.batch
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    added = {"text_embeds": random(rows, pooled), "time_ids": torch.full((rows, 6), float(args.side), device=args.device)}
    latents, text = random(rows, 4, side, side), random(rows, 77, config["cross_attention_dim"])
    with torch.inference_mode():
        unet = random_model(UNet2DConditionModel, config, args.device, dtype)
        step = lambda: unet(latents, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample
        seconds = {"unet_step": clock(args, step)[0]}
        del unet
        vae = random_model(AutoencoderKL, vae_config, args.device, torch.float32)
        one = random(1, 4, side, side, dtype=torch.float32)
        return seconds | {"decode": clock(args, lambda: vae.decode(one).sample)[0]}


def theirs(args, step):
    """The same step in torch, in a process of its own."""
    shared = {key: str(value) for key, value in vars(args).items() if key not in ("steps", "rounds", "likeness", "child")}
    flags = [part for key, value in shared.items() for part in (f"--{key}", value)]
    command = [sys.executable, __file__, "--child", step, *flags]
    return json.loads(run(args, command))


def ours(args, step):
    flags = ["--size", args.size, "--device", args.device, "--dtype", args.dtype, "--output", "json"]
    if step == "sample":
        flags += ["--width", args.side, "--height", args.side, "--batch", args.batch]
        flags += ["--steps", args.runs + 1, "--runs", 1]
    else:
        flags += ["--runs", args.runs]
    return json.loads(run(args, [args.likeness, "bench", step, *flags]))


def run(args, command):
    threads = {name: str(args.threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(list(map(str, command)), env=os.environ | threads, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed, see above")
    return done.stdout


def child(args):
    import resource

    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    seconds = {"swap": torch_swap, "sample": torch_sample}[args.child](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": peak}))


def milliseconds(seconds):
    return f"{min(seconds) * 1e3:,.1f} ms ({statistics.median(seconds) * 1e3:,.1f})"


def compare(args, step, rows, notes):
    """Turns of both sides; adds a row of the table for each stage."""
    rounds = [(ours(args, step), theirs(args, step)) for _ in range(args.rounds)]
    for stage in STAGES[step]:
        found = [next(s for s in mine["stages"] if s["stage"] == stage) for mine, _ in rounds]
        mine = [s["best_seconds"] for s in found]
        medians = statistics.median(s["median_seconds"] for s in found)
        torch = [seconds for _, other in rounds for seconds in other["seconds"][stage]]
        ratio, of_medians = min(mine) / min(torch), medians / statistics.median(torch)
        best = min(found, key=lambda s: s["best_seconds"])
        rows.append([stage, f"{ratio:.2f} ({of_medians:.2f})", f"{min(mine) * 1e3:,.1f} ms ({medians * 1e3:,.1f})",
                     milliseconds(torch), f"{100 * best['copy_fraction']:.0f} %", f"{100 * best['matrix_fraction']:.0f} %"])
    peaks = [max(side["peak_memory_bytes"] for side in sides) / 1e9 for sides in zip(*rounds)]
    machine = rounds[0][0]["machine"]
    notes.append(f"{step}: peak memory {peaks[0]:.1f} GB against {peaks[1]:.1f} GB; the machine copies "
                 f"{machine['copy_bytes_per_second'] / 1e9:.1f} GB/s and multiplies at "
                 f"{machine['matrix_flops_per_second'] / 1e9:,.0f} GFLOP/s.")
    return rounds[0][0]


def table(args):
    rows, notes, report = [], [], None
    for step in args.steps.split(","):
        report = compare(args, step, rows, notes)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers"))
    print(f"{datetime.date.today()}, {report['device_model']}, {args.threads} threads, {args.dtype}, {args.size} size, "
          f"{args.side}², batch {args.batch}, likeness {report['version']}, {versions}\n")
    print("| stage | ours / torch | ours | torch | of copy | of matrix |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print("\n" + "\n".join(notes))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="swap,sample")
    parser.add_argument("--size", choices=CONFIGS, default="full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("f32", "f16", "bf16"), default="f32")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="measured runs of a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--likeness", default=str(ROOT / "target/release/likeness"))
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.steps.split(",")) - set(STAGES)
    if unknown:
        parser.error(f"--steps: {', '.join(sorted(unknown))} is none of {', '.join(STAGES)}")
    return args


if __name__ == "__main__":
    arguments_given = arguments()
    child(arguments_given) if arguments_given.child else table(arguments_given)
