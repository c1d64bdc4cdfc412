"""Single-file checkpoints: the same tiny SDXL as sdxl_tiny.py makes, in one file in ComfyUI's names.

The names are written out here a second time, from the original training code's modules outwards, and
diffusers itself reads the file back: StableDiffusionXLPipeline.from_single_file must give the very
numbers of the pipeline that was written. Then writes

    FIXTURE/single_file.json   name in the file -> [form, part, names in diffusers]

from which the Rust tests make the same file, and, with --likeness, lets `likeness model sample` load
the folder, its half-precision and sharded variants as diffusers saves them, and the file, and compares.

Usage: python tests/parity/sdxl_single_file.py [--fixture crates/sdxl/tests/data] [--likeness PROGRAM]
Tried with torch 2.15, diffusers 0.42.1, transformers 5.23.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import diffusers
import torch
from safetensors.torch import load_file, save_file

import sdxl_tiny

# diffusers tells the two text encoders of a file apart by their widths, which sdxl_tiny.py has alike; a
# projection that is not square shows whether it was transposed.
sdxl_tiny.TEXT_2.update(hidden_size=48, num_attention_heads=6, projection_dim=40)
sdxl_tiny.UNET.update(cross_attention_dim=32 + 48, projection_class_embeddings_input_dim=6 * 8 + 40)

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def unet_names(unet):
    """Module in the file -> module in diffusers, counted as the training code builds them."""
    names = {"input_blocks.0.0": "conv_in", "time_embed.0": "time_embedding.linear_1",
             "time_embed.2": "time_embedding.linear_2", "label_emb.0.0": "add_embedding.linear_1",
             "label_emb.0.2": "add_embedding.linear_2", "out.0": "conv_norm_out", "out.2": "conv_out"}

    def resnet(to, source):
        names.update({f"{to}.{ldm}": f"{source}.{ours}" for ours, ldm in RESNET.items()})

    block = 1
    for level, down in enumerate(unet.down_blocks):
        attends = hasattr(down, "attentions")
        for layer in range(len(down.resnets)):
            resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}")
            if attends:
                names[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{layer}"
            block += 1
        if down.downsamplers:
            names[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            block += 1
    resnet("middle_block.0", "mid_block.resnets.0")
    names["middle_block.1"] = "mid_block.attentions.0"
    resnet("middle_block.2", "mid_block.resnets.1")
    block = 0
    for level, up in enumerate(unet.up_blocks):
        attends = hasattr(up, "attentions")
        for layer in range(len(up.resnets)):
            resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}")
            if attends:
                names[f"output_blocks.{block}.1"] = f"up_blocks.{level}.attentions.{layer}"
            last = layer + 1 == len(up.resnets)
            if last and up.upsamplers:
                names[f"output_blocks.{block}.{1 + attends}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            block += 1
    return names


def vae_names(vae):
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names.update({f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out",
                      f"{side}.norm_out": f"{side}.conv_norm_out"})
        for i in (0, 1):
            names[f"{side}.mid.block_{i + 1}"] = f"{side}.mid_block.resnets.{i}"
        attention = f"{side}.mid_block.attentions.0"
        names.update({f"{side}.mid.attn_1.{ldm}": f"{attention}.{ours}" for ldm, ours in
                      (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))})
    for level, down in enumerate(vae.encoder.down_blocks):
        for layer in range(len(down.resnets)):
            block = f"encoder.down.{level}.block.{layer}"
            names[block] = f"encoder.down_blocks.{level}.resnets.{layer}"
            names[f"{block}.nin_shortcut"] = f"encoder.down_blocks.{level}.resnets.{layer}.conv_shortcut"
        names[f"encoder.down.{level}.downsample.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
    levels = len(vae.decoder.up_blocks)
    for level, up in enumerate(vae.decoder.up_blocks):
        to = f"decoder.up.{levels - 1 - level}"
        for layer in range(len(up.resnets)):
            names[f"{to}.block.{layer}"] = f"decoder.up_blocks.{level}.resnets.{layer}"
            names[f"{to}.block.{layer}.nin_shortcut"] = f"decoder.up_blocks.{level}.resnets.{layer}.conv_shortcut"
        names[f"{to}.upsample.conv"] = f"decoder.up_blocks.{level}.upsamplers.0.conv"
    return names


def by_module(prefix, part, modules, tensors):
    """Every tensor of a part by the longest module name that its own begins with."""
    back = {ours: ldm for ldm, ours in modules.items()}
    table = {}
    for name in tensors:
        module = max((m for m in back if name.startswith(m + ".")), key=len)
        convolved = part == "vae" and ".attentions." in name and tensors[name].ndim == 2
        form = "point" if convolved else "whole"
        table[f"{prefix}{back[module]}{name[len(module):]}"] = [form, part, [name]]
    return table


def clip_table(tensors):
    def source(name):
        return name if name in tensors else name.removeprefix("text_model.")

    names = [n if n.startswith("text_model.") else f"text_model.{n}" for n in tensors]
    return {f"conditioner.embedders.0.transformer.{n}": ["whole", "text_encoder", [source(n)]] for n in names}


def open_clip_table(tensors, layers):
    def source(name):
        return name if name in tensors else name.removeprefix("text_model.")

    modules = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
               "attn.out_proj": "self_attn.out_proj"}
    table = {
        "token_embedding.weight": ["whole", ["text_model.embeddings.token_embedding.weight"]],
        "positional_embedding": ["whole", ["text_model.embeddings.position_embedding.weight"]],
        "text_projection": ["transposed", ["text_projection.weight"]],
    }
    for kind in ("weight", "bias"):
        table[f"ln_final.{kind}"] = ["whole", [f"text_model.final_layer_norm.{kind}"]]
        for layer in range(layers):
            block, ours = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
            stacked = [f"{ours}.self_attn.{m}_proj.{kind}" for m in "qkv"]
            table[f"{block}.attn.in_proj_{kind}"] = ["stacked", stacked]
            for ldm, module in modules.items():
                table[f"{block}.{ldm}.{kind}"] = ["whole", [f"{ours}.{module}.{kind}"]]
    return {f"conditioner.embedders.1.model.{ldm}": [form, "text_encoder_2", [source(n) for n in names]]
            for ldm, (form, names) in table.items()}


def state(module):
    return {n: t for n, t in module.state_dict().items() if t.is_floating_point()}


def table_of(pipe):
    parts = {n: state(getattr(pipe, n)) for n in ("unet", "vae", "text_encoder", "text_encoder_2")}
    table = by_module("model.diffusion_model.", "unet", unet_names(pipe.unet), parts["unet"])
    table |= by_module("first_stage_model.", "vae", vae_names(pipe.vae), parts["vae"])
    table |= clip_table(parts["text_encoder"])
    table |= open_clip_table(parts["text_encoder_2"], sdxl_tiny.TEXT_2["num_hidden_layers"])
    used = [(part, name) for _, part, names in table.values() for name in names]
    assert sorted(used) == sorted((part, name) for part in parts for name in parts[part])
    return parts, table


def single_file(pipe, path):
    parts, table = table_of(pipe)
    tensors = {}
    for ldm, (form, part, names) in table.items():
        sources = [parts[part][name] for name in names]
        tensor = torch.cat(sources)
        if form == "transposed":
            tensor = tensor.T
        if form == "point":
            tensor = tensor[:, :, None, None]
        tensors[ldm] = tensor.contiguous()
    # What such files carry beside the model.
    tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    tensors["denoiser.sigmas"] = torch.zeros(1000)
    save_file(tensors, path)
    return table


def numbers(pipe):
    embeds, _, pooled, _ = pipe.encode_prompt(sdxl_tiny.PROMPT, device="cpu", do_classifier_free_guidance=False)
    decoded = pipe.vae.decode(torch.randn(1, 4, 3, 5, generator=torch.manual_seed(6))).sample
    encoded = pipe.vae.encode(torch.randn(1, 3, 24, 40, generator=torch.manual_seed(7))).latent_dist.mean
    return embeds, pooled, sdxl_tiny.unet_numbers(pipe.unet, embeds, pooled), decoded, encoded


def check_with_diffusers(pipe, folder, file):
    read = diffusers.StableDiffusionXLPipeline.from_single_file(str(file), config=str(folder), local_files_only=True)
    for ours, theirs in zip(numbers(pipe), numbers(read)):
        assert torch.equal(ours, theirs), (ours - theirs).abs().max()
    print("diffusers reads the single file back to the bit")


def bundle(root, name, model, config=None):
    home = root / f"bundle-{name}"
    home.mkdir()
    text = f'[bundle]\nname = "{name}"\nversion = "1"\n[sdxl]\npath = "model{model.suffix}"\n'
    (home / f"model{model.suffix}").symlink_to(model)
    if config:
        (home / "configs").symlink_to(config)
        text += 'config = "configs"\n'
    (home / "bundle.toml").write_text(text)
    return home


def sampled(program, home):
    subprocess.run([program, "model", "sample", "--bundle", home, "--prompt", sdxl_tiny.PROMPT, "--width", "96",
                    "--height", "80", "--steps", "4", "--guidance", "5", "--seed", "11", "--scheduler", "euler",
                    "--negative", sdxl_tiny.NEGATIVE, "--trajectory", home / "t.safetensors",
                    "--dump-text", home / "x.safetensors", "--out", home / "o.png"], check=True, capture_output=True)
    return load_file(home / "t.safetensors")["latents"], load_file(home / "x.safetensors")["prompt_embeds"]


def variants(pipe, root):
    """Folders as diffusers saves them: whole, in shards, in half precision, in half-precision shards, and
    a mixture of these."""
    pipe.save_pretrained(root / "whole")
    pipe.save_pretrained(root / "shards", max_shard_size="100KB")
    half = pipe.to(torch.float16)
    half.save_pretrained(root / "half-plain")
    half.save_pretrained(root / "half", variant="fp16")
    half.save_pretrained(root / "half-shards", variant="fp16", max_shard_size="50KB")
    shutil.copytree(root / "half-shards", root / "mixed")
    for part, source in (("vae", "half"), ("text_encoder_2", "half-plain")):
        shutil.rmtree(root / "mixed" / part)
        shutil.copytree(root / source / part, root / "mixed" / part)
    pipe.to(torch.float32)
    return {"shards": "whole", "half": "half-plain", "half-shards": "half-plain", "mixed": "half-plain"}


def check_with_likeness(program, pipe, folder, file, root):
    same = variants(pipe, root)
    for name, reference in same.items():
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            print(f"  {name}/{part}:", *sorted(p.name for p in (root / name / part).iterdir()))
    results = {n: sampled(program, bundle(root, n, root / n)) for n in ("whole", "half-plain", *same)}
    results["file"] = sampled(program, bundle(root, "file", file, folder))
    for name, reference in (*same.items(), ("file", "whole")):
        for ours, theirs in zip(results[name], results[reference]):
            assert torch.equal(ours, theirs), name
        print(f"{name}: the same latents and text states as {reference}, to the bit")


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--fixture", type=pathlib.Path, default=pathlib.Path("crates/sdxl/tests/data"))
    args.add_argument("--likeness", type=pathlib.Path)
    args = args.parse_args()
    torch.set_grad_enabled(False)
    pipe = sdxl_tiny.pipeline(*sdxl_tiny.tokenizer_files())
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        sdxl_tiny.fill(getattr(pipe, name).eval())
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        folder, file = root / "folder", root / "tiny.safetensors"
        pipe.save_pretrained(folder)
        table = single_file(pipe, file)
        check_with_diffusers(pipe, folder, file)
        if args.likeness:
            check_with_likeness(args.likeness.resolve(), pipe, folder, file, root)
    lines = ",\n".join(f" {json.dumps(n)}: {json.dumps(s)}" for n, s in sorted(table.items()))
    (args.fixture / "single_file.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
