"""Finished and failed members of a group, without their trainings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import yaml

from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.group.record import Group, GroupMember


def write_corpora(home: Path) -> Path:
    """Write the corpora `train` and `test` of a group to its folder. Return the folder of `test`."""
    for part, count, seed in (("train", 6, 1), ("test", 12, 3)):
        write_corpus(synthetic.generate(count, seed), home / "data" / part, synthetic.RELATIONS, part, "0" * 64)
    return home / "data" / "test"


def write_run(folder: Path, corpus: Path, share: float, seed: int) -> Path:
    """Write a run of classify that predicts this share of the gold triples, a part of them with a wrong relation."""
    rng, ids = random.Random(seed), synthetic.RELATIONS.ids
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"corpus": str(corpus), "decode": {}}))
    (folder / "DONE").write_text("{}")
    found = [
        Prediction(document.title, label.head, label.tail, label.relation if rng.random() < 0.8 else rng.choice(ids))
        for document in Corpus.open(corpus)
        for label in document.labels or ()
        if rng.random() < share
    ]
    write_predictions(found, folder / "predictions.json")
    return folder


def write_member(home: Path, name: str, corpus: Path, share: float, seed: int) -> None:
    """Write the runs of a finished member that a summary reads."""
    write_run(home / name / "classify", corpus, share, seed)
    (home / name / "score").mkdir()
    (home / name / "score" / "DONE").write_text("{}")


def write_group(home: Path, members: Mapping[str, tuple[str, int]], against: str | None = None) -> Path:
    """Write group.json with system and seed of each member. Return its path."""
    entries = [GroupMember(name, system, seed, {"rc.lora.r": system}) for name, (system, seed) in members.items()]
    Group(tuple(entries), against).write(home / "group.json")
    return home / "group.json"
