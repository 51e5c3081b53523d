"""The table of the study, on runs that are made up."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.study import summary
from benchmarks.study.summary import System, answer_tokens, hours, read_systems, summarize
from lmrc.common.errors import UserError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import read_facts
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.prompts.templates import PROMPTS
from tests.conftest import ROOT
from tests.rc import tiny

DOCUMENTS = list(synthetic.generate(12, 5))
KEYS = ["lmrc", "lmrc_epoch", "encoder", "fused", "fused_band", "type_prior", "bag_of_words", "direct", "rc_gold"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Write a training corpus, one to ask about and a part of it; return the folder for runs."""
    for name, documents in (("train", DOCUMENTS[:3]), ("dev", DOCUMENTS), ("sample", DOCUMENTS[4:8])):
        write_corpus(documents, tmp_path / name, synthetic.RELATIONS, name, "0" * 64)
    return tmp_path / "runs"


def guesses(documents: Sequence[Document], seed: int, share: float) -> list[Prediction]:
    """Return each gold triple with probability `share`, otherwise a wrong relation."""
    rng = random.Random(f"{seed} {share}")
    ids = synthetic.RELATIONS.ids
    return [
        Prediction(d.title, x.head, x.tail, x.relation if rng.random() < share else rng.choice(ids))
        for d in documents
        for x in d.labels or ()
        if rng.random() < 0.9
    ]


def write_run(run: Path, predictions: Sequence[Prediction] | None, minutes: int, corpus: str = "dev") -> Path:
    """Write a finished run that took these minutes; without predictions, one of training."""
    (run / "log").mkdir(parents=True)
    events = [("2026-01-01T10:00:00+00:00", "started"), (f"2026-01-01T10:{minutes:02}:00+00:00", "finished")]
    lines = [json.dumps({"time": time, "event": event, "job": "local-1"}) for time, event in events]
    (run / "log" / "history.jsonl").write_text("\n".join(lines) + "\n")
    (run / "config.yaml").write_text(yaml.safe_dump({"corpus": str(run.parent.parent / corpus)}))
    (run / "DONE").write_text("{}")
    if predictions is not None:
        write_predictions(predictions, run / "predictions.json")
    return run


def slow_metrics(predictions: Sequence[Prediction], drawn: Sequence[Document]) -> dict[str, float]:
    """Score documents that may be drawn several times, by counting sets."""
    correct = predicted = gold = 0
    for document in drawn:
        found = {(p.head, p.tail, p.relation) for p in predictions if p.title == document.title}
        wanted = {(x.head, x.tail, x.relation) for x in document.labels or ()}
        correct, predicted, gold = correct + len(found & wanted), predicted + len(found), gold + len(wanted)
    return {
        "precision": 100 * correct / max(predicted, 1),
        "recall": 100 * correct / max(gold, 1),
        "f1": 200 * correct / max(predicted + gold, 1),
    }


