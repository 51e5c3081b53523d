from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lmrc.common.errors import UserError
from lmrc.config.schema import (
    BuildConfig,
    ClassifyConfig,
    DemoConfig,
    Options,
    ProposeConfig,
    RcConfig,
    RcpConfig,
    ScoreConfig,
)
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.predictions import Prediction, Predictions, write_predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.evaluation.inputs import (
    corpus_of,
    kind_of,
    predictions_file,
    read_systems,
    runs_inside,
    system_names,
    why_unscored,
    with_relation_ids,
)
from lmrc.evaluation.metrics.coverage import System
from lmrc.rc.alignment import ALIGNED


def made(folder: Path, config: Options | dict[str, object], predictions: str | None = None) -> Path:
    folder.mkdir(parents=True)
    raw = config if isinstance(config, dict) else config.model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    if predictions is not None:
        write_predictions([Prediction("x", 0, 1, "P1")], folder / predictions)
    return folder


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (RcpConfig(), "a training of RCP"),
        (RcConfig(), "a training of RC"),
        (ScoreConfig(), "a score step"),
        (BuildConfig(), "a build step"),
        (DemoConfig(), "a demo"),
    ],
)
def test_run_of_another_stage(tmp_path: Path, config: Options, kind: str) -> None:
    run = made(tmp_path / "run", config)
    run_kind = kind_of(run)
    assert run_kind is not None
    assert run_kind.description == kind
    message = f"{run} is {kind} and holds no predictions.json: give a run of classify, or a file of predictions"
    assert why_unscored(run) == message
    with pytest.raises(UserError) as refused:
        predictions_file(run)
    assert str(refused.value) == message


@pytest.mark.parametrize("config", [ClassifyConfig(), ProposeConfig()])
def test_unfinished_run(tmp_path: Path, config: Options) -> None:
    run = made(tmp_path / "run", config)
    kind = kind_of(run)
    assert kind is not None and kind.description in ("a run of classify", "a run of propose")
    assert why_unscored(run) == f"{run} is {kind.description} that has not finished: it holds no predictions.json yet"


def test_run_of_propose_without_relation_head(tmp_path: Path) -> None:
    run = made(tmp_path / "run", ProposeConfig())
    (run / "DONE").write_text("{}")
    with pytest.raises(
        UserError, match=r"has no relation head.*train the model with --train\.relation-weight 1, or give"
    ):
        predictions_file(run)


def test_names_of_systems(tmp_path: Path) -> None:
    """Predictions of propose are those of the encoder alone, also if their file is given."""
    propose = made(tmp_path / "propose", ProposeConfig(), "predictions.json")
    classify = made(tmp_path / "classify", ClassifyConfig(), "predictions.json")
    assert system_names([propose, classify]) == ["propose (encoder alone)", "classify"]
    files = [run / "predictions.json" for run in (propose, classify)]
    assert system_names(files) == [f"{files[0]} (encoder alone)", str(files[1])]
    assert system_names([propose], short=False) == [f"{propose} (encoder alone)"]
    assert system_names([propose, propose]) == [f"{propose} (encoder alone)"] * 2


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    assert kind_of(tmp_path) is None
    assert why_unscored(tmp_path).startswith(f"{tmp_path} holds no predictions.json: give")


def test_runs_inside_a_folder_are_listed(tmp_path: Path) -> None:
    home = made(tmp_path / "demo", DemoConfig())
    deep = made(home / "eval" / "classify", ClassifyConfig(), "predictions.json")
    assert why_unscored(home) == f"{home} holds no predictions.json itself: give the run inside it, {deep}"
    runs = [made(home / name, ClassifyConfig(), "predictions.json") for name in ("lmrc", "untrained")]
    made(home / "other", ClassifyConfig(), "other.json")
    (home / "no-run").mkdir()
    write_predictions([], home / "no-run" / "predictions.json")
    assert runs_inside(home, ("predictions.json",)) == [deep, *runs]
    assert why_unscored(home).endswith(f"give one of the runs inside it, {deep}, {runs[0]}, {runs[1]}")
    many = [made(home / f"n{number}", ClassifyConfig(), "predictions.json") for number in range(2)]
    assert why_unscored(home).endswith(f"{runs[0]}, {many[0]}, {many[1]}, …")


def test_classified_documents_are_read_from_the_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    titles = [document.title for document in synthetic.generate(6, 3)]
    write_corpus(synthetic.generate(6, 3), tmp_path / "corpus", synthetic.RELATIONS, "made up", "0" * 64)
    corpus = str(tmp_path / "corpus")
    whole = made(tmp_path / "whole", {"corpus": corpus, "documents": None}, "predictions.json")
    part = made(tmp_path / "part", {"corpus": corpus, "documents": 4}, "predictions.json")
    for name in (ALIGNED, "copy.json"):
        write_predictions([], part / name)
    given = [whole, part, part / "predictions.json", part / ALIGNED, part / "copy.json"]
    first = frozenset(titles[:4])
    assert [system.classified for system in read_systems(given)] == [frozenset(titles), first, first, first, None]
    assert not caplog.messages
    assert corpus_of([part / "predictions.json", whole]) == tmp_path / "corpus"
    gone = made(tmp_path / "gone", {"corpus": str(tmp_path / "nowhere")}, "predictions.json")
    (system,) = read_systems([gone])
    assert system.classified is None
    assert "nowhere: no such folder" in caplog.text
    assert f"it is not known which documents {gone} classified" in caplog.text


def test_corpus_of_runs_on_different_corpora(tmp_path: Path) -> None:
    runs = [made(tmp_path / name, {"corpus": f"/data/{name}"}, "predictions.json") for name in ("a", "b")]
    with pytest.raises(UserError, match=r"a classified /data/a; .*b classified /data/b: give --gold"):
        corpus_of(runs)


def test_names_in_place_of_ids(tmp_path: Path) -> None:
    relations = RelationSet(("P1", "P2", "x"), ("first", "second", "P1"))
    # "P1" is an id, although it is a name too; "third" is neither.
    rows = [Prediction("A", 0, index, name) for index, name in enumerate(["first", "P1", "second", "first", "third"])]
    systems = [System("a.json", Predictions.of(rows)), System("b.json", Predictions.of(rows[1:2]))]
    (first, second), (line,) = with_relation_ids(systems, relations)
    assert [prediction.relation for prediction in first.predictions] == ["P1", "P1", "P2", "P1", "third"]
    assert second is systems[1]
    assert line.startswith("a.json: 3 of 5 predictions have the name of a relation in place of its id")
