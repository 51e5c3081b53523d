"""Pre-flight checks of the container that a job runs in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.container import container_of, image_path, is_pyxis_image
from lmrc.launcher.stages import StageConfig


def check_container(config: StageConfig) -> Iterator[Check]:
    """Check the image, its runtime and the mounts."""
    options = config.cluster
    if options.container is None:
        if options.container_mounts:
            yield missing(
                "cluster.container_mounts has no effect without cluster.container", "give an image, or no mounts"
            )
        return
    yield check_image(options.container)
    yield check_runtime(options)
    for mount in options.container_mounts:
        source = mount.partition(":")[0]
        # Variables are expanded on the node.
        if "$" not in source and not Path(source).exists():
            yield missing(
                f"cluster.container_mounts: no {source} on this machine", "give SOURCE[:DESTINATION[:OPTIONS]]"
            )
    try:
        container = container_of(config, Path(), on_gpus=False)
    except ConfigError:
        return  # a path that cannot be mounted: check_site, which writes the script, reports it
    assert container is not None
    yield ok(f"mounted in the container: {', '.join(mount.partition(':')[0] for mount in container.mounts)}")


def check_image(image: str) -> Check:
    """Check that an image in a file exists and can be read. An image in a registry is fetched by the nodes."""
    path = image_path(image)
    if path is None:
        return ok(f"container {image}, by pyxis; the nodes fetch it")
    if path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return missing(
            f"cluster.container: {path} cannot be read by you", "ask its owner to let you read it, or copy it"
        )
    if path.exists():
        return ok(f"container {path}, by {'pyxis' if is_pyxis_image(image) else 'apptainer or singularity'}")
    return missing(
        f"cluster.container: no {path}",
        "give an image (.sif or a folder for apptainer; .sqsh, docker://… or REGISTRY#NAME:TAG for pyxis); "
        "containers/lmrc.def makes one",
    )


def check_runtime(options: ClusterOptions) -> Check:
    """Check that the runtime of the image is on this machine. Only the nodes need it."""
    image = options.container or ""
    if not is_pyxis_image(image):
        found = runtime()
        if found:
            return ok(f"{Path(found).name} ({found})")
        loads = "cluster.setup may load it there" if options.setup else "load its module in cluster.setup"
        return warning("neither apptainer nor singularity on this machine", f"the nodes need one of them; {loads}")
    if has_pyxis():
        return ok("srun has --container-image (pyxis)")
    return warning(
        "srun has no --container-image on this machine",
        "the nodes need pyxis; give an image of apptainer (.sif) if the site has none",
    )


def runtime() -> str | None:
    """Return the path of apptainer or singularity; None if this machine has neither."""
    return shutil.which("apptainer") or shutil.which("singularity")


def has_pyxis() -> bool:
    """Return True if srun on this machine has the options of pyxis."""
    try:
        return "--container-image" in slurm.run_command("srun", "--help")
    except slurm.SlurmError:
        return False
