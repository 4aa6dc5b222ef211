"""The Perceiver in Keras's own layers: what the Rust model must equal, number by number.

`activations(config)` is a model whose outputs are every stage by name. Images are `[batch, side, side, 3]` as after
preprocessing. The two shared modules are built once and called in every iteration, so they have one set of weights.
"""
import keras
from keras import layers, ops

ATTENTION_DROPOUT = 0.1  # where a configuration does not say


def attention_dropout(c):
    return c.get("attention_dropout", ATTENTION_DROPOUT)


def inner_input(*shape):
    """The input of a part of the model, in the type in which the part before it computes."""
    return layers.Input(shape, dtype=keras.config.dtype_policy().compute_dtype)


def norm(name):
    return layers.LayerNormalization(epsilon=1e-6, name=name)


def feed_forward(name, units, rate):
    """Dense layers with exact GELU between them, and dropout at the end."""
    dense = [
        layers.Dense(width, name=f"{name}_dense{i}", activation=None if i == len(units) - 1 else keras.activations.gelu)
        for i, width in enumerate(units)
    ]
    return keras.Sequential([*dense, layers.Dropout(rate)], name=name)


class PatchEncoder(layers.Layer):
    """Patches, each projected to the width of the model, plus a learned vector for its place."""

    def __init__(self, side, patch, width):
        super().__init__(name="patch_encoder")
        self.patch, self.count = patch, (side // patch) ** 2
        self.projection = layers.Dense(width, name="projection")
        self.position = layers.Embedding(self.count, width, name="position")

    def build(self, shape):
        self.projection.build((None, self.count, self.patch * self.patch * shape[-1]))
        self.position.build((self.count,))
        self.built = True

    def call(self, images):
        patches = ops.image.extract_patches(images, self.patch, padding="valid")
        patches = ops.reshape(patches, (-1, self.count, patches.shape[-1]))
        return self.projection(patches) + self.position(ops.arange(self.count))


class Latents(layers.Layer):
    """The learned array that asks; the same for every image of the batch."""

    def __init__(self, count, width):
        super().__init__(name="latents")
        self.count, self.width = count, width

    def build(self, _):
        self.value = self.add_weight(shape=(self.count, self.width), initializer="random_normal", name="latents")

    def call(self, data):
        one = ops.expand_dims(self.value, 0)
        return ops.broadcast_to(one, (ops.shape(data)[0], self.count, self.width))


def cross_attention(c):
    """The latents read the data. Both residual connections add the array after its normalization."""
    latents = inner_input(c["latent_dim"], c["projection_dim"])
    data = inner_input((c["image_size"] // c["patch_size"]) ** 2, c["projection_dim"])
    asking, asked = norm("cross_ln_latent")(latents), norm("cross_ln_data")(data)
    query, key, value = (
        layers.Dense(c["projection_dim"], name=f"cross_{name}")(array)
        for name, array in (("q", asking), ("k", asked), ("v", asked))
    )
    attention = layers.Attention(use_scale=True, dropout=attention_dropout(c), name="cross_attention")
    # The document's order. Keras takes the inputs as [query, value, key], so `cross_k` has the role of the value and
    # `cross_v` that of the key.
    read = norm("cross_ln_out")(attention([query, key, value]) + asking)
    out = feed_forward("cross_ffn", c["ffn_units"], c["dropout_rate"])(read) + read
    return keras.Model([latents, data], out, name="cross")


def latent_transformer(c):
    """Self-attention of the latents in pre-normalized residual blocks."""
    start = latents = inner_input(c["latent_dim"], c["projection_dim"])
    for block in range(c["num_transformer_blocks"]):
        name = f"block{block}"
        attention = layers.MultiHeadAttention(
            c["num_heads"], c.get("head_dim") or c["projection_dim"], dropout=attention_dropout(c), name=f"{name}_mha"
        )
        normal = norm(f"{name}_ln1")(latents)
        latents = attention(normal, normal) + latents
        ffn = feed_forward(f"{name}_ffn", c["ffn_units"], c["dropout_rate"])
        latents = ffn(norm(f"{name}_ln2")(latents)) + latents
    return keras.Model(start, latents, name="latent")


def activations(c):
    """The whole model; its outputs are `encoded`, `cross0`, `latent0`, ..., `pooled`, `logits`."""
    images = layers.Input((c["image_size"], c["image_size"], 3))
    data = PatchEncoder(c["image_size"], c["patch_size"], c["projection_dim"])(images)
    latents = Latents(c["latent_dim"], c["projection_dim"])(data)
    cross, transformer = cross_attention(c), latent_transformer(c)
    stages = {"encoded": data}
    for i in range(c["num_iterations"]):
        stages[f"cross{i}"] = latents = cross([latents, data])
        stages[f"latent{i}"] = latents = transformer(latents)
    stages["pooled"] = pooled = ops.mean(latents, axis=1)
    stages["logits"] = feed_forward("head", c["classifier_units"], c["dropout_rate"])(pooled)
    return keras.Model(images, stages, name="perceiver")


def named_weights(model):
    """Trainable weights by name: Keras's path without the two layers that only hold others."""
    return {w.path.removeprefix("patch_encoder/").removeprefix("latents/"): w for w in model.trainable_weights}