def test_scores_agree_with_slow_code(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = {
        "lmrc": System(name="LMRC", run="lmrc-SEED", trained=(), answered=()),
        "fused": System(name="Fused", run="fused-SEED", trained=(), answered=(), over=("lmrc",)),
    }
    predictions = {
        (key, seed): guesses(DOCUMENTS, seed, share)
        for key, share in (("lmrc", 0.4), ("fused", 0.7))
        for seed in (1, 2)
    }
    for (key, seed), found in predictions.items():
        write_run(runs / f"{key}-{seed}", found, 1)
    found = summarize(runs, runs.parent / "train", [1, 2, 3], systems)
    assert list(found) == ["lmrc", "fused"]
    assert capsys.readouterr().out.splitlines() == [
        f"{runs}/lmrc-3 is not finished: left out",
        f"{runs}/fused-3 is not finished: left out",
    ]
    documents = np.random.default_rng(66).integers(12, size=(1000, 12)).tolist()
    seeds = np.random.default_rng([66, 1]).integers(2, size=(1000, 2)).tolist()
    samples = {
        each: [slow_metrics(predicted, [DOCUMENTS[index] for index in drawn]) for drawn in documents]
        for each, predicted in predictions.items()
    }
    whole = {each: slow_metrics(predicted, DOCUMENTS) for each, predicted in predictions.items()}
    facts = read_facts(runs.parent / "train", synthetic.RELATIONS)
    for key, system in found.items():
        assert (system["documents"], system["seeds"]) == (12, 2)
        assert [row["seed"] for row in system["per_seed"]] == [1, 2]
        for name in ("precision", "recall", "f1"):
            assert [row[name] for row in system["per_seed"]] == pytest.approx([whole[key, s][name] for s in (1, 2)])
            assert system[name] == pytest.approx((whole[key, 1][name] + whole[key, 2][name]) / 2)
            means = [
                sum(samples[key, 1 + seed][sample][name] for seed in drawn) / 2 for sample, drawn in enumerate(seeds)
            ]
            assert system["intervals"][name] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist()), name
        ign = [
            score(DOCUMENTS, predictions[key, seed], synthetic.RELATIONS, facts, "redocred").ign_f1 for seed in (1, 2)
        ]
        assert [row["ign_f1"] for row in system["per_seed"]] == pytest.approx(ign)
        assert system["ign_f1"] != pytest.approx(system["f1"])
    for name in ("precision", "recall", "f1"):
        compared = found["fused"]["over"]["lmrc"][name]
        observed = found["fused"][name] - found["lmrc"][name]
        assert compared["difference"] == pytest.approx(observed)
        moved = [
            sum(samples["fused", seed][sample][name] - samples["lmrc", seed][sample][name] for seed in (1, 2)) / 2
            for sample in range(1000)
        ]
        assert compared["interval"] == pytest.approx(np.percentile(moved, [2.5, 97.5]).tolist())
        p = (sum(abs(d - observed) >= abs(observed) - 1e-9 for d in moved) + 1) / 1001
        assert compared["p"] == pytest.approx(p)


def test_systems_on_other_documents_are_compared_on_the_common_ones(runs: Path) -> None:
    """The LM on all pairs is asked about a sample, in one seed."""
    systems = {
        "direct": System(name="Direct", run="direct-SEED", trained=(), answered=(), over=("lmrc",)),
        "lmrc": System(name="LMRC", run="lmrc-SEED", trained=(), answered=(), over=("direct",)),
    }
    sample = DOCUMENTS[4:8]
    few, many = guesses(sample, 2, 0.2), guesses(DOCUMENTS, 2, 0.9)
    write_run(runs / "direct-2", few, 1, "sample")
    for seed in (1, 2):
        write_run(runs / f"lmrc-{seed}", many if seed == 2 else [], 1)
    found = summarize(runs, runs.parent / "train", [1, 2], systems)
    assert [found[key]["documents"] for key in systems] == [4, 12]
    over = found["lmrc"]["over"]["direct"]
    assert (over["documents"], over["seeds"]) == (4, 1)
    assert over["f1"]["first"] == pytest.approx(slow_metrics(few, sample)["f1"])
    assert over["f1"]["second"] == pytest.approx(slow_metrics(many, sample)["f1"])
    back = found["direct"]["over"]["lmrc"]
    assert (back["documents"], back["seeds"]) == (4, 1)
    assert back["f1"]["difference"] == pytest.approx(-over["f1"]["difference"])


def test_seeds_on_other_documents_are_rejected(runs: Path) -> None:
    write_run(runs / "lmrc-1", [], 1)
    write_run(runs / "lmrc-2", [], 1, "sample")
    systems = {"lmrc": System(name="LMRC", run="lmrc-SEED", trained=(), answered=())}
    with pytest.raises(UserError, match="lmrc-1 and lmrc-2 answered about different documents, 12 and 4"):
        summarize(runs, runs.parent / "train", [1, 2], systems)


