//! The few messages of the ONNX format that a small network needs, with the field numbers of
//! `onnx.proto` (IR version 8).

/// `AttributeProto.AttributeType`.
pub(crate) const TYPE_FLOAT: i32 = 1;
/// `AttributeProto.AttributeType`.
pub(crate) const TYPE_INT: i32 = 2;
/// `AttributeProto.AttributeType`.
pub(crate) const TYPE_INTS: i32 = 7;
/// `TensorProto.DataType`.
const DATA_FLOAT: i32 = 1;

/// `ModelProto`: the file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorMessage>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// `AttributeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// `TensorProto`, with its numbers as little-endian bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorMessage {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub kind: Option<TypeMessage>,
}

/// `TypeProto`, of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TypeMessage {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`, of a fixed size.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Dimension {
    // A member of a oneof: present even when it is zero.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
}

/// A node with the given attributes.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{op}_{output}"),
        op_type: op.to_owned(),
        attribute,
    }
}

/// An attribute that is one whole number.
pub(crate) fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: TYPE_INT,
        ..Attribute::default()
    }
}

/// An attribute that is one number.
pub(crate) fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f,
        kind: TYPE_FLOAT,
        ..Attribute::default()
    }
}

/// An attribute that is a list of whole numbers.
pub(crate) fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: TYPE_INTS,
        ..Attribute::default()
    }
}

/// A weight.
pub(crate) fn tensor(name: &str, shape: &[usize], values: &[f32]) -> TensorMessage {
    TensorMessage {
        dims: shape.iter().map(|&d| d as i64).collect(),
        data_type: DATA_FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A graph's input or output: an f32 tensor of a fixed shape.
pub(crate) fn value(name: &str, shape: &[i64]) -> ValueInfo {
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
