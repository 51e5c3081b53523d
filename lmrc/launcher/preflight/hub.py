"""The pre-flight of a pretrained model's name: is it a folder, in the cache, or on the hub for this user?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import UserError
from lmrc.config.schema import ClusterOptions

# Seconds that the hub is waited for.
PATIENCE = 3.0
WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")


@dataclass(frozen=True)
class FoundModel:
    """A model by the name that was given; `folder` is None if its files are not on this machine."""

    name: str
    folder: Path | None
    check: Check


def find_model(name: str, option: str, options: ClusterOptions, weights: bool = True) -> FoundModel:
    """Look for a model as a job will: an embedded one, a folder, the hub's cache, the hub.

    Args:
        name: what the user gave as `option`.
        options: tell which cache the job uses.
        weights: whether the weights are needed, or the tokenizer alone.
    """
    from lmrc.pretrained import packaged as embedded

    if name.startswith(embedded.PREFIX):
        try:
            return FoundModel(name, Path(embedded.resolve(name)), ok(f"{option} {name}"))
        except UserError as error:
            return FoundModel(name, None, missing(f"{option}: {error}"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return FoundModel(name, folder, _check_folder(folder, option, weights))
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return FoundModel(
            name, None, missing(f"{option}: {name}: no such folder", "give the folder of a model, or a name on the hub")
        )
    cached = _cached(name, _cache(options))
    if cached is not None and (not weights or _has_weights(cached)):
        return FoundModel(name, cached, ok(f"{option} {name}, in the cache of this machine"))
    return FoundModel(name, cached, _ask_hub(name, option))


def _check_folder(folder: Path, option: str, weights: bool) -> Check:
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if not weights or _has_weights(folder) else ["weights (model.safetensors)"]
    if not lacking:
        return ok(f"{option} {folder}")
    best = folder / "best"
    return missing(
        f"{option}: {folder} holds no model: {' and '.join(lacking)} missing",
        f"did you mean {best}?" if (best / "config.json").is_file() else "give a folder that save_pretrained wrote",
    )


def _has_weights(folder: Path) -> bool:
    return any(True for pattern in WEIGHTS for _ in folder.glob(pattern))


def _cache(options: ClusterOptions) -> Path | None:
    """Return the hub's cache that the job uses; None if its place is known on the node only."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if options.cache_folder is None:
        return Path(HF_HUB_CACHE)
    folder = os.path.expandvars(options.cache_folder)
    return None if "$" in folder else Path(folder) / "huggingface" / "hub"


def _cached(name: str, cache: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = None if cache is None else try_to_load_from_cache(name, "config.json", cache_dir=cache)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _ask_hub(name: str, option: str) -> Check:
    """Ask the hub once whether this user may have the model."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    fetch = f"fetch it where there is a network: hf download {name}"
    if constants.HF_HUB_OFFLINE:
        return missing(f"{option}: {name} is not in the cache, and HF_HUB_OFFLINE is set", fetch)
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=PATIENCE)
    except GatedRepoError:
        return missing(
            f"{option}: {name} is gated, and this user has no access",
            f"accept its license at {constants.ENDPOINT}/{name}, then: hf auth login",
        )
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError):
        return missing(
            f"{option}: there is no model {name}, neither as a folder here nor on the hub",
            "check the name; a private model needs: hf auth login",
        )
    except Exception as error:  # whatever the network library of this version raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return missing(
            f"{option}: {name} is neither a folder here nor in the cache, and the hub was not reached ({reason})", fetch
        )
    return warning(
        f"{option} {name}: on the hub, not in the cache", f"every node downloads it at the start; or {fetch}"
    )
