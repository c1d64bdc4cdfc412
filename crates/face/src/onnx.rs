//! The three ONNX files: reading them, checking that each is what its role needs, running them.

use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::knobs::KnobScope;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::Factoid;

use crate::error::FaceError;

/// What a model file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRole {
    /// Finds faces.
    Detector,
    /// Places 106 landmarks in a face.
    Landmarks,
    /// Turns an aligned face into an embedding.
    Recognizer,
}

impl ModelRole {
    /// What a file of this role has to look like.
    pub fn contract(self) -> &'static str {
        match self {
            Self::Detector => {
                "an SCRFD detector with key points, such as scrfd_10g_bnkps.onnx: one f32 input [1,3,S,S] (S free, or \
                 fixed to a multiple of 32) and nine f32 outputs, scores [n,1], boxes [n,4] and key points [n,10] for \
                 each of the strides 8, 16 and 32, where n is 2 (S / stride)²"
            }
            Self::Landmarks => {
                "a model of 106 landmarks, such as 2d106det.onnx: one f32 input [1,3,192,192] and one f32 output [1,212]"
            }
            Self::Recognizer => {
                "an ArcFace recogniser, such as glintr100.onnx: one f32 input [1,3,112,112] and one f32 output [1,512]"
            }
        }
    }
}

impl Display for ModelRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detector => "face detector",
            Self::Landmarks => "landmark model",
            Self::Recognizer => "face recogniser",
        })
    }
}

/// A batch of one picture, as its model wants it: [1, 3, side, side].
pub(crate) fn input_shape(side: u32) -> [usize; 4] {
    [1, 3, side as usize, side as usize]
}

/// A model file that was read, with an input that fits its role.
pub(crate) struct OnnxFile {
    path: PathBuf,
    role: ModelRole,
    model: InferenceModel,
    /// Side of the square input, where the file fixes it.
    pub side: Option<u32>,
}

impl OnnxFile {
    /// Reads a model with one square RGB input. `side` is the side that its role fixes.
    ///
    /// # Errors
    /// [`FaceError::Load`] if it cannot be read or holds a weight that is no finite number, [`FaceError::Contract`] if its
    /// inputs or its number of outputs are another model's.
    pub fn open(path: &Path, role: ModelRole, side: Option<u32>) -> Result<Self, FaceError> {
        guarded(path, role, || {
            let model = read(path, role)?;
            let wrong = |found| contract(path, role, found);
            let outputs = if role == ModelRole::Detector { 9 } else { 1 };
            if (model.inputs.len(), model.outputs.len()) != (1, outputs) {
                let (inputs, outputs) = (model.inputs.len(), model.outputs.len());
                return Err(wrong(format!("inputs: {inputs}, outputs: {outputs}")));
            }
            let side = input_side(&model, side).map_err(wrong)?;
            let path = path.to_owned();
            Ok(Self {
                path,
                role,
                model,
                side,
            })
        })
    }

    /// Makes the model ready for pictures of `side` × `side` pixels.
    ///
    /// # Errors
    /// [`FaceError::Load`] if the model contradicts itself, [`FaceError::Contract`] if its outputs are not f32 numbers
    /// whose shapes follow from the input's.
    pub fn network(&self, side: u32) -> Result<Network, FaceError> {
        let failed = |e: TractError| load_error(&self.path, self.role, &format!("{e:#}"));
        guarded(&self.path, self.role, || {
            let mut model = self.model.clone();
            let input = InferenceFact::dt_shape(f32::datum_type(), input_shape(side));
            model.set_input_fact(0, input).map_err(failed)?;
            let model = as_products()
                .and_then(|knobs| knobs.enter(|| model.into_optimized()))
                .map_err(failed)?;
            let outputs = output_shapes(&model).map_err(|found| self.contract(found))?;
            Ok(Network {
                role: self.role,
                input: input_shape(side),
                outputs,
                plan: model.into_runnable().map_err(failed)?,
            })
        })
    }

    /// The error that says what was found instead of what the role needs.
    pub fn contract(&self, found: String) -> FaceError {
        contract(&self.path, self.role, found)
    }
}

fn contract(path: &Path, role: ModelRole, found: String) -> FaceError {
    FaceError::Contract {
        path: path.to_owned(),
        role,
        found,
    }
}

fn load_error(path: &Path, role: ModelRole, reason: &str) -> FaceError {
    FaceError::Load {
        path: path.to_owned(),
        role,
        reason: reason.to_owned(),
    }
}

/// The ONNX reader and optimiser index into what a file declares; a damaged file must not end the process.
fn guarded<T>(
    path: &Path,
    role: ModelRole,
    work: impl FnOnce() -> Result<T, FaceError>,
) -> Result<T, FaceError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(load_error(path, role, "the model contradicts itself")))
}

fn read(path: &Path, role: ModelRole) -> Result<InferenceModel, FaceError> {
    let failed = |reason: &str| load_error(path, role, reason);
    let length = std::fs::metadata(path).map_err(|e| failed(&e.to_string()))?;
    if length.len() == 0 {
        return Err(failed("the file is empty"));
    }
    // Detectors are exported at one size and declare its shapes, although they take any size.
    let reader = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true);
    let model = reader
        .model_for_path(path)
        .map_err(|e| failed(&format!("{e:#}")))?;
    match bad_weight(&model) {
        Some(name) => Err(failed(&format!(
            "the weights \"{name}\" hold NaN or infinity"
        ))),
        None => Ok(model),
    }
}

