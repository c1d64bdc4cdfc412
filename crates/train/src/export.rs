//! The trained face models as ONNX files, with antelopev2's inputs and outputs.

pub(crate) mod bundle;
pub(crate) mod over;

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use likeness_onnx::format::{int, ints};
use likeness_onnx::{Graph, Window};
use likeness_sdxl::parts::ConvShape;

use crate::layer::HALVING;
use crate::{Error, detector, landmarker, recognizer};

/// Trained tensors by the ONNX file's names.
pub type Trained = BTreeMap<String, Tensor>;

/// The tensors of the model below a prefix, such as `face`.
pub fn below(variables: &BTreeMap<String, Var>, prefix: &str) -> Trained {
    let own = variables.iter().filter_map(|(name, var)| {
        let name = name.strip_prefix(prefix)?.strip_prefix('.')?;
        Some((name.to_owned(), var.as_tensor().clone()))
    });
    own.collect()
}

/// The face embedder: `input.1` [1, 3, 112, 112] → `embedding` [1, 512].
///
/// # Errors
/// A tensor that is missing or cannot be read.
pub fn recognizer(trained: &Trained) -> Result<Vec<u8>, Error> {
    let mut file = Writer::of(trained);
    let layers = recognizer::CHANNELS.len() - 1;
    let input = file.layers("input.1", 0..layers, |_| HALVING)?;
    file.graph
        .layer("Flatten", &[&input], "flat", vec![int("axis", 1)]);
    file.linear("flat", "fc", "embedding")?;
    let side = recognizer::SIDE as i64;
    let (input, output) = ([1, 3, side, side], [1, recognizer::EMBEDDING as i64]);
    Ok(file.graph.file(
        "likeness-recognizer",
        ("input.1", &input),
        &[("embedding", &output)],
    ))
}

/// The landmark model: `data` [1, 3, 192, 192] → `fc1` [1, 212].
///
/// # Errors
/// A tensor that is missing or cannot be read.
pub fn landmarks(trained: &Trained) -> Result<Vec<u8>, Error> {
    let mut file = Writer::of(trained);
    file.graph.weight("middle", &[], &[127.5]);
    file.graph.weight("range", &[], &[128.0]);
    file.graph
        .layer("Sub", &["data", "middle"], "even", Vec::new());
    file.graph
        .layer("Div", &["even", "range"], "input", Vec::new());
    let layers = landmarker::CHANNELS.len() - 1;
    let shape = |n| if n == 0 { landmarker::FIRST } else { HALVING };
    let input = file.layers("input", 0..layers, shape)?;
    file.graph
        .layer("Flatten", &[&input], "flat", vec![int("axis", 1)]);
    file.linear("flat", "hidden", "hidden")?;
    file.weight("bent.slope", &[])?;
    file.graph.prelu("hidden", "bent");
    file.linear("bent", "fc", "fc1")?;
    let side = landmarker::SIDE as i64;
    let (input, output) = ([1, 3, side, side], [1, landmarker::NUMBERS as i64]);
    Ok(file
        .graph
        .file("likeness-landmarks", ("data", &input), &[("fc1", &output)]))
}

/// The face detector: `input.1` [1, 3, 128, 128] → `score_8` [n, 1], `score_16`, `score_32`, `bbox_8` [n, 4], …, `kps_8` [n, 10], ….
///
/// # Errors
/// A tensor that is missing or cannot be read.
pub fn detector(trained: &Trained) -> Result<Vec<u8>, Error> {
    let mut file = Writer::of(trained);
    let shape = |n: usize| {
        let halves = detector::LAYERS[n].2;
        if halves { HALVING } else { ConvShape::SAME }
    };
    file.layers("input.1", 0..detector::LAYERS.len(), shape)?;
    let mut outputs = Vec::new();
    for (head, numbers) in detector::HEADS {
        for (stride, layer) in detector::STRIDES.into_iter().zip(detector::READ) {
            let output = format!("{head}_{stride}");
            file.head((head, stride), &format!("prelu{layer}"), numbers, &output)?;
            let anchors = detector::ANCHORS * (detector::SIDE / stride).pow(2);
            outputs.push((output, [anchors as i64, numbers as i64]));
        }
    }
    let outputs: Vec<(&str, &[i64])> = outputs
        .iter()
        .map(|(name, shape)| (name.as_str(), shape.as_slice()))
        .collect();
    let side = detector::SIDE as i64;
    let input = [1, 3, side, side];
    Ok(file
        .graph
        .file("likeness-detector", ("input.1", &input), &outputs))
}

