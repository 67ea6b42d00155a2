"""A run as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import PAGES

HEAD = f"{'':30}{'min':>10}{'median':>10}{'IQR':>8}{'rounds':>7}{'other':>10}{'goal':>9}{'here':>9}  "


def table(results: dict[str, Any]) -> str:
    """Every row, in milliseconds, under the shape it has."""
    lines = [heading(results), ""]
    shape = None
    for row in results["rows"]:
        if row["shape"] != shape:
            shape = row["shape"]
            lines += [f"{'(B, T, K, C) = ' + str(tuple(shape)):<30}{HEAD[30:]}"]
        lines.append(line(row, results["machine_ratio"]))
    lines += memory(results["memory"])
    return "\n".join([*lines, "", *notes(results)])


def heading(results: dict[str, Any]) -> str:
    """What was run, where."""
    versions = ", ".join(f"{n} {v}" for n, v in results["versions"].items() if v)
    verified = "" if results["verified"] else "\nUNVERIFIED: its tests were not run."
    threads = f"{results['threads']} threads"
    return f"suite {results['suite']} on {results['device']}, {threads}; {versions}{verified}"


def line(row: dict[str, Any], machine: dict[str, float]) -> str:
    """One row; "other" is the time with the other setting of validate_args, "here" the goal times the machine ratio."""
    ours, goal = row["ours"], row["goal_ms"]
    marks = [m for m in ("kernel" if row["kernel"] else "", "" if row["data"] == "random" else row["data"]) if m]
    name = "  " + row["quantity"] + "".join(f" [{m}]" for m in marks)
    cells = f"{ours['min_ms']:10.3f}{ours['median_ms']:10.3f}{ours['iqr_ms']:8.3f}{ours['rounds']:7d}"
    other = f"{row['beside']['min_ms']:10.3f}" if row["beside"] else f"{'':10}"
    ratio = machine.get(f"{tuple(row['shape'])} {row['quantity']}", machine.get("overall"))
    here = None if goal is None or ratio is None else goal * ratio
    goals = "".join(f"{'' if g is None else f'{g:.3g}':>9}" for g in (goal, here))
    return f"{name:<30}{cells}{other}{goals}  {', '.join([row['backend'], *against(row), *peers(row)])}"


def against(row: dict[str, Any]) -> list[str]:
    """The ratio to another quantity."""
    if row["against"] is None:
        return []
    ratio, limit = row["against"]["ratio"]["min"], row["against"]["limit"]
    wanted = "" if limit is None else f" (limit {limit:g}{', MISSED' if ratio > limit else ''})"
    return [f"{ratio:.2f} x {row['against']['quantity']}{wanted}"]


def peers(row: dict[str, Any]) -> list[str]:
    """Ours over each peer, by minima, and who differs or failed."""
    said = []
    for name, peer in row["peers"].items():
        if peer["status"] == "timed":
            limit = row["prototype_limit"] if name == "prototype" else None
            missed = f" (limit {limit:g}{', MISSED' if peer['ratio']['min'] > limit else ''})" if limit else ""
            said.append(f"{peer['ratio']['min']:.3g} x {name}{missed}")
        elif peer["status"] in ("differs", "failed"):
            said.append(f"{name} {peer['status'].upper()}: {peer['reason']}")
    return said


def memory(rows: list[dict[str, Any]]) -> list[str]:
    """Growth of the peak, in multiples of the emissions."""
    if not rows:
        return []
    lines = ["", f"{'peak memory beyond the inputs':<44}{'growth / emissions':>20}{'limit':>8}{'bytes':>28}"]
    for row in rows:
        missed = "  MISSED" if row["growth"] > row["limit"] + PAGES else ""
        peaks = " -> ".join(f"{b:,}" for b in row["peak_bytes"])
        lines.append(f"  {row['case']:<42}{row['growth']:20.3f}{row['limit']:8g}{peaks:>28}{missed}")
    return lines


def notes(results: dict[str, Any]) -> list[str]:
    """Who was not there, and what the machine ratio is."""
    absent = {n: p["reason"] for row in results["rows"] for n, p in row["peers"].items() if p["status"] == "absent"}
    ratio = results["machine_ratio"].get("overall")
    said = [f"{reason}." for reason in dict.fromkeys(absent.values())]
    if ratio is not None:
        said.append(f"Machine ratio (the prototype's time here over that in baselines.md): {ratio:.2f}.")
    return said