def test_costs_are_the_mean_of_the_seeds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = System(name="LMRC", run="lmrc-SEED", trained=("rcp-SEED", "rc-SEED", "fold0"), answered=("lmrc-SEED",))
    write_run(runs / "fold0", None, 6)
    for seed, minutes in ((1, 10), (2, 20)):
        write_run(runs / f"rcp-{seed}", None, minutes)
        (runs / f"rcp-{seed}" / "metrics.jsonl").write_text('{"step": 1, "documents": 4}\n')
        write_run(runs / f"rc-{seed}", None, 2)
        steps = [{"step": 1, "tokens": 100}, {"step": 2, "tokens": 30 * seed}, {"step": 2, "dev_loss": 1.0}]
        (runs / f"rc-{seed}" / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        run = write_run(runs / f"lmrc-{seed}", [], 4)
        (run / "DONE").write_text(json.dumps({"tokens": 1000 * seed}))
    found = summarize(runs, runs.parent / "train", [1, 2], {"lmrc": system})["lmrc"]
    assert found["cpu_hours"] == pytest.approx((15 + 2 + 6 + 4) / 60)
    assert found["tokens"] == {"training": 145.0, "answering": 1500.0}
    assert not capsys.readouterr().out
    # The cost of a run that is gone is not known, and the scores are.
    other = runs.rename(runs.with_name("other"))
    (other / "fold0" / "log" / "history.jsonl").unlink()
    found = summarize(other, runs.parent / "train", [1, 2], {"lmrc": system})["lmrc"]
    assert capsys.readouterr().out == f"{other}/fold0 has no events: its cost is not known\n"
    assert (found["cpu_hours"], found["tokens"]) == (None, {"training": None, "answering": None})
    assert found["f1"] == 0.0


def test_killed_attempts_count_until_their_last_log(tmp_path: Path) -> None:
    events = [(0, "started", "1"), (10, "preempted", "1"), (20, "started", "2"), (50, "started", "3")]
    events += [(53, "finished", "3"), (53, "requeued", "3")]
    lines = [
        json.dumps({"time": f"2026-01-01T10:{minute:02}:00+00:00", "event": event, "job": f"local-{job}"})
        for minute, event, job in events
    ]
    (tmp_path / "log").mkdir()
    assert hours(tmp_path) is None
    (tmp_path / "log" / "history.jsonl").write_text("\n".join(lines) + "\n")
    # The second attempt was killed: without a log it counts nothing.
    assert hours(tmp_path) == pytest.approx(13 / 60)
    log = tmp_path / "log" / "2_0_log.out"
    log.write_text("")
    last = datetime.fromisoformat("2026-01-01T10:27:00+00:00").timestamp()
    os.utime(log, (last, last))
    assert hours(tmp_path) == pytest.approx(20 / 60)


def test_tokens_of_prompts_and_answers_are_counted(tmp_path: Path) -> None:
    corpus, adapter, run = tiny.corpus(tmp_path / "dev", tiny.DOCUMENTS), tmp_path / "best", tmp_path / "run"
    assert answer_tokens(tmp_path / "nothing") == 0
    # A token per byte.
    tiny.tokenizer().save_pretrained(adapter)
    AdapterMetadata(PromptOptions(kind="rc"), "fp32", corpus.relations.sha256).write(adapter)
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"corpus": str(corpus.folder), "rc": str(adapter)}))
    asked = [(0, [(1, 2), (0, 1)], [], "Ada"), (2, [(0, 1)], [1], "Zoë")]
    lines = [
        json.dumps({"document": document, "pairs": pairs, "left_out": left_out, "answer": answer})
        for document, pairs, left_out, answer in asked
    ]
    (run / "generations.jsonl").write_text("\n".join(lines) + "\n")
    texts = [
        PROMPTS["rc"].render(tiny.DOCUMENTS[document], pairs, tiny.RELATIONS, left_out) + answer
        for document, pairs, left_out, answer in asked
    ]
    assert answer_tokens(run) == sum(len(text.encode()) for text in texts)
    (run / "DONE").write_text('{"queries": 2}')
    assert answer_tokens(run) == sum(len(text.encode()) for text in texts)
    (run / "DONE").write_text('{"queries": 2, "tokens": 7}')
    assert answer_tokens(run) == 7
    (run / "DONE").unlink()
    (run / "config.yaml").write_text(yaml.safe_dump({"rc": "runs/rc/best", "answers": "runs/other"}))
    assert answer_tokens(run) == 0
    (run / "config.yaml").write_text(yaml.safe_dump({"corpus": str(corpus.folder), "rc": None}))
    with pytest.raises(UserError, match="asked an LM without an adapter: expected its tokens in DONE"):
        answer_tokens(run)


