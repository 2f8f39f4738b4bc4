"""Gather what codes.py measured into one file, and write the table and the chart from it.

    python table.py gather OUT LABELLED "ENCODERS" -o codes.json
    python table.py write codes.json codes.md

`gather` states for each way to store and search tiles the mean of each metric with its 95 % interval, by a bootstrap
over queries and seeds, and of its difference to the same queries of float32 and of signs. `write` puts the table
between the lines <!-- table --> and <!-- end of the table --> of the page, and draws the chart beside it, as .png.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("map@20", "p@20", "recall@20")
SAMPLES = 2000
BEGIN, END = "<!-- table -->", "<!-- end of the table -->"
PAGE = f"# Codes: quality over bytes\n\n![Quality over bytes](codes.png)\n\n{BEGIN}\n{END}\n"
#: How to store and ask, from what it was fitted to the number of codes that are ranked again.
Key = tuple[str, str | None, str, int]
FLOAT, SIGN = ("float32", None, "default", 0), ("sign", None, "default", 0)


def read(paths: list[Path]) -> dict[Key, dict[str, Any]]:
    """Return the bytes of each key, and of each metric its values by query, of parts with different queries."""
    found: dict[Key, dict[str, Any]] = {}
    for path in paths:
        part = json.loads(path.read_text())
        for row in part["results"]:
            mine = found.setdefault((row["way"], row["fit"], row["asked"], row["rerank"]), {})
            mine["bytes"] = row["bytes"]
            for metric in row.keys() & set(METRICS):
                mine.setdefault(metric, {}).update(zip(part["ids"], row[metric], strict=True))
    return found


def tables(seeds: list[dict[Key, dict[str, Any]]], metric: str) -> dict[Key, np.ndarray]:
    """Return the values of a metric by key, float64 (seeds, queries), the queries in the order of their ids."""
    return {
        key: np.array([[value for _, value in sorted(seed[key][metric].items())] for seed in seeds])
        for key, of in seeds[0].items()
        if metric in of
    }


@cache
def samples(seeds: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each seed and each query is in each sample of a bootstrap, as shares (SAMPLES, n)."""
    random = np.random.default_rng(0)
    drawn = [random.multinomial(n, np.full(n, 1 / n), SAMPLES) / n for n in (seeds, queries)]
    return drawn[0], drawn[1]


def interval(values: np.ndarray) -> list[float]:
    """Return the mean of values (seeds, queries) and the ends of its 95 % interval.

    Each sample of the bootstrap draws seeds and queries with replacement; arrays of one shape have the same samples.
    """
    seeds, queries = samples(*values.shape)
    means = ((seeds @ values) * queries).sum(axis=1)
    return [round(float(each), 4) for each in (values.mean(), *np.quantile(means, [0.025, 0.975]))]


def summarise(seeds: list[list[Path]]) -> list[dict[str, Any]]:
    """Return a row per key, from the parts of each seed."""
    found = [read(paths) for paths in seeds]
    rows = {
        key: dict(zip(("way", "fit", "asked", "rerank"), key, strict=True), bytes=round(of["bytes"], 1))
        for key, of in found[0].items()
    }
    for metric in METRICS:
        values = tables(found, metric)
        for key, each in values.items():
            rows[key] |= {
                metric: interval(each),
                f"{metric} to float32": interval(each - values[FLOAT]),
                f"{metric} to sign": interval(each - values[SIGN]),
            }
    return list(rows.values())


def gather(out: Path, labelled: str, encoders: list[str]) -> dict[str, Any]:
    """Return all results: by encoder its dimensions, rows, rows of datasets without labels, and times."""
    results: dict[str, Any] = {"labelled": labelled, "encoders": {}}
    for encoder in encoders:
        place = out / encoder
        parts: dict[str, list[list[Path]]] = {}
        for directory in sorted(place.glob("*.*/")):
            if files := sorted(directory.glob("*.json")):
                parts.setdefault(directory.name.rpartition(".")[0], []).append(files)
        first = [json.loads(path.read_text()) for path in parts[labelled][0]]
        results["seeds"] = len(parts[labelled])
        results["queries"] = sum(len(part["ids"]) for part in first)
        mine = {"dim": first[0]["dim"], "rows": summarise(parts.pop(labelled))}
        mine["others"] = {name: summarise(seeds) for name, seeds in parts.items()}
        speed = place / "speed.json"
        mine["speed"] = json.loads(speed.read_text()) if speed.exists() else None
        results["encoders"][encoder] = mine
    return results


def of(rows: list[dict[str, Any]], *key: object) -> dict[str, Any] | None:
    """Return the row of a key, if any."""
    found = (row for row in rows if (row["way"], row["fit"], row["asked"], row["rerank"]) == key)
    return next(found, None)


