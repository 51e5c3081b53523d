"""vLLM in this process in the place of a model of ours (`lmrc.rc.decoding.base.DecodingBackend`): mode free, on GPUs.

It gets the same prompts as token ids, and its answers are read as those of `generate` are. Its own structured outputs
could keep to a grammar, but know no forced runs and no probabilities of lines: constrained answers stay ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import ConfigError
from lmrc.config.schema import DecodeOptions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.pretrained.packaged import resolve
from lmrc.rc.decoding.base import QueryResult, read_answers
from lmrc.rc.decoding.generate import Generation
from lmrc.rc.model.adapter import adapter_rank, check_adapter
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.prompts.query_builder import Query, prompt_ids

RANKS = (8, 16, 32, 64, 128, 256)
"""Of adapters, which vLLM makes room for."""
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class VllmBackend:
    """vLLM's engine, started by `load` or at the first query."""

    def __init__(
        self,
        base: str,
        adapter: Path | None,
        settings: AdapterMetadata,
        tokenizer: PreTrainedTokenizerBase,
        decode: DecodeOptions,
        relations: RelationSet,
        document_of: Callable[[Query], Document],
    ) -> None:
        self._base, self._adapter, self._settings = base, adapter, settings
        self._tokenizer, self._decode = tokenizer, decode
        self._relations, self._document_of = relations, document_of

    @cached_property
    def _model(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                f"decode.backend is vllm, but it cannot be imported ({error}): install it beside the suite "
                "(pip install 'lmrc-suite[vllm]'; it needs Linux and a GPU), or choose hf"
            ) from error
        base = resolve(self._base)
        options: dict[str, Any] = {}
        if self._adapter is not None:
            options = {"enable_lora": True, "max_lora_rank": room_for(self._adapter)}
            check_adapter(self._adapter, self._base)
        return LLM(
            base,
            tokenizer=str(self._adapter or base),
            dtype=_DTYPES[self._settings.precision],
            tensor_parallel_size=self._decode.gpus_per_worker,
            max_model_len=self._settings.prompt.max_length,
            # Instruction and relation set are read once for all.
            enable_prefix_caching=True,
            **options,
        )

    def load(self) -> None:
        """See `lmrc.rc.decoding.base.DecodingBackend`. Raises ConfigError if vLLM is not installed."""
        _ = self._model

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """See `lmrc.rc.decoding.base.DecodingBackend`."""
        generations = self._generate(list(queries))
        yield from read_answers(generations, self._document_of, self._relations, self._settings.prompt, self._decode)

    def _generate(self, queries: list[Query]) -> Iterator[Generation]:
        model = self._model
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        template, end = self._settings.prompt.template, self._tokenizer.eos_token_id
        prompts = [TokensPrompt(prompt_token_ids=prompt_ids(q.prompt, self._tokenizer, template)) for q in queries]
        # The end of sequence is named: a model's own generation config may have more, which `generate` is not told of.
        sampling = [
            SamplingParams(
                temperature=0.0,
                max_tokens=min(query.answer_room, self._decode.max_new_tokens),
                ignore_eos=True,
                stop_token_ids=[end],
                detokenize=False,
            )
            for query in queries
        ]
        adapter = None if self._adapter is None else LoRARequest("rc", 1, str(self._adapter.resolve()))
        outputs = model.generate(prompts, sampling, use_tqdm=False, lora_request=adapter)
        for query, output in zip(queries, outputs, strict=True):
            ids = [token for token in output.outputs[0].token_ids if token != end]
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield Generation(query, str(text), finished=output.outputs[0].finish_reason == "stop")


def room_for(adapter: Path) -> int:
    """Return the least rank of vLLM's that holds the adapter. Raises ConfigError if there is none."""
    rank = adapter_rank(adapter)
    room = next((each for each in RANKS if each >= rank), None)
    if room is None:
        raise ConfigError(
            f"{adapter} has rank {rank}, and vLLM has room for {RANKS[-1]}: merge it into its base with lmrc merge and "
            "give that as --base with --rc none, or choose --decode.backend hf"
        )
    return room
