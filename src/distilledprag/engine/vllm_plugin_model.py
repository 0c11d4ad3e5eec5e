"""vLLM's Llama with states written at the masks; see vllm_plugin.py. Loaded by vLLM's worker only."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaForCausalLM

from distilledprag.base.architecture import BACKBONE_PATH, module_key
from distilledprag.engine.vllm_plugin import States


class StatesLlamaForCausalLM(LlamaForCausalLM):
    """vLLM's own model in all else."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **more: Any) -> None:
        if vllm_config.parallel_config.world_size > 1:
            raise ValueError(
                "states are written on one device only; start vLLM without its parallel options, or without our plugin"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix, **more)
        settings = vllm_config.model_config
        self._states = States(settings.model, settings.hf_config.distilledprag_mask["id"])
        self._down = f"{BACKBONE_PATH}.{module_key(self._states.layer, 'down_proj')}"
        layer = self.get_submodule(f"{BACKBONE_PATH}.layers.{self._states.layer}")
        layer.register_forward_hook(lambda _, given, made: self._states.write(*made))

    def forward(self, input_ids: torch.Tensor | None, *given: Any, **more: Any) -> Any:
        if input_ids is not None:
            input_ids = self._states.begin(input_ids, self.get_submodule(self._down))
        return super().forward(input_ids, *given, **more)
