"""Compares the tables of `perceiver evaluate` with what scikit-learn and NumPy make of the same predictions.

usage: python classification_report.py RUN [PROGRAM]

RUN is a finished run. Its predictions.csv is evaluated by scikit-learn: precision, recall, F1 and support by class,
their averages, balanced accuracy, and the confusion matrix, with zero_division=0. The calibration error is computed
again from its definition: 15 bins of equal width, (0, 1/15], (1/15, 2/15] and so on. `perceiver evaluate`, run by
PROGRAM or by cargo, evaluates the run again and writes the tables that must equal these. Ends with an error when a
number differs by more than 1e-9. Needs `numpy` and `scikit-learn`.
"""
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

TOLERANCE = 1e-9
BINS = 15
WORKSPACE = pathlib.Path(__file__).parent.parent.parent


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def evaluate(run, program, place):
    """What `perceiver evaluate` prints and writes."""
    command = [program] if program else ["cargo", "run", "--quiet", "-p", "perceiver-cli", "--"]
    tables = {name: place / f"{name}.csv" for name in ("confusion", "per-class", "predictions")}
    flags = [part for name, path in tables.items() for part in (f"--{name}", str(path))]
    done = subprocess.run(
        [*command, "evaluate", str(run), "--json", *flags], check=True, stdout=subprocess.PIPE, cwd=WORKSPACE
    )
    return json.loads(done.stdout), {name: rows(path) for name, path in tables.items()}


def calibration_error(correct, confidence):
    """The mean over all images of the gap between confidence and accuracy of their bin."""
    edges = np.arange(1, BINS) / BINS
    bins = np.searchsorted(edges, confidence, side="left")  # edges[i - 1] < confidence <= edges[i]
    gaps = [
        chosen.sum() * abs(confidence[chosen].mean() - correct[chosen].mean())
        for chosen in (bins == index for index in range(BINS))
        if chosen.any()
    ]
    return sum(gaps) / len(confidence)


class Comparison:
    def __init__(self):
        self.failed = False

    def of(self, what, found, expected):
        found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
        largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        good = largest <= TOLERANCE
        self.failed |= not good
        print(f"{what}: {found.size} numbers, largest difference {largest:.1e}{'' if good else '  TOO LARGE'}")


def main(run, program=None):
    run = pathlib.Path(run).absolute()
    saved = rows(run / "predictions.csv")
    column = {name: [row[index] for row in saved[1:]] for index, name in enumerate(saved[0])}
    true, predicted = (np.array(column[name], int) for name in ("label", "predicted"))
    # The file has f32 values, and the program computes with them.
    confidence = np.array(column["probability"], "float32").astype("float64")
    with tempfile.TemporaryDirectory() as place:
        printed, tables = evaluate(run, program, pathlib.Path(place))
    compare = Comparison()

    per_class, confusion = tables["per-class"], tables["confusion"]
    names = confusion[0][1:]
    everything = range(len(names))
    if [row[0] for row in per_class[1:-2]] != names or [row[0] for row in confusion[1:]] != names:
        sys.exit("the tables name other classes")
    numbers = np.array([[float(cell) for cell in row[1:]] for row in per_class[1:]])
    expected = precision_recall_fscore_support(true, predicted, labels=everything, zero_division=0)
    for index, what in enumerate(("precision", "recall", "F1", "support")):
        compare.of(what, numbers[:-2, index], expected[index])
    for row, average in ((-2, "macro"), (-1, "weighted")):
        # scikit-learn's default labels: those that have images or predictions.
        average_of = precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        compare.of(f"{average} averages", numbers[row, :3], average_of[:3])
        compare.of(f"{average} support", numbers[row, 3], len(true))
    counts = [[int(cell) for cell in row[1:]] for row in confusion[1:]]
    compare.of("confusion matrix", counts, confusion_matrix(true, predicted, labels=everything))
    macro_f1 = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)[2]
    compare.of("macro F1 in the results", printed["macro_f1"], macro_f1)
    compare.of("balanced accuracy", printed["balanced_acc"], balanced_accuracy_score(true, predicted))
    compare.of("accuracy", printed["acc"], (true == predicted).mean())
    compare.of("calibration error", printed["calibration_error"], calibration_error(true == predicted, confidence))

    header, *table = tables["predictions"]
    at = {name: index for index, name in enumerate(header)}
    index = {name: number for number, name in enumerate(names)}
    compare.of("true classes", [index[row[at["true_class"]]] for row in table], true)
    compare.of("predicted classes", [index[row[at["predicted_class"]]] for row in table], predicted)
    compare.of("probabilities", [np.float32(row[at["probability"]]) for row in table], confidence)
    first = [at[f"top{k}_class"] for k in range(1, 6) if f"top{k}_class" in at]
    within = [row[at["true_class"]] in [row[place] for place in first] for row in table]
    compare.of("top-5 accuracy", printed["top5_acc"], np.mean(within))
    sys.exit(compare.failed and "the tables differ from scikit-learn's")


if __name__ == "__main__":
    main(*sys.argv[1:])
