from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from lmrc.cli.main import main
from lmrc.common.errors import UserError
from lmrc.rc.model.merge import merge
from tests.rc.conftest import Learnt

TEXT = "### 1 Entity pairs:\n(Zoë| -| France)\n\n### Response:\n"


def plain(folder: Path) -> PreTrainedModel:
    """Load a folder with transformers only."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model: nn.Module, folder: Path) -> Tensor:
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    output: Tensor = model(input_ids=ids).logits
    return output.float()


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest logit."""
    return float((actual - expected).abs().max() / expected.abs().max())


def adapted(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()


def test_merged_model_gives_the_same_logits_and_greedy_answer(learnt: Learnt, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "merged"
    weights = merge(learnt.adapter, out, "fp32")
    merged, both = plain(out), adapted(base, learnt.adapter)
    assert merged.dtype == torch.float32
    assert difference(logits(merged, out), logits(both, learnt.adapter)) < 1e-5
    # The base without the adapter differs.
    assert difference(logits(merged, out), logits(plain(base), base)) > 0.1
    assert weights == sum(parameter.numel() for parameter in plain(base).parameters())

    prompt = learnt.task._train[1].input_ids[: learnt.task._train[1].prompt_tokens][None].long()
    answer = merged.generate(prompt)[0, prompt.shape[1] :]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(answer) == "(Zoë| country| France)</s>"
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def test_weights_are_rounded_to_bf16_once(learnt: Learnt, base: Path, tmp_path: Path) -> None:
    merge(learnt.adapter, tmp_path / "fp32", "fp32")
    merge(learnt.adapter, tmp_path / "bf16", "bf16")
    exact, rounded = plain(tmp_path / "fp32").state_dict(), plain(tmp_path / "bf16").state_dict()
    lora = load_file(learnt.adapter / "adapter_model.safetensors")
    start = plain(base).state_dict()
    assert exact.keys() == rounded.keys() == start.keys()
    changed = 0
    for name, weight in exact.items():
        down, up = (lora.get(f"base_model.model.{name.removesuffix('weight')}lora_{x}.weight") for x in "AB")
        # alpha / r is 2.
        added = torch.zeros_like(weight) if down is None or up is None else 2 * up.double() @ down.double()
        changed += down is not None
        assert torch.allclose(weight.double(), start[name].double() + added, atol=1e-6)
        assert rounded[name].dtype == torch.bfloat16
        assert torch.equal(rounded[name], weight.to(torch.bfloat16))
    assert changed == 14


def test_files_of_the_folder(learnt: Learnt, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    mask = os.umask(0o022)
    os.umask(mask)
    merge(learnt.adapter, out, "bf16")
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "lmrc.json"} <= names
    assert not {name for name in names if "adapter" in name}
    config = json.loads((out / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    assert "quantization_config" not in config
    generation = GenerationConfig.from_pretrained(out)
    end = AutoTokenizer.from_pretrained(out).eos_token_id
    assert (generation.do_sample, generation.eos_token_id, generation.pad_token_id) == (False, end, end)
    assert (out / "lmrc.json").read_bytes() == (learnt.adapter / "lmrc.json").read_bytes()
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~mask}


def test_adapted_lm_head_that_is_tied_to_the_embeddings(base: Path, tmp_path: Path) -> None:
    """The input embeddings do not change."""
    tied = plain(base)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "tied")
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(plain(tmp_path / "tied"), config)
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")

    merge(tmp_path / "adapter", tmp_path / "merged", "fp32")
    both = adapted(tmp_path / "tied", tmp_path / "adapter")
    assert difference(logits(plain(tmp_path / "merged"), base), logits(both, base)) < 1e-5
    assert not json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    # The adapter has an effect.
    assert difference(logits(both, base), logits(plain(tmp_path / "tied"), base)) > 0.1


def with_nan(adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_nothing_is_written_on_error(learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        merge(learnt.adapter, tmp_path / "there", "fp32")
    with pytest.raises(UserError, match="holds no adapter"):
        merge(learnt.corpus.folder, tmp_path / "new", "fp32")
    with pytest.raises(UserError, match=r"cannot be added to .*NaN"):
        merge(with_nan(learnt.adapter, tmp_path / "broken"), tmp_path / "new", "fp32")

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", disk_full)
    with pytest.raises(UserError, match="No space left"):
        merge(learnt.adapter, tmp_path / "new", "fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "there"]


def test_merge_command(learnt: Learnt, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "merged"
    assert main(["merge", str(learnt.adapter), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert plain(out).dtype == torch.bfloat16
    assert main(["merge", str(learnt.adapter), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
