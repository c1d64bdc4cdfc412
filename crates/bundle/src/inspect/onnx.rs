//! ONNX files from outside: inputs, outputs and the weights' shapes, without reading a weight.
//!
//! A protobuf file has no header: the walk goes from field to field and skips what it does not need, so
//! that a model of 250 MB costs a few thousand small reads.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use likeness_onnx::format::{Dimension, ValueInfo};
use prost::Message as _;

use super::header::{Header, TensorHeader};
use crate::error::Error;

/// Field numbers of `onnx.proto`.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const TENSOR_DIMS: u64 = 1;
const TENSOR_TYPE: u64 = 2;
const TENSOR_NAME: u64 = 8;

/// No input's description or weight's name is longer.
const LONGEST: u64 = 1 << 16;

/// The sizes of an input or output; `None` where the file leaves one open.
pub(super) type Sizes = Vec<Option<i64>>;

/// What an ONNX file shows from outside.
pub(super) struct Onnx {
    /// The inputs that have to be given.
    pub inputs: Vec<Sizes>,
    pub outputs: Vec<Sizes>,
    pub weights: Header,
}

/// Inputs and outputs as people read them.
impl fmt::Display for Onnx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: &[Sizes]| all.iter().map(shown).collect::<Vec<_>>().join(" ");
        write!(
            f,
            "inputs {}, outputs {}",
            list(&self.inputs),
            list(&self.outputs)
        )
    }
}

#[allow(clippy::ptr_arg, reason = "a list of these is mapped over")]
fn shown(sizes: &Sizes) -> String {
    let size = |size: &Option<i64>| size.map_or("?".to_owned(), |size| size.to_string());
    format!(
        "[{}]",
        sizes.iter().map(size).collect::<Vec<_>>().join(", ")
    )
}

/// Walks through a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::BadHeader`] for anything that is not a whole ONNX model.
pub(super) fn read(path: &Path) -> Result<Onnx, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let mut walk = Walk {
        file: BufReader::new(file),
        at: 0,
    };
    let graph = walk.model(bytes).map_err(|reason| Error::BadHeader {
        path: path.to_path_buf(),
        reason: format!("it is not a whole ONNX model: {reason}"),
    })?;
    Ok(graph.finish(bytes))
}

#[derive(Default)]
struct Graph {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    weights: Header,
}

impl Graph {
    /// Old files list their weights among the inputs.
    fn finish(mut self, bytes: u64) -> Onnx {
        let weights: BTreeSet<&String> = self.weights.tensors.keys().collect();
        let inputs = self
            .inputs
            .iter()
            .filter(|input| !weights.contains(&input.name));
        let inputs = inputs.map(sizes).collect();
        self.weights.bytes = bytes;
        Onnx {
            inputs,
            outputs: self.outputs.iter().map(sizes).collect(),
            weights: self.weights,
        }
    }
}

fn sizes(value: &ValueInfo) -> Sizes {
    let tensor = value
        .kind
        .as_ref()
        .and_then(|kind| kind.tensor_type.as_ref());
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    let size = |dim: &Dimension| dim.dim_value.filter(|size| *size > 0);
    shape.map_or_else(Vec::new, |shape| shape.dim.iter().map(size).collect())
}

/// A field of a message.
enum Field {
    /// A whole number.
    Number(u64),
    /// So many bytes, which come next.
    Bytes(u64),
    /// A number of fixed width, already skipped.
    Fixed,
}

type Walked<T> = Result<T, String>;

struct Walk {
    file: BufReader<File>,
    at: u64,
}

impl Walk {
    fn model(&mut self, end: u64) -> Walked<Graph> {
        let mut graph = None;
        while self.at < end {
            match self.field(end)? {
                (MODEL_GRAPH, Field::Bytes(length)) => graph = Some(self.graph(self.at + length)?),
                (_, Field::Bytes(length)) => self.skip(length)?,
                _ => {}
            }
        }
        graph.ok_or_else(|| "it has no graph".to_owned())
    }

