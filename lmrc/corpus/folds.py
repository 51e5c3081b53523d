"""Folds of a corpus for cross-fitting: every document is scored by a model that was not trained on it.

`split_corpus` writes the corpora of each fold, `hold_out` those of one. `join_candidates` puts the candidates of the
held-out parts together.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmrc.common.errors import CorpusError, UserError
from lmrc.corpus.candidates import Candidate, Candidates, CandidatesManifest, write_candidates
from lmrc.corpus.corpus import Corpus, Manifest, write_corpus
from lmrc.corpus.shards import ShardFolder, check_new_folder

logger = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held-out"


def split_corpus(corpus: Corpus, folds: int, out: Path) -> list[tuple[Manifest, Manifest]]:
    """Write the corpora `out`/FOLD/train and `out`/FOLD/held-out of each fold, or nothing on any failure.

    Document i is held out in fold i % folds. The relation set is that of the corpus.

    Args:
        corpus: the whole corpus.
        folds: number of folds.
        out: a new folder.

    Returns:
        The manifests of train and held-out, for each fold.

    Raises:
        UserError: there are fewer than two folds, fewer documents than folds, or `out` exists or cannot be written.
    """
    if not 2 <= folds <= len(corpus):
        raise UserError(
            f"cannot split the {len(corpus):,} documents of {corpus.folder} into {folds} folds: give 2 to {len(corpus)}"
        )
    with _new_folder(out) as folder:
        return [_write_fold(corpus, fold, folds, folder / str(fold)) for fold in range(folds)]


def hold_out(corpus: Corpus, one_in: int, out: Path) -> tuple[Manifest, Manifest]:
    """Write the corpora `out`/train and `out`/held-out of the last of `one_in` folds, or nothing on any failure.

    Returns:
        The manifests of train and held-out.

    Raises:
        UserError: the corpus has fewer than `one_in` documents, or `out` exists or cannot be written.
    """
    if not 2 <= one_in <= len(corpus):
        raise UserError(
            f"cannot hold out one in {one_in} of the {len(corpus):,} documents of {corpus.folder}: give 2 to "
            f"{len(corpus)}"
        )
    with _new_folder(out) as folder:
        return _write_fold(corpus, one_in - 1, one_in, folder)


def _write_fold(corpus: Corpus, fold: int, folds: int, out: Path) -> tuple[Manifest, Manifest]:
    """Write the corpora of one fold. Return the manifests of train and held-out."""

    def write(is_held_out: bool) -> Manifest:
        indices = (index for index in range(len(corpus)) if (index % folds == fold) == is_held_out)
        return write_corpus(
            (corpus[index] for index in indices),
            out / (HELD_OUT if is_held_out else TRAIN),
            corpus.relations,
            f"{corpus.manifest.source}, {'' if is_held_out else 'without '}fold {fold} of {folds}",
            corpus.manifest.source_sha256,
            corpus.manifest.docs_per_shard,
        )

    return write(False), write(True)


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `out` if nothing fails.

    Raises:
        UserError: `out` exists or cannot be written.
    """
    check_new_folder(out)
    folder = Path(out).absolute()
    temporary = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def join_candidates(folders: Sequence[Path], corpus: Corpus, out: Path) -> CandidatesManifest:
    """Join the candidates of the held-out parts of a corpus to the candidates of the whole corpus, or of a part of it.

    The threshold of the result is the largest of the parts: the candidates of all documents are complete from there.

    Args:
        folders: candidates folders, which together hold each document of the corpus once, by its title. Other
            documents are left out.
        corpus: the whole corpus, or a part of it.
        out: a new folder.

    Raises:
        CorpusError: a folder is no candidates folder, a document is missing or occurs twice, or it has other entities
            than in the corpus.
        UserError: `out` exists, or cannot be written.
    """
    parts = [Candidates.open(folder) for folder in folders]
    located: dict[str, tuple[Candidates, int]] = {}
    for part in parts:
        for index, title in enumerate(_titles(part)):
            other, _ = located.setdefault(title, (part, index))
            if located[title] != (part, index):
                raise CorpusError(
                    f"{part.folder}: the document {title!r} occurs in {other.folder} too: give candidates in which "
                    "each document was held out once"
                )
    titles = list(_titles(corpus))
    if missing := [title for title in titles if title not in located]:
        raise CorpusError(
            f"{', '.join(map(str, folders))}: {len(missing):,} of the {len(corpus):,} documents in {corpus.folder} "
            f"have no candidates, such as {missing[0]!r}: give the candidates of all folds"
        )
    if others := len(located.keys() - set(titles)):
        logger.info(f"{out}: left out the candidates of {others:,} documents that are not in {corpus.folder}")

    def rows() -> Iterator[tuple[str, tuple[Candidate, ...]]]:
        for document in corpus:
            part, index = located[document.title]
            candidates = part[index]
            if any(max(candidate.head, candidate.tail) >= len(document.entities) for candidate in candidates):
                raise CorpusError(
                    f"{part.folder}: a candidate of {document.title!r} is beyond its {len(document.entities)} entities "
                    f"in {corpus.folder}: give the corpus that was split"
                )
            yield document.title, candidates

    threshold = max(part.threshold for part in parts)
    return write_candidates(rows(), out, corpus.fingerprint, threshold, corpus.manifest.docs_per_shard)


def _titles(folder: ShardFolder) -> Iterator[str]:
    """Yield the title of each document, without reading the rest."""
    return (title for batch in folder.batches() for title in batch.column("title").to_pylist())
