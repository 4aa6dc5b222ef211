"""How fast a Perceiver IO of full size predicts one image in transformers on PyTorch: the peer of the example `perceiver_io_speed`.

usage: python torch_perceiver_io_speed.py learned|fourier|conv eager|compiled

Weights and the image are random. Prints a line `step 1` after every pass, without end, in f32 on all cores. Needs `torch` and `transformers` 5.
"""
import sys

import torch
import transformers

# The class of each kind, and what its configuration has beside transformers' defaults.
KINDS = {
    "learned": ("PerceiverForImageClassificationLearned", dict(d_model=512)),
    "fourier": ("PerceiverForImageClassificationFourier", dict(d_model=261)),
    "conv": ("PerceiverForImageClassificationConvProcessing", dict(d_model=322)),
}
FULL_SIZE = dict(
    num_latents=512, d_latents=1024, num_blocks=8, num_self_attends_per_block=6, num_self_attention_heads=8, num_cross_attention_heads=1,
    num_labels=1000, image_size=224,
)


def main(kind, mode):
    name, more = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.PerceiverConfig(**FULL_SIZE, **more)).eval()
    if mode == "compiled":
        model.forward = torch.compile(model.forward)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        while True:
            model(image)
            print("step 1", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
