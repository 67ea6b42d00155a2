"""Pages that are made while the site is built: the notebooks with their outputs, and the semirings' formulas."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
SEMIRINGS = ("Log", "Max", "Std", "Entropy", "CrossEntropy", "KL")


def on_files(files: Files, config: Any) -> Files:
    """Add them."""
    for path in sorted(HERE.glob("*.ipynb")):
        text, pictures = page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    files.append(File.generated(config, "explanation/semirings.md", content=formulas()))
    return files


def page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(\d\d_\w+)\.ipynb", r"\1.md", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{alternative(source)}]({name})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]).strip())
            elif "text/latex" in data:
                inner = "".join(data["text/latex"]).strip().strip("$").strip()
                parts.append(f"\\[\n{inner}\n\\]")
            elif output["output_type"] != "error":
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def alternative(source: str) -> str:
    """What a picture shows, for those who do not see it: the call that drew it."""
    calls = re.findall(r"plots\.(\w+)", source) or ["chart"]
    return f"Picture drawn by the cell above: {calls[-1]}"


def formulas() -> str:
    """Every semiring as its code says, in mathematics."""
    from semicrf import semirings

    parts = [
        '# The semirings as formulas\n\nThese are printed from the code that runs, by `S.explain("latex")`. An element '
        "has one number per field; \\(\\oplus\\) adds alternatives, \\(\\otimes\\) joins what stands side by side, and "
        "lift makes an element of a score."
    ]
    for name in SEMIRINGS:
        semiring = getattr(semirings, name)
        summary = (semiring.__doc__ or "").strip().splitlines()[0]
        parts.append(f"## {name}\n\n{summary}\n\n\\[\n{semiring.explain('latex').strip()}\n\\]")
    return "\n\n".join(parts) + "\n"
