"""Every block of code in the documentation runs, and every page is in the navigation. .ci/docs builds the site."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PAGES = {path.relative_to(NOTEBOOKS / "docs").as_posix(): path for path in sorted((NOTEBOOKS / "docs").rglob("*.md"))}
ELSEWHERE = {"how-to/trainers.md"}  # run by test_trainers, which looks at what comes out
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    """The Python of a page."""
    return [code for language, code in FENCE.findall(text) if language == "python"]


def test_the_pages_are_found():
    assert {"index.md", "tutorial.md", "how-to/text.md", "explanation/algebra.md", "reference/nn.md"} <= set(PAGES)
    assert sum(len(blocks(path.read_text())) for path in PAGES.values()) >= 25


@pytest.mark.parametrize(
    "page", [name for name, path in PAGES.items() if blocks(path.read_text()) and name not in ELSEWHERE]
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page are one program, in their order."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, object] = {"__name__": "__page__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i, code in enumerate(blocks(PAGES[page].read_text())):
            exec(compile(code, f"{page}, block {i + 1}", "exec"), scope)
    pyplot.close("all")


def test_every_page_and_notebook_is_in_the_navigation():
    config = (NOTEBOOKS / "mkdocs.yml").read_text()
    made = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS.glob("*.ipynb")} | {"explanation/semirings.md"}
    listed = set(re.findall(r"([\w/-]+\.md)$", config, re.MULTILINE))
    assert listed == set(PAGES) | made


def test_notebooks_are_stored_with_their_outputs_and_without_errors():
    found = sorted(path.name[:2] for path in NOTEBOOKS.glob("*.ipynb"))
    assert found == [f"0{i}" for i in range(1, 8)]
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        outputs = [o for c in cells for o in c["outputs"]]
        assert any("image/png" in o.get("data", {}) for o in outputs), path
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"], path
        assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), path
        assert path.stat().st_size < 150_000, path


def test_the_readme_counts_the_lines_of_semirings_as_they_are():
    """Lines of a class, or of the function that makes it, after its docstring."""
    import ast

    from semicrf.algebra import standard

    source = Path(standard.__file__).read_text()
    counted = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.end_lineno is not None:
            after = node.body[0].end_lineno or 0
            counted[node.name] = sum(bool(line.strip()) for line in source.splitlines()[after : node.end_lineno])
    rows = re.findall(
        r"^\| `(\w+)(?:\(k\))?` \|.*\| (\d+) \|$", (NOTEBOOKS.parent / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 7
    assert {name: counted[name] for name, _ in rows} == {name: int(lines) for name, lines in rows}


def test_the_readme_has_the_figures_that_are_stored():
    results = NOTEBOOKS.parent / "benchmarks" / "results"
    text = (NOTEBOOKS.parent / "README.md").read_text().replace("**", "")
    for file, metric, title in (("timeseries", "segment F1", "simulated regimes"), ("genome", "gene F1", "genes of a")):
        summary = json.loads((results / f"{file}.json").read_text())["summary"]
        models = ("softmax at each position", "linear chain (K = 1)", "semi-Markov CRF")
        cells = " | ".join(f"{100 * summary[model][metric][0]:.1f}" for model in models)
        assert re.search(rf"^\| {title}.* \| {metric} \| {re.escape(cells)} \|", text, re.MULTILINE), (file, cells)


def test_every_public_name_is_in_the_reference():
    import semicrf
    from semicrf import durations, hsmm, metrics, nn, plots

    text = "\n".join(path.read_text() for name, path in PAGES.items() if name.startswith("reference/"))
    listed = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    for package in (semicrf, nn, durations, hsmm, metrics, plots):
        for name in package.__all__:
            if not name.startswith("__"):
                value = getattr(package, name)
                where = f"{value.__module__}.{value.__name__}"
                known = (where, value.__module__, f"semicrf.{name}", f"semicrf.nn.{name}")
                assert any(entry in known for entry in listed), f"{where} is on no page of the reference"
