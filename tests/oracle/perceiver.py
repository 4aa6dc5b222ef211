"""Golden numbers of the model: forward pass, gradients and five steps of Adam, dropout off.

usage: KERAS_BACKEND=jax python perceiver.py OUT [--seed N] [--batch N] [--config FILE.json]...

Writes OUT/perceiver_<case>.{json,safetensors} for the cases `small` and `odd` and for every FILE, called by its name.
The arrays: input, labels; w/<weight> at the start; act/<stage>; grad/<weight> of the mean cross-entropy;
step1/<weight> and step5/<weight> after Adam(1e-3) on the same batch; loss [6] before each step and after the last.
"""
import argparse
import json
import os
import pathlib

import jax
import keras
import numpy as np
from keras_perceiver import activations, named_weights
from safetensors.numpy import save_file

CASES = {
    "small": dict(image_size=16, patch_size=2, latent_dim=12, projection_dim=16, num_heads=4,
                  num_transformer_blocks=2, num_iterations=2, ffn_units=[16, 16], classifier_units=[16, 10],
                  dropout_rate=0.2),
    # Sizes that divide nothing, a feed-forward of other widths, an odd number of heads and iterations.
    "odd": dict(image_size=15, patch_size=3, latent_dim=7, projection_dim=24, num_heads=3,
                num_transformer_blocks=3, num_iterations=3, ffn_units=[40, 24], classifier_units=[20, 11],
                dropout_rate=0.0),
}
STEPS = 5


def randomize(weights, rng):
    """Random values everywhere, since a bias of 0 or a gain of 1 that is left out would not show."""
    for name, weight in weights.items():
        centre = 1.0 if name.endswith(("gamma", "scale")) else 0.0
        if weight.ndim < 2:
            spread = 0.1
        elif name.endswith("kernel"):
            spread = np.prod(weight.shape[:-1]) ** -0.5
        else:
            spread = 0.25
        weight.assign(centre + spread * rng.standard_normal(weight.shape).astype("float32"))


def arrays(config, batch, rng):
    side, classes = config["image_size"], config["classifier_units"][-1]
    images = rng.standard_normal((batch, side, side, 3)).astype("float32")
    labels = rng.integers(0, classes, batch)
    model = activations(config)
    weights = named_weights(model)
    randomize(weights, rng)

    out = {"input": images, "labels": labels.astype("int64")}
    snapshot = lambda prefix: {f"{prefix}/{name}": keras.ops.convert_to_numpy(w) for name, w in weights.items()}
    out |= snapshot("w")
    out |= {f"act/{name}": np.array(value) for name, value in model(images, training=False).items()}

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(values):
        stages, _ = model.stateless_call(values, model.non_trainable_variables, images, training=False)
        return -jax.nn.log_softmax(stages["logits"])[np.arange(batch), labels].mean()

    variables = list(weights.values())
    now = lambda: loss_and_gradients([w.value for w in variables])
    loss, gradients = now()
    out |= {f"grad/{name}": np.array(g) for name, g in zip(weights, gradients)}
    adam, losses = keras.optimizers.Adam(1e-3), [loss]
    adam.build(variables)
    for step in range(1, STEPS + 1):
        adam.apply(gradients, variables)
        loss, gradients = now()
        losses.append(loss)
        if step in (1, STEPS):
            out |= snapshot(f"step{step}")
    out["loss"] = np.array(losses, "float32")
    facts = dict(config=config, params=model.count_params(), loss=[float(v) for v in losses],
                 keras=keras.__version__, weights={name: list(w.shape) for name, w in weights.items()})
    return out, facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--config", type=pathlib.Path, action="append", default=[], metavar="FILE.json")
    options = parser.parse_args()
    cases = CASES | {path.stem: json.loads(path.read_text()) for path in options.config}
    os.makedirs(options.out, exist_ok=True)
    for name, config in cases.items():
        out, facts = arrays(config, options.batch, np.random.default_rng(options.seed))
        file = options.out / f"perceiver_{name}"
        save_file({key: np.ascontiguousarray(value) for key, value in out.items()}, f"{file}.safetensors")
        pathlib.Path(f"{file}.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(f"{name}: {facts['params']} parameters, loss {facts['loss'][0]:.4f} to {facts['loss'][-1]:.4f}")


if __name__ == "__main__":
    main()
