"""The zip that the DocRED competition takes: result.json in its format."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from lmrc.common.json_stream import write_bytes
from lmrc.corpus.predictions import Predictions

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of the file inside, the earliest that a zip can state: equal predictions give equal bytes."""


def write_submission(predictions: Predictions, path: str | Path) -> int:
    """Write each triple once, sorted by (title, head, tail, relation), and return how many there are.

    Repeated predictions bring all of their evidence; where there is none, `evidence` is an empty list.

    Raises UserError where the file cannot be written.
    """
    evidence: dict[tuple[str, int, int, str], set[int]] = {}
    for p in predictions:
        evidence.setdefault((p.title, p.head, p.tail, p.relation), set()).update(p.evidence or ())
    rows = [
        {"title": title, "h_idx": head, "t_idx": tail, "r": relation, "evidence": sorted(sentences)}
        for (title, head, tail, relation), sentences in sorted(evidence.items())
    ]
    entry = zipfile.ZipInfo("result.json", EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # not the system this runs on
    entry.external_attr = 0o644 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, json.dumps(rows, ensure_ascii=False))
    write_bytes(path, packed.getvalue())
    return len(rows)
