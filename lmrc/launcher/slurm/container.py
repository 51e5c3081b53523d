"""The container that a job's processes run in: an image of apptainer or singularity, or one of pyxis.

The batch script stays outside. It requeues the job, so that the image needs no SLURM commands. For slurm/eval.sh
`python -m lmrc.launcher.slurm.container RUN DATASET` prints the command for Python, one word per line.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from lmrc.common.cache import cache_folder
from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClassifyConfig, ClusterOptions
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.hub_cache import adapter_base, hub_cache, token_path
from lmrc.launcher.stages import StageConfig
from lmrc.pretrained.staging import STAGE_BASE
from lmrc.runs.run_folder import read_config

# An image may have a python3 and no python.
PYTHON = "python3"
# Set in the batch script to apptainer or singularity, whichever the node has.
_RUNTIME = "LMRC_CONTAINER_RUNTIME"
# These separate the parts of a mount.
_SEPARATORS = (",", ":", "\n")


@dataclass(frozen=True)
class Container:
    """An image with the folders of the host that its processes see.

    Attributes:
        image: absolute path of the image, or the name of one for pyxis.
        is_pyxis: srun starts the container, else apptainer or singularity.
        mounts: SOURCE:DESTINATION[:OPTIONS]. Those of the user may contain $VARIABLES.
        environment: variables that the image must not replace. Values may contain $VARIABLES.
        folder: working folder.
        has_gpus: let apptainer bind the host's driver. pyxis does so by itself.
    """

    image: str
    is_pyxis: bool
    mounts: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    has_gpus: bool

    def setup_lines(self) -> list[str]:
        """Return the lines of the batch script that find the runtime."""
        if self.is_pyxis:
            return []
        message = "lmrc: neither apptainer nor singularity on $(hostname): load its module in cluster.setup"
        return [
            f'{_RUNTIME}=$(command -v apptainer || command -v singularity) || {{ echo "{message}" >&2; exit 127; }}'
        ]

    def words(self) -> list[str]:
        """Return the words between srun's options and Python, unquoted. With pyxis they begin with more options."""
        # Set by `env` inside: a value may contain a comma, and images of both kinds may set variables themselves.
        inside = ["env", *(f"{name}={value}" for name, value in self.environment.items())]
        if self.is_pyxis:
            mounts = f"--container-mounts={','.join(self.mounts)}"
            return [f"--container-image={self.image}", mounts, f"--container-workdir={self.folder}", *inside]
        binds = [word for mount in self.mounts for word in ("--bind", mount)]
        gpus = ["--nv"] if self.has_gpus else []
        return [f"${_RUNTIME}", "exec", *gpus, *binds, "--pwd", self.folder, self.image, *inside]

    def command(self) -> str:
        """Return the shell words after srun's options, with $VARIABLES that the shell expands."""
        return " ".join([*map(quote, self.words()), PYTHON])


def quote(word: str) -> str:
    """Return a word for a shell that expands its $VARIABLES."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`")
    return f'"{escaped}"'


def is_pyxis_image(image: str) -> bool:
    """Return True for an image of pyxis: .sqsh, docker://, REGISTRY#NAME or a name; False for .sif or a folder."""
    return not (image.endswith((".sif", ".simg")) or Path(image).expanduser().is_dir())


def image_path(image: str) -> Path | None:
    """Return the file or folder of an image; None if it is a name in a registry or of pyxis."""
    is_name = "://" in image or "#" in image
    if is_name or (is_pyxis_image(image) and not image.endswith(".sqsh") and not image.startswith(("/", ".", "~"))):
        return None
    return Path(image).expanduser().absolute()


def container_of(config: StageConfig, code: Path, on_gpus: bool) -> Container | None:
    """Return the container of a stage; None without `cluster.container`.

    Args:
        code: folder with the code, which is the working folder.
        on_gpus: the stage uses GPUs.
    """
    options = config.cluster
    if options.container is None:
        return None
    own = variables(options)
    folders = [own[name] for name in ("TMPDIR", "TORCH_EXTENSIONS_DIR") if name in own]
    folders += [options.cache_folder] if options.cache_folder is not None else []
    # The code folder, which is mounted anyway, if the node has no such folder: the model is then read from where it is.
    folders += [f"${{{STAGE_BASE}:-{code}}}"] if STAGE_BASE in own else []
    paths = [Path.cwd(), config.run.folder, code, *_paths(config)]
    paths += [path for path in (hub_cache(os.environ), token_path(os.environ)) if path.exists()]
    # The job's processes get the variable, and the image has no such folder.
    paths += [cache_folder()] if os.environ.get("LMRC_CACHE") else []
    environment = {
        "HF_HUB_CACHE": str(hub_cache(os.environ)),
        "HF_TOKEN_PATH": str(token_path(os.environ)),
        **own,
        # Not the host's PYTHONPATH, and not the packages in the home folder, which belong to another Python.
        "PYTHONPATH": str(code),
        "PYTHONNOUSERSITE": "1",
    }
    path = image_path(options.container)
    return Container(
        image=options.container if path is None else str(path),
        is_pyxis=is_pyxis_image(options.container),
        mounts=(
            *mounts(paths),
            *(f"{folder}:{folder}" for folder in folders),
            *map(_user_mount, options.container_mounts),
        ),
        environment=environment,
        folder=str(code),
        has_gpus=on_gpus,
    )


