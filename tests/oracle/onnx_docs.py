"""The Python code of docs/onnx.md, run as it stands.

usage: python onnx_docs.py MODEL IMAGE

MODEL was exported with --with-preprocessing and --softmax. Needs numpy, onnxruntime and pillow.
"""
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

page = Path(__file__).parent.parent.parent / "docs" / "onnx.md"
(code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
model, image = map(Path, sys.argv[1:3])
values = {}
with tempfile.TemporaryDirectory() as directory:
    for path, name in (model, "model.onnx"), (image, "cat.jpg"):
        shutil.copy(path, Path(directory) / name)
    os.chdir(directory)
    exec(code, values)
    os.chdir("/")
probabilities = values["probabilities"]
assert probabilities.ndim == 2 and abs(probabilities.sum() - 1) < 1e-5, probabilities
print(f"{values['name']} {probabilities.max():.4f}")
