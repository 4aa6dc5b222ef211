"""Pictures as the image processor of Perceiver IO in transformers gives them to a model, and as Pillow resizes them.

usage: python perceiver_io_pictures.py DIR

Reads the two PNG files of DIR. Writes DIR/pixel_values.safetensors: for each file name, its pixel values [3, S, S] at a size S, with a
crop_size of S * 8 / 7 as at 224 and 256; and DIR/resized.safetensors: the bytes [3, H, W] of NAME/FILTER/HxW, by Pillow's number of the
filter, for sizes that shrink and enlarge either side. Written with Pillow 13, whose order of the two axes depends on the sizes.
"""
import argparse

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil

# The crop of the first has 28 pixels, which are enlarged; that of the second has 41, which are shrunk.
SIZES = {"33x80.png": 56, "61x47.png": 28}
RESIZED = [(1, 1), (5, 70), (90, 7), (20, 20), (47, 13), (11, 33), (64, 64)]

parser = argparse.ArgumentParser()
parser.add_argument("directory")
directory = parser.parse_args().directory

values, resized = {}, {}
for name, size in SIZES.items():
    picture = Image.open(f"{directory}/{name}")
    processor = PerceiverImageProcessorPil(size=size, crop_size=size * 8 // 7)
    values[name] = np.ascontiguousarray(processor(picture, return_tensors="np")["pixel_values"][0])
    for filter in range(6):
        for height, width in RESIZED:
            pixels = np.asarray(picture.resize((width, height), Image.Resampling(filter)))
            resized[f"{name}/{filter}/{height}x{width}"] = np.ascontiguousarray(pixels.transpose(2, 0, 1))
save_file(values, f"{directory}/pixel_values.safetensors")
save_file(resized, f"{directory}/resized.safetensors")
