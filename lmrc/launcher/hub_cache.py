"""The hub's cache that a job uses, and whether the job needs the hub at all.

huggingface_hub reads its environment when it is imported, so this module does not import it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from lmrc.config.schema import ClassifyConfig, RcConfig, RcpConfig
from lmrc.launcher.stages import StageConfig
from lmrc.pretrained.trained import is_hub_name

# The cache of the shell that launched the job: cluster.cache_folder sets HF_HUB_CACHE to another folder.
SHELL_CACHE = "LMRC_SHELL_HUB_CACHE"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def hub_home(environment: Mapping[str, str]) -> Path:
    """Return the folder of huggingface_hub, which holds the login token."""
    caches = environment.get("XDG_CACHE_HOME", "~/.cache")
    return _expand(environment.get("HF_HOME", f"{caches}/huggingface"))


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder in which huggingface_hub keeps models."""
    given = environment.get("HF_HUB_CACHE", environment.get("HUGGINGFACE_HUB_CACHE"))
    return hub_home(environment) / "hub" if given is None else _expand(given)


def token_path(environment: Mapping[str, str]) -> Path:
    """Return the file with the token of `hf auth login`."""
    given = environment.get("HF_TOKEN_PATH")
    return hub_home(environment) / "token" if given is None else _expand(given)


def _expand(folder: str) -> Path:
    return Path(os.path.expandvars(folder)).expanduser()


def snapshot(name: str, cache: Path) -> Path | None:
    """Return the folder of a model in a cache of the hub; None if the cache does not have its current version."""
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    files = folder / "snapshots" / revision
    return files if (files / CONFIG).is_file() else None


def is_complete(folder: Path) -> bool:
    """Return True if a model folder holds a config, a tokenizer and all weights."""
    return (folder / CONFIG).is_file() and _has_any(folder, VOCABULARIES) and has_weights(folder)


def has_weights(folder: Path) -> bool:
    """Return True if a model folder holds its weights, in one file or in all files of an index."""
    if _has_any(folder, WEIGHTS):
        return True
    for name in WEIGHTS:
        try:
            shards = set(json.loads((folder / f"{name}.index.json").read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError):
            continue
        if all((folder / shard).is_file() for shard in shards):
            return True
    return False


def _has_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def hub_model(config: StageConfig) -> str | None:
    """Return the name of the hub's model that a stage loads; None if it loads none, or only from folders."""
    name = None
    if isinstance(config, RcpConfig):
        name = config.model.encoder
    elif isinstance(config, RcConfig):
        name = config.model.base
    elif isinstance(config, ClassifyConfig) and config.asks_lm:
        name = config.base if config.rc is None else adapter_base(config.rc)
    return name if name is not None and is_hub_name(name) else None


def adapter_base(adapter: Path) -> str | None:
    """Return the base model of an adapter; None if the folder holds no adapter."""
    try:
        name = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        return None
    return name if isinstance(name, str) else None


def use_cached_model(config: StageConfig) -> None:
    """Set the environment so that the stage reads its model from a cache that has it, without asking the hub.

    Otherwise every process asks the hub for about ten files, and on nodes without a network waits for each. Does
    nothing if huggingface_hub is already imported, or if the model is not in a cache.
    """
    name = hub_model(config)
    if name is None or "huggingface_hub" in sys.modules:
        return
    caches = [hub_cache(os.environ), *(Path(folder) for folder in [os.environ.get(SHELL_CACHE)] if folder)]
    for cache in caches:
        folder = snapshot(name, cache)
        if folder is not None and is_complete(folder):
            os.environ["HF_HUB_CACHE"] = str(cache)
            if not _writes_to_hub(config):
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            return


def _writes_to_hub(config: StageConfig) -> bool:
    """Return True if a tracker may send the metrics to a space of the hub."""
    return isinstance(config, (RcpConfig, RcConfig)) and "trackio" in config.train.trackers
