"""Trains the Keras model on CIFAR-100 by the example's recipe: the peer of accuracy in docs/results.md.

usage: KERAS_BACKEND=tensorflow python keras_learn.py --data data/cifar-100-binary --epochs 10

Unless told otherwise: 0.73 M parameters and what the listing needs to learn at all, a learning rate of 3e-4 and a dropout of 0.1. All else is
the listing's: Adam, batches of 64, flips and zooms, plateau and early stopping on the last tenth of the training pictures.
"""
import argparse
import time

import keras
import numpy as np
from keras import layers
from keras_perceiver import activations


def read(path):
    """Pictures `[n, 32, 32, 3]` and fine labels `[n]` of a file in CIFAR-100's binary layout."""
    rows = np.fromfile(path, np.uint8).reshape(-1, 2 + 3072)
    return rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype("float32"), rows[:, 1].astype("int64")


def build(config, pictures):
    normalization = layers.Normalization()
    normalization.adapt(pictures)
    side = config["image_size"]
    augmentation = [layers.Resizing(side, side), layers.RandomFlip("horizontal"), layers.RandomZoom(0.2, 0.2)]
    stages = activations(config)
    body = keras.Model(stages.input, stages.output["logits"])
    pictures = layers.Input((32, 32, 3))
    return keras.Model(pictures, body(keras.Sequential([normalization, *augmentation])(pictures)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--limit", type=int, default=50000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    keras.utils.set_random_seed(given.seed)
    start = time.time()
    pictures, labels = (array[: given.limit] for array in read(f"{given.data}/train.bin"))
    model = build(
        {
            "image_size": 32, "patch_size": 4, "latent_dim": 64, "projection_dim": 128, "num_heads": 4,
            "num_transformer_blocks": 2, "num_iterations": 2, "ffn_units": [128, 128], "classifier_units": [128, 100],
            "dropout_rate": given.dropout,
        },
        pictures,
    )
    print("parameters", sum(int(np.prod(w.shape)) for w in model.trainable_weights), flush=True)
    model.compile(
        keras.optimizers.Adam(given.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="acc"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5_acc"),
        ],
    )
    model.fit(
        pictures, labels, batch_size=64, epochs=given.epochs, validation_split=0.1, verbose=2,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=15, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.2, patience=3),
        ],
    )
    loss, acc, top5_acc = model.evaluate(*read(f"{given.data}/test.bin"), verbose=0)
    print(f"test loss {loss:.4f} acc {acc:.4f} top5_acc {top5_acc:.4f} seconds {time.time() - start:.0f}")


if __name__ == "__main__":
    main()
