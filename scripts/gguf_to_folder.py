"""Join the parts of SmolLM2's GGUF and write it as an ordinary Llama folder: python scripts/gguf_to_folder.py KIT OUT

KIT holds part00, part01, ... and tokenizer/ (configuration and tokenizer). Reads the GGUF with the package gguf alone, because
transformers' own reader wants packages that a GPU machine without network may lack.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distilledprag.base.default import GGUF_SHA256

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def main(kit: Path, out: Path) -> None:
    file = kit / "base.gguf"
    file.write_bytes(b"".join(part.read_bytes() for part in sorted(kit.glob("part[0-9][0-9]"))))
    if hashlib.sha256(file.read_bytes()).hexdigest() != GGUF_SHA256:
        sys.exit(f"the parts in {kit} do not make the GGUF that is expected; pack and carry them again")
    config = LlamaConfig.from_pretrained(kit / "tokenizer")
    model = LlamaForCausalLM(config)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in gguf.GGUFReader(file).tensors:
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        if tensor.name in OUTSIDE:
            name = OUTSIDE[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}.weight"
            if part in heads:  # llama.cpp stores the two halves of each head interleaved
                values = values.reshape(heads[part], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        weights[name] = torch.from_numpy(values.copy())
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) > {"lm_head.weight"}:
        sys.exit(f"the GGUF does not fit the configuration: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(out)
    for extra in (kit / "tokenizer").iterdir():
        if extra.name != "config.json":
            shutil.copy(extra, out)
    print(f"the base is in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
