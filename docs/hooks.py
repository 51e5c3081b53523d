"""Hooks of mkdocs: pages from outside docs/, and links that work on GitHub and on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# Files outside docs/ that are pages or images of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/rcp_cost.png": "rcp_cost.png",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:)[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ to the site."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to pages of the site. Links to other files of the repository become plain text."""
    folder = Path(page.file.abs_src_path).parent

    def replace(match: re.Match[str]) -> str:
        path = (folder / match["target"]).resolve()
        name = path.relative_to(ROOT).as_posix()
        target = OUTSIDE.get(name) or (path.name if path.parent == ROOT / "docs" else None)
        if target is None:
            return match["text"]
        return f"{match['image']}[{match['text']}]({target}{match['anchor'] or ''})"

    return LINK.sub(replace, markdown)
