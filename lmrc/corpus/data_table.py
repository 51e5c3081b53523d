"""Table of the training and dev corpora in a model card."""

from __future__ import annotations

from lmrc.corpus.corpus import Manifest


def data_table(train: Manifest, dev: Manifest) -> str:
    """Return the table in Markdown: source and size of both corpora."""
    return f"""| | source | sha256 | documents | pairs with a relation | candidate pairs |
|---|---|---|---|---|---|
{_row("train", train)}
{_row("dev", dev)}"""


def _row(name: str, manifest: Manifest) -> str:
    return (
        f"| {name} | `{manifest.source}` | `{manifest.source_sha256[:12]}…` | {manifest.labelled_documents} | "
        f"{manifest.relation_pairs} | {manifest.candidate_pairs} |"
    )
