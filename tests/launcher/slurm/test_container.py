from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.common.errors import ConfigError
from lmrc.config.schema import BuildConfig, ClassifyConfig, RcConfig, RcpConfig
from lmrc.launcher.allocation import allocate
from lmrc.launcher.preflight import container as preflight
from lmrc.launcher.preflight.container import check_container
from lmrc.launcher.slurm import container
from lmrc.launcher.slurm.container import container_of, folder_lines, image_path, is_pyxis_image, main, mounts, quote
from lmrc.launcher.slurm.submit import sbatch_script
from lmrc.launcher.stages import BUILD, RCP
from tests.launcher.site import fake_site


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, with no cache of the hub."""
    home = tmp_path / "work"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    return home


def rcp(home: Path, **cluster: Any) -> RcpConfig:
    options = {"container": "image.sif", "gpus": 2, "nodes": 1} | cluster
    return RcpConfig.model_validate({"run": {"folder": home / "runs", "name": "rcp"}, "cluster": options})


def script(config: RcpConfig) -> str:
    return sbatch_script(RCP, config.model_copy(update={"cluster": allocate(config.cluster)}))


def run_line(text: str) -> str:
    """Return the line of the script that starts the processes."""
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return line


@pytest.mark.parametrize(
    ("image", "pyxis", "is_file"),
    [
        ("image.sif", False, True),
        ("images", False, True),
        ("/images/lmrc.sqsh", True, True),
        ("lmrc.sqsh", True, True),
        ("docker://nvcr.io/nvidia/pytorch:25.01-py3", True, False),
        ("nvcr.io#nvidia/pytorch:25.01-py3", True, False),
        ("ubuntu:24.04", True, False),
    ],
)
def test_kinds_of_images(home: Path, image: str, pyxis: bool, is_file: bool) -> None:
    (home / "images").mkdir()
    assert is_pyxis_image(image) == pyxis
    assert (image_path(image) is not None) == is_file


def test_apptainer_script(home: Path) -> None:
    text = script(rcp(home, container_mounts=["/scratch/$USER", "/a:/b:ro"], cache_folder="$HOME/c"))
    line = run_line(text)
    words = shlex.split(line)
    start = words.index("$LMRC_CONTAINER_RUNTIME")
    code = str((home / "runs" / "rcp" / "code").absolute())
    assert words[start + 1 : start + 3] == ["exec", "--nv"]
    assert words[words.index("--pwd") + 1] == code
    inside = words[words.index(str(home / "image.sif")) + 1 :]
    assert inside[0] == "env" and f"PYTHONPATH={code}" in inside and "PYTHONNOUSERSITE=1" in inside
    assert "HF_HUB_CACHE=$HOME/c/huggingface/hub" in inside
    assert inside[-4:] == ["python3", "-u", "-m", "submitit.core._submit"]
    bound = [words[index + 1] for index, word in enumerate(words) if word == "--bind"]
    assert bound == [f"{home}:{home}", "$HOME/c:$HOME/c", "/scratch/$USER:/scratch/$USER", "/a:/b:ro"]
    # Expanded on the node, and found there.
    assert '"/scratch/$USER:/scratch/$USER"' in line
    assert text.index("LMRC_CONTAINER_RUNTIME=$(command -v apptainer || command -v singularity)") < text.index(line)
    assert 'mkdir -p "$HOME/c"' in text
    # Outside: the decision whether the job is requeued, always, with the Python that submits.
    ended = text[text.index(line) + len(line) :]
    assert "status=$?\n" in ended and f"\n{sys.executable} -m lmrc.launcher.slurm.requeue" in ended
    assert "#SBATCH --requeue\n" in text


@pytest.mark.parametrize("given", ["{tmp}/disk", "$NOWHERE", "/proc/none"])
def test_the_folder_of_staged_models_is_mounted_if_the_node_has_it(home: Path, tmp_path: Path, given: str) -> None:
    """The lines of the script run in a shell without SLURM and containers."""
    config = rcp(home, stage_base=given.format(tmp=tmp_path))
    code = home / "runs" / "rcp" / "code"
    container = container_of(config, code, on_gpus=False)
    assert container is not None
    exports = [f'export LMRC_STAGE_BASE="{given.format(tmp=tmp_path)}"']
    lines = [*exports, *folder_lines(config.cluster), f"printf '%s\\n' {' '.join(map(quote, container.words()))}"]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True)
    words = done.stdout.splitlines()
    bound = [words[index + 1] for index, word in enumerate(words) if word == "--bind"]
    folder = tmp_path / "disk" if given.startswith("{tmp}") else code
    assert bound == [f"{home}:{home}", f"{folder}:{folder}"]
    assert (tmp_path / "disk").exists() == given.startswith("{tmp}")


def test_folders_are_made_on_all_nodes(home: Path) -> None:
    config = rcp(home, nodes=2, gpus=4, temporary_folder="/local/$USER", stage_base="/local/models")
    make = "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 mkdir -p"
    text = script(config)
    assert f'{make} "$TMPDIR"\n{make} "$LMRC_STAGE_BASE" || LMRC_STAGE_BASE=\n' in text


def test_pyxis_script(home: Path) -> None:
    image = "nvcr.io#nvidia/pytorch:25.01-py3"
    line = run_line(script(rcp(home, container=image, container_mounts=["/scratch/$USER"])))
    words = shlex.split(line)
    code = str((home / "runs" / "rcp" / "code").absolute())
    assert "--container-image=nvcr.io#nvidia/pytorch:25.01-py3" in words
    assert f"--container-mounts={home}:{home},/scratch/$USER:/scratch/$USER" in words
    assert f"--container-workdir={code}" in words
    assert words.index("env") > words.index(f"--container-workdir={code}")
    assert f"PYTHONPATH={code}" in words and words[-4] == "python3"
    assert "LMRC_CONTAINER_RUNTIME" not in line and "exec" not in words


def test_no_gpus_for_a_step_without(home: Path) -> None:
    config = BuildConfig.model_validate(
        {"run": {"name": "build"}, "documents": {}, "cluster": {"container": "image.sif", "gpus": 1, "nodes": 1}}
    )
    assert "--nv" not in sbatch_script(BUILD, config)


def test_no_container(home: Path) -> None:
    line = run_line(script(rcp(home, container=None)))
    assert line.endswith(" --cpus-per-task=4 python -u -m submitit.core._submit")


def test_paths_of_the_config_are_mounted(home: Path, tmp_path: Path) -> None:
    data, base, adapter, hub = (tmp_path / name for name in ("data", "base", "adapter", "none"))
    for folder in (data / "test", base, adapter, hub / "hub"):
        folder.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    config = ClassifyConfig.model_validate(
        {"corpus": data / "test", "rc": adapter, "candidates": tmp_path / "later" / "candidates"}
        | {"cluster": {"container": "image.sif"}}
    )
    found = container_of(config, Path("runs/x/code"), on_gpus=True)
    assert found is not None
    # What a step before is to write is below a folder that exists.
    assert found.mounts == (f"{tmp_path}:{tmp_path}",)
    found = container_of(config.model_copy(update={"candidates": home / "later"}), Path("runs/x/code"), on_gpus=True)
    assert found is not None
    wanted = (adapter, base, data / "test", hub / "hub", home)
    assert found.mounts == tuple(f"{path}:{path}" for path in sorted(wanted))
    rc = RcConfig.model_validate({"model": {"base": str(base)}, "cluster": {"container": "image.sif"}})
    found = container_of(rc, Path("runs/x/code"), on_gpus=True)
    assert found is not None and f"{base}:{base}" in found.mounts


def test_the_suite_s_own_cache_is_mounted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    assert f"{tmp_path / 'cache'}:{tmp_path / 'cache'}" in script(rcp(home))


def test_symbolic_links(home: Path, tmp_path: Path) -> None:
    real, outside = tmp_path / "disk" / "data", tmp_path / "outside"
    real.mkdir(parents=True)
    outside.symlink_to(tmp_path / "disk")
    (home / "data").symlink_to(real)
    # In a mounted folder the link itself is seen; elsewhere the path must exist as it was given.
    assert mounts([home, home / "data"]) == [f"{real}:{real}", f"{home}:{home}"]
    assert mounts([outside / "data"]) == [f"{real}:{real}", f"{real}:{outside / 'data'}"]
    assert mounts([home / "x", home, real / "part"]) == [f"{real}:{real}", f"{home}:{home}"]


def test_path_that_cannot_be_mounted(home: Path) -> None:
    (home / "a,b").mkdir()
    with pytest.raises(ConfigError, match=r"a,b cannot be mounted in a container"):
        mounts([home / "a,b"])


def test_preflight(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(home / "site", monkeypatch)
    monkeypatch.setattr(preflight, "runtime", lambda: None)

    def levels(**cluster: Any) -> dict[str, str]:
        return {check.what: check.level for check in check_container(rcp(home, **cluster))}

    found = levels(container_mounts=["/nowhere:/x", "$SCRATCH"])
    assert found[f"cluster.container: no {home / 'image.sif'}"] == "missing"
    assert found["cluster.container_mounts: no /nowhere on this machine"] == "missing"
    assert found["neither apptainer nor singularity on this machine"] == "warning"
    assert f"mounted in the container: {home}, /nowhere, $SCRATCH" in found
    (home / "image.sif").touch()
    monkeypatch.setattr(preflight, "runtime", lambda: "/usr/bin/apptainer")
    assert set(levels().values()) == {"ok"}
    assert levels(container="a#b")["srun has no --container-image on this machine"] == "warning"
    srun = home / "site" / "bin" / "srun"
    srun.write_text("#!/bin/sh\necho '  --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH'\n")
    srun.chmod(0o755)
    assert set(levels(container="a#b").values()) == {"ok"}
    assert levels(container=None) == {}
    (text,) = levels(container=None, container_mounts=["/x"])
    assert "has no effect without cluster.container" in text


def test_words_for_eval(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(container, "_which", lambda *names: "/opt/apptainer")
    monkeypatch.delenv("LMRC_CONTAINER_RUNTIME", raising=False)
    monkeypatch.setenv("SCRATCH", "/fast")
    for stage in ("rcp", "rc"):
        (home / "runs" / stage).mkdir(parents=True)
        (home / "runs" / stage / "config.yaml").write_text(yaml.safe_dump({"data": {"dev": "x"}}))
    main(["runs", "data/dev"])
    assert capsys.readouterr().out == ""
    cluster = {"container": "image.sif", "container_mounts": ["$SCRATCH"]}
    (home / "runs" / "rcp" / "config.yaml").write_text(yaml.safe_dump({"cluster": cluster}))
    main(["runs", "data/dev"])
    words = capsys.readouterr().out.splitlines()
    assert words[:3] == ["/opt/apptainer", "exec", "--nv"]
    assert "/fast:/fast" in words and words[-1] == "python3" and f"PYTHONPATH={home}" in words
    monkeypatch.delenv("LMRC_CONTAINER_RUNTIME", raising=False)
    cluster["container"] = "a#b"
    (home / "runs" / "rc" / "config.yaml").write_text(yaml.safe_dump({"cluster": cluster}))
    main(["runs", "data/dev"])
    words = capsys.readouterr().out.splitlines()
    assert words[:3] == ["srun", "--ntasks=1", "--container-image=a#b"]


def test_quoting_for_the_shell() -> None:
    words = ["a b", 'say "x"', "`date`", "back\\slash", "$GREETING"]
    shell = " ".join(map(container.quote, words))
    out = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shell}"], env={"GREETING": "hi"}, capture_output=True, text=True
    )
    assert out.stdout.splitlines() == ["a b", 'say "x"', "`date`", "back\\slash", "hi"]
