"""Everything that is stored as one page of Markdown: what was timed and learned, where, when, and who is ahead."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import figures, store
from benchmarks.cases import PAGES

LOG = "log-partition"


class Ahead(NamedTuple):
    """A row in which somebody else is faster."""

    row: str
    who: str
    ours: float
    theirs: float
    measured: bool  # in the same run; otherwise a figure published for another machine or version


def write(folder: Path, sources: Sequence[Path]) -> Path:
    """The page and its pictures. Returns where the page is."""
    folder.mkdir(parents=True, exist_ok=True)
    suites, tasks = [], []
    for path in sources:
        known = json.loads(path.read_text(encoding="utf-8"))
        if "suite" in known:
            store.check(known)
            suites.append((path, known))
        else:
            tasks.append((path, known))
    parts = ["# Benchmark report\n\nMade by `python -m benchmarks report` from the json files in `benchmarks/results`."]
    for path, results in suites:
        parts += suite(path.name, results, figures.draw(results, folder, path.stem))
    parts += [chunks(path.name, results) for path, results in tasks if "rows" in results]
    parts += [accuracy(path.name, results) for path, results in tasks if "accuracy" in results]
    parts += [task(path.name, results) for path, results in tasks if "summary" in results or "results" in results]
    page = folder / "README.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


# ------------------------------------------------------------------------------------------------------------- timings
def suite(name: str, results: dict[str, Any], pictures: Sequence[str]) -> list[str]:
    """Sections of one run."""
    parts = [f"## Speed: suite {results['suite']}, {results['device']}", origin(name, results)]
    parts += [f"![{picture.removesuffix('.png').rsplit('.')[-1]}]({picture})" for picture in pictures]
    parts.append(timings(results))
    parts += [x for x in (relative(results), memory(results)) if x]
    parts.append(standing(ahead(results), results))
    parts.append("Accuracy against float64 is not held by a stored run: the tests have it (`tests/tables.py`).")
    return parts


def origin(name: str, results: dict[str, Any]) -> str:
    """Machine, versions, date, commit."""
    versions = ", ".join(f"{n} {v}" for n, v in results["versions"].items() if v)
    commit = (results["commit"] or "unknown")[:10] + (" with changes" if results["changed"] else "")
    tested = "its tests passed first" if results["verified"] else "**unverified**: its tests were not run first"
    return (
        f"[{name}](../{name}): {results['date']}, commit {commit}, {results['threads']} threads; {versions}; {tested}."
    )


def timings(results: dict[str, Any]) -> str:
    """Every row: ours, what was measured beside it, and what is published."""
    head = ["B, T, K, C", "quantity", "backend", "ms, minimum", "median", "peers in this run, ms", "published, ms"]
    rows = []
    for row in results["rows"]:
        peers = [_peer(name, peer) for name, peer in row["peers"].items()]
        published = [f"{name} {ms:g}" for name, ms in row["published_ms"].items()]
        marks = "".join(f" [{m}]" for m in (["kernel"] * row["kernel"] + [row["data"]] * (row["data"] != "random")))
        ours = row["ours"]
        rows.append([
            ", ".join(map(str, row["shape"])), row["quantity"] + marks, row["backend"], f"{ours['min_ms']:.3g}",
            f"{ours['median_ms']:.3g}", "; ".join(p for p in peers if p), "; ".join(published),
        ])  # fmt: skip
    return table(head, rows)


def _peer(name: str, peer: dict[str, Any]) -> str:
    """Time of a peer, or why there is none; nothing where it is not installed or does not offer this."""
    if peer["status"] == "timed":
        return f"{name} {peer['timing']['min_ms']:.3g}"
    return "" if peer["status"] in ("absent", "declines") else f"{name} {peer['status']}"


def relative(results: dict[str, Any]) -> str:
    """Other quantities over the log-partition of the same shape."""
    rows = [[", ".join(map(str, shape)), quantity, f"{ratio:.2f}"] for shape, quantity, ratio in costs(results)]
    head = ["B, T, K, C", "quantity", "time over that of log Z (with gradients: over that of log Z with gradients)"]
    return "### What a semiring costs\n\n" + table(head, rows) if rows else ""


def costs(results: dict[str, Any]) -> list[tuple[tuple[int, ...], str, float]]:
    """(shape, quantity, time over that of log Z), of minima."""
    plain = [row for row in results["rows"] if not row["kernel"]]
    base = {(tuple(r["shape"]), r["quantity"]): r["ours"]["min_ms"] for r in plain if r["data"] == "random"}
    found = []
    for row in plain:
        shape, quantity = tuple(row["shape"]), row["quantity"]
        under = base.get((shape, LOG + " + gradients" if quantity.endswith(" + gradients") else LOG))
        if under and not quantity.startswith(LOG):
            found.append((shape, quantity, row["ours"]["min_ms"] / under))
    return found


def memory(results: dict[str, Any]) -> str:
    """Growth of the peak."""
    rows = [
        [
            row["case"],
            f"{row['growth']:.2f}",
            f"{row['limit']:g}",
            "**missed**" if row["growth"] > row["limit"] + PAGES else "",
        ]
        for row in results["memory"]
    ]
    head = ["(B, T, K, C) and quantity", "growth with T, in sizes of the emissions", "limit", ""]
    return "### Memory beyond the inputs\n\n" + table(head, rows) if rows else ""


def ahead(results: dict[str, Any]) -> list[Ahead]:
    """Where somebody else is faster: in the same run, or by a published figure where the run did not have them."""
    found = []
    for row in results["rows"]:
        ours, where = row["ours"]["min_ms"], f"({', '.join(map(str, row['shape']))}) {row['quantity']}"
        timed = {name: p["timing"]["min_ms"] for name, p in row["peers"].items() if p["status"] == "timed"}
        found += [Ahead(where, name, ours, ms, True) for name, ms in timed.items() if ms < ours]
        published = {name: ms for name, ms in row["published_ms"].items() if name not in timed}
        found += [Ahead(where, name, ours, ms, False) for name, ms in published.items() if ms < ours]
    return found


def standing(found: Sequence[Ahead], results: dict[str, Any]) -> str:
    """Who is ahead, in words and a table."""
    said = "### Where somebody else is ahead\n\n"
    compared = any(p["status"] == "timed" for row in results["rows"] for p in row["peers"].values())
    if not compared:
        said += "No peer was timed in this run; all figures of others are those given with the cases, of other runs. "
    if not found:
        return said + "Nowhere among the rows above."
    rows = []
    for a in found:
        times = (f"{a.ours:.3g}", f"{a.theirs:.3g}", f"{a.ours / a.theirs:.2f}")
        rows.append([a.row, a.who, *times, "this run" if a.measured else "published"])
    return said + "\n\n" + table(["row", "who", "ours, ms", "theirs, ms", "ours over theirs", "from"], rows)


# --------------------------------------------------------------------------------------------------------------- tasks
def chunks(name: str, results: dict[str, Any]) -> str:
    """Time in chunks against one piece, by family of models."""
    T, K, C = results["size"]
    said = f"## Time in chunks: (1, {T}, {K}, {C})\n\n[{name}](../{name}): `{results['about']['command']}`; "
    said += f"{results['about']['machine']}. Ratios are of the fastest rounds; one chunk: not cut."
    head = ["family", "quantity", "chunks", "run again", "ms", "in one piece, ms", "ratio", "relative difference"]
    rows = [
        [r["family"], r["quantity"], str(r["chunks"]), str(r["repairs"]), f"{r['chunks_ms']:.1f}", f"{r['one_ms']:.1f}",
         f"{r['ratio']:.2f}", f"{r['apart']:.0e}"]
        for r in results["rows"]
    ]  # fmt: skip
    return f"{said}\n\n{table(head, rows)}"


def accuracy(name: str, results: dict[str, Any]) -> str:
    """float32 against float64, by family of models and length."""
    K, C = results["size"]
    said = f"## Accuracy: float32 against float64, K = {K}, C = {C}\n\n[{name}](../{name}): "
    said += (
        f"`{results['about']['command']}`; {results['about']['machine']}. Log Z and entropy: relative. Position: the "
    )
    said += "largest difference of a label's probability at any position."
    rows = [
        [r["family"], str(r["T"]), *(f"{r[n]:.0e}" for n in ("log Z", "entropy", "position"))]
        for r in results["accuracy"]
    ]
    return f"{said}\n\n{table(['family', 'T', 'log Z', 'entropy', 'position'], rows)}"


def task(name: str, results: dict[str, Any]) -> str:
    """What was learned on real or simulated data: a mean and standard deviation over seeds."""
    versions = ", ".join(f"{n} {v}" for n, v in results.get("versions", {}).items())
    said = f"## Learning: {Path(name).stem}\n\n[{name}](../{name}): `{results.get('command', '')}`; {versions}; "
    said += f"{results.get('machine', 'machine unknown')}; {results.get('date', 'date not stored')}."
    scores = results["summary"] if "summary" in results else _scores(results["results"])
    parts = [said, means(scores), "The best mean of a column is in bold, whatever the spread."]
    if results.get("certainty"):
        head = (
            "How well the probabilities of what was found hold; tempered: with a temperature fitted on other sentences."
        )
        parts += [head, means(results["certainty"])]
    return "\n\n".join(parts)


def means(scores: dict[str, dict[str, list[float]]]) -> str:
    """A table of means and standard deviations; the best mean of a column is in bold."""
    metrics = list(dict.fromkeys(m for row in scores.values() for m in row))
    rows = []
    choose = {m: min if any(word in m for word in ("hausdorff", "ece", "brier")) else max for m in metrics}
    best = {m: choose[m](row[m][0] for row in scores.values() if m in row) for m in metrics}
    for model, row in scores.items():
        cells = [_cell(*row[m], bold=row[m][0] == best[m]) if m in row else "" for m in metrics]
        rows.append([model, *cells])
    return table(["model", *metrics], rows)


def _scores(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Of results without a summary: the mean and standard deviation over their rows by model."""
    found: dict[str, dict[str, list[float]]] = {}
    for metric in ("precision", "recall", "f1"):
        for model in dict.fromkeys(row["model"] for row in rows):
            values = [row[metric] for row in rows if row["model"] == model]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.setdefault(model, {})[metric] = [statistics.fmean(values), spread]
    return found


def _cell(mean: float, spread: float, *, bold: bool) -> str:
    text = f"{mean:.3f}" + (f" ± {spread:.3f}" if spread else "")
    return f"**{text}**" if bold else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