/// A graph, and the tensors that its layers find by their names.
struct Writer<'a> {
    graph: Graph,
    trained: &'a Trained,
}

impl<'a> Writer<'a> {
    fn of(trained: &'a Trained) -> Writer<'a> {
        Writer {
            graph: Graph::default(),
            trained,
        }
    }

    /// Puts a tensor into the file, with `more` dimensions of 1 behind its own. Matrices and kernels are kept in f16.
    fn weight(&mut self, name: &str, more: &[usize]) -> Result<(), Error> {
        let missing = || Error::NotTrained {
            name: name.to_owned(),
        };
        let tensor = self.trained.get(name).ok_or_else(missing)?;
        let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
        let shape = [tensor.dims(), more].concat();
        if tensor.rank() > 1 {
            self.graph.half_weight(name, &shape, &numbers);
        } else {
            self.graph.weight(name, &shape, &numbers);
        }
        Ok(())
    }

    fn conv(&mut self, input: &str, name: &str, shape: ConvShape) -> Result<(), Error> {
        self.weight(&format!("{name}.weight"), &[])?;
        self.weight(&format!("{name}.bias"), &[])?;
        let window = Window {
            kernel: shape.kernel as i64,
            stride: shape.stride as i64,
            padding: shape.padding as i64,
        };
        self.graph.conv(input, name, window);
        Ok(())
    }

    fn linear(&mut self, input: &str, name: &str, output: &str) -> Result<(), Error> {
        self.weight(&format!("{name}.weight"), &[])?;
        self.weight(&format!("{name}.bias"), &[])?;
        self.graph.linear(input, name, output);
        Ok(())
    }

    /// Convolutions with their PReLUs; what the last one gives comes back by name.
    fn layers(
        &mut self,
        input: &str,
        numbers: std::ops::Range<usize>,
        shape: impl Fn(usize) -> ConvShape,
    ) -> Result<String, Error> {
        let mut input = input.to_owned();
        for number in numbers {
            let (conv, prelu) = (format!("conv{number}"), format!("prelu{number}"));
            self.conv(&input, &conv, shape(number))?;
            self.weight(&format!("{prelu}.slope"), &[1, 1])?;
            self.graph.prelu(&conv, &prelu);
            input = prelu;
        }
        Ok(input)
    }

    /// One output of one of the detector's grids, an anchor a row.
    fn head(
        &mut self,
        (head, stride): (&str, usize),
        input: &str,
        numbers: usize,
        output: &str,
    ) -> Result<(), Error> {
        let name = format!("{head}{stride}");
        self.conv(input, &name, ConvShape::SAME)?;
        let (last, rows) = (format!("{name}.last"), format!("{name}.rows"));
        let order = vec![ints("perm", &[0, 2, 3, 1])];
        self.graph.layer("Transpose", &[&name], &last, order);
        let sizes = format!("{name}.sizes");
        self.graph.sizes(&sizes, &[-1, numbers as i64]);
        if head != "score" {
            self.graph
                .layer("Reshape", &[&last, &sizes], output, Vec::new());
            return Ok(());
        }
        self.graph
            .layer("Reshape", &[&last, &sizes], &rows, Vec::new());
        self.graph.layer("Sigmoid", &[&rows], output, Vec::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
