"""What an adapter says about itself beside PEFT's files: how it wants to be asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.config import PromptOptions, Quantization, SettledPrecision
from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError
from lmrc.rc.lora import DTYPES

SETTINGS = "lmrc.json"
"""The file beside the adapter that says how it wants to be asked."""


@dataclass(frozen=True)
class Settings:
    """What inference must do as training did."""

    prompt: PromptOptions
    precision: SettledPrecision
    relations_sha256: str
    relations: RelationSet | None = None
    """None: an adapter of before they were kept."""
    quantization: Quantization | None = None
    """Of the base."""

    def write(self, folder: Path) -> None:
        """Write SETTINGS into the folder."""
        content: dict[str, Any] = {
            "prompt": self.prompt.model_dump(mode="json"),
            "precision": self.precision,
            "relations_sha256": self.relations_sha256,
            "quantization": self.quantization,
        }
        if self.relations is not None:
            content["relations"] = dict(zip(self.relations.ids, self.relations.names, strict=True))
        temporary = folder / (SETTINGS + ".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.rename(folder / SETTINGS)

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read SETTINGS from the folder of an adapter. Raises UserError where it is missing or damaged."""
        path = folder / SETTINGS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["precision"] not in DTYPES:
                raise KeyError(content["precision"])
            relations = content.get("relations")
            return cls(
                PromptOptions(**content["prompt"]),
                content["precision"],
                content["relations_sha256"],
                RelationSet(tuple(relations), tuple(relations.values())) if relations else None,
                content.get("quantization"),
            )
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): give the folder of a trained adapter"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): export the adapter again") from error
