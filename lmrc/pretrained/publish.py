"""Upload of a trained model with its card to the hub of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

from lmrc.common.errors import RunError, UserError
from lmrc.pretrained.packaged import PREFIX

CARD = "README.md"
# Files of which a trained model has one: the classifier's, the adapter's.
CONFIGS = ("config.json", "adapter_config.json")


def push(run: Path, name: str, private: bool = False) -> str:
    """Upload the best weights of a training, with the model card and all that inference needs.

    Args:
        run: Run folder of a finished training, or its folder best/.
        name: Repository on the hub, as OWNER/NAME. It is made if it does not exist.
        private: Make the new repository private.

    Returns:
        The address of the upload.

    Raises:
        UserError: The folder is no finished model, the name is none, or nobody is logged in.
        RunError: The hub refused the upload, or cannot be reached.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    folder = _model_folder(run)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name} is no name of a model on the hub: {error}") from None
    if name.count("/") != 1:
        raise UserError(f"{name} has no owner: give OWNER/NAME, such as my-group/rcp-docred")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it, and push from the login node")
    token = get_token()
    if token is None:
        raise UserError("no login of the hub was found: run hf auth login, or set HF_TOKEN")
    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Upload {folder.parent.name} from lmrc-suite"
        )
    except (HfHubHTTPError, OSError) as error:
        raise RunError(f"{folder} was not uploaded to {name}: {error}") from error
    return str(done.commit_url)


def _model_folder(run: Path) -> Path:
    """Return the folder of the model, after checks that others can use it."""
    folder = run / "best" if (run / "best").is_dir() else run
    if not any((folder / name).is_file() for name in CONFIGS):
        raise UserError(f"{run} holds no trained model: give a run folder of lmrc train rcp or rc, such as runs/rcp")
    if folder.name == "best" and not (folder.parent / "DONE").is_file():
        raise UserError(f"the training {folder.parent} is not finished: the same launch command goes on with it")
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} has no model card ({CARD}): repeat the training's launch command, which writes it")
    base = _base(folder)
    if base and not base.startswith(PREFIX) and (Path(base).is_absolute() or Path(base).is_dir()):
        raise UserError(
            f"the adapter in {folder} was trained on {base}, which exists on this machine only: lmrc merge {folder} "
            "--out FOLDER makes a whole model of both, or train with the hub's name of the base"
        )
    return folder


def _base(folder: Path) -> str:
    """Return the base model of an adapter; empty for a model that needs none."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text()).get("base_model_name_or_path") or "")
