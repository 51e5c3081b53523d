from __future__ import annotations

import gzip
import json
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.common.json_stream import BLOCK
from lmrc.corpus.predictions import Prediction, Predictions, read_predictions, write_predictions

GOOD = {"title": "A", "h_idx": 0, "t_idx": 1, "r": "P17"}


def test_read_keeps_order_and_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    rows = [GOOD | {"score": 0.5, "evidence": [1]}, {**GOOD, "title": "Ä", "t_idx": -1}, GOOD, GOOD | {"score": 2}]
    path.write_text(json.dumps(rows))
    assert read_predictions(path) == [
        Prediction("A", 0, 1, "P17", 0.5, (1,)),
        Prediction("Ä", 0, -1, "P17"),
        Prediction("A", 0, 1, "P17"),
        Prediction("A", 0, 1, "P17", 2.0),
    ]


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (["A", 0, 1, "P17"], 'is ["A", 0, 1, "P17"], not an object'),
        (None, "is null, not an object"),
        ({"title": "A", "h_idx": 0, "t_idx": 1}, 'lacks "r"; it has title, h_idx, t_idx'),
        ({"title": "A", "sents": [], "vertexSet": []}, "is a document, and no prediction: give documents as --gold"),
        ({"title": "A", "text": "", "triples": []}, "is a result of lmrc extract with names: extract with --out"),
        ({"A": [GOOD]}, "is an object with lists of objects (A): write them as one list, each with its title"),
        (GOOD | {"title": 5}, '"title" is 5, not text'),
        (GOOD | {"h_idx": "0"}, '"h_idx" is "0", not an integer'),
        (GOOD | {"t_idx": 1.0}, '"t_idx" is 1.0, not an integer'),
        (GOOD | {"t_idx": True}, '"t_idx" is true, not an integer'),
        (GOOD | {"r": ["P17"]}, '"r" is ["P17"], not text'),
        (GOOD | {"score": "high"}, '"score" is "high", not a number'),
        (GOOD | {"score": False}, '"score" is false, not a number'),
        (GOOD | {"h_idx": 2**31}, '"h_idx" is 2147483648, which is no entity index'),
        (GOOD | {"evidence": 3}, '"evidence" is 3, not a list of sentence indices'),
        (GOOD | {"evidence": [0, "1"]}, '"evidence" names "1", not a sentence index'),
        (GOOD | {"evidence": [True]}, '"evidence" names true, not a sentence index'),
        (GOOD | {"evidence": [2**40]}, '"evidence" names 1099511627776, not a sentence index'),
    ],
)
def test_malformed_element_is_described(tmp_path: Path, element: object, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps([GOOD, element, GOOD]))
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: prediction 1: {message}")
    assert re.search(r"; expected \{\"title\"", str(caught.value))


def test_malformed_element_in_a_later_block_is_described(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps([GOOD] * 60_000 + [{}]))
    assert path.stat().st_size > 2 * BLOCK
    with pytest.raises(UserError, match='prediction 60000: lacks "title"'):
        read_predictions(path)


