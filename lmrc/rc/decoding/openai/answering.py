"""A server in the place of an LM of ours (`lmrc.rc.decoding.base.DecodingBackend`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

from lmrc.config.schema import DecodeOptions, PromptOptions, ServerOptions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.rc.decoding.base import QueryResult, read_answers
from lmrc.rc.decoding.openai.backend import ServerBackend
from lmrc.rc.decoding.openai.request import Message
from lmrc.rc.prompts.query_builder import Query


class OpenAiBackend:
    """Reads what the server writes. Nothing is asked, and no key is needed, before the first query."""

    def __init__(
        self,
        options: ServerOptions,
        folder: Path,
        messages_of: Callable[[Query], Sequence[Message]],
        document_of: Callable[[Query], Document],
        relations: RelationSet,
        prompt: PromptOptions,
        decode: DecodeOptions,
    ) -> None:
        """`folder`: where answers are kept, so that none is paid twice."""
        self._options, self._folder = options, folder
        self._messages_of, self._document_of = messages_of, document_of
        self._relations, self._prompt, self._decode = relations, prompt, decode

    @cached_property
    def _backend(self) -> ServerBackend:
        return ServerBackend(self._options, self._folder)

    def load(self) -> None:
        """Load nothing: the server is asked at the first query that has no answer on the disk."""

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """See `lmrc.rc.decoding.base.DecodingBackend`. Prints what has been asked and paid so far."""
        # A signal while an answer is read must end the requests in flight at once.
        with closing(self._backend.generate(queries, self._messages_of)) as generations:
            yield from read_answers(generations, self._document_of, self._relations, self._prompt, self._decode)
        print(f"server: {self._backend.usage}", flush=True)
