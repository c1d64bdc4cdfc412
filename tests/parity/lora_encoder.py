"""Expected numbers for crates/hyperlora at sizes and in forms that the authors' example does not cover.

The encoder and the synthesis are written down here a second time, in torch and f64, from their definition.
Weights and inputs follow from a hash of their names, so that the Rust tests write the same files and only
results are kept:

    FIXTURE/expected.safetensors  CASE.per_photo, CASE.coefficients, CASE.base_per_photo,
                                  CASE.id|base.MATRIX.up|down

Usage: python tests/parity/lora_encoder.py [--fixture crates/hyperlora/tests/golden/encoder]
Tried with torch 2.15.
"""

import argparse
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

DIM, DIM_HEAD, HEADS, DEPTH, FF = 24, 5, 3, 3, 60
K, ID_TOKENS, ID_WIDTH, EMBEDDING, CLIP_WIDTH, CLIP_TOKENS, PHOTOS = 11, 5, 18, 512, 20, 7, 3
RANK, BASE_RANK, HIDDEN, CONTEXT = 6, 3, (12, 16), 10
MODULES = [(HIDDEN[0], HIDDEN[0]), (HIDDEN[0], CONTEXT), (HIDDEN[1], HIDDEN[1])]
TOKENS = 8 * len(MODULES)


def noise(name, shape):
    """Uniform in [-1, 1), from FNV-1a of the name and SplitMix64 of the number's index."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


class Weights:
    """Tensors of one file, as they are after rounding to a number type."""

    def __init__(self, file, dtype):
        self.file, self.dtype = file, dtype

    def rounded(self, tensor):
        return tensor.float().to(self.dtype).double()

    def matrix(self, name, out, width):
        return self.rounded(noise(f"{self.file}/{name}", (out, width)) * (3 / width) ** 0.5)

    def linear(self, name, out, width):
        return self.matrix(f"{name}.weight", out, width), self.rounded(noise(f"{self.file}/{name}.bias", (out,)) * 0.1)

    def norm(self, name, width):
        weight, bias = (noise(f"{self.file}/{name}.{part}", (width,)) * 0.1 for part in ("weight", "bias"))
        return (width,), self.rounded(1 + weight), self.rounded(bias), 1e-5

    def other(self, name, shape):
        return self.rounded(noise(f"{self.file}/{name}", shape) * 0.5)


def attend(weights, name, x, to):
    q, k, v = (source @ weights.matrix(f"{name}.to_{part}.weight", HEADS * DIM_HEAD, DIM).T
               for part, source in (("q", x), ("k", to), ("v", to)))
    q, k, v = (part.unflatten(-1, (HEADS, DIM_HEAD)).transpose(-2, -3) for part in (q, k, v))
    mixed = torch.softmax(q @ k.mT * DIM_HEAD**-0.5, -1) @ v
    return mixed.transpose(-2, -3).flatten(-2) @ weights.matrix(f"{name}.to_out.0.weight", DIM, HEADS * DIM_HEAD).T


def resample(weights, x, y):
    x = F.linear(x, *weights.linear("proj_in", DIM, x.shape[-1]))
    if y is not None:
        y = F.linear(y, *weights.linear("proj_in_2", DIM, y.shape[-1]))
    z = weights.other("latents", (1, TOKENS, DIM)).expand(x.shape[0], -1, -1)
    for layer in range(DEPTH):
        at = f"layers.{layer}"
        norm = lambda name, value: F.layer_norm(value, *weights.norm(f"{at}.{name}", DIM))
        n = norm("norm_attn1", z)
        z = z + attend(weights, f"{at}.attn1", n, n)
        z = z + attend(weights, f"{at}.attn2", norm("norm_attn2_l", z), norm("norm_attn2_x", x))
        if y is not None:
            z = z + attend(weights, f"{at}.attn3", norm("norm_attn3_l", z), norm("norm_attn3_y", y))
        hidden = F.gelu(F.linear(norm("norm_ff", z), *weights.linear(f"{at}.ff.net.0.proj", FF, DIM)))
        z = z + F.linear(hidden, *weights.linear(f"{at}.ff.net.2", DIM, FF))
    return F.linear(z, *weights.linear("proj_out", K, DIM))


def project(weights, arcface):
    tokens = F.linear(arcface, *weights.linear("0", ID_TOKENS * ID_WIDTH, EMBEDDING))
    return F.layer_norm(tokens.unflatten(-1, (ID_TOKENS, ID_WIDTH)), *weights.norm("2", ID_WIDTH))


def final(per_photo):
    mean = per_photo.mean(0)
    return mean * torch.rsqrt(mean.square().sum(-1, keepdim=True) + 1e-8)


def synthesise(weights, coefficients, kind, rank):
    """{module.matrix: (up [out, r], down [r, in])}"""
    matrices, token = {}, iter(coefficients)
    for number, (hidden, context) in enumerate(MODULES):
        for matrix in ("to_q", "to_k", "to_v", "to_out"):
            width = context if matrix in ("to_k", "to_v") else hidden
            name = f"{number}.{matrix}"
            down = torch.einsum("k,kir->ri", next(token), weights.other(f"{name}.{kind}_down_basis", (K, width, rank)))
            up = torch.einsum("k,kro->or", next(token), weights.other(f"{name}.{kind}_up_basis", (K, rank, hidden)))
            matrices[name] = up, down
    return matrices


def inputs():
    arcface = noise("arcface", (PHOTOS, EMBEDDING)).float().double()
    arcface = (arcface / arcface.norm(dim=-1, keepdim=True)).float().double()
    return arcface, (noise("clip_hidden", (PHOTOS, CLIP_TOKENS, CLIP_WIDTH)) * 2).float().double()


def case(dtype, arcface, clip, base):
    files = {name: Weights(name, dtype) for name in ("resampler", "id_projector", "base_resampler", "basis")}
    x = project(files["id_projector"], arcface) if arcface is not None else clip
    y = clip if arcface is not None else None
    per_photo = resample(files["resampler"], x, y)
    results = {"per_photo": per_photo, "coefficients": final(per_photo)}
    loras = {"id": (results["coefficients"], RANK)}
    if base:
        results["base_per_photo"] = resample(files["base_resampler"], clip, None)
        loras["base"] = final(results["base_per_photo"]), BASE_RANK
    for kind, (coefficients, rank) in loras.items():
        for name, (up, down) in synthesise(files["basis"], coefficients, kind, rank).items():
            results |= {f"{kind}.{name}.up": up, f"{kind}.{name}.down": down}
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/hyperlora/tests/golden/encoder"))
    fixture = parser.parse_args().fixture
    fixture.mkdir(parents=True, exist_ok=True)
    arcface, clip = inputs()
    cases = {
        "f32": case(torch.float32, arcface, clip, True),
        "f16": case(torch.float16, arcface, clip, True),
        "bf16": case(torch.bfloat16, arcface, clip, True),
        "clip_only": case(torch.float32, None, clip, False),
        "arcface_only": case(torch.float32, arcface, None, False),
    }
    expected = {f"{name}.{what}": value.float().contiguous()
                for name, results in cases.items() for what, value in results.items()}
    save_file(expected, fixture / "expected.safetensors")
    (fixture / "expected.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
