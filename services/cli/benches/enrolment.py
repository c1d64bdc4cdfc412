"""Enrolment of one photo at released sizes, stage by stage, beside the authors' stack on the CPU.

    pip install numpy pillow opencv-python-headless onnx onnxruntime insightface torch transformers safetensors
    cargo build --release --workspace --bin likeness
    python services/cli/benches/enrolment.py --make       writes a bundle of random weights, 1.8 GB, and a photo
    python services/cli/benches/enrolment.py [--rounds 5] [--photos 3]
    python services/cli/benches/enrolment.py --remove

Ours is `likeness model encode --photo`; theirs is insightface with onnxruntime for detection, landmarks and ArcFace,
Pillow for the crops, transformers for CLIP, and torch for the id projector and the resampler, all in f32. Both read the
same files with 2 threads. They take turns, round by round, in processes of their own, so that what else the machine does
falls on both. Loading is left out, and so is the first photo of each process. The random detector is tuned to see one
face of the photo at the first side that is tried, so that both sides run the same networks as often; both look at the
face a second time, for its alignment.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/parity"), str(ROOT / "crates/hyperlora/benches")]

THREADS = 2
DIR = pathlib.Path("target/enrolment")
STAGES = ("decode", "detect", "landmarks", "second_look", "quality", "crops", "arcface", "clip", "resampler")
MANIFEST = """[bundle]
name = "released-sizes"
version = "1"
[hyperlora]
path = "hyperlora"
[clip_vision]
path = "clip"
[face]
detector = "scrfd.onnx"
landmarks = "landmarks.onnx"
recognizer = "recognizer.onnx"
"""


def scrfd(scale=1.0, bias=0.0):
    """SCRFD-10GF with key points: ResNet-D of 3, 4, 2, 3 blocks, PAFPN of 56, three shared convolutions of 80."""
    import face_models as fm
    import numpy as np

    g = fm.Graph(7)
    relu = lambda y: g.add("Relu", [y])
    rows = lambda y, k: g.add("Reshape", [g.add("Transpose", [y], perm=[2, 3, 0, 1]), g.constant(np.int64([-1, k]))])
    x = "input.1"
    for into, out, stride in ((3, 28, 2), (28, 28, 1), (28, 56, 1)):
        x = relu(g.conv(x, into, out, stride=stride))
    x = g.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=0)
    maps, width = [], 56
    for stage, (blocks, out) in enumerate(((3, 56), (4, 88), (2, 88), (3, 224))):
        for block in range(blocks):
            if block == 0 and stage > 0:
                x = fm.block(g, x, width, out)
            else:
                y = g.conv(relu(g.conv(x, out, out)), out, out, gain=0.5)
                x = relu(g.add("Add", [y, x]))
            width = out
        maps.append((x, out))
    laterals = [g.conv(m, w, 56, kernel=1, gain=1) for m, w in maps[1:]]
    for i in (1, 0):
        laterals[i] = g.add("Add", [laterals[i], fm.upsampled_like(g, laterals[i + 1], laterals[i])])
    laterals = [g.conv(m, 56, 56, gain=1) for m in laterals]
    for i in (0, 1):
        laterals[i + 1] = g.add("Add", [laterals[i + 1], g.conv(laterals[i], 56, 56, stride=2, gain=0.7)])
    laterals[1:] = [g.conv(m, 56, 56, gain=1) for m in laterals[1:]]
    outputs = {}
    for stride, m in zip(fm.STRIDES, laterals):
        for into in (56, 80, 80):
            m = relu(g.conv(m, into, 80))
        score = g.add("Mul", [g.conv(m, 80, 2), g.constant(np.float32(scale))])
        # Only the coarsest level sees faces: theirs are large enough for crops.
        score = g.add("Add", [score, g.constant(np.float32(bias if stride == 32 else -1000))])
        outputs["score", stride] = g.add("Sigmoid", [rows(score, 1)])
        outputs["bbox", stride] = rows(g.conv(m, 80, 8, gain=0.01, bias=np.full(8, 3.0)), 4)
        outputs["kps", stride] = rows(g.conv(m, 80, 20, gain=0.01, bias=g.rng.uniform(-2, 2, 20)), 10)
    kinds = (("score", 1), ("bbox", 4), ("kps", 10))
    declared = [fm.value(outputs[kind, s], [2 * (640 // s) ** 2, n]) for kind, n in kinds for s in fm.STRIDES]
    return g.model([fm.value("input.1", [1, 3, "?", "?"])], declared, 11)


def tuned_scrfd(photo):
    """Puts the threshold below the best score of the coarsest level alone."""
    import cv2
    import numpy as np
    import onnxruntime

    image = cv2.imread(str(photo))
    scale = 640 / max(image.shape[:2])
    canvas = np.zeros((640, 640, 3), np.uint8)
    small = cv2.resize(image, None, fx=scale, fy=scale)
    canvas[:small.shape[0], :small.shape[1]] = small
    blob = cv2.dnn.blobFromImage(canvas, 1 / 128, (640, 640), (127.5,) * 3, swapRB=True)
    p = onnxruntime.InferenceSession(scrfd().SerializeToString()).run(None, {"input.1": blob})[2].ravel()
    z = np.log(p.astype(np.float64) / (1 - p))
    return scrfd(1 / z.std(), 0.5 - z.max() / z.std())


def landmarks():
    """2d106det: half of MobileNet, with points of a face's size whatever it sees."""
    import face_models as fm
    import numpy as np

    g = fm.Graph(11)
    x = g.add("Sub", ["data", g.constant(np.float32([127.5]))], "_minusscalar0")
    x = g.add("Mul", [x, g.constant(np.float32([1 / 128]))], "_mulscalar0")

    def prelu(y, out):
        return g.add("PRelu", [y, g.constant(g.rng.uniform(0, 0.4, (out, 1, 1)).astype(np.float32))])

    x = prelu(g.conv(x, 3, 16, stride=2), 16)
    width = 16
    for out, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *[(256, 1)] * 5, (512, 2), (512, 1)):
        x = prelu(g.conv(x, width, width, stride=stride, group=width), width)
        x, width = prelu(g.conv(x, width, out, kernel=1), out), out
    x = prelu(g.conv(x, 512, 64, stride=2), 64)
    dense = g.rng.normal(0, 1e-3, (212, 64 * 9)).astype(np.float32)
    turn = np.linspace(0, 2 * np.pi, 106)
    points = np.stack([0.5 * np.cos(turn), 0.6 * np.sin(turn)], 1).astype(np.float32)
    inputs = [g.add("Flatten", [x], axis=1), g.constant(dense), g.constant(points.ravel())]
    fc1 = g.add("Gemm", inputs, alpha=1.0, beta=1.0, transB=1)
    return g.model([fm.value("data", ["None", 3, 192, 192])], [fm.value(fc1, ["None", 212])], 11)


