"""Reference numbers for the prompts of crates/sdxl, made with torch and transformers.

Takes the tiny SDXL of sdxl_tiny.py and writes, in f32 on the CPU,

    FIXTURE/text.json           prompts
    FIXTURE/text.safetensors    weighted states, clip skips, prompts of several windows, pooled ends

The weights' formula is written here from its description, in numpy on transformers' states; how a prompt is
cut into weighted pieces is given by hand beside each prompt.

Usage: python tests/parity/sdxl_text.py [--fixture crates/sdxl/tests/data]
Tried with torch 2.15, transformers 5.23.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import CLIPTextConfig

from sdxl_tiny import TEXT_1, TEXT_2, fill, pipeline, tokenizer_files

UP, DOWN = 1.1, 1 / 1.1
LONG = "the person and a portrait of one another, in the light of a thousand lamps; the rain is warm; "
WEIGHTED = [
    ("a (portrait:1.3) of the person", [("a ", 1), ("portrait", 1.3), (" of the person", 1)]),
    ("((red hat)), [blurry], (the:0.5)", [("red hat", UP * UP), (", ", 1), ("blurry", DOWN), (", ", 1), ("the", 0.5)]),
    (r"a \(quiet\) (café (at:1.5) night!:1.2) 42", [
        ("a (quiet) ", 1), ("café ", 1.2), ("at", 1.8), (" night!", 1.2), (" 42", 1)]),
    ("(portrait, the, strange:-0.4) [a (lamp", [
        ("portrait, the, strange", -0.4), (" ", 1), ("a ", DOWN), ("lamp", UP * DOWN)]),
    (LONG + "(" + LONG + ":1.4) " + LONG, [(LONG, 1), (LONG, 1.4), (" " + LONG, 1)]),
]
BATCH = ["a", "the person", LONG, "portrait of a the an", ""]


def wrap(tokenizer, ids, length=77):
    body = length - 2
    chunks = [ids[i : i + body] for i in range(0, len(ids), body)] or [[]]
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return [([start] + c + [end] + [pad] * length)[:length] for c in chunks]


def encode(encoder, windows, skip=2):
    out = encoder(torch.tensor(windows), output_hidden_states=True)
    pooled = out.text_embeds.numpy() if hasattr(out, "text_embeds") else None
    return out.hidden_states[-skip].numpy(), pooled


def weighted(tokenizer, encoder, pieces):
    """length+mean, then states · weight, rescaled to the mean from before."""
    ids, weights = [], []
    for text, weight in pieces:
        for word in text.split():
            tokens = tokenizer(word, add_special_tokens=False).input_ids
            change = weight - 1
            each = 1 + np.sign(change) * np.sqrt(change**2 / len(tokens))
            ids += tokens
            weights += [each] * len(tokens)
    weights = np.array(weights) + (1 - np.mean(weights))
    states, pooled = encode(encoder, wrap(tokenizer, ids))
    column = np.ones(states.shape[:2])
    for i, weight in enumerate(weights):
        column[i // 75, 1 + i % 75] = weight
    scaled = states.astype(np.float64) * column[..., None]
    scaled *= states.astype(np.float64).mean() / scaled.mean()
    return scaled.reshape(1, -1, states.shape[-1]), pooled


def plain(tokenizer, encoder, text, skip=2):
    states, pooled = encode(encoder, wrap(tokenizer, tokenizer(text, add_special_tokens=False).input_ids), skip)
    return states.reshape(1, -1, states.shape[-1]), pooled


def both(one, two):
    (first, _), (second, pooled) = one, two
    return np.concatenate([first, second], -1).astype(np.float32), pooled[:1]


def pooled_ends(expected, tokenizer):
    """The pooled text of a batch under both rules of the end token."""
    windows = [wrap(tokenizer, tokenizer(t, add_special_tokens=False).input_ids)[0] for t in BATCH]
    word = tokenizer("a", add_special_tokens=False).input_ids[0]
    for name, eos in [("end", 599), ("largest", 2), ("word", word)]:
        encoder = transformers.CLIPTextModelWithProjection(CLIPTextConfig(**dict(TEXT_2, eos_token_id=eos)))
        fill(encoder.eval())
        states, pooled = encode(encoder, windows)
        expected[f"batch.pooled.{name}"] = pooled
    expected["batch.states"] = states[:, :20]


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/sdxl/tests/data"))
    args = args.parse_args()
    torch.set_grad_enabled(False)
    pipe = pipeline(*tokenizer_files())
    parts = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
    for _, encoder in parts:
        fill(encoder.eval())
    expected = {}
    for i, (_, pieces) in enumerate(WEIGHTED):
        states, pooled = both(*(weighted(t, e, pieces) for t, e in parts))
        # Padding differs by nothing but the common factor: the first tokens say enough.
        expected[f"weighted.{i}"] = states[:, :24] if states.shape[1] == 77 else states
        expected[f"weighted.pooled.{i}"] = pooled
    for skip in (1, 2, 3):
        states, pooled = both(*(plain(t, e, WEIGHTED[0][1][2][0], skip) for t, e in parts))
        expected[f"skip.{skip}"], expected[f"skip.pooled.{skip}"] = states[:, :24], pooled
    expected["long"], expected["long.pooled"] = both(*(plain(t, e, LONG * 3) for t, e in parts))
    pooled_ends(expected, pipe.tokenizer_2)
    fixture = {"weighted": [prompt for prompt, _ in WEIGHTED], "skip": WEIGHTED[0][1][2][0],
               "long": LONG * 3, "batch": BATCH}
    text = json.dumps(fixture, ensure_ascii=False, indent=1)
    (args.fixture / "text.json").write_text(text + "\n", encoding="utf-8")
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in expected.items()}, args.fixture / "text.safetensors")
    print({k: v.shape for k, v in expected.items()})


if __name__ == "__main__":
    main()
