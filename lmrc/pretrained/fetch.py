"""Fetch a model into the cache, where there is a network: `lmrc models fetch NAME`.

These functions of huggingface_hub are used, and a stand-in in tests must have them:

- `list_repo_files(name)` returns the paths of all files of a repository.
- `snapshot_download(name, cache_dir=…, allow_patterns=…)` downloads files with these paths and returns their folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from lmrc.common.errors import UserError
from lmrc.pretrained.packaged import PREFIX, resolve
from lmrc.pretrained.staging import OTHER_WEIGHTS

# Weights that transformers reads if there are no safetensors.
TORCH_WEIGHTS = "pytorch_model"


def wanted(files: Sequence[str]) -> list[str]:
    """Return the files that loading reads: not subfolders, and weights in one format, safetensors if there are any."""
    own = [file for file in files if "/" not in file and not file.startswith(".git")]
    has_safetensors = any(file.endswith(".safetensors") for file in own)
    return [
        file
        for file in own
        if not file.endswith(OTHER_WEIGHTS) or (not has_safetensors and file.startswith(TORCH_WEIGHTS))
    ]


def fetch(name: str, cache: Path | None = None) -> Path:
    """Fetch a model with its tokenizer. An `embedded:` model is made if it is not there yet.

    Args:
        name: name on the hub, or an `embedded:` name.
        cache: the hub's cache; by default that of huggingface_hub.

    Returns:
        The folder with its files.

    Raises:
        UserError: there is no such model, this user may not download it, or the hub cannot be reached.
    """
    if name.startswith(PREFIX):
        return Path(resolve(name))
    if Path(name).is_dir():
        raise UserError(f"{name} is a folder of this machine, which needs no fetching: give a name on the hub")
    try:
        files = wanted(huggingface_hub.list_repo_files(name))
        return Path(huggingface_hub.snapshot_download(name, cache_dir=cache, allow_patterns=files))
    except GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its license on its page on the hub, then type hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"there is no model {name} on the hub: check the name; a private one needs hf auth login"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{name} could not be fetched ({line}): repeat it where there are a network and room; what is there is kept"
        ) from None
