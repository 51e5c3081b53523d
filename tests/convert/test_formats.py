"""The registry: names in any case, names of data sets, and a suggestion for a misspelled one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmrc.cli.main import lmrc
from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import ALIASES, FORMATS, format_named


def test_names() -> None:
    assert format_named("PubTator") is FORMATS["pubtator"]
    assert format_named("CDR") is FORMATS["pubtator"]
    assert {*ALIASES.values()} <= {*FORMATS}


def test_an_unknown_name(tmp_path: Path) -> None:
    arguments = ["data", "convert", str(tmp_path), "--from", "pubtater", "--out", str(tmp_path / "x.json")]
    run = CliRunner().invoke(lmrc, arguments)
    assert "--from pubtater: unknown format; did you mean pubtator?" in str(run.exception)


def test_help_names_every_format() -> None:
    text = CliRunner().invoke(lmrc, ["data", "convert", "--help"]).output
    assert all(name in text for name in FORMATS)


def test_a_folder_without_such_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no file \*\.ann, expected standoff annotations"):
        convert(tmp_path, tmp_path / "out.json", FORMATS["brat"])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus: no such file or folder"):
        convert(tmp_path / "corpus", tmp_path / "out.json", FORMATS["brat"])


def test_a_second_conversion_reads_no_output_and_no_hidden_file(tmp_path: Path) -> None:
    record = {"token": ["Ada", "left"], "relation": "x", "subj_start": 0, "subj_end": 0, "obj_start": 1, "obj_end": 1}
    (tmp_path / "train.json").write_text(json.dumps([record]))
    (tmp_path / "._train.json").write_text("no JSON")
    for _ in range(2):
        assert convert(tmp_path, tmp_path / "out.json", FORMATS["tacred"]).documents == 1


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"sentences": [["Ada"]], "ner": [[]], "relations": [[]]}))
    with pytest.raises(
        UserError, match=r"content is missing; .*; it looks like scierc: lmrc data convert .* --from scierc "
    ):
        convert(path, tmp_path / "out.json", FORMATS["dwie"])
    path.write_text(json.dumps([{"title": "a", "sents": [["Ada"]], "vertexSet": []}]))
    with pytest.raises(UserError, match=r"token is missing; .*; it is in DocRED's format already: lmrc data build"):
        convert(path, tmp_path / "out.json", FORMATS["tacred"])
    # An error of the format itself has no such hint.
    path.write_text(json.dumps({"sentences": "Ada", "ner": [[]]}))
    with pytest.raises(UserError, match=r"sentences is text, expected a list$"):
        convert(path, tmp_path / "out.json", FORMATS["scierc"])


def test_the_file_to_convert_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text("[]")
    with pytest.raises(UserError, match=r"--out .*train\.json is the file to convert: give another name"):
        convert(path, tmp_path / "x" / ".." / "train.json", FORMATS["tacred"])
    assert path.read_text() == "[]"


def test_a_readme_beside_the_data_is_no_data(tmp_path: Path) -> None:
    text = "5|t|Ada\n5|a|\n5\t0\t3\tAda\tX\t1\n"
    (tmp_path / "CDR.PubTator.txt").write_text(text)
    for name in ("README.txt", "license.TXT"):
        (tmp_path / name).write_text("This corpus …\n")
    conversion = convert(tmp_path, tmp_path / "out.json", FORMATS["pubtator"])
    assert (conversion.documents, conversion.remarks["files README or LICENSE left out"]) == (1, 2)
    # A file that is given by its name is read.
    (tmp_path / "README.txt").write_text(text)
    assert convert(tmp_path / "README.txt", tmp_path / "out.json", FORMATS["pubtator"]).documents == 1
