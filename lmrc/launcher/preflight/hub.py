"""Pre-flight checks of a pretrained model: a folder, the hub's cache, or the hub with this user's access."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import UserError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.environment_variables import CACHES
from lmrc.launcher.hub_cache import has_weights
from lmrc.launcher.model_shapes import HUB_TIMEOUT_SECONDS, first_line
from lmrc.pretrained.trained import is_hub_name

OFFLINE = "and cluster.offline says that the nodes have no network"


@dataclass(frozen=True)
class ModelLocation:
    """A model and its check. `folder` is None if its files are not on this machine."""

    name: str
    folder: Path | None
    check: Check


def find_model(name: str, option: str, options: ClusterOptions, weights: bool = True) -> ModelLocation:
    """Look up a model in the order that a job does: embedded models, folders, the hub's cache, the hub.

    Args:
        name: value of `option`.
        options: name the cache folder of the job.
        weights: False if only the tokenizer is needed.
    """
    from lmrc.pretrained import packaged as embedded

    if name.startswith(embedded.PREFIX):
        try:
            return ModelLocation(name, Path(embedded.resolve(name)), ok(f"{option} {name}"))
        except UserError as error:
            return ModelLocation(name, None, missing(f"{option}: {error}"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelLocation(name, folder, _check_folder(folder, option, weights))
    if not is_hub_name(name):
        return ModelLocation(
            name, None, missing(f"{option}: {name}: no such folder", "give the folder of a model, or a name on the hub")
        )
    cached = None
    for cache in _caches(options):
        cached = _cached(name, cache)
        if cached is not None and (not weights or has_weights(cached)):
            return ModelLocation(name, cached, ok(f"{option} {name}, in the cache of this machine"))
    place = "complete in the cache" if cached else "in the cache"
    if options.offline:
        return ModelLocation(name, cached, missing(f"{option}: {name} is not {place}, {OFFLINE}", fetch_command(name)))
    return ModelLocation(name, cached, _ask_hub(name, option, place))


def fetch_command(name: str) -> str:
    """Return what to type so that jobs find a model in their cache."""
    return f"fetch it where there is a network: lmrc models fetch {name} (with --cluster or --cache-folder as here)"


def _check_folder(folder: Path, option: str, weights: bool) -> Check:
    absent = [] if (folder / "config.json").is_file() else ["config.json"]
    absent += [] if not weights or has_weights(folder) else ["weights (model.safetensors)"]
    if not absent:
        return ok(f"{option} {folder}")
    best = folder / "best"
    return missing(
        f"{option}: {folder} contains no model: {' and '.join(absent)} missing",
        f"did you mean {best}?" if (best / "config.json").is_file() else "give a folder that save_pretrained wrote",
    )


def _caches(options: ClusterOptions) -> list[Path]:
    """Return the hub's caches that the job looks in. A path with variables of the node is left out."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = "$" if options.cache_folder is None else os.path.expandvars(options.cache_folder)
    return [Path(HF_HUB_CACHE), *([] if "$" in folder else [Path(folder) / CACHES["HF_HUB_CACHE"]])]


def _cached(name: str, cache: Path) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json", cache_dir=cache)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def _ask_hub(name: str, option: str, place: str) -> Check:
    """Check with one request that this user can download the model from the hub.

    Args:
        place: place where it was not found, for the message.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    fetch = fetch_command(name)
    if constants.HF_HUB_OFFLINE:
        return missing(f"{option}: {name} is not {place}, and HF_HUB_OFFLINE is set", fetch)
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_TIMEOUT_SECONDS)
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
    except Exception as error:  # depends on the version of the network library
        return missing(
            f"{option}: {name} is neither a folder here nor {place}, and the hub cannot be reached "
            f"({first_line(error)})",
            fetch,
        )
    return warning(
        f"{option} {name}: on the hub, not {place}", f"every node downloads it when the job starts; or {fetch}"
    )
