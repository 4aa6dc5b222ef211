"""Reads a run's event file with TensorBoard's own reader and compares it with the run's metrics.jsonl.

usage: python tensorboard_read.py RUN...

Prints every curve and, if there are histograms, their epochs. Ends with an error when a number differs from
metrics.jsonl's by more than a float32 rounds, or a histogram's counts do not add up.
Needs `tensorboard`.
"""
import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "loss": "loss/train", "val_loss": "loss/validation",
    "acc": "accuracy/train", "val_acc": "accuracy/validation",
    "top5_acc": "top5_accuracy/train", "val_top5_acc": "top5_accuracy/validation",
    "learning_rate": "learning_rate", "images_per_second": "speed/images_per_second", "seconds": "speed/seconds",
}


def compare(run):
    """The largest relative difference, after printing every curve."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    curves = {tag: events.Scalars(tag) for tag in sorted(events.Tags()["scalars"])}
    for tag, points in curves.items():
        print(f"{tag}: " + " ".join(f"{point.step}={point.value:.6g}" for point in points))
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    largest = 0.0
    for name, tag in TAGS.items():
        found = [(point.step, point.value) for point in curves.get(tag, [])]
        if [step for step, _ in found] != [epoch["epoch"] for epoch in epochs]:
            sys.exit(f"{run}: {tag} has steps {[step for step, _ in found]} for {len(epochs)} epochs")
        for (_, value), epoch in zip(found, epochs):
            largest = max(largest, abs(value - epoch[name]) / max(abs(epoch[name]), 1e-30))
    print(f"{run}: {len(curves)} curves, {len(epochs)} epochs, largest relative difference {largest:.2e}")
    histograms(run)
    return largest


def histograms(run):
    """Checks the histograms of a run that has some: counts, and the sums of the weights."""
    folder = run / "tensorboard" / "histograms"
    if not folder.exists():
        return
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    tags = sorted(events.Tags()["histograms"])
    for tag in tags:
        for point in events.Histograms(tag):
            value = point.histogram_value
            if sum(value.bucket) != value.num or value.bucket_limit[-1] != value.max or value.min > value.max:
                sys.exit(f"{run}: {tag} of epoch {point.step} is inconsistent: {value}")
    steps = [point.step for point in events.Histograms(tags[0])]
    weights = sum(events.Histograms(tag)[-1].histogram_value.num for tag in tags if tag.startswith("weights/"))
    print(f"{run}: {len(tags)} histograms of epochs {steps}, {weights:.0f} weights")


if __name__ == "__main__":
    differences = [compare(pathlib.Path(run)) for run in sys.argv[1:]]
    sys.exit(max(differences, default=1.0) > 1e-6 and "the event file differs from metrics.jsonl")
