//! The recogniser's file contract, on tiny ONNX files made here.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;

use image::{Rgb, RgbImage};
use likeness_face::{FaceError, Recognizer};
use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

const F32: i32 = 1;

fn value(name: &str, shape: &[i64]) -> ValueInfoProto {
    // 0 stands for a dimension that the file leaves free.
    let dim = |d: &i64| {
        let free = || dimension::Value::DimParam("batch".to_owned());
        let value = if *d == 0 {
            free()
        } else {
            dimension::Value::DimValue(*d)
        };
        Dimension {
            value: Some(value),
            ..Dimension::default()
        }
    };
    let shape = TensorShapeProto {
        dim: shape.iter().map(dim).collect(),
    };
    let tensor = type_proto::Tensor {
        elem_type: F32,
        shape: Some(shape),
    };
    let r#type = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::default()
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(r#type),
        ..ValueInfoProto::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// Mean colour → `numbers` outputs by fixed weights.
fn model(input: &[i64], numbers: usize) -> ModelProto {
    let weights: Vec<f32> = (0..3 * numbers).map(|i| (i as f32 * 0.37).sin()).collect();
    let weights = TensorProto {
        name: "weights".to_owned(),
        dims: vec![3, numbers as i64],
        data_type: F32,
        float_data: weights,
        ..TensorProto::default()
    };
    let graph = GraphProto {
        name: "recogniser".to_owned(),
        node: vec![
            node("GlobalAveragePool", &["input.1"], "pooled"),
            node("Flatten", &["pooled"], "flat"),
            node("MatMul", &["flat", "weights"], "embedding"),
        ],
        initializer: vec![weights],
        input: vec![value("input.1", input)],
        output: vec![value("embedding", &[input[0], numbers as i64])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        domain: String::new(),
        version: 13,
    };
    ModelProto {
        ir_version: 7,
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn load(bytes: &[u8]) -> Result<Recognizer, FaceError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Recognizer::load(file.path())
}

#[test]
fn embeddings_have_unit_length_and_depend_on_the_face() {
    for batch in [1, 0] {
        let recognizer = load(&model(&[batch, 3, 112, 112], 512).encode_to_vec()).unwrap();
        let red = recognizer
            .embed(&RgbImage::from_pixel(112, 112, Rgb([255, 0, 0])))
            .unwrap();
        let blue = recognizer
            .embed(&RgbImage::from_pixel(112, 112, Rgb([0, 0, 255])))
            .unwrap();
        let length: f32 = red.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5);
        // Red is (1, −1, −1) after normalisation; the weights are sines.
        let raw = |i: usize| {
            (0..3)
                .map(|c| [1.0, -1.0, -1.0][c] * ((c * 512 + i) as f32 * 0.37).sin())
                .sum::<f32>()
        };
        assert!((red[7] / red[3] - raw(7) / raw(3)).abs() < 1e-3);
        assert!(red.iter().zip(&blue).any(|(r, b)| (r - b).abs() > 0.1));
    }
}

#[test]
fn another_size_of_face_is_refused() {
    let recognizer = load(&model(&[1, 3, 112, 112], 512).encode_to_vec()).unwrap();
    let error = recognizer.embed(&RgbImage::new(111, 112)).unwrap_err();
    assert!(error.to_string().contains("111x112"));
}

#[test]
fn an_embedding_without_length_is_an_error() {
    let mut zero = model(&[1, 3, 112, 112], 512);
    zero.graph.as_mut().unwrap().initializer[0]
        .float_data
        .fill(0.0);
    let recognizer = load(&zero.encode_to_vec()).unwrap();
    let found = recognizer.embed(&RgbImage::new(112, 112));
    assert!(matches!(found, Err(FaceError::Run { .. })));
}

#[test]
fn another_model_is_named() {
    for wrong in [model(&[1, 3, 640, 640], 512), model(&[1, 3, 112, 112], 256)] {
        let error = load(&wrong.encode_to_vec()).unwrap_err();
        assert!(matches!(error, FaceError::Contract { .. }), "{error}");
        assert!(error.to_string().contains("[1,3,112,112]"), "{error}");
    }
}

#[test]
fn damaged_files_are_load_errors() {
    let whole = model(&[1, 3, 112, 112], 512).encode_to_vec();
    for bytes in [
        &b""[..],
        b"not onnx",
        &whole[..whole.len() / 2],
        &whole[..40],
    ] {
        assert!(matches!(
            load(bytes),
            Err(FaceError::Load { .. } | FaceError::Contract { .. })
        ));
    }
    assert!(matches!(
        Recognizer::load(Path::new("/nowhere.onnx")),
        Err(FaceError::Load { .. })
    ));
}
