"""All loaders refuse an adapter if any of its weights does not fit the base."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from lmrc.cli.main import main
from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ClassifyConfig, RunOptions
from lmrc.rc.model.adapter import CONFIG, WEIGHTS, adapter_rank, check_adapter
from lmrc.rc.model.lora import load_adapter, load_base
from lmrc.rc.model.merge import merge
from lmrc.rc.predict import ClassifyInference
from tests.rc import tiny
from tests.rc.conftest import Learnt

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the names that PEFT saves for a vision-language model."""
    return {name.replace("model.model.", "model.model.language_model."): tensor for name, tensor in weights.items()}


def partly_renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("layers.1.", "layers.7."): tensor for name, tensor in weights.items()}


def one_missing(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(weights.items())[1:])


def truncated_to_rank_4(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor[:4].contiguous() if "lora_A" in name else tensor[:, :4].contiguous()
        for name, tensor in weights.items()
    }


@pytest.fixture
def adapter(learnt: Learnt, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learnt.adapter, tmp_path / "adapter"))


def change_weights(adapter: Path, change: Change) -> None:
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"of the 28 tensors in .* 0 fit, no layer has 28 \(.*language_model.*\), missing are 28 \("),
        (
            partly_renamed,
            r"of the 28 tensors in .* 14 fit, no layer has 14 \(.*layers\.7.*\), missing are 14 \(",
        ),
        (one_missing, r"of the 27 tensors in .* 27 fit, missing are 1 \(.*\); give the adapter"),
        (truncated_to_rank_4, r"the rank of .*lora_A\.weight is 4 in .*, but 16 by adapter_config\.json"),
    ],
)
def test_all_loaders_refuse_an_adapter_that_does_not_fit(
    change: Change, message: str, adapter: Path, learnt: Learnt, base: Path, tmp_path: Path
) -> None:
    change_weights(adapter, change)
    refused = re.escape(str(adapter)) + ".*" + message
    with pytest.raises(UserError, match=refused):
        check_adapter(adapter, str(base))
    with pytest.raises(UserError, match=refused):
        load_adapter(load_base(str(base), "sdpa", "fp32"), adapter)
    with pytest.raises(UserError, match=refused):
        merge(adapter, tmp_path / "merged", "fp32")
    assert not (tmp_path / "merged").exists()
    run = RunOptions(name="classify", folder=tmp_path)
    with pytest.raises(UserError, match=refused):
        ClassifyInference(ClassifyConfig(corpus=learnt.corpus.folder, rc=adapter, run=run)).load()


def test_merge_command_prints_one_line_on_error(
    adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change_weights(adapter, renamed)
    capfd.readouterr()
    assert main(["merge", str(adapter), "--out", str(tmp_path / "merged")]) == 2
    lines = [line for line in re.split(r"[\r\n]+", capfd.readouterr().err) if line and "Loading weights" not in line]
    assert len(lines) == 1 and lines[0].startswith("Error: ") and "does not fit its base" in lines[0]


def test_check_needs_no_weights_of_the_base(learnt: Learnt, base: Path, tmp_path: Path) -> None:
    shutil.copyfile(base / "config.json", tmp_path / "config.json")
    check_adapter(learnt.adapter, str(tmp_path))
    check_adapter(learnt.adapter, "anything", AutoConfig.from_pretrained(base))
    assert adapter_rank(learnt.adapter) == 16


def test_adapter_of_another_base_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny.save_base(tmp_path))
    config.num_key_value_heads = 4
    with pytest.raises(UserError, match=r"k_proj\.lora_B\.weight is \[16, 16\] in .* this base needs \[32, 16\]"):
        check_adapter(learnt.adapter, "other", config)
    config.num_hidden_layers = 3
    with pytest.raises(UserError, match=r"28 fit, missing are 14 \(.*layers\.2"):
        check_adapter(learnt.adapter, "other", config)
    with pytest.raises(ConfigError, match=r"the base .*nowhere.* has no readable config"):
        check_adapter(learnt.adapter, str(tmp_path / "nowhere"))


def test_targets_missing_in_the_base_are_refused(adapter: Path, base: Path) -> None:
    content = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**content, "target_modules": ["query_key_value"]}))
    with pytest.raises(UserError, match=r"does not fit its base .*query_key_value"):
        check_adapter(adapter, str(base))


def test_damaged_files_are_refused(adapter: Path, base: Path) -> None:
    content = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{WEIGHTS} is damaged .*export the adapter again"):
        check_adapter(adapter, str(base))
    (adapter / CONFIG).write_text('{"r": ')
    with pytest.raises(UserError, match=rf"{CONFIG} is damaged .*export the adapter again"):
        check_adapter(adapter, str(base))
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2).save_pretrained(str(adapter))
    with pytest.raises(UserError, match="give a LoRA adapter"):
        check_adapter(adapter, str(base))


@pytest.mark.parametrize("rank", [8, 16])
def test_adapter_file_may_hold_weights_of_the_base(rank: int, adapter: Path, base: Path) -> None:
    """PEFT saves embeddings if they are trained too. Their shape must fit."""
    embeddings = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    name = "base_model.model.model.embed_tokens.weight"
    change_weights(
        adapter, lambda weights: {**weights, name: embeddings[: len(embeddings) if rank == 16 else 5].contiguous()}
    )
    if rank == 16:
        check_adapter(adapter, str(base))
        return
    with pytest.raises(UserError, match=r"embed_tokens\.weight is \[5, 32\]"):
        check_adapter(adapter, str(base))


def test_base_with_missing_weights_is_refused(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    weights = load_file(folder / "model.safetensors")
    removed = {name for name in weights if "layers.1.mlp" in name}
    save_file({n: t for n, t in weights.items() if n not in removed}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"causal LM .*do not fit LlamaForCausalLM.* 3 are missing \(model\.layers\.1"):
        load_base(str(folder), "sdpa", "fp32")


def test_tied_lm_head_may_be_missing_in_the_file(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = load_base(str(folder), "sdpa", "fp32")
    assert torch.equal(model.lm_head.weight, weights["model.embed_tokens.weight"])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"1 are missing \(lm_head\.weight\)"):
        load_base(str(folder), "sdpa", "fp32")
