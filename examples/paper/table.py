"""Write the scores of the experiments as the paper's table, with the paper's numbers beside ours.

    python table.py OUT [--seeds 42 84 ...]

Reads OUT/DATASET/MODEL/METHOD.jsonl, written by rsr score, and writes OUT/table.md and OUT/table.csv.
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

DATASETS = {"ben43": "BEN-43", "ben19": "BEN-19", "forestnet12": "ForestNet-12", "forestnet4": "ForestNet-4"}
MODELS = {"prithvi": "Prithvi-100M", "prithvi-rgb": "Prithvi-100M-RGB", "vit-rgb": "ViT-B/16-RGB"}
METHODS = {"embedding": "embedding", "binary": "binary embedding", "trivial": "trivial hash", "lsh": "LSH"}
SEEDS = (42, 84, 126, 168, 210)  # the paper's, for LSH

#: mAP@20 in percent per dataset, for LSH with its 95 % interval, then the mean (arXiv 2403.02059, table 1).
PAPER = {
    ("prithvi", "embedding"): (97.62, 97.98, 44.51, 60.76, 75.22),
    ("prithvi", "binary"): (97.44, 97.83, 43.28, 59.85, 74.6),
    ("prithvi", "trivial"): (82.75, 84.26, 34.91, 51.71, 63.41),
    ("prithvi", "lsh"): ((68.36, 4.96), (71.18, 4.66), (28.98, 1.85), (45.63, 1.39), 53.47),
    ("prithvi-rgb", "embedding"): (92.15, 93.17, 38.65, 53.85, 69.46),
    ("prithvi-rgb", "binary"): (91.38, 92.43, 38.11, 53.31, 68.81),
    ("prithvi-rgb", "trivial"): (73.36, 75.47, 32.35, 50.47, 57.91),
    ("prithvi-rgb", "lsh"): ((53.09, 8.43), (55.21, 8.61), (29.02, 1.45), (45.42, 1.26), 45.65),
    ("vit-rgb", "embedding"): (89.31, 90.21, 38.92, 56.49, 68.73),
    ("vit-rgb", "binary"): (88.71, 89.7, 39.19, 57.01, 68.65),
    ("vit-rgb", "trivial"): (75.74, 77.34, 33.01, 49.95, 59.01),
    ("vit-rgb", "lsh"): ((76.52, 0.95), (78.02, 0.92), (32.77, 1.32), (49.13, 2.09), 59.08),
}


def score(path, metric="map@20"):
    """Return a metric and its value for random rankings, in percent, from a file that rsr score wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (row,) = (row for row in rows if row["metric"] == metric)
    return 100 * row["value"], 100 * row["random"]


def mean_and_interval(values):
    """Return the mean and, for several values, 1.96 standard errors as in the paper, else None."""
    if len(values) == 1:
        return values[0], None
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5


def cells(folder, seeds=SEEDS):
    """Yield each cell of the table as a dict, in the paper's order."""
    for (model, method), published in PAPER.items():
        for dataset, theirs in zip(DATASETS, published[:-1], strict=True):
            names = [f"lsh-{seed}" for seed in seeds] if method == "lsh" else [method]
            scores = [score(folder / dataset / model / f"{name}.jsonl") for name in names]
            ours, interval = mean_and_interval([value for value, _ in scores])
            paper, paper_interval = theirs if method == "lsh" else (theirs, None)
            yield {
                "model": MODELS[model],
                "method": METHODS[method],
                "dataset": DATASETS[dataset],
                "map@20": ours,
                "interval": interval,
                "random": scores[0][1],
                "paper": paper,
                "paper_interval": paper_interval,
                "difference": ours - paper,
            }


def written(value, interval):
    """Return a number as text, with its interval if any."""
    return f"{value:.2f}" if interval is None else f"{value:.2f} ± {interval:.2f}"


def markdown(rows):
    """Yield the lines of the paper's table: one row per method, one column per dataset."""
    yield f"| model | method | {' | '.join(DATASETS.values())} | mean |"
    yield "|---" * (len(DATASETS) + 3) + "|"
    for number, published in enumerate(PAPER.values()):
        line = rows[number * len(DATASETS) : (number + 1) * len(DATASETS)]
        texts = [
            f"{written(row['map@20'], row['interval'])} (paper {written(row['paper'], row['paper_interval'])},"
            f" {row['difference']:+.2f})"
            for row in line
        ]
        ours, paper = statistics.fmean(row["map@20"] for row in line), published[-1]
        texts.append(f"{ours:.2f} (paper {paper:.2f}, {ours - paper:+.2f})")
        yield f"| {line[0]['model']} | {line[0]['method']} | {' | '.join(texts)} |"
    levels = [statistics.fmean(row["random"] for row in rows if row["dataset"] == name) for name in DATASETS.values()]
    yield f"| a random ranking | | {' | '.join(f'{level:.2f}' for level in levels)} | {statistics.fmean(levels):.2f} |"


def main():
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="OUT", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds for LSH (default: the paper's five)")
    args = parser.parse_args()
    folder = args.folder
    try:
        rows = list(cells(folder, args.seeds))
    except FileNotFoundError as error:
        sys.exit(f"table.py: {error.filename} is missing; run make table to create it")
    caption = (
        f"mAP@20 in percent: ours, then the paper's and the difference. LSH: {len(args.seeds)} seeds, 95 % interval."
    )
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    # The target of make: written last, and renamed once it is complete.
    whole = folder / "table.md.part"
    whole.write_text(caption + "\n\n" + "\n".join(markdown(rows)) + "\n")
    whole.replace(folder / "table.md")


if __name__ == "__main__":
    main()
