"""Our checkpoints, as other frameworks read and write them: config.json's `model` section and weights by name.

`logits(checkpoint, seed)` asks the Rust model for what it makes of seeded inputs, by `cargo run --example logits`.
"""
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

TOLERANCE = 1e-4
WORKSPACE = pathlib.Path(__file__).parent.parent.parent


def read(directory):
    """The architecture, a dict of PerceiverConfig's fields, and the weights as NumPy arrays."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    return config["model"], load_file(directory / "model.safetensors")


def write(directory, model, weights):
    """A checkpoint of a model that another framework made: format 1, which needs no checksum."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "perceiver-image-classification",
        "format": 1,
        "model": model,
        "preprocessing": {
            "image_size": model["image_size"],
            "antialias": True,
            "normalization": {"mean": [127.5] * 3, "variance": [5000.0] * 3},
        },
        "classes": [f"class {index}" for index in range(model["classifier_units"][-1])],
        "data": {"labels": "fine", "train_images": 0, "train_sha256": ""},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: np.array(array, order="C") for name, array in weights.items()}, directory / "model.safetensors")


def logits(checkpoint, seed=0):
    """Inputs `[8, channels, side, side]` and what the Rust model makes of them, `[8, classes]`."""
    with tempfile.TemporaryDirectory() as place:
        out = pathlib.Path(place) / "logits.safetensors"
        command = ["cargo", "run", "--quiet", "-p", "perceiver-train", "--example", "logits", "--"]
        checkpoint = pathlib.Path(checkpoint).absolute()
        subprocess.run([*command, checkpoint, out, str(seed)], check=True, cwd=WORKSPACE)
        arrays = load_file(out)
    return arrays["input"], arrays["logits"]


def randomized(weights, seed=0):
    """Values everywhere of the size that training gives them, since a bias of 0 or a gain of 1 that is left out would not show."""
    draw = np.random.default_rng(seed)
    changed = {}
    for name, array in sorted(weights.items()):
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        spread = array.shape[-1] ** -0.5 if array.ndim == 2 and name != "latents" else 0.1
        if name.endswith("scale"):
            centre, spread = 0.3, 0.1
        changed[name] = np.asarray(centre + spread * draw.standard_normal(array.shape), "float32")
    return changed


def compare(what, found, expected):
    """Prints the largest difference and whether it is small enough."""
    found, expected = np.asarray(found), np.asarray(expected)
    largest = float(np.abs(found - expected).max())
    good = found.shape == expected.shape and largest < TOLERANCE
    print(f"{what}: largest difference {largest:.1e} of logits up to {np.abs(expected).max():.1f}{'' if good else '  TOO LARGE'}", flush=True)
    return good
