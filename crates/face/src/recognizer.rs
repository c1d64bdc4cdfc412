//! Running an ArcFace recogniser from its ONNX file.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use crate::arcface::ARCFACE_SIDE;
use crate::error::FaceError;

/// Numbers in an embedding.
const EMBEDDING: usize = 512;
const INPUT_SHAPE: [usize; 4] = [1, 3, ARCFACE_SIDE as usize, ARCFACE_SIDE as usize];
const CONTRACT: &str = "one input [1,3,112,112] and one output [1,512], both f32";

/// A face recogniser: an aligned face in, an embedding out. It may be shared between threads.
pub struct Recognizer {
    plan: Arc<TypedRunnableModel>,
}

impl std::fmt::Debug for Recognizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recognizer")
    }
}

impl Recognizer {
    /// Loads an ONNX file such as `glintr100.onnx`: input [1,3,112,112], output [1,512] (the 1 may be free).
    ///
    /// # Errors
    /// [`FaceError::Load`] if it cannot be read, [`FaceError::Contract`] if it is another model.
    pub fn load(path: &Path) -> Result<Self, FaceError> {
        let failed = |reason: String| FaceError::Load {
            path: path.to_owned(),
            reason,
        };
        // The ONNX reader indexes into what a file declares; a damaged file must not end the process.
        let plan = catch_unwind(AssertUnwindSafe(|| load_plan(path)));
        plan.map_err(|_| failed("the model contradicts itself".to_owned()))?
    }

    /// The embedding of an aligned face, divided by its length.
    ///
    /// # Errors
    /// [`FaceError::AlignedSize`] unless the face has 112 × 112 pixels; [`FaceError::Run`] if the model fails or gives
    /// numbers without a length.
    pub fn embed(&self, aligned: &RgbImage) -> Result<[f32; EMBEDDING], FaceError> {
        if aligned.dimensions() != (ARCFACE_SIDE, ARCFACE_SIDE) {
            let (width, height) = aligned.dimensions();
            return Err(FaceError::AlignedSize { width, height });
        }
        let failed = |e: &dyn Display| FaceError::Run(e.to_string());
        let input = Tensor::from_shape(&INPUT_SHAPE, &normalised(aligned));
        let input = input.map_err(|e| failed(&e))?;
        let outputs = self.plan.run(tvec!(input.into())).map_err(|e| failed(&e))?;
        let output = outputs[0]
            .to_plain_array_view::<f32>()
            .map_err(|e| failed(&e))?;
        unit_length(output.iter().copied())
    }
}

fn load_plan(path: &Path) -> Result<Recognizer, FaceError> {
    let failed = |e: TractError| FaceError::Load {
        path: path.to_owned(),
        reason: format!("{e:#}"),
    };
    let wrong = |found: String| FaceError::Contract {
        path: path.to_owned(),
        expected: CONTRACT,
        found,
    };
    let mut model = tract_onnx::onnx().model_for_path(path).map_err(failed)?;
    check_input(&model).map_err(wrong)?;
    let input = InferenceFact::dt_shape(f32::datum_type(), INPUT_SHAPE);
    model.set_input_fact(0, input).map_err(failed)?;
    let model = model.into_optimized().map_err(failed)?;
    check_output(&model).map_err(wrong)?;
    Ok(Recognizer {
        plan: model.into_runnable().map_err(failed)?,
    })
}

/// Says what was found instead, if the model's ends are not those of a recogniser.
fn check_input(model: &InferenceModel) -> Result<(), String> {
    let (inputs, outputs) = (model.inputs.len(), model.outputs.len());
    if (inputs, outputs) != (1, 1) {
        return Err(format!("{inputs} inputs and {outputs} outputs"));
    }
    let fact = model.input_fact(0).map_err(|e| e.to_string())?;
    let dims: Vec<_> = fact.shape.dims().map(Factoid::concretize).collect();
    // A dimension that is free or named in the file takes the size that it is given.
    let fits = |(dim, size): (&Option<TDim>, usize)| {
        dim.as_ref()
            .and_then(|d| d.to_i64().ok())
            .is_none_or(|d| d == size as i64)
    };
    let shape = dims.len() == INPUT_SHAPE.len() && dims.iter().zip(INPUT_SHAPE).all(fits);
    let dtype = fact
        .datum_type
        .concretize()
        .is_none_or(|dt| dt == f32::datum_type());
    if shape && dtype {
        Ok(())
    } else {
        Err(format!("an input {}", fact.format_dt_shape()))
    }
}

fn check_output(model: &TypedModel) -> Result<(), String> {
    let fact = model.output_fact(0).map_err(|e| e.to_string())?;
    let shape = fact.shape.as_concrete() == Some(&[1, EMBEDDING]);
    let found = || format!("an output {:?} of {:?}", fact.shape, fact.datum_type);
    if shape && fact.datum_type == f32::datum_type() {
        Ok(())
    } else {
        Err(found())
    }
}

/// [3, 112, 112] row by row, RGB, −1 to 1.
fn normalised(aligned: &RgbImage) -> Vec<f32> {
    let channel = |c: usize| {
        aligned
            .pixels()
            .map(move |p| (f32::from(p.0[c]) - 127.5) / 127.5)
    };
    (0..3).flat_map(channel).collect()
}

fn unit_length(values: impl Iterator<Item = f32> + Clone) -> Result<[f32; EMBEDDING], FaceError> {
    let norm = values.clone().map(|v| v * v).sum::<f32>().sqrt();
    if !norm.is_normal() {
        return Err(FaceError::Run("its embedding has no length".to_owned()));
    }
    let mut embedding = [0.0; EMBEDDING];
    embedding
        .iter_mut()
        .zip(values)
        .for_each(|(e, v)| *e = v / norm);
    Ok(embedding)
}
