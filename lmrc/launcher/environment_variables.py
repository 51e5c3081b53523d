"""Environment variables for every process of a run: network interfaces, caches, temporary folders, crash reports."""

from __future__ import annotations

import os

from lmrc.config.schema import ClusterOptions
from lmrc.launcher.hub_cache import SHELL_CACHE, hub_cache, token_path
from lmrc.pretrained.staging import STAGE_BASE

# Not HF_HOME, which also holds the login token.
CACHES = {
    "HF_HUB_CACHE": "huggingface/hub",
    "HF_XET_CACHE": "huggingface/xet",
    "HF_ASSETS_CACHE": "huggingface/assets",
    "TORCH_HOME": "torch",
    "TRITON_CACHE_DIR": "triton",
    "XDG_CACHE_HOME": "xdg",
}
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


def variables(options: ClusterOptions) -> dict[str, str]:
    """Return names and values. A value may contain $VARIABLES, which the machine of the process expands."""
    # A crash in C++ prints the Python stacks of all threads.
    chosen = {"PYTHONFAULTHANDLER": "1"}
    if options.interface is not None:
        chosen |= dict.fromkeys(INTERFACES, options.interface)
    if options.cache_folder is not None:
        chosen |= {name: f"{options.cache_folder}/{part}" for name, part in CACHES.items()}
        # Both would move with XDG_CACHE_HOME.
        chosen |= {"HF_TOKEN_PATH": str(token_path(os.environ)), SHELL_CACHE: str(hub_cache(os.environ))}
    if options.offline:
        chosen["HF_HUB_OFFLINE"] = "1"
    if options.stage_base is not None:
        chosen[STAGE_BASE] = options.stage_base
    if options.temporary_folder is not None:
        chosen["TMPDIR"] = options.temporary_folder
    if options.extensions_folder is not None:
        chosen["TORCH_EXTENSIONS_DIR"] = options.extensions_folder
    return chosen
