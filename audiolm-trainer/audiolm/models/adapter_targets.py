"""Which layers of an LLM an adapter is put on, by name."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from audiolm.errors import UserError


def check_targets(llm: nn.Module, targets: Any, *, are_defaults: bool) -> None:
    """Raise a `UserError` for names of layers that the LLM lacks; of defaults one must be there.

    peft itself leaves out names without a layer as long as one has some. A pattern is peft's.
    """
    if not isinstance(targets, list):
        return
    names = [f".{name}" for name, _ in llm.named_modules()]
    missing = [t for t in targets if not any(name.endswith(f".{t}") for name in names)]
    if missing and (not are_defaults or len(missing) == len(targets)):
        raise UserError(
            f"model.adapter_options.target_modules: this LLM has no layer named "
            f"{', '.join(map(str, missing))}; {list_targets(llm)}"
        )


def list_targets(llm: nn.Module) -> str:
    """What an adapter could be on: the linear layers by their names, as an advice."""
    output: Any = llm.get_output_embeddings() if isinstance(llm, PreTrainedModel) else None
    linears = (nn.Linear, Conv1D)
    names = {
        name.rpartition(".")[2]
        for name, module in llm.named_modules()
        if isinstance(module, linears) and module is not output
    }
    return f"set model.adapter_options.target_modules to some of {', '.join(sorted(names))}"
