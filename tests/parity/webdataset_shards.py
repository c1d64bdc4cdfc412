"""Our shards in the webdataset library, and its shards with us.

1. Shards that our writer makes are read by the library: keys, captions, picture sizes, landmarks and identities in our
   reader's order.
2. Shards that the library's ShardWriter makes, with long names, folders, dots in suffixes, compression, JSON captions and
   files of other kinds, are read by us as the library reads them.
3. Cut anywhere, a shard gives us the first of its samples, and no fewer than the library reads before it fails.

    pip install webdataset pillow
    cargo build -p likeness-webdataset --examples
    python tests/parity/webdataset_shards.py [--examples target/debug/examples]

Exits with 1 at what does not hold. Tried with webdataset 1.0.2.
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import webdataset
from PIL import Image

PICTURES = ["jpg", "jpeg", "png", "webp"]


def check(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        sys.exit(1)


def by_library(paths):
    """The samples as our `list` prints them, read by the library; ends where it fails."""
    samples = iter(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False))
    rows = []
    try:
        for sample in samples:
            rows.append(row(sample))
    except Exception as error:
        print("     the library stops:", type(error).__name__)
    return rows


def row(sample):
    metadata = json.loads(sample.get("json", b"{}"))
    picture = next(sample[suffix] for suffix in PICTURES if suffix in sample)
    width, height = Image.open(io.BytesIO(picture)).size
    caption = sample["txt"].decode() if "txt" in sample else metadata["caption"]
    return {
        "key": sample["__key__"],
        "caption": caption,
        "width": width,
        "height": height,
        "landmarks": metadata.get("landmarks") is not None,
        "identity": metadata.get("identity"),
    }


def by_us(examples, place):
    done = subprocess.run([examples / "list", str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        print("     we stop:", done.stderr.strip())
    return [json.loads(line) for line in done.stdout.splitlines()]


def picture(kind, width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 150)).save(file, kind)
    return file.getvalue()


def write_by_library(pattern, count):
    points = [[0.5 * i, 1.0 * i] for i in range(106)]
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for i in range(count):
            sample = {"__key__": f"part.{i % 2}/{'long' * (i * 9)}{i:04d}", "seg.png": b"not ours", "cls": i}
            kind = ["jpg", "jpeg", "png", "webp"][i % 4]
            sample[kind] = picture({"jpg": "jpeg"}.get(kind, kind), 10 + i, 20)
            if i % 3:
                sample["txt"] = f"größer {i}"
                sample["json"] = {"landmarks": points, "identity": f"who {i}"}
            else:
                sample["json"] = {"caption": f"from JSON {i}", "other": [1, None]}
            writer.write(sample)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=pathlib.Path, default=pathlib.Path("target/debug/examples"))
    examples = parser.parse_args().examples
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ours = folder / "ours"
        subprocess.run([examples / "invent", ours, "1500", "24"], check=True)
        paths = sorted(ours.iterdir())
        rows = by_us(examples, ours / "shard-{000000..000001}.tar")
        check(len(paths) == 2 and len(rows) == 1500, "our writer fills a shard with 1000 of 1500 samples")
        check(rows == by_library(paths), "the library reads ours as we do")

        for ending in ["tar", "tar.gz"]:
            theirs = folder / ending
            theirs.mkdir()
            write_by_library(f"{theirs}/s-%06d.{ending}", 11)
            paths = sorted(theirs.iterdir())
            rows = by_us(examples, theirs)
            check(len(paths) == 3 and len(rows) == 11, f"all of the library's .{ending} samples are read")
            check(rows == by_library(paths), f"its .{ending} samples are what it says")

        cut = folder / "cut.tar"
        whole = (folder / "tar/s-000000.tar").read_bytes()
        rows = by_us(examples, folder / "tar/s-000000.tar")
        for length in range(0, len(whole) - 10240, 700):
            cut.write_bytes(whole[:length])
            ours, theirs = by_us(examples, cut), by_library([cut])
            if ours != rows[:len(ours)] or len(ours) < len(theirs):
                check(False, f"cut at {length}: {len(ours)} samples by us, {len(theirs)} by the library")
        check(True, "a cut shard gives what lies before the cut")


if __name__ == "__main__":
    main()
