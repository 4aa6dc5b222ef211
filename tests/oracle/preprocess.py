"""Golden numbers of the preprocessing: adapted normalization, resizing, flipping and zooming.

usage: KERAS_BACKEND=jax python preprocess.py OUT [--seed N]

Writes OUT/preprocess.safetensors: images [N, 32, 32, 3] uint8; mean and variance [3] adapted on them; normalized;
resized64, resized48 and resized_down20 of normalized; flipped, which is resized64 mirrored left to right;
height_zoom and width_zoom [N]; zoomed [N, 64, 64, 3], which is resized64 zoomed by these factors.
"""
import argparse
import os

import numpy as np
from keras import layers
from safetensors.numpy import save_file

COUNT = 12


def pictures(rng):
    """Blocks of colour with noise: large shapes for the zoom to move, detail for the resizing to lose."""
    blocks = np.kron(rng.uniform(0, 255, (COUNT, 8, 8, 3)), np.ones((1, 4, 4, 1)))
    return np.clip(blocks + rng.normal(0, 25, blocks.shape), 0, 255).astype("uint8")


def factors(rng):
    """Zoom factors of the recipe's range; the first three are the identity and two corners of the range."""
    height, width = rng.uniform(0.8, 1.2, (2, COUNT)).astype("float32")
    height[:3], width[:3] = (1.0, 0.8, 1.2), (1.0, 1.2, 0.8)
    return height, width


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    images = pictures(rng)
    pixels = images.astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(pixels)
    normalized = np.array(normalization(pixels))
    resized = {side: np.array(layers.Resizing(side, side)(normalized)) for side in (64, 48, 20)}
    height, width = factors(rng)
    zoom = layers.RandomZoom(0.2, 0.2)
    zoom.build(resized[64].shape)
    drawn = dict(height_zoom=height[:, None], width_zoom=width[:, None], input_shape=resized[64].shape)
    zoomed = zoom.transform_images(resized[64], drawn, training=True)

    out = dict(
        images=images, mean=np.reshape(normalization.mean, -1), variance=np.reshape(normalization.variance, -1),
        normalized=normalized, resized64=resized[64], resized48=resized[48], resized_down20=resized[20],
        flipped=resized[64][:, :, ::-1], height_zoom=height, width_zoom=width, zoomed=zoomed,
    )
    os.makedirs(options.out, exist_ok=True)
    file = os.path.join(options.out, "preprocess.safetensors")
    save_file({key: np.ascontiguousarray(value) for key, value in out.items()}, file)
    print(f"preprocess: {COUNT} pictures")


if __name__ == "__main__":
    main()
