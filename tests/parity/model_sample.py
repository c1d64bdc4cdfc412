"""`likeness model sample` against diffusers, seen from outside: tiny random SDXL models of many shapes.

Every case builds a diffusers pipeline, saves it as diffusers saves models, writes a bundle.toml around the folder, and
compares per-step latents, timesteps, noise levels, text states and the decoded picture of diffusers with those that
the command writes. Nothing of the project's own fixtures is used, but for the names of single-file checkpoints.

Usage: python tests/parity/model_sample.py --likeness PROGRAM [--only TEXT] [--keep DIR]
Tried with torch 2.15, diffusers 0.42.1, transformers 5.23, peft 0.21.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

PROMPT = "a portrait of the person, 42 years old! café, it's (nice)"
NEGATIVE = "blurry, low quality"
LATENTS, STATES = 1e-4, 1e-5


# --- models -----------------------------------------------------------------------------------------------------------

def byte_signs():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]


MERGES = ["t h", "th e</w>", "p e", "pe r", "r a", "o l", "ol d</w>", "p o", "po r", "t r", "o f</w>", "l o", "a n"]


def byte_tokenizer(**options):
    letters = byte_signs()
    tokens = letters + [c + "</w>" for c in letters] + [m.replace(" ", "") for m in MERGES]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split()) for m in MERGES],
                                      model_max_length=77, **options)


def small_tokenizer(**options):
    """The kind that test suites write: few letters, an unknown token of its own."""
    tokens = ["l", "o", "w", "e", "r", "s", "t", "i", "d", "n", "lo", "l</w>", "w</w>", "r</w>", "t</w>", "low</w>", "er</w>",
              "lowest</w>", "newer</w>", "wider", "<unk>", "<|startoftext|>", "<|endoftext|>"]
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>")]
    return transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, unk_token="<unk>",
                                      model_max_length=77, **options)


def text_config(**changes):
    base = dict(vocab_size=600, hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
                max_position_embeddings=77, layer_norm_eps=1e-5, projection_dim=32, hidden_act="quick_gelu",
                bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return transformers.CLIPTextConfig(**(base | changes))


def unet_config(**changes):
    return dict(sample_size=32, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
                use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
                transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
                cross_attention_dim=64) | changes


def vae_config(**changes):
    return dict(block_out_channels=[32, 64], in_channels=3, out_channels=3, latent_channels=4,
                down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                sample_size=128) | changes


SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, steps_offset=1, beta_schedule="scaled_linear",
                 timestep_spacing="leading")


def randomise(module):
    """As large as trained weights are, so that every part of the model is felt in the result."""
    for name, tensor in module.named_parameters():
        if tensor.ndim >= 2:
            tensor.data.normal_(std=(tensor.numel() / tensor.shape[0]) ** -0.5)
        elif name.endswith("bias"):
            tensor.data.normal_(std=0.1)
        else:
            tensor.data.normal_(mean=1.0, std=0.1)
    return module.eval()


def pipeline(unet=None, vae=None, text=None, text_2=None, tokenizer=None, tokenizer_2=None, scheduler=None, seed=0, **more):
    torch.manual_seed(seed)
    return diffusers.StableDiffusionXLPipeline(
        unet=randomise(diffusers.UNet2DConditionModel(**unet_config(**(unet or {})))),
        vae=randomise(diffusers.AutoencoderKL(**vae_config(**(vae or {})))),
        text_encoder=randomise(transformers.CLIPTextModel(text_config(**(text or {})))),
        text_encoder_2=randomise(transformers.CLIPTextModelWithProjection(
            text_config(**(dict(hidden_act="gelu", eos_token_id=525) | (text_2 or {}))))),
        tokenizer=tokenizer or byte_tokenizer(),
        tokenizer_2=tokenizer_2 or byte_tokenizer(pad_token="!"),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**SCHEDULER), add_watermarker=False, **more)


def bundle(home, model="sdxl", more=""):
    (home / "bundle.toml").write_text(f'[bundle]\nname = "outsider"\nversion = "1"\n[sdxl]\npath = "{model}"\n{more}')
    return home


# --- diffusers' numbers -----------------------------------------------------------------------------------------------

def scheduler(name, config):
    d = diffusers
    return {
        "ddim": lambda: d.DDIMScheduler.from_config(config),
        "euler": lambda: d.EulerDiscreteScheduler.from_config(config, use_karras_sigmas=False),
        "euler_karras": lambda: d.EulerDiscreteScheduler.from_config(config, use_karras_sigmas=True),
        "euler_ancestral": lambda: d.EulerAncestralDiscreteScheduler.from_config(config),
        "dpmpp_2m": lambda: d.DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=False),
        "dpmpp_2m_karras": lambda: d.DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
        "lcm": lambda: d.LCMScheduler.from_config(config),
    }[name]()


SCHEDULERS = ("ddim", "euler", "euler_karras", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "lcm")
REQUEST = dict(prompt=PROMPT, negative=NEGATIVE, width=64, height=64, steps=4, guidance=5.0, rescale=0.0, seed=3,
               scheduler="euler", noise=None)


def expected(pipe, request):
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler(request["scheduler"], pipe.saved_scheduler)
    steps = []

    def keep(_pipe, _index, _timestep, state):
        steps.append(state["latents"].float().clone())
        return state

    image = pipe(prompt=request["prompt"], negative_prompt=request["negative"], width=request["width"],
                 height=request["height"], num_inference_steps=request["steps"], guidance_scale=request["guidance"],
                 guidance_rescale=request["rescale"], generator=torch.manual_seed(request["seed"]), latents=request["noise"],
                 output_type="np", callback_on_step_end=keep).images[0]
    embeds = pipe.encode_prompt(request["prompt"], device="cpu", negative_prompt=request["negative"],
                                do_classifier_free_guidance=request["guidance"] > 1)
    found = dict(latents=torch.cat(steps), image=(image * 255).round(), timesteps=pipe.scheduler.timesteps.double(),
                 text=dict(zip(("prompt_embeds", "negative_prompt_embeds", "pooled", "negative_pooled"), embeds)))
    if hasattr(pipe.scheduler, "sigmas"):
        found["sigmas"] = pipe.scheduler.sigmas.double()[:-1]
    return found


# --- the command's ----------------------------------------------------------------------------------------------------

def command(home, request, more=()):
    # diffusers knows no weights: brackets of its prompts are signs.
    plain = lambda text: text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").replace("[", "\\[").replace("]", "\\]")
    line = ["--bundle", home, "--prompt", plain(request["prompt"]), "--width", request["width"], "--height", request["height"],
            "--steps", request["steps"], "--guidance", request["guidance"], "--seed", request["seed"],
            "--scheduler", request["scheduler"], "--guidance-rescale", request["rescale"],
            "--trajectory", home / "t.safetensors", "--dump-text", home / "x.safetensors", "--out", home / "o.png", *more]
    if request["negative"] is not None:
        line += ["--negative", plain(request["negative"])]
    if request["noise"] is not None:
        save_file({"noise": request["noise"]}, home / "n.safetensors")
        line += ["--noise", home / "n.safetensors"]
    return [str(part) for part in line]


def sampled(program, home, request, more=()):
    for name in ("t.safetensors", "x.safetensors", "o.png"):
        (home / name).unlink(missing_ok=True)
    run = subprocess.run([program, "model", "sample", *command(home, request, more)], capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"exit {run.returncode}: {run.stderr.strip()}")
    steps = load_file(home / "t.safetensors")
    return steps | dict(text=load_file(home / "x.safetensors"), image=np.array(Image.open(home / "o.png")).astype(float))


# --- comparing --------------------------------------------------------------------------------------------------------

def relative(ours, theirs):
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return (ours.double() - theirs.double()).norm().item() / max(theirs.double().norm().item(), 1e-30)


def differences(ours, theirs):
    """The worst of each kind."""
    assert ours["latents"].shape == theirs["latents"].shape, (ours["latents"].shape, theirs["latents"].shape)
    found = dict(latents=max(relative(a, b) for a, b in zip(ours["latents"], theirs["latents"])),
                 image=float(np.abs(ours["image"] - theirs["image"]).max()),
                 timesteps=(ours["timesteps"] - theirs["timesteps"]).abs().max().item(), text=0.0, sigmas=0.0)
    if "sigmas" in theirs:
        found["sigmas"] = relative(ours["sigmas"], theirs["sigmas"])
    for name, value in theirs["text"].items():
        if value is not None:
            zeros = not value.any()
            found["text"] = max(found["text"], ours["text"][name].abs().max().item() if zeros else relative(ours["text"][name], value))
    return found


BOUNDS = dict(latents=LATENTS, image=1.0, timesteps=1e-3, text=STATES, sigmas=1e-6)
REPORT = []


def note(name, found, bounds=BOUNDS):
    wrong = [key for key, bound in bounds.items() if not found[key] <= bound]
    REPORT.append((name, found, wrong))
    numbers = " ".join(f"{key} {found[key]:.1e}" for key in bounds)
    print(f"{'WRONG' if wrong else 'ok   '} {name}: {numbers}", flush=True)


def compare(context, name, pipe, home, request=None, more=(), bounds=BOUNDS):
    request = REQUEST | (request or {})
    try:
        note(name, differences(sampled(context.likeness, home, request, more), expected(pipe, request)), bounds)
    except (RuntimeError, AssertionError, KeyError) as error:
        REPORT.append((name, {}, [str(error)]))
        print(f"WRONG {name}: {error}", flush=True)


def saved(context, name, pipe, load=True, **options):
    """Saves as an outsider would, and lets diffusers read it back."""
    home = context.root / name.replace(" ", "-").replace("/", "-")
    home.mkdir(exist_ok=True)
    pipe.save_pretrained(home / "sdxl", **options)
    bundle(home)
    if load:
        keep = dict(variant=options["variant"]) if "variant" in options else {}
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(home / "sdxl", add_watermarker=False, **keep)
    pipe.saved_scheduler = pipe.scheduler.config
    return pipe, home


def edit(path, **changes):
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is Ellipsis:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config, indent=2))


# --- cases ------------------------------------------------------------------------------------------------------------

UNETS = {
    "as in diffusers' tests": {},
    "one head size": dict(attention_head_dim=8),
    "convolutional projection": dict(use_linear_projection=False),
    "three levels 2/10": dict(block_out_channels=(32, 64, 64), layers_per_block=2, attention_head_dim=(1, 2, 4),
                              down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                              up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                              transformer_layers_per_block=(1, 2, 10)),
    "attention at full resolution": dict(down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                                         up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
    "attention first": dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), transformer_layers_per_block=(2, 1)),
    "ways that differ": dict(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                             up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
    "one level": dict(block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",),
                      up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=2, transformer_layers_per_block=1),
    "four levels": dict(block_out_channels=(8, 16, 16, 24), norm_num_groups=4, layers_per_block=1, attention_head_dim=(2, 2, 4, 3),
                        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
                        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",), transformer_layers_per_block=(1, 1, 2, 1)),
    "layers per level": dict(layers_per_block=(1, 2)),
    "groups and epsilon": dict(norm_num_groups=16, norm_eps=1e-6),
    "time ids of 6": dict(addition_time_embed_dim=6, projection_class_embeddings_input_dim=6 * 6 + 32),
    "sines first": dict(flip_sin_to_cos=False, freq_shift=1),
    "swish": dict(act_fn="swish"),
    "list of cross widths": dict(cross_attention_dim=(64, 64)),
    "not only cross, per level": dict(only_cross_attention=(False, False)),
    "attention type default": dict(attention_type="default", upcast_attention=False, dropout=0.0),
    "upcast attention": dict(upcast_attention=True),
    "head size beside": dict(attention_head_dim=(4, 8), sample_size=16),
    "reversed transformer layers": dict(transformer_layers_per_block=((1, 1), (1, 2)),
                                        reverse_transformer_layers_per_block=((2, 1, 1), (1, 1, 1))),
    "no middle": dict(mid_block_type=None),
    "plain middle": dict(mid_block_type="UNetMidBlock2D"),
    "scale and shift": dict(resnet_time_scale_shift="scale_shift"),
    "gelu": dict(act_fn="gelu"),
    "middle without transformer norm groups": dict(norm_num_groups=8, block_out_channels=(24, 40)),
}

VAES = {
    "four levels": dict(block_out_channels=[8, 16, 16, 16], norm_num_groups=4, layers_per_block=2,
                        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                        scaling_factor=0.13025, force_upcast=True),
    "no middle attention": dict(mid_block_add_attention=False),
    "no upcast": dict(force_upcast=False, scaling_factor=0.13025),
    "statistics": dict(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.2, 0.8]),
    "shift that SDXL does not use": dict(shift_factor=0.1),
    "no quant convolutions": dict(use_quant_conv=False, use_post_quant_conv=False),
    "three levels": dict(block_out_channels=[32, 32, 64], down_block_types=["DownEncoderBlock2D"] * 3,
                         up_block_types=["UpDecoderBlock2D"] * 3, layers_per_block=1),
    "null statistics": dict(latents_mean=None, latents_std=None),
    "gelu": dict(act_fn="gelu"),
}

TEXTS = {
    "both historical eos": dict(text_2=dict(eos_token_id=2)),
    "both real eos": dict(text=dict(eos_token_id=525)),
    "one activation": dict(text=dict(hidden_act="gelu"), text_2=dict(hidden_act="quick_gelu")),
    "layers": dict(text=dict(num_hidden_layers=2), text_2=dict(num_hidden_layers=5)),
    "widths": dict(text=dict(hidden_size=24, projection_dim=17), text_2=dict(hidden_size=48, num_attention_heads=6, projection_dim=40),
                   unet=dict(cross_attention_dim=72, projection_class_embeddings_input_dim=48 + 40)),
    "large vocabulary": dict(text=dict(vocab_size=1000), text_2=dict(vocab_size=1000, eos_token_id=2)),
    "both pad with eos": dict(tokenizer_2="eos"),
    "both pad with !": dict(tokenizer="bang"),
    "other activation": dict(text_2=dict(hidden_act="gelu_new")),
    "epsilon": dict(text=dict(layer_norm_eps=1e-3), text_2=dict(layer_norm_eps=1e-6)),
    "test suite tokenizer": dict(tokenizer="small", tokenizer_2="small", text_2=dict(eos_token_id=22)),
    "test suite tokenizer, 1000": dict(tokenizer="small", tokenizer_2="small", text=dict(vocab_size=1000), text_2=dict(vocab_size=1000, eos_token_id=2)),
}

TOKENIZERS = {"eos": lambda: byte_tokenizer(), "bang": lambda: byte_tokenizer(pad_token="!"), "small": small_tokenizer}
PROMPTS = ["", "!", "hello world!!", "Hello   WORLD \n tab\t!", "日本 café naïve ﬁ ½ Å", "<|endoftext|> middle <|startoftext|>", "it's don't I'LL",
           "1234 42nd", "emoji 😀 ok", "a_b-c.d,e;f", "low lower newest wider"]


def unets(context):
    for name, changes in UNETS.items():
        whole(context, f"unet {name}", unet=changes)


def vaes(context):
    for name, changes in VAES.items():
        whole(context, f"vae {name}", vae=changes, requests=[dict(width=96, height=64)])


def texts(context):
    for name, changes in TEXTS.items():
        changes = {key: TOKENIZERS[value]() if isinstance(value, str) else value for key, value in changes.items()}
        whole(context, f"text {name}", requests=[{}, dict(prompt="low and lower", negative="", steps=1)], **changes)


def whole(context, name, requests=({},), **parts):
    if context.only not in name:
        return
    try:
        pipe = pipeline(**parts)
        pipe, home = saved(context, name, pipe)
        expected(pipe, REQUEST | dict(steps=1))
    except Exception as error:
        print(f"--    {name}: not a model to diffusers either: {type(error).__name__} {str(error)[:100]}")
        return
    for request in requests:
        compare(context, name + (f" {request}" if request else ""), pipe, home, request)


def prompts(context):
    for kind in ("byte", "small"):
        name = f"prompt ({kind})"
        if context.only not in name:
            continue
        small = kind == "small"
        first, second = (small_tokenizer(), small_tokenizer(pad_token="l")) if small else (None, None)
        pipe, home = saved(context, name, pipeline(tokenizer=first, tokenizer_2=second))
        for prompt in PROMPTS:
            compare(context, f"{name} {prompt!r}", pipe, home, dict(prompt=prompt, steps=1))


FILES = {
    "sdxl's own": (None, {}),
    "euler linspace": ("EulerDiscreteScheduler", dict(timestep_spacing="linspace", steps_offset=0)),
    "euler trailing": ("EulerDiscreteScheduler", dict(timestep_spacing="trailing", steps_offset=0)),
    "euler leading offset 0": ("EulerDiscreteScheduler", dict(timestep_spacing="leading", steps_offset=0)),
    "euler karras": ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)),
    "euler to sigma_min": ("EulerDiscreteScheduler", dict(final_sigmas_type="sigma_min")),
    "euler log linear": ("EulerDiscreteScheduler", dict(interpolation_type="log_linear")),
    "ddim": ("DDIMScheduler", dict(clip_sample=False, set_alpha_to_one=False)),
    "ddim clipping": ("DDIMScheduler", dict(timestep_spacing="trailing")),
    "ddim clip range": ("DDIMScheduler", dict(clip_sample=True, clip_sample_range=2.0)),
    "ddim thresholding": ("DDIMScheduler", dict(thresholding=True, clip_sample=False)),
    "ddim linear betas": ("DDIMScheduler", dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)),
    "ddim cosine betas": ("DDIMScheduler", dict(beta_schedule="squaredcos_cap_v2")),
    "dpm++": ("DPMSolverMultistepScheduler", dict()),
    "dpm++ karras trailing": ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True, timestep_spacing="trailing")),
    "dpm++ linspace to sigma_min": ("DPMSolverMultistepScheduler", dict(timestep_spacing="linspace", final_sigmas_type="sigma_min")),
    "dpm++ euler at final": ("DPMSolverMultistepScheduler", dict(euler_at_final=True)),
    "dpm++ no lower order": ("DPMSolverMultistepScheduler", dict(lower_order_final=False)),
    "dpm++ heun": ("DPMSolverMultistepScheduler", dict(solver_type="heun")),
    "dpm++ third order": ("DPMSolverMultistepScheduler", dict(solver_order=3)),
    "dpm++ sde": ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    "dpm++ clipped lambda": ("DPMSolverMultistepScheduler", dict(lambda_min_clipped=-5.1)),
    "euler beta sigmas": ("EulerDiscreteScheduler", dict(use_beta_sigmas=True)),
    "euler exponential": ("EulerDiscreteScheduler", dict(use_exponential_sigmas=True)),
    "euler sigma bounds": ("EulerDiscreteScheduler", dict(sigma_min=0.05, sigma_max=10.0)),
    "euler v prediction": ("EulerDiscreteScheduler", dict(prediction_type="v_prediction")),
    "euler zero snr": ("EulerDiscreteScheduler", dict(rescale_betas_zero_snr=True)),
    "euler continuous": ("EulerDiscreteScheduler", dict(timestep_type="continuous")),
    "ancestral": ("EulerAncestralDiscreteScheduler", dict(timestep_spacing="trailing")),
    "pndm": ("PNDMScheduler", dict(skip_prk_steps=True, set_alpha_to_one=False)),
    "unipc": ("UniPCMultistepScheduler", dict()),
    "lcm": ("LCMScheduler", dict(original_inference_steps=40)),
    "lcm clipping": ("LCMScheduler", dict(clip_sample=True, timestep_scaling=5.0)),
    "heun": ("HeunDiscreteScheduler", dict()),
    "fewer training steps": ("EulerDiscreteScheduler", dict(num_train_timesteps=500)),
}


def other(kind, changes):
    takes = getattr(diffusers, kind)
    known = {k: v for k, v in (SCHEDULER | changes).items()}
    return takes(**known)


def small_unet():
    return dict(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1)


def schedulers(context):
    name = "steps and guidance"
    pipe, home = saved(context, name, pipeline(unet=small_unet()))
    for solver in SCHEDULERS:
        for steps in (1, 2, 3, 8, 20, 30):
            for guidance in ((1.0, 3.5, 7.5) if steps == 8 else (5.0,)):
                title = f"{name}: {solver} {steps} steps guidance {guidance}"
                if context.only in title:
                    compare(context, title, pipe, home, dict(scheduler=solver, steps=steps, guidance=guidance))


def scheduler_files(context):
    pipe, home = saved(context, "scheduler files", pipeline(unet=small_unet()))
    for file, (kind, changes) in FILES.items():
        if context.only not in f"file {file}":
            continue
        if kind is None:
            path = home / "sdxl" / "scheduler" / "scheduler_config.json"
            path.write_text(json.dumps(SDXL_FILE))
        else:
            other(kind, changes).save_pretrained(home / "sdxl" / "scheduler")
        pipe.saved_scheduler = json.loads((home / "sdxl" / "scheduler" / "scheduler_config.json").read_text())
        for solver in SCHEDULERS:
            for steps in (1, 7):
                title = f"file {file}: {solver} {steps} steps"
                try:
                    expected(pipe, REQUEST | dict(scheduler=solver, steps=steps))
                except Exception as error:
                    print(f"--    {title}: diffusers: {type(error).__name__} {str(error)[:100]}")
                    continue
                compare(context, title, pipe, home, dict(scheduler=solver, steps=steps))


SDXL_FILE = {
    "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
    "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None,
    "use_karras_sigmas": False,
}


def requests(context):
    for zeros in (True, False):
        name = f"request zeros={zeros}"
        pipe, home = saved(context, name, pipeline(force_zeros_for_empty_prompt=zeros))
        noise = torch.randn(1, 4, 32, 24, generator=torch.manual_seed(99))
        for title, request in {
            "no negative": dict(negative=None), "empty negative": dict(negative=""), "empty both": dict(prompt="", negative=""),
            "no guidance": dict(guidance=1.0, negative=None), "less than none": dict(guidance=0.5),
            "no guidance, zero": dict(guidance=0.0, negative=""),
            "wide": dict(width=120, height=40), "tall": dict(width=8, height=136), "smallest": dict(width=8, height=8),
            "odd latents": dict(width=88, height=72),
            "noise": dict(noise=noise, width=48, height=64), "noise ancestral": dict(noise=noise, width=48, height=64, scheduler="euler_ancestral"),
            "noise lcm": dict(noise=noise, width=48, height=64, scheduler="lcm"),
            "seed": dict(seed=123456789), "large seed": dict(seed=2**40 + 3), "largest seed": dict(seed=2**63 - 1),
            "ancestral": dict(scheduler="euler_ancestral", width=72), "rescale": dict(rescale=0.7),
            "rescale 1": dict(rescale=1.0, scheduler="ddim"), "rescale, none": dict(rescale=0.5, guidance=1.0),
            "fine guidance": dict(guidance=1.01), "large guidance": dict(guidance=30.0),
        }.items():
            if context.only in f"{name} {title}":
                compare(context, f"{name} {title}", pipe, home, request)


def legacy(folder, tokenizer):
    """The files of older releases, as SDXL's own repository has them."""
    json_file = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    merges = [m if isinstance(m, str) else " ".join(m) for m in json_file["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(json_file["model"]["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    token = lambda text: {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    pad = tokenizer.pad_token
    special = dict(bos_token=token("<|startoftext|>"), eos_token=token("<|endoftext|>"), unk_token=token("<|endoftext|>"), pad_token=pad)
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    typed = {key: value | {"__type": "AddedToken"} if isinstance(value, dict) else value for key, value in special.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(
        typed | dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77, tokenizer_class="CLIPTokenizer")))


def folders(context):
    half = dict(variant="fp16")
    ways = {"plain": {}, "shards": dict(max_shard_size="100KB"), "fp16": half, "fp16 shards": half | dict(max_shard_size="50KB")}
    for way, options in ways.items():
        name = f"folder {way}"
        if context.only not in name:
            continue
        pipe = pipeline()
        pipe, home = saved(context, name, pipe.to(torch.float16) if "variant" in options else pipe, **options)
        compare(context, name, pipe.to(torch.float32), home)
    for name, change in {
        "folder legacy tokenizers": None,
        "folder older configs": {"unet/config.json": dict(_name_or_path="x", _diffusers_version="0.19.0.dev0", mid_block_type=...,
                                                          num_attention_heads=None, unknown_field=3, class_embed_type=None),
                                 "vae/config.json": dict(force_upcast=True, shift_factor=..., use_quant_conv=..., _name_or_path="../v"),
                                 "text_encoder/config.json": dict(dropout=0.0, gradient_checkpointing=False, model_type="clip_text_model"),
                                 "model_index.json": dict(feature_extractor=..., image_encoder=..., force_zeros_for_empty_prompt=...)},
        "folder null eos": {"text_encoder/config.json": dict(eos_token_id=...), "text_encoder_2/config.json": dict(eos_token_id=...)},
        "folder img2img class": {"model_index.json": dict(_class_name="StableDiffusionXLImg2ImgPipeline")},
        "folder null force": {"model_index.json": dict(force_zeros_for_empty_prompt=True, unknown=None)},
    }.items():
        if context.only not in name:
            continue
        pipe, home = saved(context, name, pipeline())
        if change is None:
            for part in ("tokenizer", "tokenizer_2"):
                legacy(home / "sdxl" / part, getattr(pipe, part))
        for file, changes in (change or {}).items():
            edit(home / "sdxl" / file, **changes)
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(home / "sdxl", add_watermarker=False)
        pipe.saved_scheduler = pipe.scheduler.config
        compare(context, name, pipe, home)
        compare(context, f"{name}, no negative", pipe, home, dict(negative=None, prompt="hello!! (world"))


def half(context):
    pipe, home = saved(context, "f16", pipeline())
    for steps in (1, 4):
        compare(context, f"f16 against f32, {steps} steps", pipe, home, dict(steps=steps), ["--dtype", "f16"],
                BOUNDS | dict(latents=0.1, image=255.0, text=5e-3))


LORA_TARGETS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "some": ["attn2.to_k", "attn2.to_v"],
    "feed-forward": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
    "convolutions": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "time_emb_proj"],
}


