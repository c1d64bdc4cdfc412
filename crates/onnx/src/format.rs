//! The few messages of the ONNX format that a small network needs, with the field numbers of
//! `onnx.proto` (IR version 8).

/// `AttributeProto.AttributeType`.
pub const TYPE_FLOAT: i32 = 1;
/// `AttributeProto.AttributeType`.
pub const TYPE_INT: i32 = 2;
/// `AttributeProto.AttributeType`.
pub const TYPE_INTS: i32 = 7;
/// `TensorProto.DataType`.
pub const DATA_FLOAT: i32 = 1;
/// `TensorProto.DataType`.
const DATA_FLOAT16: i32 = 10;
/// `TensorProto.DataType`.
const DATA_INT64: i32 = 7;

/// `ModelProto`: the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Model {
    /// Version of the format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Who wrote it.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// The writer's version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The network.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphMessage>,
    /// Which operators it speaks of.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSet {
    /// Empty for the standard ones.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Their version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphMessage {
    /// In the order in which they run.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorMessage>,
    /// What goes in.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// What comes out.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// What goes in.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// What comes out.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// What the operator is told.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// `AttributeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// A whole number.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// Whole numbers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Which of them it is.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// `TensorProto`, with its numbers as little-endian bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorMessage {
    /// Its shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Type of its numbers.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Its name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Its numbers.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfo {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub kind: Option<TypeMessage>,
}

/// `TypeProto`, of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeMessage {
    /// The tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Type of its numbers.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Its shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// One after the other.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`, of a fixed size.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// The size. A member of a oneof: present even when it is zero.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
}

/// A node with the given attributes.
pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{op}_{output}"),
        op_type: op.to_owned(),
        attribute,
    }
}

/// An attribute that is one whole number.
pub fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: TYPE_INT,
        ..Attribute::default()
    }
}

/// An attribute that is one number.
pub fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f,
        kind: TYPE_FLOAT,
        ..Attribute::default()
    }
}

/// An attribute that is a list of whole numbers.
pub fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: TYPE_INTS,
        ..Attribute::default()
    }
}

/// A weight.
pub fn tensor(name: &str, shape: &[usize], values: &[f32]) -> TensorMessage {
    TensorMessage {
        dims: shape.iter().map(|&d| d as i64).collect(),
        data_type: DATA_FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A weight in f16, rounded to the nearest.
pub fn half_tensor(name: &str, shape: &[usize], values: &[f32]) -> TensorMessage {
    let halves = values.iter().map(|v| half::f16::from_f32(*v));
    TensorMessage {
        data_type: DATA_FLOAT16,
        raw_data: halves.flat_map(half::f16::to_le_bytes).collect(),
        ..tensor(name, shape, &[])
    }
}

/// Whole numbers that a node takes as an input: a new shape.
pub fn whole_numbers(name: &str, values: &[i64]) -> TensorMessage {
    TensorMessage {
        dims: vec![values.len() as i64],
        data_type: DATA_INT64,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A graph's input or output: an f32 tensor of a fixed shape.
pub fn value(name: &str, shape: &[i64]) -> ValueInfo {
    let dim = shape
        .iter()
        .map(|&d| Dimension { dim_value: Some(d) })
        .collect();
    let tensor = TensorType {
        elem_type: DATA_FLOAT,
        shape: Some(Shape { dim }),
    };
    ValueInfo {
        name: name.to_owned(),
        kind: Some(TypeMessage {
            tensor_type: Some(tensor),
        }),
    }
}
