from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lmrc.common.errors import RunError, UserError
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.evaluation.report.build import distinct_names, relations_of, report_runs
from lmrc.evaluation.scored_run import read_scored_run


def run_of(folder: Path, documents: int | None, name: str = "run", candidates: Path | None = None) -> Path:
    """Write a run of classify that predicts all gold triples of the first two of four documents."""
    gold = list(synthetic.generate(4, 7))
    if not (folder / "corpus").exists():
        write_corpus(gold, folder / "corpus", synthetic.RELATIONS, "made up", "0" * 64)
    run = folder / name
    run.mkdir(parents=True)
    config = {"corpus": str(folder / "corpus"), "documents": documents, "candidates": candidates and str(candidates)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    found = [Prediction(d.title, x.head, x.tail, x.relation) for d in gold[:2] for x in d.labels or ()]
    write_predictions(found, run / "predictions.json")
    return run


def test_run_over_the_first_documents(tmp_path: Path) -> None:
    scored = read_scored_run(run_of(tmp_path, documents=2))
    assert scored is not None
    assert len(scored.documents) == 2
    assert scored.scores.all.f1 == 100.0


def test_run_over_all_documents(tmp_path: Path) -> None:
    scored = read_scored_run(run_of(tmp_path, documents=None))
    assert scored is not None
    assert scored.scores.all.precision == 100.0
    assert scored.scores.all.recall < 100.0
    assert scored.candidates is None


def test_candidates_of_a_run_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    propose = tmp_path / "propose"
    run = run_of(tmp_path, 2, candidates=propose / "candidates")
    assert read_scored_run(run).proposed is None  # type: ignore[union-attr]
    assert "the report omits the scores of RCP" in caplog.text
    corpus = Corpus.open(tmp_path / "corpus")
    propose.mkdir()
    (propose / "config.yaml").write_text(yaml.safe_dump({"rcp": str(tmp_path / "rcp" / "best")}))
    # One gold pair per document, and one pair without a relation.
    rows = []
    for document in corpus:
        related = {(label.head, label.tail) for label in document.labels or ()}
        free = next((h, t) for h in range(9) for t in range(9) if h != t and (h, t) not in related)
        rows.append((document.title, [Candidate(*min(related), 0.9), Candidate(*free, 0.4)]))
    write_candidates(rows, propose / "candidates", corpus.fingerprint, 0.3)
    scored = read_scored_run(run)
    assert scored is not None
    assert scored.proposed is not None
    assert (scored.proposed.correct, scored.proposed.predicted) == (2, 4)  # two documents, not four
    assert (scored.threshold, scored.rcp) == (0.3, tmp_path / "rcp" / "best")


def test_encoder_alone_beside_a_run_of_classify(tmp_path: Path) -> None:
    """Pairs that RCP did not propose are no error of the encoder alone, which names relations of any pair."""
    propose = run_of(tmp_path, None, "propose")
    config = {"corpus": str(tmp_path / "corpus"), "rcp": str(tmp_path / "rcp" / "best"), "threshold": "0.5"}
    (propose / "config.yaml").write_text(yaml.safe_dump(config))
    corpus = Corpus.open(tmp_path / "corpus")
    write_candidates([(d.title, []) for d in corpus], propose / "candidates", corpus.fingerprint, 0.3)
    classify = run_of(tmp_path, None, "classify", propose / "candidates")
    alone, whole = report_runs([propose, classify], tmp_path / "out")
    assert (alone.name, whole.name) == ("propose (encoder alone)", "classify")
    assert read_scored_run(propose).name == alone.name  # type: ignore[union-attr]
    assert alone.scores.all == whole.scores.all and len(alone.documents) == 4
    assert (alone.candidates, alone.rcp) == (None, tmp_path / "rcp" / "best")
    assert alone.proposed is None and whole.proposed is not None
    header, *rows = cells(tmp_path / "out" / "tables" / "scores.csv")
    assert header[1:] == ["propose (encoder alone)", "classify"]
    assert next(row for row in rows if row[0] == "F1 of RCP")[1:] == ["-", "0.00"]
    assert "propose (encoder alone)" in (tmp_path / "out" / "report.html").read_text()


def test_run_of_propose_without_relation_head(tmp_path: Path) -> None:
    run = run_of(tmp_path, None)
    (run / "config.yaml").write_text(yaml.safe_dump({"corpus": str(tmp_path / "corpus"), "threshold": "0.5"}))
    (run / "predictions.json").unlink()
    (run / "DONE").write_text("{}")
    with pytest.raises(UserError, match=r"nothing to report: .*has no relation head.*--train\.relation-weight 1"):
        report_runs([run], tmp_path / "out")


def test_moved_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config with absolute paths of a run that was moved with its data, and with relative paths of an older run."""
    home = tmp_path / "home"
    run = run_of(home, documents=2, name="run")
    config = {"corpus": str(home / "corpus"), "documents": 2, "run": {"name": "run", "folder": str(home)}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    moved = home.rename(tmp_path / "moved")
    older = run_of(moved, documents=2, name="older")
    (older / "config.yaml").write_text(yaml.safe_dump({"corpus": "moved/corpus", "documents": 2}))
    monkeypatch.chdir(moved)
    for name in ("run", "older"):
        scored = read_scored_run(moved / name)
        assert scored is not None
        assert scored.corpus == str(moved / "corpus")
        assert relations_of([moved / name]) == synthetic.RELATIONS
    report_runs([moved / "run", moved / "older"], moved / "report.html")


def test_run_without_predictions(tmp_path: Path) -> None:
    run = run_of(tmp_path, documents=2)
    (run / "predictions.json").unlink()
    assert read_scored_run(run) is None
    with pytest.raises(RunError, match="is no run folder"):
        read_scored_run(tmp_path / "corpus" / "nothing")
    with pytest.raises(UserError, match=r"nothing to report: .*/run has neither predictions nor metrics yet$"):
        report_runs([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_distinct_names_add_parent_folders(tmp_path: Path) -> None:
    a, b, c = tmp_path / "x" / "classify", tmp_path / "y" / "classify", tmp_path / "rcp"
    assert distinct_names([a, c, a]) == {"classify": a, "rcp": c}
    assert distinct_names([a, b]) == {"x/classify": a, "y/classify": b}


def test_figures_of_a_fused_run(tmp_path: Path) -> None:
    run, other = run_of(tmp_path, documents=2), run_of(tmp_path, documents=2, name="rc")
    bins = [{"probability": 0.4, "correct": 0.5, "questions": 3}]
    (run / "reliability.json").write_text(json.dumps({"ece": 0.1, "bins": bins}))
    point = {"low": 0.2, "high": 0.8, "share": 0.12, "questions": 30, "f1": 58.2}
    (run / "fusion-curve.json").write_text(json.dumps({"tokens_per_question": 9.0, "curve": [point]}))
    report_runs([run, other], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"reliability.svg", "reliability.png", "f1-by-cost.svg", "f1-by-cost.png"} <= names
    page = (tmp_path / "out" / "report.html").read_text()
    assert "run: ECE 0.1000" in page and "run: 58.20 with 12.0 % of the pairs" in page and "rc: ECE" not in page
    report_runs([other], tmp_path / "without")
    assert not (tmp_path / "without" / "figures" / "reliability.svg").exists()


def test_report_folder_has_page_tables_and_figures(tmp_path: Path) -> None:
    run, trained = run_of(tmp_path, documents=2), tmp_path / "rcp"
    (trained / "best").mkdir(parents=True)
    (trained / "config.yaml").write_text("{}")
    (trained / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {1 / i}}}\n' for i in (1, 2, 3)))
    calibration = {"pairs": 4, "gold": 3, "f1": [0.1, 85.7], "curve": [[50.0, 0.75, 100.0], [100.0, 0.1, 75.0]]}
    (trained / "best" / "calibration.json").write_text(json.dumps(calibration))
    sweep = [{"theta": theta, "precision": 50, "recall": 50, "f1": 50} for theta in (0, 0.5)]
    (run / "alignment.json").write_text(json.dumps(sweep))
    out = tmp_path / "out"
    (scored,) = report_runs([run, trained], out)
    page = (out / "report.html").read_text()
    assert scored.documents[1].title in page
    tables = {"runs", "scores", "splits", "relations", "losses", "ceilings", "options-run"}
    assert {path.name for path in (out / "tables").iterdir()} == {
        f"{t}.{e}" for t in tables for e in ("txt", "tex", "csv")
    }
    figures = {"figure-3", "rcp", "f1-by-relation", "confusion", "learning-rcp-loss"}
    figures |= {"f1-by-relation-frequency", "f1-by-sentence-distance", "f1-by-mentions", "f1-by-document-words"}
    assert {path.name for path in (out / "figures").iterdir()} == {f"{f}.{e}" for f in figures for e in ("svg", "png")}
    for name in tables:
        text = (out / "tables" / f"{name}.txt").read_text()
        assert text.splitlines()[0] in page.replace("&#39;", "'")
    assert "The paper's tables" not in re.findall(r"<h2>(.*?)</h2>", page)
    assert "are left out: no run is on a whole dev or test set" in page


def test_report_on_a_data_set_of_the_paper_has_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.evaluation.scored_run.data_set_by_statistics", lambda _: "DocRED dev")
    run, out = run_of(tmp_path, documents=2), tmp_path / "out"
    report_runs([run], out)
    tables = {f"table-{number}.tex" for number in ("1", "2", "3a", "3b", "4", "5", "8", "9-10")}
    assert {path.name for path in (out / "tables").glob("table-*.tex")} == tables
    assert (out / "figures" / "figure-2.svg").exists()
    assert "<h2>The paper's tables</h2>" in (out / "report.html").read_text().replace("&#39;", "'")
    captions = [line for line in (out / "tables" / "table-4.tex").read_text().splitlines() if "caption" in line]
    shown = "Intra- and Inter-F1 on the development set of DocRED: table 4 of the paper, and our runs"
    assert captions == [f"\\caption{{{shown}}}\\label{{tab:table-4}}"]
    rows = (out / "tables" / "table-4.csv").read_text().splitlines()
    assert rows[-1] == "Our runs,run,DocRED dev,100.00,100.00"


def cells(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_runs_on_different_corpora(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", 2, "first")
    others = [run_of(tmp_path / "b", None, name) for name in ("second", "third")]
    out = tmp_path / "out"
    runs = report_runs([first, *others], out)
    assert [run.data for run in runs] == ["a/corpus, 2 documents", "b/corpus, 4 documents", "b/corpus, 4 documents"]
    header, *rows = cells(out / "tables" / "splits.csv")
    gold = [f"Gold triples of {data}" for data in ("a/corpus, 2 documents", "b/corpus, 4 documents")]
    assert header == ["group", "", gold[0], "F1 first", gold[1], "F1 second", "F1 third"]
    for column, run in ((2, runs[0]), (4, runs[1])):
        for split in ("relations", "mentions"):
            counted = sum(int(row[column].replace(",", "")) for row in rows if row[0].startswith(split))
            assert counted == run.scores.all.gold
    assert runs[0].scores.all.gold != runs[1].scores.all.gold
    drawn = sorted(path.name for path in (out / "figures").glob("f1-by-mentions*.svg"))
    assert drawn == ["f1-by-mentions-a-corpus-2-documents.svg", "f1-by-mentions-b-corpus-4-documents.svg"]
    assert cells(out / "tables" / "ceilings.csv")[0][1:] == [f"{run.name} ({run.data})" for run in runs]
    page = (out / "report.html").read_text()
    assert "The runs are on different documents (row Data): their scores cannot be compared" in page
    report_runs(others, tmp_path / "alike")
    assert cells(tmp_path / "alike" / "tables" / "splits.csv")[0] == [
        "group",
        "",
        "Gold triples",
        "F1 second",
        "F1 third",
    ]
    assert (tmp_path / "alike" / "figures" / "f1-by-mentions.svg").exists()
    assert "different documents" not in (tmp_path / "alike" / "report.html").read_text()


def test_folder_of_runs_is_rejected_with_those_inside(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = run_of(home, 2, "classify")
    (home / "config.yaml").write_text("synthetic: {}\n")
    with pytest.raises(UserError, match=f"{home} holds no .* itself: give the run inside it, {run}$"):
        report_runs([home], tmp_path / "out")


def test_predictions_without_corpus_are_rejected(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2)
    (run / "config.yaml").write_text("{}")
    with pytest.raises(RunError, match="names no corpus: score them with lmrc score --gold"):
        report_runs([run], tmp_path / "out")


def test_run_without_results_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty, trained = tmp_path / "empty", tmp_path / "trained"
    for folder in (empty, trained):
        folder.mkdir()
        (folder / "config.yaml").write_text("{}")
    (trained / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    report_runs([empty, run_of(tmp_path, 2), trained], tmp_path / "page.html")
    assert caplog.messages == [f"{empty} has neither predictions nor metrics yet: the report omits it"]


def test_files_of_another_report_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, run = tmp_path / "out", run_of(tmp_path, 2)
    report_runs([run], out)
    assert not caplog.messages
    old = [out / "tables" / "scores-old.csv", out / "figures" / "learning-old.svg"]
    for file in old:
        file.touch()
    report_runs([run], out)
    assert caplog.messages == [f"{out} has 2 files that are not of this report, such as figures/learning-old.svg"]
    assert all(file.exists() for file in old)


def test_html_file_gets_only_the_page(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 2), run_of(tmp_path, None, "other/run")]
    report_runs(runs, tmp_path / "out" / "page.html", title="Two")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]
    page = (tmp_path / "out" / "page.html").read_text()
    assert "<h1>Two</h1>" in page
    assert "other/run" in page
    assert f"{tmp_path.name}/run" in page
    headings = ["Overview", "Examples", "Documents", "Scores", "Figures", "Errors", "Options"]
    assert re.findall(r"<h2>(.*?)</h2>", page) == headings
    # No folder of this machine is shown, and no date of today.
    assert str(tmp_path) not in page
    report_runs(runs, tmp_path / "again.html", title="Two")
    assert (tmp_path / "again.html").read_text() == page


def test_line_below_the_title_has_data_date_and_code(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2)
    (run / "environment.json").write_text(
        json.dumps({"lmrc": "0.1.0", "git": {"commit": "0123456789", "dirty": False}})
    )
    (run / "log").mkdir()
    (run / "log" / "history.jsonl").write_text('{"time": "2026-11-29T23:56:15+00:00", "event": "finished"}\n')
    report_runs([run], tmp_path / "page.html")
    line = "corpus, 2 documents · 2026-11-29 · lmrc 0.1.0, commit 0123456"
    assert f'<p class="subtitle">{line}</p>' in (tmp_path / "page.html").read_text()


def test_relation_set_comes_from_the_corpus(tmp_path: Path) -> None:
    trained = tmp_path / "rcp"
    trained.mkdir()
    (trained / "config.yaml").write_text("{}")
    assert relations_of([trained, run_of(tmp_path, None)]) == synthetic.RELATIONS
    assert relations_of([trained]) == DOCRED


def test_relation_sets_are_merged(tmp_path: Path) -> None:
    own = RelationSet(("P1", synthetic.RELATIONS.ids[0]), ("one", "two"))
    unlabeled = replace(next(iter(synthetic.generate(1, 7))), labels=())
    write_corpus([unlabeled], tmp_path / "own", own, "made up", "0" * 64)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(yaml.safe_dump({"corpus": str(tmp_path / "own")}))
    assert relations_of([run_of(tmp_path, None), other]).ids == (*synthetic.RELATIONS.ids, "P1")
