"""Environment variables for every process of a run: network interfaces, caches, temporary folders, crash reports."""

from __future__ import annotations

from lmrc.config.schema import ClusterOptions

CACHES = {"HF_HOME": "huggingface", "TORCH_HOME": "torch", "TRITON_CACHE_DIR": "triton", "XDG_CACHE_HOME": "xdg"}
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


def variables(options: ClusterOptions) -> dict[str, str]:
    """Return names and values. A value may contain $VARIABLES, which the machine of the process expands."""
    # A crash in C++ prints the Python stacks of all threads.
    chosen = {"PYTHONFAULTHANDLER": "1"}
    if options.interface is not None:
        chosen |= dict.fromkeys(INTERFACES, options.interface)
    if options.cache_folder is not None:
        chosen |= {name: f"{options.cache_folder}/{part}" for name, part in CACHES.items()}
    if options.temporary_folder is not None:
        chosen["TMPDIR"] = options.temporary_folder
    if options.extensions_folder is not None:
        chosen["TORCH_EXTENSIONS_DIR"] = options.extensions_folder
    return chosen
