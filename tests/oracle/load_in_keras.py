"""Our checkpoints in Keras and Keras's weights in ours: the same logits within 1e-4.

usage: KERAS_BACKEND=jax python load_in_keras.py [CHECKPOINT]...

For every checkpoint: read by Keras, its logits of seeded inputs beside ours; then the same architecture with weights that Keras made, written as a
checkpoint and read by ours. Without one, the second for a small architecture. The Keras model is the example's, so an architecture with options of our own is
refused; PyTorch's model has them all. Needs `keras` with a backend, `numpy`, `safetensors` and cargo.
"""
import re
import sys
import tempfile

import checkpoint
import keras
import numpy as np
from keras_perceiver import activations, named_weights

SMALL = dict(
    image_size=16, channels=3, patch_size=2, latent_dim=12, projection_dim=16, num_heads=4, head_dim=5, num_transformer_blocks=2, num_iterations=2,
    ffn_units=[24, 16], classifier_units=[16, 10], dropout_rate=0.2, attention_dropout=0.1,
)
# What a field has to be for the example's model; one that is left out is.
EXAMPLE = dict(channels=3, stem_units=[], positions="learned", num_cross_heads=1, sharing="all", norm_pooled=False, layer_norm_epsilon=1e-6)

LAYERS = [
    (r"encoder\.positions", "position/embeddings"),
    (r"encoder\.projection\.(.*)", r"projection/\1"),
    (r"cross_attention\.scale", "cross_attention/scale"),
    (r"cross_attention\.norm_latents\.(.*)", r"cross_ln_latent/\1"),
    (r"cross_attention\.norm_data\.(.*)", r"cross_ln_data/\1"),
    (r"cross_attention\.norm_output\.(.*)", r"cross_ln_out/\1"),
    (r"cross_attention\.query\.(.*)", r"cross_q/\1"),
    # The example hands Keras's `Attention` its arguments in another order: see docs/parity.md.
    (r"cross_attention\.key\.(.*)", r"cross_v/\1"),
    (r"cross_attention\.value\.(.*)", r"cross_k/\1"),
    (r"cross_attention\.ffn\.(\d+)\.(.*)", r"cross_ffn/cross_ffn_dense\1/\2"),
    (r"transformer\.(\d+)\.norm_attention\.(.*)", r"block\1_ln1/\2"),
    (r"transformer\.(\d+)\.norm_ffn\.(.*)", r"block\1_ln2/\2"),
    (r"transformer\.(\d+)\.attention\.output\.(.*)", r"block\1_mha/attention_output/\2"),
    (r"transformer\.(\d+)\.attention\.(\w+)\.(.*)", r"block\1_mha/\2/\3"),
    (r"transformer\.(\d+)\.ffn\.(\d+)\.(.*)", r"block\1_ffn/block\1_ffn_dense\2/\3"),
    (r"head\.(\d+)\.(.*)", r"head/head_dense\1/\2"),
    (r"latents", "latents"),
]


def path(name):
    """The Keras path of the weight we call `name`."""
    for pattern, replacement in LAYERS:
        match = re.fullmatch(pattern, name)
        if match:
            found = match.expand(replacement)
            kind = ("gamma", "beta") if "_ln" in found else ("kernel", "bias")
            return re.sub(r"/weight$", f"/{kind[0]}", re.sub(r"/bias$", f"/{kind[1]}", found))
    sys.exit(f"{name}: no such weight in the example's model")


def build(architecture):
    """The example's model of images `[batch, side, side, 3]`, which ends in logits."""
    for field, value in EXAMPLE.items():
        if architecture.get(field, value) != value:
            sys.exit(f"{field} = {architecture[field]!r}: expected {value!r}, the example's, which the Keras model has; load_in_torch.py has all")
    if architecture.get("num_cross_attends", 0) not in (0, architecture["num_iterations"]):
        sys.exit(f"num_cross_attends = {architecture['num_cross_attends']}: expected one in every iteration, as the Keras model has it")
    stages = activations(architecture)
    return keras.Model(stages.input, stages.output["logits"])


def load(model, weights):
    """Gives a Keras model our weights: a kernel is ours transposed, in Keras's shape; all else has our values in our order."""
    variables = named_weights(model)
    paths = {path(name): array.T if array.ndim == 2 and name.endswith(".weight") else array for name, array in weights.items()}
    if paths.keys() != variables.keys():
        sys.exit(f"expected the same weights, found differences in {sorted(paths.keys() ^ variables.keys())}")
    for key, array in paths.items():
        variables[key].assign(np.reshape(array, variables[key].shape))


def ours(model, names):
    """The weights of a Keras model in our layout. A kernel `[width, heads, head width]` has its inputs first, an output's `[heads, head width, width]` last."""
    variables = named_weights(model)
    weights = {}
    for name in names:
        array = keras.ops.convert_to_numpy(variables[path(name)])
        if name.endswith(".weight") and array.ndim > 1:
            inputs = np.prod(array.shape[:-1]) if ".attention.output." in name else array.shape[0]
            array = array.reshape(inputs, -1).T
        elif ".attention." in name and array.ndim > 1:
            array = array.reshape(-1)  # a bias for every head
        weights[name] = array
    return weights


def names(architecture):
    """Our names for the weights of the example's model."""
    def dense(prefix, count):
        return [f"{prefix}.{index}.{kind}" for index in range(count) for kind in ("weight", "bias")]

    def pairs(prefix, layers):
        return [f"{prefix}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]

    found = ["latents", "encoder.positions", "cross_attention.scale", *pairs("encoder", ["projection"])]
    found += pairs("cross_attention", ["norm_latents", "norm_data", "norm_output", "query", "key", "value"])
    found += dense("cross_attention.ffn", len(architecture["ffn_units"]))
    for block in range(architecture["num_transformer_blocks"]):
        found += pairs(f"transformer.{block}", ["norm_attention", "norm_ffn"])
        found += pairs(f"transformer.{block}.attention", ["query", "key", "value", "output"])
        found += dense(f"transformer.{block}.ffn", len(architecture["ffn_units"]))
    return found + dense("head", len(architecture["classifier_units"]))


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images.transpose(0, 2, 3, 1), training=False))


def ours_in_keras(directory):
    architecture, weights = checkpoint.read(directory)
    model = build(architecture)
    load(model, weights)
    images, expected = checkpoint.logits(directory)
    return checkpoint.compare(f"{directory} in Keras", logits(model, images), expected)


def keras_in_ours(name, architecture):
    keras.utils.set_random_seed(0)
    model = build(architecture)
    load(model, checkpoint.randomized(ours(model, names(architecture))))
    with tempfile.TemporaryDirectory() as place:
        checkpoint.write(place, architecture, ours(model, names(architecture)))
        images, found = checkpoint.logits(place)
    return checkpoint.compare(f"Keras's weights in ours, {name}", found, logits(model, images))


def main(directories):
    good = [keras_in_ours("a small model", SMALL)] if not directories else []
    for directory in directories:
        good += [ours_in_keras(directory), keras_in_ours(directory, checkpoint.read(directory)[0])]
    sys.exit(0 if all(good) else "the logits differ")


if __name__ == "__main__":
    main(sys.argv[1:])
