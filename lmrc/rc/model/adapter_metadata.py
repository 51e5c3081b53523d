"""Metadata beside an adapter (lmrc.json): how it was trained to be prompted. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import ConfigError, UserError
from lmrc.common.input_checks import check_model
from lmrc.config.aliases import with_current_names
from lmrc.config.schema import PromptOptions, Quantization, ResolvedPrecision
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet

# File in the folder of the adapter.
METADATA = "lmrc.json"


@dataclass(frozen=True)
class AdapterMetadata:
    """Settings that inference must share with training.

    Attributes:
        precision: precision of the base in training.
        relations: the relation set; None for adapters that were saved before it was kept.
        schema: the relations that inference offers to a pair; None for all.
    """

    prompt: PromptOptions
    precision: ResolvedPrecision
    relations_sha256: str
    relations: RelationSet | None = None
    quantization: Quantization | None = None
    schema: RelationSchema | None = None

    def write(self, folder: Path) -> None:
        """Write the metadata into the folder of the adapter."""
        content: dict[str, Any] = {
            # The schema itself is written, and not the path that was given in training.
            "prompt": self.prompt.model_dump(mode="json", exclude={"schema"}),
            "precision": self.precision,
            "relations_sha256": self.relations_sha256,
            "quantization": self.quantization,
        }
        if self.relations is not None:
            content["relations"] = dict(zip(self.relations.ids, self.relations.names, strict=True))
        if self.schema is not None:
            content["schema"] = self.schema.as_json()
        write_atomically(folder / METADATA, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> AdapterMetadata:
        """Read the metadata from the folder of an adapter.

        Raises:
            UserError: if the file is missing or damaged.
        """
        path = folder / METADATA
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["precision"] not in get_args(ResolvedPrecision):
                raise KeyError(content["precision"])
            relations, schema = content.get("relations"), content.get("schema")
            return cls(
                PromptOptions(**with_current_names(content["prompt"], "prompt.")),
                content["precision"],
                content["relations_sha256"],
                RelationSet(tuple(relations), tuple(relations.values())) if relations else None,
                content.get("quantization"),
                RelationSchema.of_json(schema, relations, path) if schema is not None else None,
            )
        except OSError as error:
            check_model(folder, "rc")
            raise UserError(
                f"{path} cannot be read ({error.strerror}): give the folder of a trained adapter"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): export the adapter again") from error

    @classmethod
    def read_for(cls, folder: Path, given: PromptOptions) -> AdapterMetadata:
        """Read the metadata of an adapter for inference with the prompt options `given`.

        The prompt options are those of training. Only `truncate` may differ, because dropping sentences needs no
        training.

        Raises:
            ConfigError: if another prompt option was given that differs from training.
            UserError: if the file is missing or damaged.
        """
        metadata = cls.read(folder)
        trained = metadata.prompt
        differing = [
            f"prompt.{name} (trained with {getattr(trained, name)!r}, given {getattr(given, name)!r})"
            for name in sorted(given.model_fields_set - {"truncate"})
            if getattr(given, name) != getattr(trained, name)
        ]
        if differing:
            raise ConfigError(
                f"{folder} was trained with other prompt options than those given: {', '.join(differing)}. Leave them "
                "out; only prompt.truncate may be given at inference"
            )
        if "truncate" not in given.model_fields_set:
            return metadata
        return replace(metadata, prompt=trained.model_copy(update={"truncate": given.truncate}))

    def check_corpus(self, folder: Path, corpus: Corpus) -> None:
        """Check that the adapter in `folder` was trained with the relation set of the corpus.

        Raises:
            UserError: if it was trained with another one.
        """
        if self.relations_sha256 != corpus.relations.sha256:
            raise UserError(
                f"{folder} was trained with another relation set than that of {corpus.folder}: "
                "build the corpus with the relations of the training corpus"
            )
