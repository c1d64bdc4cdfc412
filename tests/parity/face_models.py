"""Makes small ONNX files with the graphs of SCRFD and 2d106det, and records what insightface makes of them.

The weights are random, so nothing is detected in earnest; what counts is that both sides see the same boxes and points.
Writes into crates/face/tests/peers: scrfd.onnx, landmarks.onnx, recognizer.onnx and what insightface makes of them,
expected.json; and spots.onnx, a detector of red spots for the tests of the way of a photo.

    pip install numpy onnx onnxruntime opencv-python-headless scikit-image && pip install --no-deps insightface
    python tests/parity/face_models.py
"""

import json
import pathlib

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/face/tests/peers"
STRIDES = (8, 16, 32)


class Graph:
    """Collects nodes and weights."""

    def __init__(self, seed):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(seed)

    def add(self, op, inputs, name=None, **attributes):
        name = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(self, x, into, out, kernel=3, stride=1, group=1, gain=1.4, bias=None):
        weight = self.rng.normal(0, gain / np.sqrt(into // group * kernel * kernel), (out, into // group, kernel, kernel))
        bias = self.rng.normal(0, 0.1, out) if bias is None else bias
        inputs = [x, self.constant(weight.astype(np.float32)), self.constant(np.asarray(bias, np.float32))]
        pad = kernel // 2
        return self.add("Conv", inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group)

    def model(self, inputs, outputs, opset):
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def upsampled_like(g, small, large):
    """Nearest upsampling to the other map's size, spelt as torch's exporter spells it for opset 11."""
    axes = dict(axes=[0])
    shape = g.add("Shape", [large])
    spatial = g.add("Slice", [shape, g.constant(np.int64([2])), g.constant(np.int64([4])), g.constant(np.int64([0]))])
    leading = g.add("Slice", [g.add("Shape", [small]), g.constant(np.int64([0])), g.constant(np.int64([2])), g.constant(np.int64([0]))])
    height = g.add("Gather", [spatial, g.constant(np.int64(0))], axis=0)
    width = g.add("Gather", [spatial, g.constant(np.int64(1))], axis=0)
    spatial = g.add("Concat", [g.add("Unsqueeze", [height], **axes), g.add("Unsqueeze", [width], **axes)], axis=0)
    sizes = g.add("Concat", [leading, g.add("Cast", [spatial], to=TensorProto.INT64)], axis=0)
    empty = g.constant(np.float32([]))
    return g.add("Resize", [small, empty, empty, sizes], mode="nearest", coordinate_transformation_mode="asymmetric",
                 nearest_mode="floor", cubic_coeff_a=-0.75)


def block(g, x, into, out):
    """A residual block that halves the map, its shortcut pooled (ResNet-D)."""
    y = g.add("Relu", [g.conv(x, into, out, stride=2)])
    y = g.conv(y, out, out)
    pooled = g.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, ceil_mode=1)
    return g.add("Relu", [g.add("Add", [y, g.conv(pooled, into, out, kernel=1)])])


def scrfd(score_scale=1.0, score_bias=0.0):
    g = Graph(7)
    x = g.add("Relu", [g.conv("input.1", 3, 8, stride=2)])
    x = g.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=0)
    maps, width = [], 8
    for out in (12, 16, 24):
        x, width = block(g, x, width, out), out
        maps.append((x, out))
    laterals = [g.conv(m, w, 12, kernel=1, gain=1) for m, w in maps]
    for i in (1, 0):
        laterals[i] = g.add("Add", [laterals[i], upsampled_like(g, laterals[i + 1], laterals[i])])
    for i in (0, 1):
        laterals[i + 1] = g.add("Add", [laterals[i + 1], g.conv(laterals[i], 12, 12, stride=2, gain=0.7)])
    outputs = {}
    for stride, m in zip(STRIDES, laterals):
        m = g.add("Relu", [g.conv(m, 12, 12)])
        rows = lambda y, k: g.add("Reshape", [g.add("Transpose", [y], perm=[2, 3, 0, 1]), g.constant(np.int64([-1, k]))])
        score = g.conv(m, 12, 2)
        score = g.add("Add", [g.add("Mul", [score, g.constant(np.float32(score_scale))]), g.constant(np.float32(score_bias))])
        outputs["score", stride] = g.add("Sigmoid", [rows(score, 1)])
        box = g.conv(m, 12, 8, gain=0.5, bias=g.rng.uniform(2, 5, 8))
        outputs["bbox", stride] = rows(g.add("Mul", [box, g.constant(np.float32(0.9))]), 4)
        outputs["kps", stride] = rows(g.conv(m, 12, 20), 10)
    # As released: any size goes in, the shapes declared for the outputs are those at 640.
    declared = [value(outputs[kind, s], [2 * (640 // s) ** 2, n]) for kind, n in (("score", 1), ("bbox", 4), ("kps", 10)) for s in STRIDES]
    return g.model([value("input.1", [1, 3, "?", "?"])], declared, 11)


def tuned_scrfd(image):
    """Puts the threshold into the widest gap between the scores of about sixty anchors."""
    session = onnxruntime.InferenceSession(scrfd().SerializeToString())
    blob = cv2.dnn.blobFromImage(cv2.resize(image, (640, 640)), 1 / 128, (640, 640), (127.5,) * 3, swapRB=True)
    p = np.concatenate([o.ravel() for o in session.run(None, {"input.1": blob})[:3]]).astype(np.float64)
    z = np.sort(np.log(p / (1 - p)))[::-1]
    gap = 30 + np.argmax(-np.diff(z[30:90]))
    middle, scale = (z[gap] + z[gap + 1]) / 2, 6 / z.std()
    return scrfd(scale, -scale * middle)


def landmarks():
    """MobileNet-like, as MXNet's exporter writes it: normalisation inside, PRelu, a dense layer; the batch is free."""
    g = Graph(11)
    # insightface knows by these names that the file wants levels as they are.
    x = g.add("Sub", ["data", g.constant(np.float32([127.5]))], "_minusscalar0")
    x = g.add("Mul", [x, g.constant(np.float32([1 / 128]))], "_mulscalar0")
    width = 3
    for out in (6, 8, 8, 8, 4):
        x = g.conv(x, width, width, stride=2, group=width)
        x = g.conv(x, width, out, kernel=1)
        statistics = [g.constant(g.rng.uniform(0.5, 1.5, out).astype(np.float32)) for _ in range(4)]
        x = g.add("BatchNormalization", [x, *statistics], epsilon=1e-3)
        x = g.add("PRelu", [x, g.constant(g.rng.uniform(0, 0.4, (out, 1, 1)).astype(np.float32))])
        width = out
    x = g.add("Flatten", [x], axis=1)
    dense = g.rng.normal(0, 0.25 / np.sqrt(width * 36), (212, width * 36)).astype(np.float32)
    bias = g.rng.uniform(-0.5, 0.5, 212).astype(np.float32)
    fc1 = g.add("Gemm", [x, g.constant(dense.astype(np.float32)), g.constant(bias)], alpha=1.0, beta=1.0, transB=1)
    return g.model([value("data", ["None", 3, 192, 192])], [value(fc1, ["None", 212])], 11)


def recognizer():
    """Mean colours of sixteen fields, times a matrix."""
    g = Graph(13)
    fields = g.add("Flatten", [g.add("AveragePool", ["input.1"], kernel_shape=[28, 28], strides=[28, 28])], axis=1)
    weight = g.rng.normal(0, 1, (512, 48)).astype(np.float32)
    out = g.add("Gemm", [fields, g.constant(weight), g.constant(np.zeros(512, np.float32))], transB=1)
    return g.model([value("input.1", ["None", 3, 112, 112])], [value(out, ["None", 512])], 11)


def spots():
    """A detector by hand, whose faces are red spots three cells wide, a cell being a stride.

    Where the mean redness of 3 x 3 cells outweighs that of the ring around them, it sees a face with the usual key points.
    """
    g = Graph(0)
    redness = np.float32([1, -0.5, -0.5]).reshape(1, 3, 1, 1)
    red = g.add("Relu", [g.add("Conv", ["input.1", g.constant(redness)], kernel_shape=[1, 1])])
    surround = np.full((2, 1, 5, 5), -1 / 16, np.float32)
    surround[:, :, 1:4, 1:4] = 1 / 9
    eyes, mouth, middle = 0.63, 0.52, 0.5
    points = [middle - eyes, 0.08, middle + eyes, 0.08, middle, 0.8, middle - mouth, 1.54, middle + mouth, 1.54]
    outputs = {}
    for stride in STRIDES:
        cells = g.add("AveragePool", [red], kernel_shape=[stride] * 2, strides=[stride] * 2)
        rows = lambda y, k: g.add("Reshape", [g.add("Transpose", [y], perm=[2, 3, 0, 1]), g.constant(np.int64([-1, k]))])
        same = lambda numbers: g.add("Conv", [cells, g.constant(np.zeros((len(numbers), 1, 1, 1), np.float32)),
                                              g.constant(np.float32(numbers))], kernel_shape=[1, 1])
        # The second anchor never sees anything.
        score = g.add("Conv", [cells, g.constant(8 * surround), g.constant(np.float32([-8.8, -100]))],
                      kernel_shape=[5, 5], pads=[2] * 4)
        outputs["score", stride] = g.add("Sigmoid", [rows(score, 1)])
        outputs["bbox", stride] = rows(same([1, 1, 2, 2] * 2), 4)
        outputs["kps", stride] = rows(same(points * 2), 10)
    declared = [value(outputs[kind, s], ["n", k]) for kind, k in (("score", 1), ("bbox", 4), ("kps", 10)) for s in STRIDES]
    return g.model([value("input.1", [1, 3, "?", "?"])], declared, 11)


# Regions of the picture (left, top, right, bottom): whole, landscape, portrait, odd, small, very flat.
REGIONS = [(0, 0, 512, 512), (20, 60, 480, 281), (150, 0, 331, 499), (101, 33, 312, 230), (170, 60, 233, 151), (0, 90, 512, 113)]
BOXES = [(170.5, 60.25, 280.0, 190.75), (-20.0, -10.0, 90.5, 130.0), (430.0, 400.0, 540.0, 530.0), (200.0, 100.0, 231.0, 122.0)]

KEYPOINTS = [
    [[202.0, 101.0], [245.0, 103.0], [224.0, 125.0], [206.0, 141.0], [244.0, 143.0]],
    [[12.0, 30.5], [70.0, 10.25], [60.0, 60.0], [40.0, 100.0], [90.0, 80.0]],
]


def main():
    from insightface.app.common import Face
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    from insightface.model_zoo.landmark import Landmark
    from insightface.model_zoo.scrfd import SCRFD

    OUT.mkdir(exist_ok=True)
    picture = cv2.imread(str(ROOT / "tests/fixtures/astronaut.png"))
    onnx.save(tuned_scrfd(picture), str(OUT / "scrfd.onnx"))
    onnx.save(landmarks(), str(OUT / "landmarks.onnx"))
    onnx.save(recognizer(), str(OUT / "recognizer.onnx"))
    onnx.save(spots(), str(OUT / "spots.onnx"))

    session = lambda name: onnxruntime.InferenceSession(str(OUT / name), providers=["CPUExecutionProvider"])
    detector = SCRFD(str(OUT / "scrfd.onnx"), session("scrfd.onnx"))
    detector.prepare(-1)
    detections, closest = [], 1.0
    for region in REGIONS:
        left, top, right, bottom = region
        part = np.ascontiguousarray(picture[top:bottom, left:right])
        for side in (640, 512, 384, 256):
            boxes, points = detector.detect(part, input_size=(side, side))
            faces = [dict(bbox=b[:4].tolist(), score=float(b[4]), keypoints=p.tolist()) for b, p in zip(boxes, points)]
            detections.append(dict(region=region, side=side, faces=faces))
            closest = min([closest, *(abs(f["score"] - 0.5) for f in faces)])
            print(region, side, len(faces))
    print("closest score to the threshold:", closest)

    model = Landmark(str(OUT / "landmarks.onnx"), session("landmarks.onnx"))
    points = [dict(bbox=b, points=model.get(picture, Face(bbox=np.float32(b))).tolist()) for b in BOXES]
    model = ArcFaceONNX(str(OUT / "recognizer.onnx"), session("recognizer.onnx"))
    embeddings = []
    for keypoints in KEYPOINTS:
        embedding = model.get(picture, Face(kps=np.float32(keypoints)))
        embeddings.append(dict(keypoints=keypoints, embedding=(embedding / np.linalg.norm(embedding)).tolist()))
    rounded = json.loads(json.dumps(dict(detections=detections, landmarks=points, embeddings=embeddings)), parse_float=lambda v: round(float(v), 5))
    (OUT / "expected.json").write_text(json.dumps(rounded))


if __name__ == "__main__":
    main()
