//! Face models: ONNX files with the inputs and outputs that the pipeline relies on.

use std::path::Path;

use super::onnx::{self, Onnx};
use super::report::bad_file;
use super::{FileReport, PartReport, Problem};
use crate::manifest::Face;

/// What a face model has to look like from outside. A size of `None` may be any.
struct Contract {
    input: [Option<i64>; 4],
    outputs: usize,
    /// The last size of the first output.
    width: Option<i64>,
    words: &'static str,
}

/// SCRFD with key points: scores, boxes and points at three strides.
const DETECTOR: Contract = Contract {
    input: [None, Some(3), None, None],
    outputs: 9,
    width: None,
    words: "an SCRFD detector with key points: one input [1, 3, h, w], nine outputs",
};
const LANDMARKS: Contract = Contract {
    input: [None, Some(3), Some(192), Some(192)],
    outputs: 1,
    width: Some(212),
    words: "106 landmarks: one input [1, 3, 192, 192], one output [1, 212]",
};
const RECOGNIZER: Contract = Contract {
    input: [None, Some(3), Some(112), Some(112)],
    outputs: 1,
    width: Some(512),
    words: "an ArcFace recogniser: one input [1, 3, 112, 112], one output [1, 512]",
};

/// Describes the face models and lists what does not fit.
pub(super) fn inspect(dir: &Path, face: &Face) -> PartReport {
    let format = if face.builtin.is_some() {
        "built-in detector and ONNX"
    } else {
        "ONNX"
    };
    let mut report = PartReport::new("face", format);
    let models = [
        (&face.detector, &DETECTOR),
        (&face.landmarks, &LANDMARKS),
        (&face.recognizer, &RECOGNIZER),
    ];
    for (path, contract) in models {
        if let Some(path) = path {
            model(&mut report, dir, path.as_str(), contract);
        }
    }
    report
}

fn model(report: &mut PartReport, dir: &Path, path: &str, contract: &Contract) {
    if !report.has(dir, path) {
        return;
    }
    match onnx::read(&dir.join(path)) {
        Err(error) => report.problems.push(bad_file(path, error)),
        Ok(onnx) => {
            if !contract.fits(&onnx) {
                report.problems.push(Problem::WrongModel {
                    path: path.to_owned(),
                    expected: contract.words.to_owned(),
                    found: onnx.to_string(),
                });
            }
            report.files.push(FileReport::of(path, &onnx.weights));
        }
    }
}

impl Contract {
    fn fits(&self, onnx: &Onnx) -> bool {
        let [input] = onnx.inputs.as_slice() else {
            return false;
        };
        let agrees = |(wanted, found): (&Option<i64>, &Option<i64>)| {
            wanted.is_none() || found.is_none() || wanted == found
        };
        let input = input.len() == self.input.len() && self.input.iter().zip(input).all(agrees);
        // An output whose shape the file leaves out is not held against it.
        let last = onnx.outputs.first().and_then(|output| output.last());
        let output = last.is_none_or(|last| agrees((&self.width, last)));
        input && output && onnx.outputs.len() == self.outputs
    }
}
