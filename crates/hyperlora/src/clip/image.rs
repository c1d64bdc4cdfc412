//! CLIP's embeddings of pictures, which are compared with each other and with a text's.

use std::path::Path;

use candle_core::{D, Device, Tensor};

use super::{ClipVision, Layer, Opened};
use crate::error::Error;
use crate::ops::{LayerNorm, Linear};

/// The projection's name, in a whole CLIPModel and in a vision model with projection.
const PROJECTION: &str = "visual_projection.weight";

/// CLIP's whole vision tower with its projection, if the file has one.
pub struct ClipImage {
    tower: ClipVision,
    last: Layer,
    norm: LayerNorm,
    projection: Option<Linear>,
}

impl ClipImage {
    /// Loads what [`ClipVision::load`] loads, the last layer, and the projection if there is one.
    ///
    /// # Errors
    /// As [`ClipVision::load`].
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let opened = Opened::open(dir)?;
        let Opened {
            config,
            activation,
            file,
            prefix,
        } = &opened;
        let last = format!("{prefix}encoder.layers.{}", config.num_hidden_layers - 1);
        let norm = format!("{prefix}post_layernorm");
        let projection = file.has(PROJECTION).then(|| {
            let [rows, width] = file.shape(PROJECTION)?;
            if width != config.hidden_size {
                let hidden = config.hidden_size;
                let problem = format!(
                    "{PROJECTION} is [{rows}, {width}], expected {hidden} columns: the tower's width"
                );
                return Err(file.content(problem));
            }
            Ok(Linear::from_rows(file.tensor(PROJECTION, device)?))
        });
        Ok(Self {
            last: Layer::load(file, &last, config, *activation, device)?,
            norm: LayerNorm::load(file, &norm, config.layer_norm_eps, device)?,
            projection: projection.transpose()?,
            tower: opened.tower(device)?,
        })
    }

    /// The tower without its last layer, which is what enrolment looks through.
    pub fn tower(&self) -> &ClipVision {
        &self.tower
    }

    /// Whether embeddings lie in the space that they share with the text's.
    pub fn projects(&self) -> bool {
        self.projection.is_some()
    }

    /// Normalised pictures `[n, 3, size, size]` to embeddings `[n, width]` of unit length: of the class token after the last
    /// layer and the final LayerNorm, projected where there is a projection.
    ///
    /// # Errors
    /// If the pictures are not of this shape.
    pub fn embeddings(&self, pixel_values: &Tensor) -> Result<Tensor, Error> {
        let states = self.tower.hidden_states(pixel_values)?;
        let each = (0..states.dim(0)?).map(|picture| {
            // The layer writes over its input, which nothing else may refer to.
            let states = self.last.forward(states.get(picture)?.copy()?)?;
            let class = self.norm.forward(&states.narrow(0, 0, 1)?.contiguous()?)?;
            match &self.projection {
                Some(projection) => Ok(projection.forward(&class)?),
                None => Ok(class),
            }
        });
        let all = Tensor::cat(&each.collect::<Result<Vec<_>, Error>>()?, 0)?;
        let lengths = all.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok(all.broadcast_div(&lengths)?)
    }
}
