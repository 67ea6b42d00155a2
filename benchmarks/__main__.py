"""``python -m benchmarks run --suite cpu`` measures, prints and stores; ``report`` makes a page of all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import memory, report, store, summary
from benchmarks.cases import SUITES, Suite
from benchmarks.contender import Contender, Package
from benchmarks.peers import OWN, PEERS
from benchmarks.peers.prototype import Prototype
from benchmarks.runner import Refusal, Runner, check_device, check_tests, machine_ratios
from benchmarks.timing import Plan


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = [p.name for p in PEERS]
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure semicrf beside its peers.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="test, measure, print, store")
    run.add_argument("--suite", choices=SUITES, default="cpu")
    run.add_argument("--prototype", type=Path, help="p7_full.py in a checkout of the prototypes: kernel rows beside it")
    run.add_argument("--peers", help=f"names, with commas between them; all by default: {', '.join(names)}")
    run.add_argument("--only", help="rows whose name holds this text; stored only with --output")
    run.add_argument("--budget", type=float, default=1.0, help="seconds for each contender in each row")
    run.add_argument("--threads", type=int, default=torch.get_num_threads())
    run.add_argument("--long", action="store_true", help="also the rows of a million positions")
    run.add_argument("--no-tests", action="store_true", help="do not run the tests first; marks the result unverified")
    run.add_argument("--no-memory", action="store_true", help="leave out the rows of peak memory")
    run.add_argument("--output", type=Path, help="where the json goes; by suite and machine otherwise")
    shown = commands.add_parser(
        "report", help="all that is stored as a page with pictures; with a file, print that run"
    )
    shown.add_argument("file", type=Path, nargs="?")
    shown.add_argument("--output", type=Path, default=store.RESULTS / "report", help="the folder of the page")
    return top


def chosen(names: str | None, prototype: Path | None) -> list[Contender]:
    """The peers that were asked for."""
    known = {p.name: p for p in PEERS}
    asked = list(known) if names is None else [n for n in names.split(",") if n]
    unknown = [n for n in asked if n not in known]
    if unknown:
        raise Refusal(f"--peers: got {', '.join(unknown)}; expected some of {', '.join(known)}.")
    peers = [known[n] for n in asked]
    if prototype is None:
        return peers
    if not prototype.is_file():
        raise Refusal("--prototype: no such file. Likely fix: name p7_full.py in a checkout of the prototypes.")
    return [*peers, Prototype(prototype)]


def rows_of(suite: Suite, options: argparse.Namespace) -> Suite:
    """The rows that were asked for; those of the kernel are of use beside the prototype alone."""
    cases = [c for c in suite.cases if (options.long or not c.long) and (options.prototype or not c.kernel)]
    rows = [] if options.no_memory else list(suite.memory)
    if options.only:
        cases, rows = [c for c in cases if options.only in str(c)], [r for r in rows if options.only in str(r)]
    if not cases and not rows:
        raise Refusal("no row is left to measure. Likely fix: a shorter --only.")
    return replace(suite, cases=tuple(cases), memory=tuple(rows))


def measure(suite: Suite, options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    peers = chosen(options.peers, options.prototype)
    plan = Plan(budget=options.budget)
    runner = Runner(suite, peers, plan, options.threads)
    rows, peaks = [], []
    with tqdm(total=len(suite.cases) + len(suite.memory), unit="row") as bar:
        for case in suite.cases:
            bar.set_postfix_str(str(case))
            rows.append(runner.row(case))
            bar.update()
        for row in suite.memory:
            bar.set_postfix_str(str(row))
            peaks.append(memory.measure(SUITES[suite.name], row))
            bar.update()
    commit, changed = store.commit()
    found = {p.name: p.version() for p in peers if isinstance(p, Package)}
    found |= {p.name: p.digest for p in peers if isinstance(p, Prototype)}
    return {
        "version": store.VERSION,
        "suite": suite.name,
        "verified": not options.no_tests,
        "date": store.now(),
        "commit": commit,
        "changed": changed,
        "device": store.device_name(suite.device),
        "threads": options.threads,
        "versions": store.versions(),
        "peers": found,
        "plan": plan._asdict(),
        "machine_ratio": machine_ratios(rows),
        "rows": rows,
        "memory": peaks,
    }


def wrong(results: dict[str, Any]) -> list[str]:
    """Rows in which something of ours disagrees with something else of ours."""
    return [
        f"{tuple(row['shape'])} {row['quantity']}: {name} {peer['status']}: {peer['reason']}"
        for row in results["rows"]
        for name, peer in row["peers"].items()
        if name in OWN and peer["status"] in ("differs", "failed")
    ]


def run(options: argparse.Namespace) -> int:
    """Test, measure, print, store. Returns 1 where our own contenders disagree."""
    suite = SUITES[options.suite]
    check_device(suite)
    suite = rows_of(suite, options)
    chosen(options.peers, options.prototype)
    if not options.no_tests:
        print(f"running the tests of suite {suite.name!r}", file=sys.stderr)
        check_tests(suite)
    results = measure(suite, options)
    print(report.table(results))
    faults = wrong(results)
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    output = options.output or (None if options.only else store.path_of(results))
    if output is not None and not faults:
        store.save(results, output)
        print(f"saved as {output.name}")
    return 1 if faults else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 2 where it refuses, 1 where our own contenders disagree."""
    options = parser().parse_args(arguments)
    if options.command == "report":
        if options.file is not None:
            print(report.table(store.load(options.file)))
        else:
            page = summary.write(options.output, sorted(store.RESULTS.glob("*.json")))
            print(f"written: {page.name} and its pictures")
        return 0
    try:
        return run(options)
    except Refusal as refusal:
        print(f"python -m benchmarks: {refusal}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
