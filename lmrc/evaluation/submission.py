"""The zip file of the DocRED competition, with result.json."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from lmrc.common.json_stream import write_bytes
from lmrc.corpus.predictions import Predictions

# A fixed date of the zipped file, so that equal predictions give equal bytes. Zip allows no earlier date.
EPOCH = (1980, 1, 1, 0, 0, 0)


def write_submission(predictions: Predictions, path: str | Path) -> int:
    """Write each triple once, sorted by (title, head, tail, relation), and return their number.

    The evidence of repeated predictions is merged; without evidence, `evidence` is an empty list.

    Raises:
        UserError: the file cannot be written.
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
    entry.create_system = 3  # Unix, whatever system this runs on
    entry.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, json.dumps(rows, ensure_ascii=False))
    write_bytes(path, buffer.getvalue())
    return len(rows)