    fn graph(&mut self, end: u64) -> Walked<Graph> {
        let mut graph = Graph::default();
        while self.at < end {
            match self.field(end)? {
                (GRAPH_INITIALIZER, Field::Bytes(length)) => {
                    let (name, tensor) = self.tensor(self.at + length)?;
                    graph.weights.tensors.insert(name, tensor);
                }
                (GRAPH_INPUT, Field::Bytes(length)) => graph.inputs.push(self.value(length)?),
                (GRAPH_OUTPUT, Field::Bytes(length)) => graph.outputs.push(self.value(length)?),
                (_, Field::Bytes(length)) => self.skip(length)?,
                _ => {}
            }
        }
        Ok(graph)
    }

    fn tensor(&mut self, end: u64) -> Walked<(String, TensorHeader)> {
        let (mut name, mut shape, mut kind) = (String::new(), Vec::new(), 0);
        while self.at < end {
            match self.field(end)? {
                (TENSOR_DIMS, Field::Number(size)) => shape.push(size as usize),
                (TENSOR_DIMS, Field::Bytes(length)) => {
                    let packed = self.at + length;
                    while self.at < packed {
                        shape.push(self.number(packed)? as usize);
                    }
                }
                (TENSOR_TYPE, Field::Number(found)) => kind = found,
                (TENSOR_NAME, Field::Bytes(length)) => {
                    name = String::from_utf8_lossy(&self.bytes(length)?).into_owned();
                }
                (_, Field::Bytes(length)) => self.skip(length)?,
                _ => {}
            }
        }
        let dtype = dtype(kind);
        Ok((name, TensorHeader { shape, dtype }))
    }

    fn value(&mut self, length: u64) -> Walked<ValueInfo> {
        let bytes = self.bytes(length)?;
        ValueInfo::decode(bytes.as_slice()).map_err(|error| error.to_string())
    }

    /// A field's number, and its content or the length of its content, all within `end`.
    fn field(&mut self, end: u64) -> Walked<(u64, Field)> {
        let key = self.number(end)?;
        let field = match key & 7 {
            0 => Field::Number(self.number(end)?),
            1 => self.fixed(8, end)?,
            2 => Field::Bytes(self.number(end)?),
            5 => self.fixed(4, end)?,
            other => return Err(format!("field type {other} at byte {}", self.at)),
        };
        match field {
            Field::Bytes(length) if length > end.saturating_sub(self.at) => {
                Err(format!("it is cut off at byte {}", self.at))
            }
            field => Ok((key >> 3, field)),
        }
    }

    fn fixed(&mut self, length: u64, end: u64) -> Walked<Field> {
        if length > end.saturating_sub(self.at) {
            return Err(format!("it is cut off at byte {}", self.at));
        }
        self.skip(length)?;
        Ok(Field::Fixed)
    }

    /// A number in protobuf's variable length.
    fn number(&mut self, end: u64) -> Walked<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                break;
            }
            let mut byte = [0];
            self.file
                .read_exact(&mut byte)
                .map_err(|error| error.to_string())?;
            self.at += 1;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(format!("a number does not end at byte {}", self.at))
    }

    fn bytes(&mut self, length: u64) -> Walked<Vec<u8>> {
        if length > LONGEST {
            return Err(format!("a name or description of {length} bytes"));
        }
        let mut bytes = vec![0; length as usize];
        self.file
            .read_exact(&mut bytes)
            .map_err(|error| error.to_string())?;
        self.at += length;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Walked<()> {
        let offset = i64::try_from(length).map_err(|error| error.to_string())?;
        self.file
            .seek_relative(offset)
            .map_err(|error| error.to_string())?;
        self.at += length;
        Ok(())
    }
}

/// `TensorProto.DataType` in safetensors' names.
fn dtype(kind: u64) -> String {
    match kind {
        1 => "F32".to_owned(),
        6 => "I32".to_owned(),
        7 => "I64".to_owned(),
        9 => "BOOL".to_owned(),
        10 => "F16".to_owned(),
        11 => "F64".to_owned(),
        16 => "BF16".to_owned(),
        other => format!("ONNX type {other}"),
    }
}
