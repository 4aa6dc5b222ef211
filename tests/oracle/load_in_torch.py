"""Our checkpoints in PyTorch and PyTorch's weights in ours: the same logits within 1e-4.

usage: python load_in_torch.py [CHECKPOINT]...

For every checkpoint: read by PyTorch, its logits of seeded inputs beside ours; then the same architecture with weights that PyTorch made, written
as a checkpoint and read by ours. Without one, the second for architectures that have every option between them.
Needs `torch`, `numpy`, `safetensors` and cargo.
"""
import sys
import tempfile

import checkpoint
import torch
from torch_perceiver import Perceiver

SMALL = dict(
    image_size=16, channels=3, stem_units=[], patch_size=4, positions="learned", fourier_bands=4, latent_dim=6, latent_deviation=0.05,
    projection_dim=24, num_cross_heads=1, num_heads=3, head_dim=0, num_transformer_blocks=2, num_iterations=3, num_cross_attends=0, sharing="all",
    ffn_units=[32, 24], norm_pooled=False, classifier_units=[20, 11], dropout_rate=0.1, attention_dropout=0.1, cross_attention_scale=1.0,
    layer_norm_epsilon=1e-6,
)
CASES = {
    "the example's": {},
    "a stem, patches of points": dict(stem_units=[8, 12], patch_size=2),
    "a stem with pooling and residual blocks": dict(stem_units=[8, 20], stem_pooling=True, stem_blocks=2, patch_size=1),
    "Fourier positions": dict(positions="fourier"),
    "one band, one token": dict(positions="fourier", fourier_bands=1, patch_size=16),
    "several cross-attention heads": dict(num_cross_heads=4, cross_attention_scale=0.0),
    "heads of their own width": dict(head_dim=5),
    "few cross attentions": dict(num_cross_attends=1),
    "the first cross attention its own": dict(sharing="all-but-first-cross"),
    "no sharing, few cross attentions": dict(sharing="none", num_cross_attends=2),
    "a norm before the head": dict(norm_pooled=True, layer_norm_epsilon=1e-3),
    "no blocks, one layer": dict(num_transformer_blocks=0, ffn_units=[24], classifier_units=[5]),
    "everything": dict(stem_units=[8], patch_size=1, positions="fourier", num_cross_heads=2, head_dim=7, num_cross_attends=2, sharing="none", norm_pooled=True),
}


def logits(model, images):
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def ours_in_torch(directory):
    images, expected = checkpoint.logits(directory)
    return checkpoint.compare(f"{directory} in PyTorch", logits(Perceiver.from_checkpoint(directory), images), expected)


def torch_in_ours(name, architecture):
    torch.manual_seed(0)
    model = Perceiver(architecture).eval()
    weights = checkpoint.randomized({name: value.numpy() for name, value in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    with tempfile.TemporaryDirectory() as place:
        checkpoint.write(place, architecture, {name: value.numpy() for name, value in model.state_dict().items()})
        images, found = checkpoint.logits(place)
    return checkpoint.compare(f"PyTorch's weights in ours, {name}", found, logits(model, images))


def main(directories):
    good = [torch_in_ours(name, SMALL | case) for name, case in CASES.items()] if not directories else []
    for directory in directories:
        good += [ours_in_torch(directory), torch_in_ours(directory, checkpoint.read(directory)[0])]
    sys.exit(0 if all(good) else "the logits differ")


if __name__ == "__main__":
    main(sys.argv[1:])