def folder_lines(options: ClusterOptions) -> list[str]:
    """Return the shell lines that create caches and temporary folders on all nodes, which must exist to be mounted."""
    own, nodes = variables(options), options.nodes or 1
    make = f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 mkdir -p" if nodes > 1 else "mkdir -p"
    names = [name for name in ("TMPDIR", "TORCH_EXTENSIONS_DIR") if name in own]
    folders = [f'"${name}"' for name in names]
    folders += [quote(options.cache_folder)] if options.cache_folder is not None else []
    lines = [f"{make} {' '.join(folders)}"] if folders else []
    return [*lines, *([f'{make} "${STAGE_BASE}" || {STAGE_BASE}='] if STAGE_BASE in own else [])]


def _user_mount(mount: str) -> str:
    return mount if ":" in mount else f"{mount}:{mount}"


def mounts(paths: Iterable[Path]) -> list[str]:
    """Return SOURCE:DESTINATION of existing paths, or of the nearest folders above that exist.

    A path with symbolic links is mounted as it is written and as it is. Paths inside another one are left out.

    Raises:
        ConfigError: a path contains a character that separates mounts.
    """
    pairs: dict[str, str] = {}
    for path in paths:
        existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        if existing == Path(existing.anchor):
            continue  # nothing of the path exists, which its own check reports
        real = existing.resolve()
        # A symbolic link in a mounted folder needs its target at the same place; any other link does not exist inside.
        pairs |= {str(real): str(real), str(Path(os.path.normpath(existing))): str(real)}
    for name in pairs:
        if any(separator in name for separator in _SEPARATORS):
            raise ConfigError(f"{name} cannot be mounted in a container: rename it without commas and colons")
    return [f"{source}:{target}" for target, source in sorted(pairs.items()) if not _is_inside(target, source, pairs)]


def _is_inside(target: str, source: str, pairs: dict[str, str]) -> bool:
    """Return True if a mount of a folder above shows the same file at this place."""
    for folder in Path(target).parents:
        above = pairs.get(str(folder))
        if above is not None and Path(above) / Path(target).relative_to(folder) == Path(source):
            return True
        if above is not None and source != target:
            return True  # the link itself is in the mounted folder
    return False


def _paths(config: BaseModel) -> Iterator[Path]:
    """Yield the paths in a config, the local models and the base model of an adapter."""
    for name, value in config:
        if isinstance(value, BaseModel):
            yield from _paths(value)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,):
            if isinstance(part, Path):
                yield part
                base = adapter_base(part)
                if base is not None and Path(base).is_dir():
                    yield Path(base)
        if name in ("base", "encoder") and isinstance(value, str) and Path(value).expanduser().is_dir():
            yield Path(value).expanduser()


def trained_cluster(run: Path) -> ClusterOptions:
    """Return the cluster options of a trained run: of `rc`, or of `rcp` if `rc` has no container."""
    found = [ClusterOptions.model_validate(read_config(run / stage).get("cluster", {})) for stage in ("rc", "rcp")]
    return next((options for options in found if options.container is not None), found[0])


def main(arguments: Sequence[str]) -> None:
    """Print the words that start Python in the container of a trained run, one per line; nothing without one."""
    run, dataset = map(Path, arguments)
    options = trained_cluster(run)
    if options.container is None:
        return
    # Its workers read models from where they are.
    options = options.model_copy(update={"stage_base": None})
    config = ClassifyConfig.model_validate(
        {"run": {"folder": run}, "corpus": dataset, "rc": run / "rc" / "best", "cluster": options}
    )
    container = container_of(config, Path.cwd(), on_gpus=True)
    assert container is not None
    os.environ.setdefault(_RUNTIME, _which("apptainer", "singularity"))
    start = ["srun", "--ntasks=1"] if container.is_pyxis else []
    print("\n".join(map(os.path.expandvars, [*start, *container.words(), PYTHON])))


def _which(*names: str) -> str:
    return next((found for name in names if (found := shutil.which(name))), names[0])


if __name__ == "__main__":
    main(sys.argv[1:])
