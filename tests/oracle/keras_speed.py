"""How fast the Keras model trains and predicts: the peer of `cargo xtask bench`.

usage: KERAS_BACKEND=tensorflow python keras_speed.py train|infer CONFIG_JSON BATCH STEPS
       KERAS_BACKEND=tensorflow python keras_speed.py start CONFIG_JSON WEIGHTS PICTURE

The last line it prints is a JSON object: amount (pictures a repetition), seconds of every repetition, peak_rss_bytes.
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
    return keras.Model(stages.input, stages.output["logits"])


def work(model, task, images, labels):
    """What is repeated. The batch calls are Keras's own fast path: compiled, without callbacks or progress bars."""
    if task == "infer":
        return lambda: np.asarray(model.predict_on_batch(images))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return lambda: model.train_on_batch(images, labels)


def measure(task, config, batch, steps):
    rng = np.random.default_rng(0)
    side, classes = config["image_size"], config["classifier_units"][-1]
    images = rng.standard_normal((batch, side, side, 3)).astype("float32")
    repeat = work(build(config), task, images, rng.integers(0, classes, (batch, 1)))
    repeat(), repeat()
    seconds = []
    for _ in range(steps):
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
        measure(task, config, int(sys.argv[3]), int(sys.argv[4]))
