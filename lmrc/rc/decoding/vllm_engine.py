"""vLLM's engine in this process: greedy answers, and the probabilities of tokens after prompts.

With one GPU per worker all of vLLM runs in this process: no child outlives it, and a signal interrupts a step of the
engine. With several GPUs, each is driven by a child process, which `VllmEngine.close` ends. If the worker is killed,
the child processes end by themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from lmrc.common.errors import ConfigError
from lmrc.rc.model.adapter import adapter_rank, read_adapter_config

# Values that vLLM accepts for max_lora_rank.
MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256)
# Options of PEFT that vLLM refuses when it loads the adapter, at the first query (vllm.lora.peft_helper).
_REFUSED_OPTIONS = (
    *("use_dora", "lora_bias", "modules_to_save", "alora_invocation_tokens", "layer_replication"),
    *("use_bdlora", "use_qalora"),
)
# Values of init_lora_weights that leave the base as it is. The others are refused.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Most tokens whose probabilities vLLM returns for one request (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS).
_MAX_TOKENS = 128
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
# vLLM's build for CPUs would compile for minutes, cache prefixes in blocks of 128 tokens, and take half of the memory.
_CPU_OPTIONS: dict[str, Any] = {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": 2 * 2**30}


class NextTokens(NamedTuple):
    """Tokens that may follow a prompt.

    Attributes:
        prompt: token ids.
        tokens: token ids, of which each may follow.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]


class Completion(NamedTuple):
    """A greedy answer.

    Attributes:
        ids: token ids, without the end of sequence.
        finished: False if it was cut at its token limit.
    """

    ids: list[int]
    finished: bool


