"""Serves a model as ONNX with FastAPI and onnxruntime, for comparison with `perceiver serve`.

    pip install fastapi uvicorn python-multipart onnxruntime pillow
    python serve_onnx.py MODEL.onnx CHECKPOINT --port 8081

It answers POST /predict with the bytes of an image as the server does, so that the example `load` of
perceiver-serve measures both. CHECKPOINT is the directory with the model's config.json, for the classes
and the normalization. Preprocessing is that of a stretched image: resize, then normalize.

Requests are decoded on FastAPI's threads and classified one by one, as such servers usually are;
onnxruntime uses all cores for each. --batch N classifies up to N waiting images at once.
"""

import argparse
import asyncio
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("checkpoint", type=Path)
parser.add_argument("--port", type=int, default=8081)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--normalized", action="store_true", help="the model normalizes by itself")
arguments = parser.parse_args()

config = json.loads((arguments.checkpoint / "config.json").read_text())
labels = config["id2label"]
classes = [labels[str(index)] for index in range(len(labels))]
preprocessing = config["preprocessing"]
size = preprocessing["image_size"]
mean = np.array(preprocessing["normalization"]["mean"], np.float32).reshape(3, 1, 1)
deviation = np.sqrt(np.array(preprocessing["normalization"]["variance"], np.float32)).reshape(3, 1, 1)

session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
input_name = session.get_inputs()[0].name
app = FastAPI()
waiting: asyncio.Queue = asyncio.Queue()


def decoded(content):
    """The model's input for the bytes of an image, [3, size, size]."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
    return pixels if arguments.normalized else (pixels - mean) / deviation


def classified(images):
    """The probabilities of images, [n, classes]."""
    logits = session.run(None, {input_name: np.stack(images)})[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


async def classify_batches():
    """Classifies what waits, up to --batch images at once."""
    while True:
        batch = [await waiting.get()]
        while len(batch) < arguments.batch and not waiting.empty():
            batch.append(waiting.get_nowait())
        images = [image for image, _ in batch]
        results = await run_in_threadpool(classified, images)
        for (_, future), result in zip(batch, results):
            if not future.done():
                future.set_result(result)


@app.on_event("startup")
async def start():
    app.state.worker = asyncio.create_task(classify_batches())


@app.post("/predict")
async def predict(request: Request, top_k: int = 5):
    content = await request.body()
    try:
        image = await run_in_threadpool(decoded, content)
    except OSError as error:
        raise HTTPException(422, str(error)) from error
    future = asyncio.get_running_loop().create_future()
    await waiting.put((image, future))
    probabilities = await future
    best = np.argsort(-probabilities)[:top_k]
    found = [{"class": classes[index], "probability": float(probabilities[index])} for index in best]
    return {"model": "onnx", "predictions": [{"image": "image", "classes": found}]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")
