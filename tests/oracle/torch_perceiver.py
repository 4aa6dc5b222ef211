"""The Perceiver in PyTorch, every option of config.json's `model` section included.

    model = Perceiver.from_checkpoint("runs/mine")     # config.json and model.safetensors
    logits = model(images)                             # [batch, 3, side, side], normalized -> [batch, classes]

The module's parameters have the names and shapes of ours, so `load_state_dict` and `state_dict` are all the conversion there is.
"""
import json
import math
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


def norm(c):
    return nn.LayerNorm(c["projection_dim"], eps=c["layer_norm_epsilon"])


def heads(x, count):
    """[batch, n, width] -> [batch, heads, n, width / heads]"""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x):
    """[batch, heads, n, width] -> [batch, n, heads * width]"""
    return x.transpose(1, 2).flatten(2)


class FeedForward(nn.ModuleList):
    """Linear layers with exact GELU between them, and dropout at the end."""

    def __init__(self, width, units, rate):
        super().__init__(nn.Linear(inputs, outputs) for inputs, outputs in zip([width, *units], units))
        self.rate = rate

    def forward(self, x):
        for index, layer in enumerate(self):
            x = layer(x if index == 0 else F.gelu(x))
        return F.dropout(x, self.rate, self.training)


class Convolution(nn.Module):
    """A convolution of 3 x 3, its weight flattened as (row, column, channel), and a norm over channels."""

    def __init__(self, channels, units, epsilon):
        super().__init__()
        self.convolution = nn.Linear(9 * channels, units)
        self.norm = nn.LayerNorm(units, eps=epsilon)

    def convolve(self, x, stride):
        weight = self.convolution.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.convolution.bias, stride=stride, padding=1)

    def activation(self, x):
        return F.gelu(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class StemLayer(Convolution):
    """A convolution that halves height and width, by stride 2 or max pooling, and residual blocks."""

    def __init__(self, c, channels, units):
        super().__init__(channels, units, c["layer_norm_epsilon"])
        self.pools = c.get("stem_pooling", False)
        blocks = (Convolution(units, units, c["layer_norm_epsilon"]) for _ in range(c.get("stem_blocks", 0)))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x = F.max_pool2d(self.convolve(x, 1), 2) if self.pools else self.convolve(x, 2)
        x = self.activation(x)
        for block in self.blocks:
            x = x + block.activation(block.convolve(x, 1))
        return x


def fourier_features(side, bands):
    """[side * side, 2 * (1 + 2 * bands)]: of row and column, x and sin, cos of pi f x for f from 1 to the Nyquist frequency."""
    x = torch.linspace(-1, 1, side, dtype=torch.float64) if side > 1 else torch.zeros(1, dtype=torch.float64)
    nyquist = max(side / 2, 1.0)
    angles = math.pi * torch.linspace(1, nyquist, bands, dtype=torch.float64) * x[:, None]
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    one = torch.cat([x[:, None], waves], 1)
    grid = torch.cat([one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)], -1)
    return grid.flatten(0, 1).float()


