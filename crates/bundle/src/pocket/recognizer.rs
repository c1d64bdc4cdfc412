//! `recognizer.onnx`: a network with ArcFace's interface and random weights.

use prost::Message;

use super::onnx::{Graph, Model, Node, OperatorSet, float, int, ints, node, tensor, value};
use super::tensors::Tensors;
use crate::layout::{Init, Layout};

/// Channels after each convolution of stride 2: 112 → 56 → 28 → 14 → 7 → 4 pixels a side.
const CHANNELS: [usize; 6] = [3, 16, 24, 32, 32, 16];
const LAST_SIDE: usize = 4;
const EMBEDDING: usize = 512;

/// The bytes of the ONNX file: `input.1` [1,3,112,112] → `embedding` [1,512].
pub(crate) fn recognizer(seed: u64) -> Vec<u8> {
    let mut weights = layout().draw(seed, "face/recognizer.onnx");
    // What all photos have in common must not drown what tells them apart: no flat colour goes in,
    // and no channel's mean comes out.
    weights.edit("conv0.weight", |shape, values| {
        without_mean(values, shape[2] * shape[3]);
    });
    weights.edit("fc.weight", |_, values| {
        without_mean(values, LAST_SIDE * LAST_SIDE);
    });
    model(&weights).encode_to_vec()
}

fn layout() -> Layout {
    let mut to = Layout::default();
    for (layer, pair) in CHANNELS.windows(2).enumerate() {
        to.conv(&format!("conv{layer}"), pair[1], pair[0], 3, 1.4);
        to.put(
            &format!("prelu{layer}.slope"),
            &[pair[1], 1, 1],
            Init::Constant(0.25),
        );
    }
    let features = CHANNELS[CHANNELS.len() - 1] * LAST_SIDE * LAST_SIDE;
    to.linear("fc", EMBEDDING, features, 1.0);
    to
}

fn without_mean(values: &mut [f32], group: usize) {
    for part in values.chunks_mut(group) {
        let mean = part.iter().sum::<f32>() / part.len() as f32;
        for value in part {
            *value -= mean;
        }
    }
}

fn model(weights: &Tensors) -> Model {
    let initializer = weights
        .0
        .iter()
        .map(|(name, t)| tensor(name, &t.shape, &t.values))
        .collect();
    let side = 112;
    let graph = Graph {
        node: nodes(),
        name: "pocket-recognizer".to_owned(),
        initializer,
        input: vec![value("input.1", &[1, CHANNELS[0] as i64, side, side])],
        output: vec![value("embedding", &[1, EMBEDDING as i64])],
    };
    Model {
        ir_version: 8,
        producer_name: "likeness".to_owned(),
        producer_version: "1".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: 13,
        }],
    }
}

fn nodes() -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut input = "input.1".to_owned();
    for layer in 0..CHANNELS.len() - 1 {
        let (conv, prelu) = (format!("conv{layer}"), format!("prelu{layer}"));
        let (weight, bias) = (format!("{conv}.weight"), format!("{conv}.bias"));
        let window = vec![
            ints("dilations", &[1, 1]),
            int("group", 1),
            ints("kernel_shape", &[3, 3]),
            ints("pads", &[1, 1, 1, 1]),
            ints("strides", &[2, 2]),
        ];
        nodes.push(node("Conv", &[&input, &weight, &bias], &conv, window));
        nodes.push(node(
            "PRelu",
            &[&conv, &format!("{prelu}.slope")],
            &prelu,
            Vec::new(),
        ));
        input = prelu;
    }
    nodes.push(node("Flatten", &[&input], "flat", vec![int("axis", 1)]));
    let product = vec![float("alpha", 1.0), float("beta", 1.0), int("transB", 1)];
    nodes.push(node(
        "Gemm",
        &["flat", "fc.weight", "fc.bias"],
        "embedding",
        product,
    ));
    nodes
}
