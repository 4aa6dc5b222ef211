"""An exported ONNX file in onnxruntime, against this program.

usage: python onnx_check.py MODEL SAMPLES [--tolerance 1e-4]
       python onnx_check.py MODEL --images DIR --checkpoint DIR --program PERCEIVER [--tolerance 1e-3]

The first form runs MODEL on the inputs of SAMPLES, which `perceiver export --samples SAMPLES` wrote, and compares
the results with those of the program: the largest difference as a share of the largest result. Four times the
rounding of the program, its difference from the results in 64 bits, is allowed in addition. The second form
compares the probabilities of all images of a folder with those of `perceiver predict`; MODEL was exported with
--with-preprocessing and --softmax. Both check the file by onnx.checker first.

Needs onnx, onnxruntime, numpy, pillow and safetensors.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("samples", nargs="?")
parser.add_argument("--images", type=Path)
parser.add_argument("--checkpoint")
parser.add_argument("--program", default="perceiver")
parser.add_argument("--tolerance", type=float)
arguments = parser.parse_args()

onnx.checker.check_model(arguments.model, full_check=True)
described = onnx.load(arguments.model, load_external_data=False)
properties = {entry.key: entry.value for entry in described.metadata_props}
opsets = {entry.domain or "ai.onnx": entry.version for entry in described.opset_import}
classes = json.loads(properties["classes"])
print(f"onnx.checker: ok; {opsets}; {len(described.graph.node)} nodes; {len(classes)} classes")

session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
(source,), (result,) = session.get_inputs(), session.get_outputs()
print(f"input {source.name} {source.type} {source.shape}; output {result.name} {result.type} {result.shape}")
failed = False


def report(what, difference, tolerance):
    global failed
    is_close = difference <= tolerance  # not so for NaN
    failed |= not is_close
    print(f"{what}: {difference:.2e}{'' if is_close else f', expected at most {tolerance:g}'}")


if arguments.samples:
    samples = load_file(arguments.samples)
    for batch in sorted(int(name.split(".")[1]) for name in samples if name.startswith("input.")):
        images, expected = samples[f"input.{batch}"], samples[f"output.{batch}"]
        (found,) = session.run(None, {source.name: images})
        assert found.shape == expected.shape, (found.shape, expected.shape)
        largest, exact = np.abs(expected).max(), samples[f"exact.{batch}"]
        difference = np.abs(found - expected).max() / largest
        # Sharp attention amplifies rounding, in which engines differ: that of the program is measured.
        rounding = np.abs(expected - exact).max() / largest
        what = f"batch {batch}, input {list(images.shape)}, rounding {rounding:.1e}"
        report(what, difference, (arguments.tolerance or 1e-4) + 4 * rounding)

if arguments.images:
    paths = sorted(path for path in arguments.images.iterdir() if path.is_file())
    command = [arguments.program, "predict", "--quiet", "--checkpoint", arguments.checkpoint]
    command += ["--format", "json", "--top-k", str(len(classes)), *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for path, line in zip(paths, lines, strict=True):
        predicted = {entry["class"]: entry["probability"] for entry in json.loads(line)["classes"]}
        expected = np.array([predicted[name] for name in classes])
        pixels = np.asarray(Image.open(path).convert("RGB"))[None]
        (found,) = session.run(None, {source.name: pixels})
        difference = np.abs(found[0] - expected).max()
        what = f"{path.name}, {pixels.shape[1]} x {pixels.shape[2]}, at most {expected.max():.3f}"
        report(what, difference, arguments.tolerance or 1e-3)

sys.exit(failed)