/// The name of a constant that holds something else than numbers.
fn bad_weight(model: &InferenceModel) -> Option<&str> {
    let is_bad = |tensor: &Tensor| {
        let view = tensor.to_plain_array_view::<f32>();
        view.is_ok_and(|v| v.iter().any(|x| !x.is_finite()))
    };
    let node = model.nodes().iter().find(|node| {
        node.op_as::<Const>()
            .is_some_and(|constant| is_bad(constant.val()))
    });
    node.map(|node| node.name.as_str())
}

/// The side of the square input, if the file fixes it; or what was found instead of [1,3,side,side].
fn input_side(model: &InferenceModel, wanted: Option<u32>) -> Result<Option<u32>, String> {
    let fact = model.input_fact(0).map_err(|e| e.to_string())?;
    let found = || format!("an input {}", fact.format_dt_shape());
    // A dimension that is free or named in the file takes the size that it is given.
    let dims: Vec<Option<i64>> = fact
        .shape
        .dims()
        .map(|d| d.concretize().and_then(|d| d.to_i64().ok()))
        .collect();
    let f32s = fact
        .datum_type
        .concretize()
        .is_none_or(|dt| dt == f32::datum_type());
    let &[batch, channels, height, width] = dims.as_slice() else {
        return Err(found());
    };
    let fits = |dim: Option<i64>, size: i64| dim.is_none_or(|d| d == size);
    let side = wanted
        .map(i64::from)
        .or(height)
        .or(width)
        .map(|side| u32::try_from(side).map_err(|_| found()))
        .transpose()?;
    let square = side.is_none_or(|s| fits(height, i64::from(s)) && fits(width, i64::from(s)));
    if f32s && fits(batch, 1) && fits(channels, 3) && square {
        Ok(side)
    } else {
        Err(found())
    }
}

fn output_shapes(model: &TypedModel) -> Result<Vec<Vec<usize>>, String> {
    let shape = |i: usize| {
        let fact = model.output_fact(i).map_err(|e| e.to_string())?;
        let found = || format!("an output {:?} of {:?}", fact.shape, fact.datum_type);
        let shape = fact.shape.as_concrete().ok_or_else(found)?;
        if fact.datum_type == f32::datum_type() {
            Ok(shape.to_vec())
        } else {
            Err(found())
        }
    };
    (0..model.outputs.len()).map(shape).collect()
}

/// Wide convolutions as matrix products: tract would filter them row by row, at three quarters of that rate with SCRFD.
fn as_products() -> TractResult<KnobScope> {
    KnobScope::new([("TRACT_DISABLE_DIRECT_SPATIAL", "true")])
}

/// A model that is ready to run at one size. It may be shared between threads.
pub(crate) struct Network {
    role: ModelRole,
    input: [usize; 4],
    /// The outputs' shapes, in the file's order.
    pub outputs: Vec<Vec<usize>>,
    plan: Arc<TypedRunnableModel>,
}

impl Network {
    /// All outputs for one picture, [3, side, side] row by row.
    ///
    /// # Errors
    /// [`FaceError::Run`] if the model fails or gives anything but numbers.
    pub fn run(&self, pixels: &[f32]) -> Result<Vec<Vec<f32>>, FaceError> {
        let failed = |reason: String| FaceError::Run {
            role: self.role,
            reason,
        };
        let outputs = catch_unwind(AssertUnwindSafe(|| self.outputs_for(pixels)))
            .map_err(|_| failed("it contradicts itself".to_owned()))?
            .map_err(|e| failed(format!("{e:#}")))?;
        if outputs.iter().flatten().all(|v| v.is_finite()) {
            Ok(outputs)
        } else {
            Err(failed(
                "it gave NaN or infinity; check that the file is undamaged".to_owned(),
            ))
        }
    }

    fn outputs_for(&self, pixels: &[f32]) -> TractResult<Vec<Vec<f32>>> {
        let input = Tensor::from_shape(&self.input, pixels)?;
        // On rayon's pool, which the other models run on, too; by itself tract stays on one thread.
        let run = || self.plan.run(tvec!(input.into()));
        let outputs = multithread_tract_scope(Executor::RayonGlobal, run)?;
        outputs
            .iter()
            .map(|o| Ok(o.to_plain_array_view::<f32>()?.iter().copied().collect()))
            .collect()
    }

    /// The error of a run that gave numbers which mean nothing.
    pub fn meaningless(&self, reason: &str) -> FaceError {
        FaceError::Run {
            role: self.role,
            reason: reason.to_owned(),
        }
    }
}

/// [3, side, side] row by row, RGB, each level through `value`.
pub(crate) fn planar(image: &image::RgbImage, value: impl Fn(f32) -> f32) -> Vec<f32> {
    let levels: Vec<f32> = (0..=255u8).map(|l| value(f32::from(l))).collect();
    (0..3)
        .flat_map(|c| image.pixels().map(move |p| p.0[c]))
        .map(|level| levels[usize::from(level)])
        .collect()
}