def recognizer():
    """glintr100: IResNet-100, the batch norms that follow a convolution folded into it."""
    import face_models as fm
    import numpy as np

    g = fm.Graph(13)

    def norm(y, out):
        statistics = [np.ones(out), np.zeros(out), np.zeros(out), np.ones(out)]
        return g.add("BatchNormalization", [y, *(g.constant(s.astype(np.float32)) for s in statistics)], epsilon=1e-5)

    def prelu(y, out):
        return g.add("PRelu", [y, g.constant(np.full((out, 1, 1), 0.25, np.float32))])

    x, width = prelu(g.conv("input.1", 3, 64), 64), 64
    for blocks, out in ((3, 64), (13, 128), (30, 256), (3, 512)):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            y = prelu(g.conv(norm(x, width), width, out), out)
            y = g.conv(y, out, out, stride=stride, gain=0.3)
            shortcut = g.conv(x, width, out, kernel=1, stride=2, gain=1) if block == 0 else x
            x, width = g.add("Add", [y, shortcut]), out
    x = g.add("Flatten", [norm(x, 512)], axis=1)
    dense = g.rng.normal(0, 1 / np.sqrt(512 * 49), (512, 512 * 49)).astype(np.float32)
    x = g.add("Gemm", [x, g.constant(dense), g.constant(np.zeros(512, np.float32))], alpha=1.0, beta=1.0, transB=1)
    x = norm(x, 512)
    return g.model([fm.value("input.1", ["None", 3, 112, 112])], [fm.value(x, ["None", 512])], 11)


