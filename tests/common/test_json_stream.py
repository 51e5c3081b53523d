from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common import json_stream as files
from lmrc.common.errors import UserError
from lmrc.common.json_stream import batches_of, json_list


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"item": [1]}', "no JSON list"),
        ("17", "no JSON list"),
        ('"[1]"', "no JSON list"),
        ("[1, 2,", "not valid JSON after 2 elements"),
        ("[1, }", "not valid JSON"),
        ("[1] [2]", "not valid JSON after 1 elements"),
        ("]", "no JSON list"),
        ("[1,]", "not valid JSON after 1 elements"),
        ("[,1]", "not valid JSON after 0 elements"),
        ("[1 2]", "not valid JSON after 1 elements"),
        ("[0, NaN]", "not valid JSON after 1 elements .lexical error"),
        ("[" + "9" * 5000 + "]", "not valid JSON after 0 elements"),
        ("[" * 1_000, "not valid JSON after 0 elements"),
        ("[1]\n]", "not valid JSON after 1 elements .parse error: trailing garbage"),
    ],
)
def test_files_that_are_no_list(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        list(json_list(path, "a list of numbers"))
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; expected a list of numbers")
    assert "\n" not in str(caught.value)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        list(json_list(tmp_path / "absent.json", "a list"))


def test_elements_of_plain_and_gzipped_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b' [1, 2.5, true, null, {"a": ["b"]}]\n'))
    assert list(json_list(path, "a list")) == [1, 2.5, True, None, {"a": ["b"]}]
    (tmp_path / "empty.json").write_text("[]")
    assert list(json_list(tmp_path / "empty.json", "a list")) == []


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)  # The parser refuses larger integers, and -2**63.
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 1]), st.integers(1, 9))
def test_agrees_with_the_standard_library_for_any_block_size(
    tmp_path_factory: pytest.TempPathFactory, content: list[Any], ascii: bool, indent: int | None, block: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        assert list(json_list(path, "a list")) == content


def test_an_element_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", 16)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(["x" * 100_000, 1]))
    assert list(json_list(path, "a list")) == ["x" * 100_000, 1]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[1, "\xff"]')
    with pytest.raises(
        UserError, match=r"after 1 elements \(lexical error: invalid bytes in UTF8 string\.\); expected"
    ):
        list(json_list(path, "a list"))


def test_the_evaluation_runs_without_torch() -> None:
    code = "import lmrc.evaluation.report.page, lmrc.evaluation.plots.figures, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('[{"a": 1},\n]', "there is a comma before a closing ]; remove it"),
        ('[{"a": [1, 2,  ]}]', "there is a comma before a closing ]; remove it"),
        ('[{"a": 1, }]', "there is a comma before a closing }; remove it"),
        ('[{"a": NaN}]', "NaN is no JSON; write null, or leave its key out"),
        ('[{"a": ["' + "y" * 300 + '", -Infinity, 1]}]', "-Infinity is no JSON; write null, or leave its key out"),
        ('[{"a": "NaN" 1}]', ""),
        ("[{'a': 1}]", ""),
        ('[{"a": 1}', ""),
        ('[{"a": ",]"} 1]', ""),
    ],
)
def test_common_mistakes_are_named(tmp_path: Path, content: str, remedy: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError) as error:
        list(json_list(tmp_path / "x.json", "a list"))
    message = str(error.value)
    assert message.endswith(f": {remedy}); expected a list" if remedy else "); expected a list")
    assert bool(remedy) == ("remove it" in message or "write null" in message)


def test_lines_are_elements_if_asked_for() -> None:
    lines = b' {"a": 1}\n\n{"b": [2]}\r\n'
    (batch,) = batches_of(io.BytesIO(lines), "x", "a list", takes_lines=True)
    assert batch == [{"a": 1}, {"b": [2]}]
    with pytest.raises(UserError, match=r"^x: holds no JSON list; expected a list$"):
        list(batches_of(io.BytesIO(lines), "x", "a list"))
    with pytest.raises(UserError, match=r"holds no JSON list: it begins with 'title,r'; expected a list"):
        list(batches_of(io.BytesIO(b"title,r\n"), "x", "a list", takes_lines=True))
    with pytest.raises(UserError, match=r"1 elements .* a comma behind an object that no list is around; remove it"):
        list(batches_of(io.BytesIO(b'{"a": 1},\n{"b": 2}'), "x", "a list", takes_lines=True))
