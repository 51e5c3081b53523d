"""What an adapter says about itself beside PEFT's files: how it wants to be asked. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from lmrc.common.errors import ConfigError, UserError
from lmrc.common.input_checks import check_model
from lmrc.config.aliases import with_current_names
from lmrc.config.schema import PromptOptions, Quantization, ResolvedPrecision
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relations import RelationSet

# The file beside the adapter.
METADATA = "lmrc.json"


@dataclass(frozen=True)
class AdapterMetadata:
    """What inference must do as training did."""

    prompt: PromptOptions
    precision: ResolvedPrecision
    relations_sha256: str
    relations: RelationSet | None = None
    """None: an adapter of before they were kept."""
    quantization: Quantization | None = None
    """Of the base."""

    def write(self, folder: Path) -> None:
        """Write METADATA into the folder."""
        content: dict[str, Any] = {
            "prompt": self.prompt.model_dump(mode="json"),
            "precision": self.precision,
            "relations_sha256": self.relations_sha256,
            "quantization": self.quantization,
        }
        if self.relations is not None:
            content["relations"] = dict(zip(self.relations.ids, self.relations.names, strict=True))
        temporary = folder / (METADATA + ".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.rename(folder / METADATA)

    @classmethod
    def read(cls, folder: Path) -> AdapterMetadata:
        """Read METADATA from the folder of an adapter. Raises UserError if it is missing or damaged."""
        path = folder / METADATA
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["precision"] not in get_args(ResolvedPrecision):
                raise KeyError(content["precision"])
            relations = content.get("relations")
            return cls(
                PromptOptions(**with_current_names(content["prompt"], "prompt.")),
                content["precision"],
                content["relations_sha256"],
                RelationSet(tuple(relations), tuple(relations.values())) if relations else None,
                content.get("quantization"),
            )
        except OSError as error:
            check_model(folder, "rc")
            raise UserError(
                f"{path} cannot be read ({error.strerror}): give the folder of a trained adapter"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): export the adapter again") from error

    @classmethod
    def read_for(cls, folder: Path, asked: PromptOptions) -> AdapterMetadata:
        """Read the settings of an adapter that is used with the prompt options `asked`.

        The prompt is that of the training. Only `truncate` may be given at inference: leaving sentences out needs no
        training.

        Raises:
            ConfigError: another prompt option was given that differs from the training's.
            UserError: as `read`.
        """
        settings = cls.read(folder)
        trained = settings.prompt
        differing = [
            f"prompt.{name} (trained with {getattr(trained, name)!r}, given {getattr(asked, name)!r})"
            for name in sorted(asked.model_fields_set - {"truncate"})
            if getattr(asked, name) != getattr(trained, name)
        ]
        if differing:
            raise ConfigError(
                f"{folder} was trained with other prompt options than those given: {', '.join(differing)}. Leave them "
                "out; only prompt.truncate may be given at inference"
            )
        if "truncate" not in asked.model_fields_set:
            return settings
        return replace(settings, prompt=trained.model_copy(update={"truncate": asked.truncate}))

    def check_corpus(self, folder: Path, corpus: Corpus) -> None:
        """Raise UserError if the adapter in `folder` was trained with other relations than those of the corpus."""
        if self.relations_sha256 != corpus.relations.sha256:
            raise UserError(
                f"{folder} was trained with another relation set than that of {corpus.folder}: "
                "build the corpus with the relations of the training corpus"
            )
