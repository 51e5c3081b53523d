"""Pre-flight checks of corpora, candidates, and free disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig, SplitConfig
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.stages import check_parts

GIB = 2**30


class Inputs:
    """The inputs of a stage. `made` are paths that earlier steps of a pipeline write before the stage starts."""

    def __init__(self, made: frozenset[Path] = frozenset()) -> None:
        self._made = {path.resolve() for path in made}

    def is_made(self, path: Path) -> bool:
        """Return True if an earlier step will write the path and it does not exist yet."""
        return path.resolve() in self._made and not path.exists()

    def corpus(self, path: Path) -> tuple[Corpus | None, Check]:
        """Return the corpus (None if it cannot be opened) and its check."""
        if self.is_made(path):
            return None, ok(f"corpus {path}: an earlier step builds it")
        try:
            corpus = Corpus.open(path)
        except UserError as error:
            return None, missing(str(error))
        return corpus, ok(f"corpus {path}: {len(corpus):,} documents, {len(corpus.relations)} relations")


def check_training_data(config: RcpConfig | RcConfig, inputs: Inputs) -> Iterator[Check]:
    """Check that both corpora exist and have labels, and the same relation set if the training learns relations."""
    learns_relations = isinstance(config, RcConfig) or config.train.relation_weight > 0
    corpora = []
    for path in dict.fromkeys((config.data.train, config.data.dev)):
        corpus, check = inputs.corpus(path)
        yield check
        if corpus is None:
            continue
        corpora.append(corpus)
        labelled = corpus.manifest.labelled_documents
        if isinstance(config, RcpConfig) and labelled < len(corpus):
            yield missing(
                f"{path}: {len(corpus) - labelled:,} of {len(corpus):,} documents have no labels to learn from",
                "build the corpus from documents with labels",
            )
        elif not corpus.manifest.relation_pairs:
            yield missing(f"{path}: no document has a pair with a relation", "give a corpus with labels")
    if learns_relations and len({corpus.relations.sha256 for corpus in corpora}) > 1:
        yield missing(
            f"{config.data.train} and {config.data.dev} have different relation sets",
            "build both with the same --relations",
        )


def check_inference_data(config: ProposeConfig | ClassifyConfig, inputs: Inputs) -> Iterator[Check]:
    """Check that the corpus exists, and that the candidates belong to it."""
    corpus, check = inputs.corpus(config.corpus)
    yield check
    if isinstance(config, ProposeConfig) or config.candidates is None or inputs.is_made(config.candidates):
        return
    try:
        candidates = Candidates.open(config.candidates)
        if corpus is not None:
            candidates.check(corpus)
    except UserError as error:
        yield missing(str(error))
    else:
        yield ok(f"candidates {config.candidates}: {candidates.manifest.candidates:,} pairs")


def check_split(config: SplitConfig, plan: LaunchPlan | None, inputs: Inputs) -> Iterator[Check]:
    """Check that the corpus exists and has enough documents for each part."""
    corpus, check = inputs.corpus(config.corpus)
    yield check
    if corpus is None:
        return
    try:
        check_parts(config, corpus)
    except UserError as error:
        yield missing(str(error))


def check_schema(schema: Path | None, corpus: Path, inputs: Inputs) -> Iterator[Check]:
    """Check that a relation schema, if one is given, can be read and belongs to the relation set of the corpus."""
    if schema is None:
        return
    opened, _ = inputs.corpus(corpus)
    try:
        if opened is not None:
            RelationSchema.read(schema, opened.relations)
        elif inputs.is_made(corpus):
            # Its relation set is not known yet.
            with reading(schema):
                pass
    except UserError as error:
        yield missing(str(error))
    else:
        yield ok(f"relation schema {schema}")


def check_disk(folder: Path, needed: int, what: str) -> Check:
    """Check that the file system of a run folder has `needed` free bytes.

    Args:
        what: the files that need them, for the message.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.1f} GiB free for {folder}; {what} need about {needed / GIB:.1f} GiB"
    if free >= needed:
        return ok(message)
    return warning(
        message, "free space, keep fewer checkpoints (--train.checkpoint-keep 1), or choose another --run.folder"
    )
