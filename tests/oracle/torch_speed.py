"""How fast the model trains and predicts in PyTorch, compiled: the peer of `cargo xtask bench`.

usage: python torch_speed.py train|infer CONFIG_JSON BATCH STEPS|forever [DEVICE [PRECISION]]

DEVICE is cpu, cuda or cuda:N; PRECISION f32, tf32 or bf16: autocast, with weights and the optimizer's state in f32. A GPU goes through ten
repetitions before it is waited for, as it does in training.

`forever` prints a line `step BATCH` after every repetition. Otherwise the last line it prints is a JSON object: amount
(pictures a repetition), seconds of every repetition, peak_rss_bytes, and on a GPU peak_device_bytes.
"""
import contextlib
import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def feed_forward(width, units, rate):
    layers = []
    for index, outputs in enumerate(units):
        layers.append(nn.Linear(width, outputs))
        if index < len(units) - 1:
            layers.append(nn.GELU())
        width = outputs
    return nn.Sequential(*layers, nn.Dropout(rate))


class CrossAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["projection_dim"]
        self.norm_latents, self.norm_data, self.norm_output = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(()))
        self.ffn = feed_forward(width, c["ffn_units"], c["dropout_rate"])
        self.dropout = c["attention_dropout"]

    def forward(self, latents, data):
        latents, data = self.norm_latents(latents), self.norm_data(data)
        query = (self.query(latents) * self.scale).expand(data.shape[0], -1, -1)
        rate = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, self.key(data), self.value(data), dropout_p=rate, scale=1.0)
        hidden = self.norm_output(read + latents)
        return self.ffn(hidden) + hidden


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.heads = c["projection_dim"], c["num_heads"]
        inner = self.heads * (c["head_dim"] or width)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query_key_value, self.output = nn.Linear(width, 3 * inner), nn.Linear(inner, width)
        self.ffn = feed_forward(width, c["ffn_units"], c["dropout_rate"])
        self.dropout = c["attention_dropout"]

    def forward(self, x):
        batch, count, _ = x.shape
        projected = self.query_key_value(self.norm_attention(x)).view(batch, count, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        x = self.output(read.transpose(1, 2).reshape(batch, count, -1)) + x
        return self.ffn(self.norm_ffn(x)) + x


class Perceiver(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, tokens = c["projection_dim"], (c["image_size"] // c["patch_size"]) ** 2
        self.patch = c["patch_size"]
        self.latents = nn.Parameter(torch.randn(1, c["latent_dim"], width) * 0.05)
        self.position = nn.Parameter(torch.rand(tokens, width) * 0.1 - 0.05)
        self.projection = nn.Linear(3 * self.patch**2, width)
        self.cross_attention = CrossAttention(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["num_transformer_blocks"]))
        self.head = feed_forward(width, c["classifier_units"], c["dropout_rate"])
        self.iterations = c["num_iterations"]

    def forward(self, images):
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        data, latents = self.projection(patches) + self.position, self.latents
        for _ in range(self.iterations):
            latents = self.cross_attention(latents, data)
            for block in self.blocks:
                latents = block(latents)
        return self.head(latents.mean(1))


def work(model, task, images, labels, autocast):
    """What is repeated."""
    forward = torch.compile(model)
    if task == "infer":
        model.eval()

        def infer():
            with torch.inference_mode(), autocast():
                forward(images)

        return infer
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def autocast_of(device, precision):
    if precision == "bf16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return contextlib.nullcontext


def measure(task, config, batch, steps, device="cpu", precision="f32"):
    torch.manual_seed(0)
    device = torch.device(device)
    is_gpu = device.type == "cuda"
    together = 10 if is_gpu else 1
    side, classes = config["image_size"], config["classifier_units"][-1]
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.randint(0, classes, (batch,), device=device)
    once = work(Perceiver(config).to(device), task, images, labels, autocast_of(device, precision))

    def repeat():
        for _ in range(together):
            once()
        if is_gpu:
            torch.cuda.synchronize(device)

    if steps == "forever":
        while True:
            repeat()
            print("step", batch * together, flush=True)
    repeat(), repeat()
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        repeat()
        seconds.append((time.perf_counter() - start) / together)
    found = dict(amount=float(batch), seconds=seconds)
    found["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if is_gpu:
        found["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(found))


if __name__ == "__main__":
    measure(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