def make():
    import onnx
    import released
    import torch
    from PIL import Image

    torch.manual_seed(0)
    for folder in ("hyperlora", "clip"):
        (DIR / folder).mkdir(parents=True, exist_ok=True)
    # Square, so that the best score lies in the photo and not in the padding beside it.
    photo = Image.open(ROOT / "tests/fixtures/astronaut.png").convert("RGB")
    photo.resize((2048, 2048), Image.BICUBIC).save(DIR / "photo.jpg", quality=92)
    onnx.save(tuned_scrfd(DIR / "photo.jpg"), str(DIR / "scrfd.onnx"))
    onnx.save(landmarks(), str(DIR / "landmarks.onnx"))
    onnx.save(recognizer(), str(DIR / "recognizer.onnx"))
    released.make_encoder(DIR / "hyperlora")
    released.make_clip(DIR / "clip")
    (DIR / "bundle.toml").write_text(MANIFEST)


def overlap(a, b):
    """Intersection over union, edges inclusive."""
    area = lambda l, t, r, b: (r - l + 1) * (b - t + 1)
    sides = [max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1) for i in (0, 1)]
    return sides[0] * sides[1] / (area(*a[:4]) + area(*b) - sides[0] * sides[1])


class Theirs:
    """The authors' stack, ready to run."""

    def __init__(self):
        import onnxruntime
        import released
        import torch
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
        from insightface.model_zoo.landmark import Landmark
        from insightface.model_zoo.scrfd import SCRFD
        from transformers import CLIPVisionModel

        torch.set_num_threads(THREADS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        # Its threads would go on spinning beside torch's, on the same cores, and slow them by half.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = lambda name: str(DIR / name)
        session = lambda name: onnxruntime.InferenceSession(path(name), options, providers=["CPUExecutionProvider"])
        self.detector = SCRFD(path("scrfd.onnx"), session("scrfd.onnx"))
        self.detector.prepare(-1)
        self.landmarks = Landmark(path("landmarks.onnx"), session("landmarks.onnx"))
        self.arcface = ArcFaceONNX(path("recognizer.onnx"), session("recognizer.onnx"))
        self.clip = CLIPVisionModel.from_pretrained(DIR / "clip").eval()
        self.encoder = released.torch_encoder(DIR / "hyperlora")

    def detect(self, image):
        return self.detector.detect(image, input_size=(640, 640))

    def enrol(self, path):
        """Milliseconds by stage, and the coefficients."""
        import cv2
        import face_crops
        import numpy as np
        import torch
        from insightface.app.common import Face
        from insightface.utils.face_align import norm_crop
        from PIL import Image

        took, start = {}, time.perf_counter()

        def lap(stage):
            nonlocal start
            now = time.perf_counter()
            took[stage], start = took.get(stage, 0) + 1e3 * (now - start), now

        image = Image.open(path).convert("RGB")
        bgr = np.asarray(image)[:, :, ::-1]
        lap("decode")
        boxes, points = self.detect(bgr)
        assert len(boxes), "no face at 640"
        largest = np.argmax(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1))
        face = Face(bbox=boxes[largest, :4], kps=points[largest])
        lap("detect")
        placed = self.landmarks.get(bgr, face).astype(np.float32)
        lap("landmarks")
        box = face_crops.face_box(placed)
        centre, half = np.add(box[:2], box[2:]) / 2, box[2] - box[0]
        near = image.crop(tuple(np.round([*(centre - half), *(centre + half)])))
        again, near_points = self.detect(np.asarray(near)[:, :, ::-1])
        corner = np.round(centre - half)
        expected = [*(placed.min(0) - corner), *(placed.max(0) - corner)]
        shared = [overlap(found, expected) for found in again]
        if shared and max(shared) >= 0.25:
            face.kps = near_points[np.argmax(shared)] + corner
        lap("second_look")
        aligned = norm_crop(bgr, face.kps)
        view = face_crops.without_background(image, placed).crop(tuple(map(float, box)))
        levels = np.asarray(face_crops.for_clip(view, 224), np.float32) / 255
        levels = (levels - np.float32([0.48145466, 0.4578275, 0.40821073])) / np.float32([0.26862954, 0.26130258, 0.27577711])
        pixels = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)[None]))
        lap("crops")
        embedding = self.arcface.get_feat(aligned)
        embedding = torch.from_numpy(embedding / np.linalg.norm(embedding))
        lap("arcface")
        states = self.clip(pixels, output_hidden_states=True).hidden_states[-2]
        lap("clip")
        tokens = self.encoder(states, embedding)
        lap("resampler")
        return took, tokens


