//! A network as it is put together. A layer's weights bear its name, as in the checkpoint that they come from.

use prost::Message as _;

use crate::format::{self, Attribute, Node, TensorMessage, float, int, ints, node, tensor, value};

/// A square convolution's kernel side, stride and zeros on all four sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side of the kernel.
    pub kernel: i64,
    /// Step between outputs.
    pub stride: i64,
    /// Zeros on all four sides.
    pub padding: i64,
}

/// Layers in the order in which they run. Each is named, and so is what it gives.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    weights: Vec<TensorMessage>,
}

impl Graph {
    /// A weight, row by row.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.weights.push(tensor(name, shape, values));
    }

    /// A weight that the file keeps in f16, half as large, and that layers see in f32.
    pub fn half_weight(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let kept = format!("{name}.f16");
        self.weights.push(format::half_tensor(&kept, shape, values));
        let to = vec![int("to", i64::from(format::DATA_FLOAT))];
        self.layer("Cast", &[&kept], name, to);
    }

    /// A list of sizes that a layer asks for as a weight.
    pub fn sizes(&mut self, name: &str, sizes: &[i64]) {
        self.weights.push(format::whole_numbers(name, sizes));
    }

    /// Any layer.
    pub fn layer(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<Attribute>) {
        self.nodes.push(node(op, inputs, output, attributes));
    }

    /// A convolution with `name.weight` and `name.bias`.
    pub fn conv(&mut self, input: &str, name: &str, window: Window) {
        let Window {
            kernel,
            stride,
            padding,
        } = window;
        let attributes = vec![
            ints("dilations", &[1, 1]),
            int("group", 1),
            ints("kernel_shape", &[kernel; 2]),
            ints("pads", &[padding; 4]),
            ints("strides", &[stride; 2]),
        ];
        let own = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        self.layer("Conv", &[input, &own[0], &own[1]], name, attributes);
    }

    /// A PReLU with `name.slope` [channels, 1, 1], or [width] of rows.
    pub fn prelu(&mut self, input: &str, name: &str) {
        self.layer(
            "PRelu",
            &[input, &format!("{name}.slope")],
            name,
            Vec::new(),
        );
    }

    /// A linear map of rows with `name.weight` [output, input] and `name.bias`, which gives `output`.
    pub fn linear(&mut self, input: &str, name: &str, output: &str) {
        let attributes = vec![float("alpha", 1.0), float("beta", 1.0), int("transB", 1)];
        let own = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        self.layer("Gemm", &[input, &own[0], &own[1]], output, attributes);
    }

    /// The file of the network from one input to the layers that are named as outputs, of these shapes.
    pub fn file(self, name: &str, input: (&str, &[i64]), outputs: &[(&str, &[i64])]) -> Vec<u8> {
        let graph = format::GraphMessage {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.weights,
            input: vec![value(input.0, input.1)],
            output: outputs
                .iter()
                .map(|(name, shape)| value(name, shape))
                .collect(),
        };
        let model = format::Model {
            ir_version: 8,
            producer_name: "likeness".to_owned(),
            producer_version: "1".to_owned(),
            graph: Some(graph),
            opset_import: vec![format::OperatorSet {
                domain: String::new(),
                version: 13,
            }],
        };
        model.encode_to_vec()
    }
}
