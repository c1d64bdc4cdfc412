//! The bundles that can be pulled by name: where on the Hugging Face hub their files are, and under which
//! licences.

use crate::manifest::{About, Defaults, Face, HyperLora, Manifest, Model, Name, Part, RelPath};

/// A bundle that can be pulled by name.
#[derive(Debug)]
pub struct Recipe {
    /// Its name, also in its manifest.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    pub(super) sources: &'static [Source],
}

/// Where some of a bundle's files come from.
#[derive(Debug)]
pub(super) struct Source {
    pub licence: Licence,
    /// The repository on the hub.
    pub repo: &'static str,
    /// The repository's folder, with `/` at its end unless it is the whole.
    pub from: &'static str,
    /// The bundle's folder, with `/` at its end.
    pub to: &'static str,
    pub files: &'static [Wanted],
}

/// A file, by the first of these names that the repository has. It keeps that name.
pub(super) type Wanted = &'static [&'static str];

/// What somebody who pulls has to agree to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Licence {
    /// What is under it.
    pub what: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Where it can be read.
    pub url: &'static str,
    /// Whether it forbids commercial use.
    pub non_commercial: bool,
}

impl Recipe {
    /// All bundles that can be pulled.
    pub fn all() -> &'static [Recipe] {
        &RECIPES
    }

    /// The bundle of this name.
    pub fn find(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// Every licence that its files are under.
    pub fn licences(&self) -> impl Iterator<Item = &Licence> {
        self.sources.iter().map(|source| &source.licence)
    }

    /// The manifest, without checksums. A path in it is always a source's folder.
    pub(super) fn manifest(&self) -> Result<Manifest, String> {
        let path = |path: &str| RelPath::try_from(path.to_owned());
        let name = |name: &str| Name::try_from(name.to_owned());
        let part = |at: &str| path(at).map(|path| Part { path });
        let model = |at: &str| path(at).map(|path| Model { path, config: None });
        let licence = |licence: &Licence| format!("{}: {}", licence.what, licence.name);
        Ok(Manifest {
            bundle: About {
                name: name(self.name)?,
                version: name("1")?,
                licences: self.licences().map(licence).collect(),
            },
            sdxl: Some(model("sdxl")?),
            models: [(name("realvis")?, model("realvis")?)].into(),
            hyperlora: Some(HyperLora {
                path: path("hyperlora")?,
                dim_head: 64,
            }),
            clip_vision: Some(part("clip-vit-large-patch14")?),
            face: Some(Face {
                detector: Some(path("antelopev2/scrfd_10g_bnkps.onnx")?),
                landmarks: Some(path("antelopev2/2d106det.onnx")?),
                recognizer: Some(path("antelopev2/glintr100.onnx")?),
                ..Face::default()
            }),
            defaults: Defaults::default(),
            files: std::collections::BTreeMap::new(),
        })
    }
}

static RECIPES: [Recipe; 2] = [
    Recipe {
        name: "sdxl-hyperlora-fidelity",
        about: "HyperLoRA v1 that keeps closest to the face, CLIP ViT-L/14, antelopev2, SDXL base 1.0 and RealVisXL 4.0",
        sources: &[
            hyperlora("sdxl_hyper_id_lora_v1_fidelity/"),
            CLIP,
            ANTELOPE,
            SDXL,
            REALVIS,
        ],
    },
    Recipe {
        name: "sdxl-hyperlora-edit",
        about: "HyperLoRA v1 that follows the prompt better, CLIP ViT-L/14, antelopev2, SDXL base 1.0 and RealVisXL 4.0",
        sources: &[
            hyperlora("sdxl_hyper_id_lora_v1_edit/"),
            CLIP,
            ANTELOPE,
            SDXL,
            REALVIS,
        ],
    },
];

const fn hyperlora(from: &'static str) -> Source {
    Source {
        licence: Licence {
            what: "HyperLoRA",
            name: "CC-BY-NC-4.0",
            url: "https://creativecommons.org/licenses/by-nc/4.0/",
            non_commercial: true,
        },
        repo: "bytedance-research/HyperLoRA",
        from,
        to: "hyperlora/",
        files: &[
            &["hyper_lora_modules.json"],
            &["hyper_lora_modules.safetensors"],
            &["id_projector.safetensors"],
            &["resampler.safetensors"],
        ],
    }
}

const CLIP: Source = Source {
    licence: Licence {
        what: "CLIP ViT-L/14",
        name: "MIT",
        url: "https://github.com/openai/CLIP/blob/main/LICENSE",
        non_commercial: false,
    },
    repo: "openai/clip-vit-large-patch14",
    from: "",
    to: "clip-vit-large-patch14/",
    files: &[
        &["config.json"],
        &["preprocessor_config.json"],
        &["model.safetensors"],
    ],
};

const ANTELOPE: Source = Source {
    licence: Licence {
        what: "InsightFace antelopev2",
        name: "non-commercial research only",
        url: "https://github.com/deepinsight/insightface#license",
        non_commercial: true,
    },
    repo: "DIAMONIK7777/antelopev2",
    from: "",
    to: "antelopev2/",
    files: &[
        &["scrfd_10g_bnkps.onnx"],
        &["2d106det.onnx"],
        &["glintr100.onnx"],
    ],
};

const SDXL: Source = Source {
    licence: Licence {
        what: "SDXL base 1.0",
        name: "CreativeML Open RAIL++-M",
        url: "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
        non_commercial: false,
    },
    repo: "stabilityai/stable-diffusion-xl-base-1.0",
    from: "",
    to: "sdxl/",
    files: &DIFFUSERS,
};

const REALVIS: Source = Source {
    licence: Licence {
        what: "RealVisXL 4.0",
        name: "CreativeML Open RAIL++-M",
        url: "https://huggingface.co/SG161222/RealVisXL_V4.0",
        non_commercial: false,
    },
    repo: "SG161222/RealVisXL_V4.0",
    from: "",
    to: "realvis/",
    files: &DIFFUSERS,
};

/// A diffusers folder, in half precision where there is: a worker computes in no more. The autoencoder
/// overflows in half precision, so that its weights are taken whole.
const DIFFUSERS: [Wanted; 18] = [
    &["model_index.json"],
    &["scheduler/scheduler_config.json"],
    &["tokenizer/vocab.json"],
    &["tokenizer/merges.txt"],
    &["tokenizer/tokenizer_config.json"],
    &["tokenizer/special_tokens_map.json"],
    &["tokenizer_2/vocab.json"],
    &["tokenizer_2/merges.txt"],
    &["tokenizer_2/tokenizer_config.json"],
    &["tokenizer_2/special_tokens_map.json"],
    &["text_encoder/config.json"],
    &[
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
    ],
    &["text_encoder_2/config.json"],
    &[
        "text_encoder_2/model.fp16.safetensors",
        "text_encoder_2/model.safetensors",
    ],
    &["unet/config.json"],
    &[
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ],
    &["vae/config.json"],
    &[
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_valid_and_its_parts_are_pulled() {
        for recipe in Recipe::all() {
            let manifest = recipe.manifest().unwrap();
            let text = toml::to_string(&manifest).unwrap();
            assert_eq!(Manifest::parse(&text).unwrap(), manifest);
            let there = |at: &str| {
                recipe
                    .sources
                    .iter()
                    .any(|source| source.to == format!("{at}/"))
            };
            for part in [
                "sdxl",
                "realvis",
                "hyperlora",
                "clip-vit-large-patch14",
                "antelopev2",
            ] {
                assert!(there(part), "{part}");
            }
            assert!(recipe.licences().any(|licence| licence.non_commercial));
        }
    }
}