def test_tokens_of_lines_are_counted(tmp_path: Path) -> None:
    """Prompt kind likelihood has one line per pair and probable relation, after the text."""
    corpus, adapter, run = tiny.corpus(tmp_path / "dev", tiny.DOCUMENTS), tmp_path / "best", tmp_path / "run"
    proposed = tiny.candidates(tmp_path / "candidates", corpus)
    tiny.tokenizer().save_pretrained(adapter)
    options = PromptOptions(kind="likelihood", min_relation_probability=0.0)
    AdapterMetadata(options, "fp32", corpus.relations.sha256).write(adapter)
    run.mkdir()
    names = {"corpus": corpus.folder, "candidates": proposed.folder, "rc": adapter}
    (run / "config.yaml").write_text(yaml.safe_dump({name: str(path) for name, path in names.items()}))
    (pair, *_) = proposed[0]
    asked = {"document": 0, "pairs": [[pair.head, pair.tail]], "left_out": [], "answer": ""}
    (run / "generations.jsonl").write_text(json.dumps(asked) + "\n")
    document = tiny.DOCUMENTS[0]
    head, tail = (document.entities[entity][0].name for entity in (pair.head, pair.tail))
    names_of_relations = [tiny.RELATIONS.name(relation) for relation, _ in pair.relations]
    text = f"Text: {' '.join(' '.join(words) for words in document.sentences)}\n\n"
    text += "".join(f"{head} - {name}: {tail}\n" for name in names_of_relations)
    assert answer_tokens(run) == len(tiny.tokenizer()(text)["input_ids"])


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["summary.py", *words])
    summary.main()


def test_command_writes_a_key_per_system(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(runs), "--train", str(runs.parent / "train")]
    with pytest.raises(SystemExit, match="no system has a finished run"):
        main(monkeypatch, *words)
    systems = read_systems(summary.SYSTEMS)
    assert list(systems) == KEYS
    names = {
        name.replace("SEED", str(seed))
        for s in systems.values()
        for name in (*s.trained, *s.answered)
        for seed in (66, 67, 68)
    }
    answered = {system.run_of(seed) for system in systems.values() for seed in (66, 67, 68)}
    for name in sorted(names | answered):
        write_run(runs / name, guesses(DOCUMENTS, 1, 0.5) if name in answered else None, 3)
    capsys.readouterr()
    main(monkeypatch, *words)
    printed = capsys.readouterr().out
    found: dict[str, Any] = json.loads((runs / "summary.json").read_text())
    assert list(found) == KEYS
    for system in found.values():
        assert {"f1", "precision", "recall", "ign_f1", "per_seed", "intervals", "documents", "seeds"} <= system.keys()
        assert {"cpu_hours", "tokens"} <= system.keys()
        assert system["seeds"] == len(system["per_seed"]) == 3
    assert set(found["fused"]["over"]) == {"encoder", "lmrc", "lmrc_epoch", "bag_of_words"}
    assert found["fused"]["over"]["encoder"]["f1"]["p"] == 1.0
    # Four trainings and six runs of inference, of three minutes each.
    assert found["fused"]["cpu_hours"] == pytest.approx(30 / 60)
    assert (runs / "summary.md").read_text() == printed
    assert all(system.name in printed for system in systems.values())


def test_table_of_systems_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "systems.yaml"
    with pytest.raises(UserError, match="is no table of systems"):
        read_systems(path)
    row = {"name": "A", "run": "a-SEED", "trained": [], "answered": []}
    path.write_text(yaml.safe_dump({"a": row | {"trainde": []}}))
    with pytest.raises(UserError, match="trainde"):
        read_systems(path)
    path.write_text(yaml.safe_dump({"a": row | {"over": ["b"]}}))
    with pytest.raises(UserError, match="a is compared with b, which is no system in it"):
        read_systems(path)
    assert (ROOT / "benchmarks" / "study" / "systems.yaml") == summary.SYSTEMS
