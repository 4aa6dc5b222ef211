"""Perceiver IO checkpoints in transformers and in ours: the same logits within 1e-4 of the largest one, in both directions.

usage: python perceiver_io_from_pretrained.py check DIR [LOGITS.safetensors]
       python perceiver_io_from_pretrained.py write OUT [--seed S]
       python perceiver_io_from_pretrained.py predict DIR IMAGE...

`check` loads DIR, which our program wrote (a fine-tuned run, say), by `from_pretrained` of the class that its config.json names, refuses a tensor that
is missing, left over or of another shape, and compares logits. LOGITS.safetensors has `pixel_values` (or `input`) [n, 3, H, W] and our `logits` of
them; without it, `cargo run --example logits` computes them:

    perceiver train --preset finetune --init-from deepmind/vision-perceiver-fourier --dataset folder:photos --output runs/mine
    python tests/oracle/perceiver_io_from_pretrained.py check runs/mine

`write` makes a small random model of every kind and stores it in OUT/KIND as the Hub has them (config.json, model.safetensors, pytorch_model.bin,
preprocessor_config.json) with golden.safetensors: inputs, latents, logits, loss and the gradient of every parameter. Our side reads it:

    python tests/oracle/perceiver_io_from_pretrained.py write models
    PERCEIVER_IO_GOLDEN_DIR=$PWD/models cargo test -p perceiver-tests --test perceiver_io
    for kind in learned fourier conv; do python tests/oracle/perceiver_io_from_pretrained.py check models/$kind; done

`predict` prints the probabilities of each image, by transformers' image processor and model; tests/hub_perceiver_io.rs has some of its output.

Needs `torch`, `transformers` 5, `numpy`, `safetensors`, `pillow`, and cargo for `check` without a file. Checked with transformers 5.24 and PyTorch 2.15.
"""
import argparse
import json
import pathlib
import sys

import checkpoint
import numpy as np
import torch
import transformers
import transformers.utils.logging
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil

# The class of each kind, the size that its images are resized to, height and width of the golden inputs, and what its configuration has beside `SMALL`.
KINDS = {
    "learned": ("PerceiverForImageClassificationLearned", 14, (14, 14), dict(d_model=512, image_size=14)),
    "fourier": ("PerceiverForImageClassificationFourier", 56, (14, 18), dict(d_model=261)),
    "conv": ("PerceiverForImageClassificationConvProcessing", 56, (38, 30), dict(d_model=322)),
}
SMALL = dict(
    num_latents=7, d_latents=24, num_blocks=3, num_self_attends_per_block=2, num_self_attention_heads=3, num_cross_attention_heads=1,
    attention_probs_dropout_prob=0.0,
)
NUM_LABELS = 6


def class_of(directory):
    """The class that config.json names, or the one that older files name otherwise."""
    names = json.loads((directory / "config.json").read_text())["architectures"]
    renamed = {"PerceiverForImageClassification": KINDS["learned"][0]}
    return getattr(transformers, renamed.get(names[0], names[0]))


def load(directory):
    """The model of a directory, in inference mode, without one tensor too few, too many or of another shape."""
    model, info = class_of(directory).from_pretrained(directory, output_loading_info=True)
    # A counter of batch norm that no computation here reads.
    info["missing_keys"] = {name for name in info["missing_keys"] if not name.endswith(".num_batches_tracked")}
    wrong = {key: found for key, found in info.items() if found and key != "error_msgs"}
    if wrong or info.get("error_msgs"):
        sys.exit(f"{directory}: transformers does not load it as it is: {wrong or info['error_msgs']}")
    return model.eval()


def logits(model, pixel_values):
    with torch.inference_mode():
        return model(pixel_values=torch.from_numpy(np.asarray(pixel_values, "float32"))).logits.numpy()


def check(directory, file):
    model = load(directory)
    if file is None:
        pixel_values, ours = checkpoint.logits(directory)
    else:
        arrays = load_file(file)
        pixel_values, ours = arrays.get("pixel_values", arrays.get("input")), arrays["logits"]
    # Differences of rounding grow with the logits: transformers itself gives logits of 4.4 that differ by 1.1e-4 from one processor to another.
    largest = max(1.0, float(np.abs(ours).max()))
    what = f"{directory} in {type(model).__name__}, divided by {largest:.1f}"
    return checkpoint.compare(what, logits(model, pixel_values) / largest, ours / largest)


def draw(model, generator):
    """Values of the size that training gives them. transformers' own initial values leave all logits near 0."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        normal = torch.from_numpy(generator.standard_normal(tuple(tensor.shape)).astype("float32"))
        if name.endswith("running_var"):
            value = torch.exp(0.3 * normal)
        elif tensor.ndim == 1:
            value = (1.0 if name.endswith("weight") else 0.0) + 0.1 * normal
        elif "position_embeddings" in name or name.endswith("latents"):
            value = 0.5 * normal
        else:
            value = normal / np.sqrt(np.prod(tensor.shape[1:]))
        tensor.copy_(value)


def numbers(model, pixel_values, labels):
    """What our side must reproduce: activations, logits, the loss and its gradients."""
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, output[0])

    model.perceiver.encoder.cross_attention.register_forward_hook(keep("cross"))
    output = model(pixel_values=pixel_values, output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(output.logits, labels)
    loss.backward()
    seen |= {"latents": output.hidden_states[-1], "logits": output.logits, "loss": loss, "pixel_values": pixel_values, "labels": labels}
    seen |= {f"grad/{name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in seen.items()}


def write(out, seed):
    generator = np.random.default_rng(seed)
    for kind, (class_name, size, (height, width), of_kind) in KINDS.items():
        names = {label: f"kind {label}, of {kind}" for label in range(NUM_LABELS)}
        config = transformers.PerceiverConfig(
            **SMALL, **of_kind, num_labels=NUM_LABELS, id2label=names, label2id={name: label for label, name in names.items()}
        )
        model = getattr(transformers, class_name)(config).eval()
        with torch.no_grad():
            draw(model, generator)
        directory = out / kind
        model.save_pretrained(directory)
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
        PerceiverImageProcessorPil(size=size, crop_size=size * 8 // 7).save_pretrained(directory)
        pixel_values = torch.from_numpy(generator.standard_normal((2, 3, height, width)).astype("float32"))
        labels = torch.from_numpy(generator.integers(0, NUM_LABELS, 2))
        save_file(numbers(model, pixel_values, labels), directory / "golden.safetensors")
        print(f"{directory}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")


def predict(directory, images):
    processor, model = PerceiverImageProcessorPil.from_pretrained(directory), load(directory)
    for path in images:
        pixel_values = processor(Image.open(path).convert("RGB"), return_tensors="np")["pixel_values"]
        probabilities = torch.softmax(torch.from_numpy(logits(model, pixel_values)), -1)[0]
        print(path)
        for label, probability in enumerate(probabilities.tolist()):
            print(f"  {probability:.6f}  {model.config.id2label[label]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check")
    command.add_argument("directory", type=pathlib.Path)
    command.add_argument("file", type=pathlib.Path, nargs="?")
    command = commands.add_parser("write")
    command.add_argument("out", type=pathlib.Path)
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("predict")
    command.add_argument("directory", type=pathlib.Path)
    command.add_argument("images", nargs="+")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if arguments.command == "check":
        sys.exit(0 if check(arguments.directory, arguments.file) else "the logits differ")
    if arguments.command == "write":
        write(arguments.out, arguments.seed)
    else:
        predict(arguments.directory, arguments.images)


if __name__ == "__main__":
    main()
