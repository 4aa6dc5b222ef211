"""How fast the Keras model trains and predicts: the peer of `cargo xtask bench`.

usage: KERAS_BACKEND=tensorflow python keras_speed.py train|infer CONFIG_JSON BATCH STEPS|forever [PRECISION]
       KERAS_BACKEND=tensorflow python keras_speed.py start CONFIG_JSON WEIGHTS PICTURE

PRECISION is f32 or bf16: the policy mixed_bfloat16, with weights and the optimizer's state in f32.

`forever` prints a line `step BATCH` after every repetition. Otherwise the last line it prints is a JSON object: amount
(pictures a repetition), seconds of every repetition, peak_rss_bytes.
`start` reads weights and a picture and prints its class, once; without the file WEIGHTS, it writes one.
"""
import json
import os
import resource
import sys
import time

import keras
import numpy as np
from keras_perceiver import activations


def build(config):
    stages = activations(config)
    # Softmax and loss in f32, whatever the policy.
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(stages.output["logits"])
    return keras.Model(stages.input, logits)


def work(model, task, images, labels):
    """What is repeated. The batch calls are Keras's own fast path: compiled, without callbacks or progress bars."""
    if task == "infer":
        return lambda: np.asarray(model.predict_on_batch(images))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return lambda: model.train_on_batch(images, labels)


def measure(task, config, batch, steps, precision="f32"):
    if precision == "bf16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    rng = np.random.default_rng(0)
    side, classes = config["image_size"], config["classifier_units"][-1]
    images = rng.standard_normal((batch, side, side, 3)).astype("float32")
    repeat = work(build(config), task, images, rng.integers(0, classes, (batch, 1)))
    if steps == "forever":
        while True:
            repeat()
            print("step", batch, flush=True)
    repeat(), repeat()
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        repeat()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(amount=float(batch), seconds=seconds, peak_rss_bytes=peak)))


def start(config, weights, picture):
    model = build(config)
    if not os.path.exists(weights):
        model.save_weights(weights)
        return
    model.load_weights(weights)
    image = keras.utils.load_img(picture, target_size=(config["image_size"],) * 2)
    pixels = np.asarray(image, "float32")[None] / 255.0
    print(int(np.argmax(np.asarray(model.predict_on_batch(pixels)))))


if __name__ == "__main__":
    task, config = sys.argv[1], json.loads(sys.argv[2])
    if task == "start":
        start(config, sys.argv[3], sys.argv[4])
    else:
        measure(task, config, int(sys.argv[3]), *sys.argv[4:])
