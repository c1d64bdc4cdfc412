"""Names and shapes of the released models' tensors, as diffusers and transformers build them.

Nothing is downloaded and no weight is allocated: the configurations of the released models are written
out here, and the models are built on the meta device. Writes one JSON per model to
crates/bundle/tests/full_size, which the inspection's tests compare with, and single_file.json: the same
SDXL as one file in ComfyUI's names, by the mapping of sdxl_single_file.py.

    pip install torch diffusers transformers
    python tests/parity/full_size_tensors.py
"""

import json
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from sdxl_single_file import by_module, clip_table, open_clip_table, unet_names, vae_names

OUT = pathlib.Path(__file__).parents[2] / "crates/bundle/tests/full_size"

UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
}


def text(width, inner, layers, heads, projection, activation):
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "projection_dim": projection,
        "vocab_size": 49408,
        "hidden_act": activation,
    }


TEXT = text(768, 3072, 12, 12, 768, "quick_gelu")
TEXT_2 = text(1280, 5120, 32, 20, 1280, "gelu")
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


def tensors(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def released(names, prefix):
    """transformers 5 leaves the prefix out that all released files have."""
    def name(key):
        return key if key.startswith((prefix, "text_projection.", "visual_projection.")) else prefix + key
    return {name(key): shape for key, shape in names.items()}


def write(name, config, names):
    count = sum(torch.Size(shape).numel() for shape in names.values())
    print(f"{name}: {len(names)} tensors, {count} parameters")
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(shape, separators=(',', ':'))}" for key, shape in sorted(names.items()))
    text = f'{{"config": {json.dumps(config)},\n"parameters": {count},\n"tensors": {{\n{lines}\n}}}}\n'
    (OUT / f"{name}.json").write_text(text)


def single_file(unet, vae, first, second):
    """The released checkpoint's own tensors; its position ids and logit scale aside."""
    table = by_module("model.diffusion_model.", "unet", unet_names(unet), tensors_of(unet))
    table |= by_module("first_stage_model.", "vae", vae_names(vae), tensors_of(vae))
    table |= clip_table(first) | open_clip_table(second, TEXT_2["num_hidden_layers"])
    parts = {"unet": tensors(unet), "vae": tensors(vae), "text_encoder": first, "text_encoder_2": second}

    def shape(form, part, names):
        own = list(parts[part][names[0]])
        own[0] *= len(names)
        return own[::-1] if form == "transposed" else own + [1, 1] if form == "point" else own

    write("single_file", {}, {name: shape(*source) for name, source in table.items()})


def tensors_of(model):
    return dict(model.named_parameters())


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        write("unet", UNET, tensors(unet))
        write("vae", VAE, tensors(vae))
        # Without its projection this is the first encoder.
        first = released(tensors(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT))), "text_model.")
        first.pop("text_projection.weight")
        write("text_encoder", TEXT, first)
        second = released(tensors(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2))), "text_model.")
        write("text_encoder_2", TEXT_2, second)
        single_file(unet, vae, first, second)
        vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        write("clip_vision", VISION, released(tensors(vision), "vision_model."))


if __name__ == "__main__":
    main()
