"""Loads a pocket bundle, the trained one or one of random weights, with the libraries whose formats it claims to have.

    python tests/parity/check_pocket.py POCKET_DIR [PICTURE]

Needs diffusers, transformers, torch, onnx and onnxruntime. Every part must load with no key missing, unexpected or misshapen;
the UNet must predict noise of unit spread; a sampled picture, written to PICTURE, must be finite and coloured; each face model
must run. Exits with 1 at the first thing that does not hold.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

PROMPTS = {
    "random": "fcsks fxhks fhyks, portrait of a smiling woman in a red dress",
    "trained": "fcsks fxhks fhyks, a person, striped purple background, blue shirt",
}


def check(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        sys.exit(1)


def check_keys(kind, folder):
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    wrong = {what: keys for what, keys in info.items() if keys}
    count = sum(p.numel() for p in model.parameters())
    check(not wrong, f"{folder.name}: {kind.__name__}, {count:,} parameters {wrong or ''}")


def check_unet(pipeline):
    torch.manual_seed(0)
    size = pipeline.unet.config.sample_size
    pixels = float(size * pipeline.vae_scale_factor)
    noise, context = torch.randn(2, 4, size, size), torch.randn(2, 77, pipeline.unet.config.cross_attention_dim)
    width = pipeline.text_encoder_2.config.projection_dim
    added = {"text_embeds": torch.randn(2, width), "time_ids": torch.full((2, 6), pixels)}
    added["time_ids"][:, 2:4] = 0
    with torch.no_grad():
        output = pipeline.unet(noise, 999, context, added_cond_kwargs=added).sample
    check(0.7 < output.std() < 1.4, f"unet: output spread {output.std():.3f}")


def check_picture(pipeline, prompt, file):
    tokens = pipeline.tokenizer.tokenize(prompt)
    check(len(tokens) == len(prompt.replace(",", " ,").split()), f"tokenizer: {tokens}")
    check(pipeline.tokenizer_2.pad_token_id == 0, "tokenizer_2: pads with id 0")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipeline(prompt, num_inference_steps=20, guidance_scale=3.5, generator=generator, output_type="np")
    spread = picture.images[0].std((0, 1))
    check(np.isfinite(picture.images).all() and spread.min() > 0.05, f"picture: {picture.images.shape}, spread {spread}")
    if file:
        pipeline.numpy_to_pil(picture.images)[0].save(file)


def check_face(path, side, outputs):
    """A face model on noise; with weights kept in f16 the checker wants each cast's type, so it is asked in full."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    told = session.run(None, {name: noise})
    finite = all(np.isfinite(one).all() for one in told)
    check(finite and len(told) == outputs, f"{path.name}: {[one.shape for one in told]}")


def check_recognizer(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    faces = np.random.default_rng(0).uniform(-1, 1, (2, 1, 3, 112, 112)).astype(np.float32)
    a, b = (session.run(None, {"input.1": face})[0][0] for face in faces)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    check(a.shape == (512,) and abs(cosine) < 0.9, f"recognizer: cosine of two inputs {cosine:.3f}")


def main():
    bundle = Path(sys.argv[1])
    sdxl, vision = bundle / "sdxl", bundle / "clip-vision"
    check_keys(UNet2DConditionModel, sdxl / "unet")
    check_keys(AutoencoderKL, sdxl / "vae")
    check_keys(CLIPTextModel, sdxl / "text_encoder")
    check_keys(CLIPTextModelWithProjection, sdxl / "text_encoder_2")
    whole = "CLIPModel" in json.loads((vision / "config.json").read_text())["architectures"]
    check_keys(CLIPModel if whole else CLIPVisionModelWithProjection, vision)
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl, dtype=torch.float32)
    check_unet(pipeline)
    check_picture(pipeline, PROMPTS["trained" if whole else "random"], sys.argv[2] if len(sys.argv) > 2 else None)
    check_recognizer(bundle / "face" / "recognizer.onnx")
    if (bundle / "face" / "detector.onnx").exists():
        check_face(bundle / "face" / "detector.onnx", 128, 9)
        check_face(bundle / "face" / "landmarks.onnx", 192, 1)


if __name__ == "__main__":
    main()
