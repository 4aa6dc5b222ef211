"""Golden numbers of what training needs beside the model: optimizers, callbacks and metrics.

usage: KERAS_BACKEND=jax python training.py OUT [--seed N]

OUT/optimizers.safetensors: <optimizer>/w<t>/<array> after t = 0..8 steps with the gradients <optimizer>/g<t>/<array>,
for adam, adam_clip (global_clipnorm), adamw and lamb; the arrays are a matrix and a vector.
OUT/callbacks.json: sequences of val_loss with the learning rate after every epoch, the epoch stopped at (null if
never) and the best epoch. OUT/metrics.safetensors: logits, labels; loss (mean cross-entropy), acc, top5.
"""
import argparse
import json
import os

import keras
import numpy as np
from safetensors.numpy import save_file

SHAPES = dict(matrix=(5, 7), vector=(7,))
STEPS, HUGE, ZERO = 8, 3, 5
EPOCHS = 40
PLATEAU = dict(factor=0.2, patience=3, min_delta=1e-4, cooldown=0, min_lr=0)
STOPPING_PATIENCE = 15
LEARNING_RATE = 1e-3


def optimizers(rng):
    cases = dict(
        adam=keras.optimizers.Adam(1e-3),
        adam_clip=keras.optimizers.Adam(3e-3, global_clipnorm=0.5),
        adamw=keras.optimizers.AdamW(2e-3, weight_decay=1e-2),
        lamb=keras.optimizers.Lamb(5e-3, weight_decay=1e-2),
    )
    out = {}
    for name, optimizer in cases.items():
        draw = lambda spread: {key: (spread * rng.standard_normal(s)).astype("float32") for key, s in SHAPES.items()}
        weights = {key: keras.Variable(value) for key, value in draw(1.0).items()}
        optimizer.build(list(weights.values()))
        keep = lambda kind, t, arrays: out.update({f"{name}/{kind}{t}/{key}": keras.ops.convert_to_numpy(v) for key, v in arrays.items()})
        keep("w", 0, weights)
        for step in range(1, STEPS + 1):
            gradients = draw(10.0 if step == HUGE else 0.3)
            if step == ZERO:
                gradients["vector"] *= 0
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients.values()], list(weights.values()))
            keep("g", step, gradients)
            keep("w", step, weights)
    return out


def loss_curves(rng):
    """Falling curves that turn up at some epoch, more or less noisy; one that never moves, one with a NaN."""
    epoch = np.arange(EPOCHS)
    for case in range(8):
        falling = 1.5 + 4.6 * np.exp(-epoch / rng.uniform(4, 12))
        overfit = rng.uniform(0, 0.05) * np.maximum(0, epoch - rng.integers(5, 20))
        curve = falling + overfit + rng.normal(0, rng.uniform(0, 0.08), EPOCHS)
        if case == 6:
            curve[:] = 3.0
        if case == 7:
            curve[4] = np.nan
        yield [float(value) for value in curve.astype("float32")]


def run_callbacks(curve):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "mse")
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", **PLATEAU)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=STOPPING_PATIENCE, restore_best_weights=True)
    for callback in (plateau, stopping):
        callback.set_model(model)
        callback.on_train_begin()
    rates, stopped = [], None
    for epoch, value in enumerate(curve):
        plateau.on_epoch_end(epoch, {"val_loss": value})
        stopping.on_epoch_end(epoch, {"val_loss": value})
        rates.append(float(model.optimizer.learning_rate))
        if model.stop_training:
            stopped = epoch
            break
    return dict(val_loss=curve, learning_rate=rates, stopped_epoch=stopped, best_epoch=int(stopping.best_epoch))


def metrics(rng):
    logits = (2 * rng.standard_normal((64, 20))).astype("float32")
    labels = rng.integers(0, 20, 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    acc, top5 = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(5)
    for metric in (acc, top5):
        metric.update_state(labels, logits)
    one = lambda value: np.array([value], "float32")
    return dict(logits=logits, labels=labels.astype("int64"), loss=one(loss), acc=one(acc.result()), top5=one(top5.result()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    os.makedirs(options.out, exist_ok=True)
    place = lambda name: os.path.join(options.out, name)

    save_file(optimizers(rng), place("optimizers.safetensors"))
    facts = PLATEAU | dict(early_stopping_patience=STOPPING_PATIENCE, initial=LEARNING_RATE)
    facts["cases"] = [run_callbacks(curve) for curve in loss_curves(rng)]
    with open(place("callbacks.json"), "w") as file:
        json.dump(facts, file)
    save_file(metrics(rng), place("metrics.safetensors"))
    print("training: stopped at", [case["stopped_epoch"] for case in facts["cases"]])


if __name__ == "__main__":
    main()
