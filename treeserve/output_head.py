"""A model's output head by itself: logits of hidden states that its layers have given."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast


class _GivenStates(torch.nn.Module):
    """Stands where a model's layers stand, and hands on what it is given."""

    def forward(
        self, *_unused: Any, inputs_embeds: Tensor, **_others: Any
    ) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


class OutputHead:
    """The model's own forward pass without its layers, soft-caps and scales of logits included.

    So the logits of many rows can be worked out in pieces, however large the vocabulary is.

    Args:
        module: Whose weights it shares; left as it is.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._layers = module.base_model
        self._head = copy.copy(module)
        # A copy of the module shares the very dictionary of its parts.
        self._head._modules = dict(module._modules)
        self._head._modules[module.base_model_prefix] = _GivenStates()

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """[num_rows, hidden_size] what the layers give.

        Args:
            token_ids: [1, num_rows] int64.
            positions: [1, num_rows] int64.
            attend: Called once per layer.
        """
        output = self._layers(
            input_ids=token_ids, position_ids=positions, use_cache=False, step=attend
        )
        states: Tensor = output.last_hidden_state
        return states[0]

    def logits(self, hidden_states: Tensor) -> Tensor:
        """[num_rows, vocabulary_size] float32 of hidden states [num_rows, hidden_size]."""
        logits: Tensor = self._head(inputs_embeds=hidden_states[None], use_cache=False).logits
        return logits[0].float()