def run_theirs(photos):
    import torch
    from safetensors.torch import save_file

    with torch.inference_mode():
        theirs = Theirs()
        for _ in range(photos):
            took, tokens = theirs.enrol(DIR / "photo.jpg")
            print(json.dumps(took), flush=True)
    save_file({"per_photo": tokens.contiguous()}, DIR / "theirs.safetensors")


def environment():
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    return os.environ | threads | {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}


def measure_theirs(photos):
    command = [sys.executable, __file__, "--theirs", "--photos", str(photos)]
    said = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def measure_ours(program, photos):
    command = [program, "--output", "json", "model", "encode", "--bundle", DIR, "--any-quality", "--out", DIR / "ours.safetensors"]
    command += ["--photo", DIR / "photo.jpg"] * photos
    said = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout
    return json.loads(said)["timings_ms"]


def compare(program, rounds, photos):
    ours, theirs = [], []
    for number in range(rounds):
        ours += measure_ours(program, photos + 1)[1:]
        theirs += measure_theirs(photos + 1)[1:]
        load = os.getloadavg()[0]
        print(f"round {number + 1}, load {load:.1f}: ours {best(ours, total):.0f} ms, theirs {best(theirs, total):.0f} ms so far",
              file=sys.stderr)
    print(f"{'stage':12} {'ours ms':>9} {'share':>6} {'theirs ms':>10} {'ratio':>6} {'median':>7}")
    sums = [sum(best(side, at(stage)) for stage in STAGES) for side in (ours, theirs)]
    for stage in STAGES:
        a, b = best(ours, at(stage)), best(theirs, at(stage))
        print(f"{stage:12} {a:9.1f} {a / sums[0]:6.1%} {b:10.1f} " + ratios(a, b, ours, theirs, at(stage)))
    a, b = best(ours, total), best(theirs, total)
    print(f"{'in all':12} {a:9.1f} {'':6} {b:10.1f} " + ratios(a, b, ours, theirs, total))


def at(stage):
    return lambda photo: photo.get(stage, 0)


def total(photo):
    return sum(photo.values())


def best(photos, of):
    return min(map(of, photos))


def ratios(a, b, ours, theirs, of):
    median = lambda photos: statistics.median(map(of, photos))
    return f"{a / b:6.2f} {median(ours) / median(theirs):7.2f}" if b else ""


def agree():
    """How far the two coefficients of the photo are from each other."""
    import torch
    from safetensors.torch import load_file

    a, b = (load_file(DIR / f"{side}.safetensors")["per_photo"].flatten(1)[0] for side in ("ours", "theirs"))
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0)
    print(f"cosine of the coefficients {cosine:.6f}, greatest difference {(a - b).abs().max():.2e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--theirs", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--program", default="target/release/likeness")
    options = parser.parse_args()
    if options.remove:
        shutil.rmtree(DIR)
    elif options.make:
        make()
    elif options.theirs:
        run_theirs(options.photos)
    else:
        compare(options.program, options.rounds, options.photos)
        agree()


if __name__ == "__main__":
    main()