def loras(context):
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_kohya
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    for targets, names in LORA_TARGETS.items():
        for alpha in (4, 7):
            name = f"lora {targets} alpha {alpha}"
            if context.only not in name:
                continue
            pipe, home = saved(context, name, pipeline(unet=dict(block_out_channels=(32, 64, 64), layers_per_block=1, attention_head_dim=(1, 2, 4),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 1, 2))))
            pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=names))
            for key, parameter in pipe.unet.named_parameters():
                if "lora_" in key:
                    parameter.data.normal_(std=0.2)
            layers = get_peft_model_state_dict(pipe.unet)
            diffusers.StableDiffusionXLPipeline.save_lora_weights(home, layers, weight_name="own.safetensors",
                                                                 **_collate_lora_metadata({"unet": pipe.unet}))
            kohya = kohya_names(layers, alpha)
            save_file(kohya, home / "kohya.safetensors")
            pipe.unet.unload_lora() if hasattr(pipe.unet, "unload_lora") else pipe.unet.delete_adapters("default")
            for file in ("own", "kohya"):
                for scale in (1.0, 0.6, -0.5):
                    if scale != 1.0 and (alpha != 7 or targets != "attention"):
                        continue
                    try:
                        fresh = diffusers.StableDiffusionXLPipeline.from_pretrained(home / "sdxl", add_watermarker=False)
                        fresh.saved_scheduler = fresh.scheduler.config
                        fresh.load_lora_weights(home / f"{file}.safetensors")
                        fresh.fuse_lora(lora_scale=scale)
                    except Exception as error:
                        print(f"--    {name} {file}: diffusers: {type(error).__name__} {str(error)[:160]}")
                        continue
                    compare(context, f"{name} {file} scale {scale}", fresh, home, {}, ["--lora", f"{home / file}.safetensors={scale}"])


