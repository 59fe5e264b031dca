"""Activation checkpointing: layers compute their activations again in the backward pass.

What trains keeps only each layer's input, for about a third more computation. Gradients are the
same, dropout included: the random state of the first pass is used again.
"""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from audiolm.errors import UserError
from audiolm.models.beats import BEATs
from audiolm.models.pretrained import quiet_transformers

# Not the reentrant kind: that one needs inputs with gradients, and a frozen LLM's may have none.
SETTINGS = {"use_reentrant": False}


def enable_checkpointing(part: Any) -> None:
    """Checkpoint the layers of an encoder, a Q-Former or an LLM, whenever they are in training.

    Raises:
        UserError: transformers cannot do it for this architecture.
    """
    if isinstance(part, BEATs):
        part.encoder.run_layer = partial(checkpoint, **SETTINGS)
        return
    assert isinstance(part, PreTrainedModel)
    try:
        with quiet_transformers():
            if hasattr(part, "activation_checkpointing_enable"):
                part.activation_checkpointing_enable(SETTINGS)
            else:  # its name before transformers 5.23
                part.gradient_checkpointing_enable(SETTINGS)
            part.disable_input_require_grads()  # which only the reentrant kind needs
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.gradient_checkpointing: {reason}; use none") from error


def set_layers_training(part: nn.Module, mode: bool) -> None:
    """Give the checkpointed layers of a frozen LLM a training mode of their own.

    transformers checkpoints a layer in training mode only, and a frozen one is never put in it. The
    layer's parts stay in eval mode; its own dropout, which some architectures have, is set to 0.
    """
    for layer in part.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = mode
            for name, value in list(vars(layer).items()):
                if "dropout" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)