class Encoder(nn.Module):
    """Patches, each projected, plus where each is."""

    def __init__(self, c):
        super().__init__()
        channels = (c["stem_units"] or [c["channels"]])[-1]
        side = (c["image_size"] >> len(c["stem_units"])) // c["patch_size"]
        self.patch, width = c["patch_size"], c["projection_dim"]
        self.projection = nn.Linear(self.patch**2 * channels, width)
        if c["positions"] == "learned":
            self.positions = nn.Parameter(torch.empty(side**2, width).uniform_(-0.05, 0.05))
        else:
            features = fourier_features(side, c["fourier_bands"])
            self.register_buffer("features", features, persistent=False)
            self.position_projection = nn.Parameter(torch.empty(width, features.shape[1]))
            nn.init.xavier_uniform_(self.position_projection)

    def forward(self, images):
        batch, channels, height, width = images.shape
        size = self.patch
        patches = images.reshape(batch, channels, height // size, size, width // size, size)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)
        is_learned = hasattr(self, "positions")
        return self.projection(patches) + (self.positions if is_learned else self.features @ self.position_projection.T)


class CrossAttention(nn.Module):
    """The latents read the data. Both residual connections add the array after its normalization."""

    def __init__(self, c):
        super().__init__()
        width, self.heads = c["projection_dim"], c["num_cross_heads"]
        self.norm_latents, self.norm_data, self.norm_output = norm(c), norm(c), norm(c)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        if self.heads > 1:
            self.output = nn.Linear(width, width)
        scale = c["cross_attention_scale"] or (width // self.heads) ** -0.5
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.ffn = FeedForward(width, c["ffn_units"], c["dropout_rate"])
        self.rate = c["attention_dropout"]

    def forward(self, latents, data):
        latents, data = self.norm_latents(latents), self.norm_data(data)
        query = heads(self.scale * self.query(latents), self.heads).expand(data.shape[0], -1, -1, -1)
        key, value = heads(self.key(data), self.heads), heads(self.value(data), self.heads)
        rate = self.rate if self.training else 0.0
        read = joined(F.scaled_dot_product_attention(query, key, value, dropout_p=rate, scale=1.0))
        if self.heads > 1:
            read = self.output(read)
        hidden = self.norm_output(read + latents)
        return self.ffn(hidden) + hidden


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.heads = c["projection_dim"], c["num_heads"]
        inner = self.heads * (c["head_dim"] or width)
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.output = nn.Linear(inner, width)
        self.rate = c["attention_dropout"]

    def forward(self, x):
        query, key, value = (heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        rate = self.rate if self.training else 0.0
        return self.output(joined(F.scaled_dot_product_attention(query, key, value, dropout_p=rate)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm_attention, self.attention = norm(c), SelfAttention(c)
        self.norm_ffn = norm(c)
        self.ffn = FeedForward(c["projection_dim"], c["ffn_units"], c["dropout_rate"])

    def forward(self, x):
        x = self.attention(self.norm_attention(x)) + x
        return self.ffn(self.norm_ffn(x)) + x


class Perceiver(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        widths = [c["channels"], *c["stem_units"]]
        self.stem = nn.Sequential(*(StemLayer(c, *pair) for pair in zip(widths, widths[1:])))
        self.encoder = Encoder(c)
        self.latents = nn.Parameter(torch.randn(c["latent_dim"], c["projection_dim"]) * c["latent_deviation"])
        # Which modules an iteration uses: the first set of weights has the plain name, the second `_2`, and so on.
        self.iterations = []
        for iteration in range(c["num_iterations"]):
            own = c["sharing"] == "none"
            cross = {"all": 0, "all-but-first-cross": min(iteration, 1), "none": iteration}[c["sharing"]]
            reads = iteration < (c["num_cross_attends"] or c["num_iterations"])
            names = ("cross_attention", cross) if reads else None, ("transformer", iteration if own else 0)
            self.iterations.append([self.module(name, c) for name in names])
        if c["norm_pooled"]:
            self.norm_pooled = norm(c)
        self.head = FeedForward(c["projection_dim"], c["classifier_units"], c["dropout_rate"])

    def module(self, name, c):
        """The name of the module of a set of weights, which is made when it is first asked for."""
        if name is None:
            return None
        kind, index = name
        name = kind if index == 0 else f"{kind}_{index + 1}"
        if not hasattr(self, name):
            blocks = (Block(c) for _ in range(c["num_transformer_blocks"]))
            self.add_module(name, CrossAttention(c) if kind == "cross_attention" else nn.Sequential(*blocks))
        return name

    def forward(self, images):
        data, latents = self.encoder(self.stem(images)), self.latents[None]
        for cross_attention, transformer in self.iterations:
            if cross_attention:
                latents = getattr(self, cross_attention)(latents, data)
            latents = getattr(self, transformer)(latents)
        pooled = latents.mean(1)
        return self.head(self.norm_pooled(pooled) if self.config["norm_pooled"] else pooled)

    @classmethod
    def from_checkpoint(cls, directory):
        directory = pathlib.Path(directory)
        model = cls(json.loads((directory / "config.json").read_text())["model"])
        model.load_state_dict(load_file(directory / "model.safetensors"))
        return model.eval()