def kohya_names(layers, alpha):
    """As kohya's scripts name them, diffusers' module names with underscores."""
    found = {}
    for key, tensor in layers.items():
        module, _, kind = key.replace(".weight", "").rpartition(".lora_")
        name = "lora_unet_" + module.replace(".", "_")
        found[f"{name}.lora_{'down' if kind == 'A' else 'up'}.weight"] = tensor.clone()
        found[f"{name}.alpha"] = torch.tensor(float(alpha))
    return found


def single_files(context):
    import sdxl_single_file as ldm
    import sdxl_tiny

    name = "single file"
    if context.only not in name:
        return
    wide = dict(text_2=dict(hidden_size=48, num_attention_heads=6, projection_dim=40),
                unet=dict(cross_attention_dim=80, projection_class_embeddings_input_dim=48 + 40))
    for title, changes in {"heads given": {}, "no middle attention": dict(vae=dict(mid_block_add_attention=False)),
                           "three levels": dict(unet=wide["unet"] | dict(UNETS["three levels 2/10"]))}.items():
        pipe, home = saved(context, f"{name} {title}", pipeline(**(wide | changes)))
        sdxl_tiny.TEXT_2["num_hidden_layers"] = 3
        try:
            ldm.single_file(pipe, home / "tiny.safetensors")
        except Exception as error:
            print(f"--    {name} {title}: not written: {type(error).__name__} {error}")
            continue
        bundle(home, "tiny.safetensors", 'config = "sdxl"\n')
        compare(context, f"{name} {title}", pipe, home)
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in load_file(home / "tiny.safetensors").items()}
        save_file(tensors, home / "tiny.safetensors", {"format": "pt", "modelspec.title": "tiny"})
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            getattr(pipe, part).half().float()
        compare(context, f"{name} {title}, in half precision", pipe, home)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--likeness", type=pathlib.Path, required=True)
    args.add_argument("--only", default="", help="cases whose name holds this")
    args.add_argument("--groups", help="only these functions, with commas between")
    args.add_argument("--keep", type=pathlib.Path, help="leave the models here")
    context = args.parse_args()
    context.likeness = context.likeness.resolve()
    torch.set_grad_enabled(False)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        context.root = context.keep or pathlib.Path(root)
        context.root.mkdir(parents=True, exist_ok=True)
        names = context.groups.split(",") if context.groups else []
        for group in (unets, vaes, texts, prompts, schedulers, scheduler_files, requests, folders, half, loras, single_files):
            if not names or group.__name__ in names:
                group(context)
    wrong = [name for name, _, faults in REPORT if faults]
    print(f"{len(REPORT)} compared, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