@dataclass(slots=True)
class EngineCounts:
    """Counts of the work of an engine.

    Attributes:
        requests: number of requests.
        prompt_tokens: tokens of their prompts.
        cached_tokens: prompt tokens that were in the prefix cache.
        new_tokens: tokens that were generated.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0


class VllmEngine:
    """A base LM with an adapter beside it.

    Attributes:
        counts: work of the engine so far.
    """

    def __init__(self, base: str, adapter: Path | None, precision: str, max_length: int, gpus: int = 1) -> None:
        """Start the engine.

        Args:
            base: name or folder of the base LM.
            adapter: folder of the adapter, or None for the base LM alone.
            precision: fp32 or bf16.
            max_length: most tokens of a prompt and its answer.
            gpus: number of GPUs that share each layer.

        Raises:
            ConfigError: vLLM is not installed, or refuses the model or the machine.
        """
        # Read when vLLM is imported. What the user has exported stays.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ConfigError(
                f"decode.backend is vllm, but vLLM cannot be imported ({error}): install it with the suite in an "
                "environment of its own (docs/servers.md; it needs Linux and a GPU), or choose hf"
            ) from error
        options: dict[str, Any] = {}
        if adapter is not None:
            options |= {"enable_lora": True, "max_lora_rank": max_lora_rank(adapter)}
        if _is_for_cpus():
            options |= _CPU_OPTIONS
        try:
            with _children_without_warning() if gpus > 1 else contextlib.nullcontext():
                self._llm = vllm.LLM(
                    base,
                    dtype=_DTYPES[precision],
                    tensor_parallel_size=gpus,
                    max_model_len=max_length,
                    # All prompts start with the same instruction and relation set.
                    enable_prefix_caching=True,
                    **options,
                )
        except (ValueError, RuntimeError) as error:
            # Not in the pre-flight: the free memory of a GPU is known on the node.
            raise ConfigError(
                f"vLLM does not start with {base}: {_first_line(error)}. Correct what it names (its log above says "
                "more), or choose --decode.backend hf"
            ) from error
        self._adapter = None if adapter is None else LoRARequest("rc", 1, str(adapter.resolve()))
        self.counts = EngineCounts()
        # Its own handlers end its children by force at the end of Python.
        atexit.register(self.close)

    def close(self) -> None:
        """End the engine and its child processes. It cannot be used any more."""
        atexit.unregister(self.close)
        engine = getattr(self._llm, "llm_engine", None)
        if engine is not None:
            engine.engine_core.shutdown()

    def next_logs(self, requests: Sequence[NextTokens]) -> list[list[float]]:
        """Return the log probability of each of the tokens after its prompt, among all tokens [requests][tokens].

        All requests are submitted at once.
        """
        from vllm import SamplingParams

        parts = [
            (request.prompt, request.tokens[start : start + _MAX_TOKENS])
            for request in requests
            for start in range(0, len(request.tokens), _MAX_TOKENS)
        ]
        sampling = [
            SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(tokens), detokenize=False)
            for _, tokens in parts
        ]
        outputs = iter(self._generate([prompt for prompt, _ in parts], sampling))
        logs: list[list[float]] = []
        for request in requests:
            found: dict[int, Any] = {}
            for _ in range(0, len(request.tokens), _MAX_TOKENS):
                found.update(next(outputs).outputs[0].logprobs[0])
            logs.append([found[token].logprob for token in request.tokens])
        return logs

    def complete(self, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int], end: int) -> list[Completion]:
        """Return the greedy answer to each prompt.

        Args:
            max_tokens: most tokens of each answer.
            end: token id of the end of sequence.
        """
        from vllm import SamplingParams

        # Stop at this token only, as `generate` does: the model's generation config may name more.
        sampling = [
            SamplingParams(temperature=0.0, max_tokens=limit, ignore_eos=True, stop_token_ids=[end], detokenize=False)
            for limit in max_tokens
        ]
        return [
            Completion(
                [token for token in output.outputs[0].token_ids if token != end],
                output.outputs[0].finish_reason == "stop",
            )
            for output in self._generate(prompts, sampling)
        ]

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: list[Any]) -> list[Any]:
        from vllm import TokensPrompt

        outputs: list[Any] = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
            sampling,
            use_tqdm=False,
            lora_request=self._adapter,
        )
        self.counts.requests += len(outputs)
        for prompt, output in zip(prompts, outputs, strict=True):
            self.counts.prompt_tokens += len(prompt)
            self.counts.cached_tokens += output.num_cached_tokens or 0
            self.counts.new_tokens += len(output.outputs[0].token_ids)
        return outputs


@contextlib.contextmanager
def _children_without_warning() -> Iterator[None]:
    """Start child processes with SIGUSR2 blocked, and the resource tracker too.

    SLURM sends its warning to all processes of a job step. They would end at once and leave their shared memory behind.
    This process still gets the signal, also while the engine starts.
    """
    start = BaseProcess.start

    def start_blocked(process: BaseProcess) -> None:
        with _blocked(signal.SIGUSR2):
            start(process)

    with _blocked(signal.SIGUSR2):
        resource_tracker.ensure_running()
    BaseProcess.start = start_blocked  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        BaseProcess.start = start  # type: ignore[method-assign]


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal in this thread. Processes that it starts inherit this."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def max_lora_rank(adapter: Path) -> int:
    """Return the smallest `max_lora_rank` of vLLM that fits the adapter.

    Raises:
        ConfigError: the adapter's rank is too large for vLLM, or it is of a kind that vLLM does not support.
    """
    config = read_adapter_config(adapter)
    refused = [name for name in _REFUSED_OPTIONS if getattr(config, name, None)]
    if config.bias != "none":
        refused.append("bias")
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        refused.append("init_lora_weights")
    if refused:
        given = ", ".join(f"{name} {getattr(config, name)}" for name in refused)
        raise ConfigError(
            f"{adapter} has {given} in its adapter_config.json, which vLLM does not support: choose --decode.backend hf"
        )
    rank = adapter_rank(adapter)
    fitting = [allowed for allowed in MAX_LORA_RANKS if allowed >= rank]
    if not fitting:
        raise ConfigError(
            f"{adapter} has rank {rank}, but vLLM accepts at most {MAX_LORA_RANKS[-1]}: merge it into its base with "
            "lmrc merge and give that as --base with --rc none, or choose --decode.backend hf"
        )
    return fitting[0]


def _is_for_cpus() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _first_line(error: Exception) -> str:
    """Return the first line of a message that says something; pydantic's first line only counts the errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]) if lines else repr(error)
