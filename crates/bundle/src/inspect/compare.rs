//! The tensors that are there against those that should be.

use std::collections::BTreeMap;

use super::header::TensorHeader;
use super::{PartReport, Problem};

/// Tensor names and the shapes they should have.
pub(super) type Expected = BTreeMap<String, Vec<usize>>;

/// The number types that every loader reads.
const FLOATS: [&str; 3] = ["F32", "F16", "BF16"];
const FLOATS_IN_WORDS: &str = "F32, F16 or BF16";

/// Tensors by name, and the file that holds each.
pub(super) struct Found<'a> {
    pub tensors: BTreeMap<&'a str, (&'a str, &'a TensorHeader)>,
    /// The file in whose name tensors are missing.
    pub file: &'a str,
}

impl<'a> Found<'a> {
    /// The tensors of one file.
    pub fn one(file: &'a str, tensors: &'a BTreeMap<String, TensorHeader>) -> Self {
        let tensors = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), (file, tensor)))
            .collect();
        Self { tensors, file }
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Notes every missing, misshapen and superfluous tensor, and every number type that is not read. Names
/// for which `ignored` holds may also be there, in any type.
pub(super) fn compare(
    report: &mut PartReport,
    found: &Found<'_>,
    expected: &Expected,
    ignored: impl Fn(&str) -> bool,
) {
    for (name, shape) in expected {
        let problem = match found.tensors.get(name.as_str()) {
            Some((file, tensor)) => misfit(file, name, tensor, shape),
            None => Some(Problem::MissingTensor {
                file: found.file.to_owned(),
                tensor: name.clone(),
                expected: Some(shape.clone()),
            }),
        };
        report.problems.extend(problem);
    }
    let extra = found
        .tensors
        .iter()
        .filter(|(name, _)| !expected.contains_key(**name) && !ignored(name));
    report
        .problems
        .extend(extra.map(|(name, (file, tensor))| Problem::ExtraTensor {
            file: (*file).to_owned(),
            tensor: (*name).to_owned(),
            found: tensor.shape.clone(),
        }));
}

fn misfit(file: &str, name: &str, tensor: &TensorHeader, shape: &[usize]) -> Option<Problem> {
    let (file, name) = (file.to_owned(), name.to_owned());
    if tensor.shape != shape {
        return Some(Problem::WrongShape {
            file,
            tensor: name,
            expected: shape.to_vec(),
            found: tensor.shape.clone(),
        });
    }
    (!FLOATS.contains(&tensor.dtype.as_str())).then(|| Problem::WrongDtype {
        file,
        tensor: name,
        expected: FLOATS_IN_WORDS,
        found: tensor.dtype.clone(),
    })
}
