//! CLIP's two towers: pictures and prompts in one space, as far as a bundle has them.

use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use likeness_bundle::{Bundle, SdxlModel};
use likeness_face::pixel_values;
use likeness_hyperlora::ClipImage;
use likeness_sdxl::parts::{ClipSkip, TextConfig, TextEncoder, Tokenizer, Weights};
use serde_json::{Value, json};

use crate::Error;

/// Both towers.
pub struct Clip {
    pub image: ClipImage,
    text: Result<Text, String>,
}

struct Text {
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    last: ClipSkip,
    window: usize,
}

impl Clip {
    /// The image tower, and the text tower if the folder holds a whole CLIPModel.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Clip, Error> {
        let folder = bundle.clip_vision()?;
        let image = ClipImage::load(&folder, device)?;
        let text = match text_config(&folder)? {
            Some(_) if !image.projects() => {
                Err("CLIP has no visual projection into the space of texts".to_owned())
            }
            Some(config) => match tokenizer_folder(bundle)? {
                Some(tokenizer) => Ok(Text::load(&folder, config, &tokenizer, device)?),
                None => Err("the bundle has no folder with CLIP's tokenizer".to_owned()),
            },
            None => Err("the bundle's CLIP has no text tower".to_owned()),
        };
        Ok(Clip { image, text })
    }

    /// Why there are no embeddings of texts, if there are none.
    pub fn no_text(&self) -> Option<&str> {
        self.text.as_ref().err().map(String::as_str)
    }

    /// The unit embedding of a prompt, if there is a text tower.
    pub fn text(&self, prompt: &str) -> Result<Option<Vec<f32>>, Error> {
        self.text
            .as_ref()
            .ok()
            .map(|text| text.embed(prompt))
            .transpose()
    }

    /// The side of the pictures that it looks at.
    pub fn side(&self) -> u32 {
        self.image.tower().image_size() as u32
    }

    /// The unit embedding of a square crop that CLIP is to see.
    pub fn crop(&self, crop: &RgbImage) -> Result<Vec<f32>, Error> {
        let embedding = self.image.embeddings(&pixels(crop)?)?;
        Ok(embedding.flatten_all()?.to_vec1()?)
    }

    /// The unit embedding of a whole picture, as CLIP's own preprocessing has it: the shorter side to size, then the centre.
    pub fn whole(&self, picture: &RgbImage) -> Result<Vec<f32>, Error> {
        let side = self.side();
        let (w, h) = picture.dimensions();
        let scaled = |own: u32| (own * side / w.min(h).max(1)).max(side);
        let sized = resize(picture, scaled(w), scaled(h), FilterType::CatmullRom);
        let (left, top) = ((sized.width() - side) / 2, (sized.height() - side) / 2);
        self.crop(&image::imageops::crop_imm(&sized, left, top, side, side).to_image())
    }
}

/// A picture as `pixel_values` [1, 3, h, w].
pub fn pixels(picture: &RgbImage) -> Result<Tensor, Error> {
    let shape = (1, 3, picture.height() as usize, picture.width() as usize);
    Ok(Tensor::from_vec(
        pixel_values(picture),
        shape,
        &Device::Cpu,
    )?)
}

impl Text {
    fn load(
        folder: &Path,
        config: Value,
        tokenizer: &Path,
        device: &Device,
    ) -> Result<Text, Error> {
        let config = TextConfig::parse(config, &folder.join("config.json"))?;
        let weights = Weights::open(folder, "model", device, DType::F32)?;
        let encoder = TextEncoder::load(&weights, &config, true)?;
        let last = ClipSkip::new(1, encoder.layer_count());
        Ok(Text {
            last: last.ok_or_else(|| Error::Unfit("CLIP's text tower has no layers".to_owned()))?,
            encoder,
            tokenizer: Tokenizer::load(tokenizer)?,
            window: config.max_position_embeddings,
        })
    }

    /// What does not fit into one window is left out.
    fn embed(&self, prompt: &str) -> Result<Vec<f32>, Error> {
        let ids = self.tokenizer.ids("prompt", prompt)?;
        let mut windows = self.tokenizer.windows(&ids, self.window);
        windows.truncate(1);
        let states = self.encoder.forward(&windows, self.last)?;
        let pooled = states.pooled.unwrap_or(states.states.mean(D::Minus2)?);
        let numbers: Vec<f32> = pooled.flatten_all()?.to_vec1()?;
        Ok(unit(numbers))
    }
}

/// What a whole CLIP's configuration says of the text tower; what it leaves out is transformers' default.
fn text_config(folder: &Path) -> Result<Option<Value>, Error> {
    let path = folder.join("config.json");
    let wrong = |reason: String| Error::Read {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read(&path).map_err(|e| wrong(e.to_string()))?;
    let whole: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let Some(own) = whole.get("text_config").and_then(Value::as_object) else {
        return Ok(None);
    };
    let mut config = json!({
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "hidden_act": "quick_gelu",
    });
    for (key, value) in own {
        config[key] = value.clone();
    }
    // The whole model's width counts, not the tower's own.
    if let Some(width) = whole.get("projection_dim") {
        config["projection_dim"] = width.clone();
    }
    Ok(Some(config))
}

/// CLIP's tokenizer is the first text encoder's.
fn tokenizer_folder(bundle: &Bundle) -> Result<Option<PathBuf>, Error> {
    let folder = match bundle.sdxl(None)? {
        SdxlModel::Folder(folder) => Some(folder),
        SdxlModel::SingleFile { config, .. } => config,
    };
    let folder = folder.map(|folder| folder.join("tokenizer"));
    Ok(folder.filter(|folder| folder.is_dir()))
}

fn unit(numbers: Vec<f32>) -> Vec<f32> {
    let length = numbers.iter().map(|v| v * v).sum::<f32>().sqrt();
    numbers.into_iter().map(|v| v / length.max(1e-12)).collect()
}

/// The cosine of two unit vectors of one length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}