def test_malformed_elements_are_counted_and_the_first_described(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    elements: list[object] = [GOOD] * 50_000
    for index in (1, 7, 20_000, 40_000):
        elements[index] = {}
    path.write_text(json.dumps(elements))
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    first = "; ".join(f'prediction {index}: lacks "title"' for index in (1, 7, 20_000))
    assert str(caught.value).startswith(f"{path}: 4 of 50,000 predictions are malformed, such as {first}; expected ")


def test_evidence_stays_with_its_prediction_across_blocks(tmp_path: Path) -> None:
    rows = [Prediction(f"D{i}", 0, 1, "P1", None, (i % 7,) * (i % 3) if i % 2 else None) for i in range(30_000)]
    path = tmp_path / "result.json"
    write_predictions(rows, path)
    assert path.stat().st_size > 1.5 * BLOCK
    assert list(Predictions.of(rows)) == read_predictions(path) == rows


def test_columns_hold_each_title_and_relation_once() -> None:
    rows = [
        Prediction("B", 1, 0, "P2"),
        Prediction("A", 0, 1, "P1", 0.5, (3, 1)),
        Prediction("B", 2, 0, "P1", None, ()),
    ]
    columns = Predictions.of(rows)
    assert (columns.titles, columns.relations) == (("B", "A"), ("P2", "P1"))
    assert columns.document.tolist() == [0, 1, 0]
    assert (columns.evidence_of.tolist(), columns.evidence.tolist()) == ([1, 1], [3, 1])
    assert list(columns) == rows
    assert len(columns) == 3
    assert list(Predictions.of([])) == []


def test_write_sorts_triples_and_keeps_the_order_of_titles(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_predictions(
        [
            Prediction("Z", 2, 0, "P1"),
            Prediction("A", 0, 1, "P1", 0.25),
            Prediction("Z", 0, 1, "P3"),
            Prediction("Z", 0, 1, "P2"),
        ],
        path,
    )
    assert path.read_text() == (
        "[\n"
        '{"title": "Z", "h_idx": 0, "t_idx": 1, "r": "P2"},\n'
        '{"title": "Z", "h_idx": 0, "t_idx": 1, "r": "P3"},\n'
        '{"title": "Z", "h_idx": 2, "t_idx": 0, "r": "P1"},\n'
        '{"title": "A", "h_idx": 0, "t_idx": 1, "r": "P1", "score": 0.25}\n'
        "]\n"
    )


def test_nan_score_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="JSON cannot hold"):
        write_predictions([Prediction("A", 0, 1, "P1", float("nan"))], tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scores = st.none() | st.floats(allow_nan=False, allow_infinity=False)
small = st.integers(-1, 5)
evidence = st.none() | st.lists(small, max_size=3).map(tuple)


@settings(deadline=None)
@given(st.lists(st.builds(Prediction, text, small, small, text, scores, evidence), max_size=8))
def test_predictions_round_trip(tmp_path_factory: pytest.TempPathFactory, predictions: list[Prediction]) -> None:
    path = tmp_path_factory.mktemp("predictions") / "result.json"
    write_predictions(predictions, path)
    back = read_predictions(path)
    assert sorted(map(repr, back)) == sorted(map(repr, predictions))
    titles = list(dict.fromkeys(p.title for p in predictions))
    keys = [(titles.index(p.title), p.head, p.tail, p.relation) for p in back]
    assert keys == sorted(keys)


LISTED = json.dumps([GOOD, {**GOOD, "t_idx": 2}])
LINES = f"{json.dumps(GOOD)}\n\n{json.dumps({**GOOD, 't_idx': 2})}\n"


def zipped(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def test_forms_of_a_file(tmp_path: Path) -> None:
    expected = [Prediction("A", 0, 1, "P17"), Prediction("A", 0, 2, "P17")]
    for name, content in (
        ("a.json", LISTED.encode()),
        ("b.jsonl", LINES.encode()),
        ("c", gzip.compress(LINES.encode())),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_predictions(tmp_path / name) == expected
    # The zip file of the competition, also as a Mac makes it.
    assert read_predictions(zipped(tmp_path / "result.zip", **{"result.json": LISTED})) == expected
    files = {"x__result.jsonl": LINES, "x__readme.txt": "", "MACOSX__x__._result.json": "no JSON"}
    assert read_predictions(zipped(tmp_path / "d.zip", **files)) == expected


def test_zip_files_that_are_refused(tmp_path: Path) -> None:
    for files, message in (
        ({"a.json": LISTED, "b.json": LISTED}, r"with 2 JSON files, a\.json, b\.json; expected one"),
        ({"a.txt": LISTED}, "with no JSON file; expected one, such as result.json"),
        ({"a.json": "no"}, r"r\.zip \(a\.json\): holds no JSON list: it begins with 'no'"),
        ({"a.json": "[1]"}, r"prediction 0: is 1, not an object"),
    ):
        with pytest.raises(UserError, match=message):
            read_predictions(zipped(tmp_path / "r.zip", **files))
    path = zipped(tmp_path / "cut.zip", **{"a.json": LISTED})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cut\.zip: is a zip archive that cannot be read \(.*\); unpack it"):
        read_predictions(path)
