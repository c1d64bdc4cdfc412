"""LoRA files as diffusers, peft and kohya's scripts write them, and what diffusers makes of each.

Writes into crates/hyperlora/tests/golden/lora (or --out DIR), for a tiny SDXL UNet,

    diffusers.safetensors       save_lora_weights with peft's configuration as metadata; alpha != rank
    diffusers_plain.safetensors the same without metadata, in bf16, with a text encoder's keys
    diffusers_old.safetensors   attention processors' keys, as diffusers 0.12 to 0.16 wrote them
    diffusers_mid.safetensors   `.lora.down.weight` keys, as diffusers 0.17 to 0.20 wrote them
    peft/                       peft's own save_pretrained: rank and alpha patterns, rank-stabilised
    kohya_sgm.safetensors       kohya keys in sgm naming, f16, ranks and alphas that differ, conv layers
    kohya_diffusers.safetensors kohya keys in diffusers naming, without alphas
    expected.safetensors        FILE|MATRIX -> the update of that matrix in f32: the weights of a UNet of
                                zeros after load_lora_weights and fuse_lora. For kohya_sgm it is kohya's
                                definition, (alpha/r) up @ down: diffusers 0.42 applies one alpha, the most
                                common, to all attention matrices of such a file

Usage: python tests/parity/lora_files.py [--out DIR]
Tried with torch 2.15, diffusers 0.42.1, peft 0.21.2.
"""

import argparse
import pathlib

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, block_out_channels=[8, 16, 16], layers_per_block=2,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, 1, 1], attention_head_dim=[2, 2, 2], cross_attention_dim=12,
    norm_num_groups=4, use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 8,
)
DOWN = "down_blocks.1.attentions.0.transformer_blocks.0"
UP = "up_blocks.0.attentions.2.transformer_blocks.0"
SGM = {DOWN: "input_blocks.4.1.transformer_blocks.0", UP: "output_blocks.2.1.transformer_blocks.0"}
MATRICES = {
    f"{block}.{attention}.{matrix}": (16, 12 if attention == "attn2" and matrix in ("to_k", "to_v") else 16)
    for block in (DOWN, UP) for attention in ("attn1", "attn2")
    for matrix in ("to_q", "to_k", "to_v", "to_out.0")
}


def zeros():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    for parameter in unet.parameters():
        parameter.data.zero_()
    return unet


def randomise(unet):
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.5)


def factors(ranks, seed):
    """{matrix: (down, up)}, with the ranks taken in turn."""
    torch.manual_seed(seed)
    pairs = {}
    for number, (name, (out, width)) in enumerate(MATRICES.items()):
        rank = ranks[number % len(ranks)]
        pairs[name] = torch.randn(rank, width), torch.randn(out, rank)
    return pairs


def diffusers_files(out):
    unet = zeros()
    targets = [f"{DOWN}.attn1.to_q", f"{UP}.attn2.to_k", f"{UP}.attn2.to_out.0", f"{DOWN}.ff.net.2"]
    unet.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=targets, alpha_pattern={f"{DOWN}.attn1.to_q": 7}))
    randomise(unet)
    layers = get_peft_model_state_dict(unet)
    metadata = _collate_lora_metadata({"unet": unet})
    save = StableDiffusionXLPipeline.save_lora_weights
    save(out, layers, weight_name="diffusers.safetensors", **metadata)
    bf16 = {name: tensor.bfloat16() for name, tensor in layers.items()}
    text = {"text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4).bfloat16(),
            "text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(4, 2).bfloat16()}
    save(out, bf16, text, weight_name="diffusers_plain.safetensors")


def peft_files(out):
    targets = [f"{DOWN}.attn1.to_q", f"{DOWN}.attn1.to_v", f"{UP}.attn2.to_out.0"]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=True,
                        rank_pattern={"attn2.to_out.0": 2}, alpha_pattern={"attn1.to_v": 3})
    model = get_peft_model(zeros(), config)
    randomise(model)
    model.save_pretrained(out / "peft")
    (out / "peft" / "README.md").unlink(missing_ok=True)


def old_files(out):
    old, mid = {}, {}
    for name, (down, up) in factors([2], 1).items():
        attention, matrix = name.split(".to_")
        key = f"unet.{attention}.processor.to_{matrix.removesuffix('.0')}_lora"
        old |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
        mid |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
    save_file(old, out / "diffusers_old.safetensors", {"format": "pt"})
    save_file(mid, out / "diffusers_mid.safetensors", {"format": "pt"})


def kohya_name(name, sgm):
    block = name[: name.index(".attn")]
    return "lora_unet_" + name.replace(block, SGM[block] if sgm else block).replace(".", "_")


def kohya_files(out):
    sgm, diffusers = {}, {}
    for number, (name, (down, up)) in enumerate(factors([1, 2, 5], 2).items()):
        key = kohya_name(name, sgm=True)
        sgm |= {f"{key}.lora_down.weight": down.half(), f"{key}.lora_up.weight": up.half(),
                f"{key}.alpha": torch.tensor(0.5 + number).half()}
        key = kohya_name(name, sgm=False)
        diffusers |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    conv = "lora_unet_input_blocks_4_0_in_layers_2"
    sgm |= {f"{conv}.lora_down.weight": torch.ones(2, 8, 3, 3).half(),
            f"{conv}.lora_up.weight": torch.ones(16, 2, 1, 1).half(), f"{conv}.alpha": torch.tensor(1.0).half()}
    save_file(sgm, out / "kohya_sgm.safetensors", {"ss_network_module": "networks.lora"})
    save_file(diffusers, out / "kohya_diffusers.safetensors")


def by_definition(path):
    tensors = {name: tensor.double() for name, tensor in load_file(path).items()}
    updates = {}
    for name in MATRICES:
        down, up, alpha = (tensors[f"{kohya_name(name, sgm=True)}.{part}"]
                           for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        updates[name] = (alpha / down.shape[0] * up @ down).float()
    return updates


def fused(path):
    """The attention matrices that a file changes, after diffusers has loaded and fused it."""
    if path.name == "kohya_sgm.safetensors":
        return by_definition(path)
    unet = zeros()
    if path.parent.name == "peft":
        from peft import PeftModel
        weights = PeftModel.from_pretrained(unet, path.parent).merge_and_unload().state_dict()
    else:
        # The steps of load_lora_weights, for a U-Net without a pipeline around it.
        pipeline = StableDiffusionXLPipeline
        state, alphas, metadata = pipeline.lora_state_dict(
            path, unet_config=unet.config, return_lora_metadata=True)
        state = {k: v.float() for k, v in state.items() if k.startswith("unet.")}
        pipeline.load_lora_into_unet(state, alphas, unet, metadata=metadata or None)
        unet.fuse_lora()
        weights = {k.replace(".base_layer", ""): v for k, v in unet.state_dict().items()}
    changed = {k.removesuffix(".weight"): v for k, v in weights.items() if ".attn" in k and v.abs().max() > 0}
    return {k: v.contiguous() for k, v in changed.items() if "lora" not in k}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("crates/hyperlora/tests/golden/lora"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    diffusers_files(out)
    peft_files(out)
    old_files(out)
    kohya_files(out)
    expected = {}
    for path in sorted(out.rglob("*.safetensors")):
        path.chmod(0o644)
        if path.name != "expected.safetensors":
            matrices = fused(path)
            expected |= {f"{path.relative_to(out)}|{name}": value for name, value in matrices.items()}
            print(path.relative_to(out), len(matrices))
    save_file(expected, out / "expected.safetensors")


if __name__ == "__main__":
    main()
