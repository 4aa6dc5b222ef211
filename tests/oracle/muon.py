"""Reference values of Muon and of Newton-Schulz, written with NumPy alone from the paper's description.

usage: python muon.py OUT

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon), and the scale of Liu et al., "Muon is scalable for LLM training", 2025.

OUT/muon.safetensors: for each of the cases below `<case>/w<t>` after t = 0..6 steps with the gradients `<case>/g<t>`,
computed in float64 and stored in float32; the file's metadata has the hyperparameters of each case as JSON.
"""
import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

STEPS = 6
A, B, C = 3.4445, -4.7750, 2.0315
CASES = {
    "tall": dict(shape=(24, 6), nesterov=True, scale="shape"),
    "wide": dict(shape=(5, 16), nesterov=True, scale="shape"),
    "square": dict(shape=(9, 9), nesterov=False, scale="shape"),
    "moonlight": dict(shape=(16, 10), nesterov=True, scale="moonlight"),
    "kernel": dict(shape=(8, 3, 2, 2), nesterov=True, scale="shape"),
}
COMMON = dict(learning_rate=0.02, momentum=0.95, steps=5, weight_decay=0.1)


def zeroth_power(matrix, steps):
    """The quintic Newton-Schulz iteration on the wide one of the matrix and its transpose."""
    rows, columns = matrix.shape
    x = matrix if rows <= columns else matrix.T
    x = x / (np.sqrt((x * x).sum()) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + (B * gram + C * (gram @ gram)) @ x
    return x if rows <= columns else x.T


def scale_of(kind, rows, columns):
    if kind == "moonlight":
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5


def main(out):
    rng = np.random.default_rng(7)
    arrays, momentum = {}, COMMON["momentum"]
    for name, case in CASES.items():
        weight = rng.standard_normal(case["shape"]).astype("float32").astype("float64")
        rows, columns = case["shape"][0], int(np.prod(case["shape"][1:]))
        average = np.zeros((rows, columns))
        arrays[f"{name}/w0"] = weight.astype("float32")
        for step in range(1, STEPS + 1):
            gradient = (0.3 * rng.standard_normal(case["shape"])).astype("float32")
            arrays[f"{name}/g{step}"] = gradient
            flat = gradient.astype("float64").reshape(rows, columns)
            average = momentum * average + (1 - momentum) * flat
            update = (1 - momentum) * flat + momentum * average if case["nesterov"] else average
            change = scale_of(case["scale"], rows, columns) * zeroth_power(update, COMMON["steps"])
            weight = weight * (1 - COMMON["learning_rate"] * COMMON["weight_decay"])
            weight = weight - COMMON["learning_rate"] * change.reshape(case["shape"])
            arrays[f"{name}/w{step}"] = weight.astype("float32")
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    metadata = {name: json.dumps({**COMMON, **case}) for name, case in CASES.items()}
    save_file(arrays, out / "muon.safetensors", metadata)


if __name__ == "__main__":
    main(sys.argv[1])