def best_unfitted(mine: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one bit per dimension, without a fit, whose interval of map@20 has the highest lower end."""
    rows = [row for row in mine["rows"] if not (row["fit"] or row["rerank"]) and row["bytes"] == -(-mine["dim"] // 8)]
    return max(rows, key=lambda row: row["map@20"][1])


def number(value: list[float] | None, signed: bool = False) -> str:
    """Return a mean and its interval as text."""
    if value is None:
        return ""
    mean, low, high = (f"{each:{'+' if signed else ''}.3f}" for each in value)
    return f"{mean} ({low} to {high})"


def findings(results: dict[str, Any]) -> list[str]:
    """Return the lines of the table of what is compared."""
    encoders = results["encoders"]
    others = {name for mine in encoders.values() for name in mine["others"]}
    lines = [f"| map@20 | {' | '.join(encoders)} |", "|---" + "|--:" * len(encoders) + "|"]
    compared = {
        "L1 less cosine, of float32": (("float32, L1", None), "float32"),
        "int8 less float32": (("int8", None), "float32"),
        "signs less float32": (("sign", None), "float32"),
        "rotated less float32": (("rotated", None), "float32"),
        "rotated less signs": (("rotated", None), "sign"),
        "centred by the other half, rotated, less float32": (("centred rotated", "half"), "float32"),
        "centred by another dataset, rotated, less float32": (("centred rotated", "elsewhere"), "float32"),
        "whitened by the other half, int8, less float32": (("int8, whitened to 64", "half"), "float32"),
        "whitened by another dataset, int8, less float32": (("int8, whitened to 64", "elsewhere"), "float32"),
    }
    for what, (key, base) in compared.items():
        if key[1] == "elsewhere" and not others:
            continue
        cells = [of(mine["rows"], *key, "default", 0) for mine in encoders.values()]
        lines.append(f"| {what} | {' | '.join(number(row and row[f'map@20 to {base}'], True) for row in cells)} |")
    chosen = [best_unfitted(mine) for mine in encoders.values()]
    named = [f"{row['way']}{', symmetric' * (row['asked'] == 'symmetric')}: {row['map@20'][1]:.3f}" for row in chosen]
    lines.append(f"| highest lower end of a bit per dimension without a fit | {' | '.join(named)} |")
    return lines


def rows_of(mine: dict[str, Any]) -> list[str]:
    """Return the lines of an encoder's table."""
    others = mine["others"]
    heads = ["stored as", "fitted on", "bytes", "map@20", "less float32", "p@20", "recall@20", "100 again"]
    heads += [f"recall@20 of {name}" for name in others] + ["ms"] * bool(mine["speed"])
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|--:" * (len(heads) - 2) + "|"]
    times = {(each["way"], each["asked"]): each["ms"] for each in mine["speed"]["times"]} if mine["speed"] else {}
    fits = {None: "", "half": "the other half", "elsewhere": "another dataset"}
    for row in mine["rows"]:
        way, fit, asked, rerank = (row[name] for name in ("way", "fit", "asked", "rerank"))
        if rerank:
            continue
        again = of(mine["rows"], way, fit, asked, 100)
        cells = [f"{way}{', `--symmetric`' * (asked == 'symmetric')}", fits[fit], f"{row['bytes']:,.0f}"]
        less = None if (way, fit, asked, rerank) == FLOAT else row["map@20 to float32"]
        cells += [number(row["map@20"]), number(less, True)]
        cells += [f"{row['p@20'][0]:.3f}", f"{row['recall@20'][0]:.3f}"]
        cells.append(f"{again['map@20'][0]:.3f}, {again['recall@20'][0]:.3f}" if again else "")
        for rows in others.values():
            ranked = (of(rows, way, fit, asked, n) for n in (0, 100, 400))
            cells.append(", ".join(f"{each['recall@20'][0]:.3f}" for each in ranked if each))
        if times:
            cells.append(f"{times[way, asked]:.2f}" if (way, asked) in times else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def written(results: dict[str, Any]) -> str:
    """Return what stands between the marks of the page."""
    seeds, queries = results["seeds"], results["queries"]
    lines = [
        f"Each of {queries} tiles of {results['labelled']} asks the others of its half, in {seeds} random divisions. In"
        " parentheses are 95 % intervals, by a bootstrap over queries and divisions, and differences are of the same"
        " queries.",
        "",
        *findings(results),
    ]
    for encoder, mine in results["encoders"].items():
        lines += ["", f"### {encoder}, {mine['dim']:,} dimensions", "", *rows_of(mine)]
        if mine["speed"]:
            times = {each["asked"]: each["ms"] for each in mine["speed"]["times"] if each["way"] == "sign"}
            lines += [
                "",
                f"Milliseconds are of a query of {mine['speed']['rows']:,} rows, on one thread. With 100 ranked"
                f" again, one of signs takes {times['100']:.2f} ms, and with 400 {times['400']:.2f} ms.",
            ]
    return "\n".join(lines)


def page(text: str, results: dict[str, Any]) -> str:
    """Return a page with the table in place of the one that it has."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{written(results)}\n\n{END}{rest.partition(END)[2]}"


#: Of the chart: which of two colours, that nobody confuses, says that something was learned; and how far below the best
#: point others are drawn, and not only named.
COLOURS = {False: "#0072B2", True: "#B34700"}
SPAN = 0.2
#: In the chart: the ways to store that are shown, and how they are called there.
SHOWN = {
    "float32": "float32",
    "int8": "int8",
    "int8, whitened to 64": "whitened, int8",
    "sign": "sign",
    "rotated": "rotated",
    "rotated, short": "rotated, short",
    "trivial": "trivial",
    "lsh": "LSH",
    "centred rotated": "centred, rotated",
    "itq": "ITQ",
    "pca, rotated": "PCA, rotated",
    "pq": "PQ",
    "pq, short": "PQ, short",
    "rabitq": "RaBitQ",
}


def chart(results: dict[str, Any], output: Path) -> None:
    """Draw map@20 over bytes per tile, a panel per encoder."""
    from matplotlib.figure import Figure

    encoders = results["encoders"]
    across = min(2, len(encoders))
    down = -(-len(encoders) // across)
    figure = Figure(figsize=(6.5 * across, 4.5 * down), layout="constrained")
    figure.suptitle("Blue: nothing is learned. Orange: learned from other tiles. Lines: 95 % intervals.", fontsize=10)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(encoders) :]:
        panel.remove()
    for panel, (encoder, mine) in zip(panels, encoders.items(), strict=False):
        points = []
        for way, name in SHOWN.items():
            found = (of(mine["rows"], way, fit, "default", 0) for fit in (None, "elsewhere", "half"))
            if row := next(filter(None, found), None):
                points.append((row["bytes"], *row["map@20"], COLOURS[bool(row["fit"])], name))
        best = max(point[1] for point in points)
        far = [f"{name}: {mean:.2f}" for _, mean, *_, name in points if mean < best - SPAN]
        panel.text(0.02, 0.02, "\n".join(far), transform=panel.transAxes, fontsize=8, color="grey")
        points = [point for point in points if point[1] >= best - SPAN]
        for size, mean, low, high, colour, _ in points:
            bars = [[mean - low], [high - mean]]
            panel.errorbar(size, mean, bars, fmt="o", color=colour, elinewidth=0.5, markersize=5, alpha=0.8)
        panel.set(xscale="log", xlim=(0.4, 4e4), title=f"{encoder}, {mine['dim']:,} dimensions")
        panel.set(xlabel="bytes per tile", ylabel=f"map@20, {results['labelled']}")
        panel.grid(alpha=0.3, linewidth=0.5)
        label(panel, points)
    figure.savefig(output, dpi=100, metadata={"Software": None})


def label(panel: Any, points: list[tuple[Any, ...]]) -> None:
    """Write the names of points beside them: of points at about the same number of bytes, one above the other."""
    low, high = panel.get_ylim()
    step = (high - low) * 0.042
    groups: list[list[tuple[Any, ...]]] = []
    for point in sorted(points, key=lambda point: point[0]):
        if groups and point[0] < 3 * groups[-1][0][0]:
            groups[-1].append(point)
        else:
            groups.append([point])
    left_end, right_end = panel.get_xlim()
    for number, group in enumerate(groups):
        least, most = group[0][0], group[-1][0]
        before = groups[number - 1][-1][0] if number else left_end
        after = groups[number + 1][0][0] if number + 1 < len(groups) else right_end
        left = least / before > after / most  # where there is more room
        edge = least / 1.35 if left else most * 1.35
        named = sorted(group, key=lambda point: point[1])
        heights = [named[0][1]]
        for point in named[1:]:
            heights.append(max(point[1], heights[-1] + step))
        moved = sum(height - point[1] for height, point in zip(heights, named, strict=True)) / len(named)
        for (size, mean, _, _, colour, name), height in zip(named, heights, strict=True):
            line = {"arrowstyle": "-", "linewidth": 0.4, "color": colour}
            side = {"ha": "right" if left else "left", "va": "center", "fontsize": 8, "color": colour}
            panel.annotate(name, (size, mean), (edge, height - moved), arrowprops=line, **side)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("gather")
    command.add_argument("out", type=Path)
    command.add_argument("labelled")
    command.add_argument("encoders")
    command.add_argument("-o", "--output", type=Path, required=True)
    command = commands.add_parser("write")
    command.add_argument("results", type=Path)
    command.add_argument("page", type=Path)
    options = parser.parse_args()
    if options.command == "gather":
        results = gather(options.out, options.labelled, options.encoders.split())
        lines = json.dumps(results).replace('{"way"', '\n{"way"')  # a line per row, for those who compare versions
        options.output.write_text(lines + "\n")
        return
    results = json.loads(options.results.read_text())
    old = options.page.read_text() if options.page.exists() else PAGE
    options.page.write_text(page(old, results))
    chart(results, options.page.with_suffix(".png"))


if __name__ == "__main__":
    main()
