"""The `vllm` decoding backend: vLLM in this process, on GPUs, in mode free.

It gets the same prompts, as token ids, and its answers are parsed like those of `generate`. vLLM's structured outputs
are not used: they can follow a grammar, but neither skip forced tokens nor return the probability of each line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lmrc.common.errors import ConfigError
from lmrc.pretrained.packaged import resolve
from lmrc.rc.decoding.base import BackendInputs, QueryResult, read_answers
from lmrc.rc.decoding.generate import Generation
from lmrc.rc.model.adapter import adapter_rank, check_adapter
from lmrc.rc.prompts.query_builder import Query, prompt_ids

# Values that vLLM accepts for max_lora_rank.
MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256)
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class VllmBackend:
    """`DecodingBackend` with vLLM's engine, started by `load` or at the first query."""

    def __init__(self, inputs: BackendInputs) -> None:
        self._inputs = inputs
        self._decode, self._adapter = inputs.config.decode, inputs.config.rc
        self._prompt, self._tokenizer = inputs.metadata.prompt, inputs.tokenizer

    @cached_property
    def _model(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                f"decode.backend is vllm, but vLLM cannot be imported ({error}): install it with the suite in an "
                "environment of its own (docs/servers.md; it needs Linux and a GPU), or choose hf"
            ) from error
        base = resolve(self._inputs.base)
        lora_options: dict[str, Any] = {}
        if self._adapter is not None:
            lora_options = {"enable_lora": True, "max_lora_rank": max_lora_rank(self._adapter)}
            check_adapter(self._adapter, self._inputs.base)
        return LLM(
            base,
            tokenizer=str(self._adapter or base),
            dtype=_DTYPES[self._inputs.metadata.precision],
            tensor_parallel_size=self._decode.gpus_per_worker,
            max_model_len=self._prompt.max_length,
            # All prompts start with the same instruction and relation set.
            enable_prefix_caching=True,
            **lora_options,
        )

    def load(self) -> None:
        """Start the engine.

        Raises:
            ConfigError: vLLM is not installed, or the adapter does not fit the base LM.
        """
        _ = self._model

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """Yield one result per query, in the order of the queries."""
        inputs = self._inputs
        generations = self._generate(list(queries))
        yield from read_answers(generations, inputs.document_of, inputs.relations, self._prompt, self._decode)

    def _generate(self, queries: list[Query]) -> Iterator[Generation]:
        model = self._model
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        template, eos = self._prompt.template, self._tokenizer.eos_token_id
        prompts = [
            TokensPrompt(prompt_token_ids=prompt_ids(query.prompt, self._tokenizer, template)) for query in queries
        ]
        # Stop at the tokenizer's end of sequence only, as `generate` does: the model's generation config may name more.
        sampling = [
            SamplingParams(
                temperature=0.0,
                max_tokens=min(query.answer_room, self._decode.max_new_tokens),
                ignore_eos=True,
                stop_token_ids=[eos],
                detokenize=False,
            )
            for query in queries
        ]
        adapter = None if self._adapter is None else LoRARequest("rc", 1, str(self._adapter.resolve()))
        outputs = model.generate(prompts, sampling, use_tqdm=False, lora_request=adapter)
        for query, output in zip(queries, outputs, strict=True):
            ids = [token for token in output.outputs[0].token_ids if token != eos]
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield Generation(query, str(text), finished=output.outputs[0].finish_reason == "stop")


def max_lora_rank(adapter: Path) -> int:
    """Return the smallest `max_lora_rank` of vLLM that fits the adapter.

    Raises:
        ConfigError: the adapter's rank is too large for vLLM.
    """
    rank = adapter_rank(adapter)
    fitting = [allowed for allowed in MAX_LORA_RANKS if allowed >= rank]
    if not fitting:
        raise ConfigError(
            f"{adapter} has rank {rank}, but vLLM accepts at most {MAX_LORA_RANKS[-1]}: merge it into its base with "
            "lmrc merge and give that as --base with --rc none, or choose --decode.backend hf"
        )
    return fitting[0]
