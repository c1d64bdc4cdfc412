//! `recognizer.onnx`: a network with ArcFace's interface and random weights.

use likeness_onnx::format::int;
use likeness_onnx::{Graph, Window};

use super::tensors::Tensors;
use crate::layout::{Init, Layout};

/// Channels after each convolution of stride 2: 112 → 56 → 28 → 14 → 7 → 4 pixels a side.
const CHANNELS: [usize; 6] = [3, 16, 24, 32, 32, 16];
const LAST_SIDE: usize = 4;
const EMBEDDING: usize = 512;
const HALVING: Window = Window {
    kernel: 3,
    stride: 2,
    padding: 1,
};

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
    file(&weights)
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

fn file(weights: &Tensors) -> Vec<u8> {
    let mut graph = Graph::default();
    for (name, t) in &weights.0 {
        graph.weight(name, &t.shape, &t.values);
    }
    let mut input = "input.1".to_owned();
    for layer in 0..CHANNELS.len() - 1 {
        let (conv, prelu) = (format!("conv{layer}"), format!("prelu{layer}"));
        graph.conv(&input, &conv, HALVING);
        graph.prelu(&conv, &prelu);
        input = prelu;
    }
    graph.layer("Flatten", &[&input], "flat", vec![int("axis", 1)]);
    graph.linear("flat", "fc", "embedding");
    let side = 112;
    graph.file(
        "pocket-recognizer",
        ("input.1", &[1, CHANNELS[0] as i64, side, side]),
        &[("embedding", &[1, EMBEDDING as i64])],
    )
}
