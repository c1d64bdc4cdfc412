"""HyperLoRA's crops by Pillow and numpy, for faces at the edges of a picture and beyond them.

Writes crates/face/tests/edges: cases.json (region of the fixture picture, landmarks, crop rectangle) and for each case one
PNG, the views side by side: with background, the same in grey, without background, the same in grey, for the Base-LoRA.
With --check it reports instead how far a crop of the worked example in crates/face/tests/golden is from its recording.

    pip install numpy pillow && python tests/parity/face_crops.py [--check]
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = pathlib.Path(__file__).resolve().parents[2]
FACE = ROOT / "crates/face/tests"
OUTLINE = [1, *range(9, 17), *range(2, 9), 0, *range(24, 17, -1), *range(32, 24, -1), 17,
           101, 105, 104, 103, 102, 50, 51, 49, 48, 43]
SIDE = 40


def square(points, factor):
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, factor * (high - low).max()


def edges(centre, half):
    return [*(centre - half), *(centre + half)]


def face_box(landmarks):
    centre, half = square(landmarks, np.float32(0.75))
    return edges(centre - np.float32([0, 0.125]) * half, half)


def outline_box(outline):
    half = np.float32(0.8) * (outline.max(0) - outline.min(0)).max()
    return edges(outline.mean(0), half)


def blurred(image, sigma):
    large = image.resize((512, 512), Image.BICUBIC).filter(ImageFilter.GaussianBlur(sigma))
    return large.resize(image.size, Image.BICUBIC)


def soft_mask(size, outline, box):
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([tuple(map(float, p)) for p in outline], fill=255, outline=255)
    return blurred(mask.crop(tuple(map(float, box))), 15)


def pasted(canvas, part, box, mask):
    canvas.paste(part, (int(box[0]), int(box[1])), mask)
    return canvas


def without_background(image, landmarks):
    outline = landmarks[OUTLINE]
    box = outline_box(outline)
    part = image.crop(tuple(map(float, box)))
    return pasted(Image.new("RGB", image.size, "#7f7f7f"), part, box, soft_mask(image.size, outline, box))


def faceless(image, landmarks):
    outline = landmarks[OUTLINE]
    box, centre = outline_box(outline), outline.mean(0)
    part = blurred(image.crop(tuple(map(float, box))), 45)
    wide = centre + np.float32(1.4) * (outline - centre)
    return pasted(image.copy(), part, box, soft_mask(image.size, wide, box))


def for_clip(view, side):
    w, h = view.size
    short = min(w, h)
    view = view.resize((max(int(side * w / short), side), max(int(side * h / short), side)), Image.BICUBIC)
    left, top = (view.width - side) // 2, (view.height - side) // 2
    return view.crop((left, top, left + side, top + side))


def views(image, landmarks, side):
    box = tuple(map(float, face_box(landmarks)))
    grey = lambda v: v.convert("L").convert("RGB")
    plain, cut = image.crop(box), without_background(image, landmarks).crop(box)
    shown = [plain, grey(plain), cut, grey(cut), faceless(image, landmarks).crop(box)]
    return [for_clip(v, side) for v in shown]


# Name, region of the picture (left, top, right, bottom), middle of the face in it, its height, its tilt in degrees.
CASES = [
    ("left", (0, 0, 512, 400), (20, 200), 150, 0),
    ("top", (100, 50, 400, 450), (150.5, 30.25), 120, 10),
    ("right", (33, 0, 410, 512), (360, 250), 170, -15),
    ("bottom", (0, 100, 511, 401), (250, 290), 160, 5),
    ("corner", (0, 0, 257, 255), (250, 250), 110, 40),
    ("landscape", (10, 80, 311, 177), (140, 50), 130, 0),
    ("portrait", (180, 20, 263, 427), (40, 120), 120, 90),
    ("tiny", (200, 90, 231, 113), (15, 12), 18, 0),
    ("filling", (150, 40, 290, 190), (70, 75), 230, -5),
    ("whole", (0, 0, 512, 512), (223, 117), 128, 0),
]


def placed(template, middle, height, tilt):
    low, high = template.min(0), template.max(0)
    points = (template - (low + high) / 2) * (height / (high - low)[1])
    angle = np.deg2rad(tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Quarters of a pixel are exact in f32 and hit ties of rounding.
    return (np.round((points @ turn.T + middle) * 4) / 4).astype(np.float32)


def check():
    golden = FACE / "golden"
    image = Image.open(golden / "centre_image.png").convert("RGB")
    landmarks = np.load(golden / "centre_landmarks.npy")
    names = ["nobg0_gray0", "nobg0_gray1", "nobg1_gray0", "nobg1_gray1"]
    for name, view in zip(names, views(image, landmarks, 224)):
        expected = np.asarray(Image.open(golden / f"centre_clip224_{name}.png").convert("RGB"), int)
        print(name, "greatest difference", np.abs(np.asarray(view, int) - expected).max())


def main():
    out = FACE / "edges"
    out.mkdir(exist_ok=True)
    picture = Image.open(ROOT / "tests/fixtures/astronaut.png").convert("RGB")
    template = np.load(FACE / "golden/centre_landmarks.npy").astype(np.float64)
    cases = []
    for name, region, *place in CASES:
        image, landmarks = picture.crop(region), placed(template, *place)
        row = np.concatenate([np.asarray(v) for v in views(image, landmarks, SIDE)], axis=1)
        Image.fromarray(row).save(out / f"{name}.png", optimize=True)
        crop = [round(float(v)) for v in face_box(landmarks)]
        cases.append(dict(name=name, region=region, crop=crop, landmarks=landmarks.tolist()))
    (out / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    check() if "--check" in sys.argv else main()
