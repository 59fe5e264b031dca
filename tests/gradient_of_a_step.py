"""Take the first optimiser step of a configuration and save its gradients (main process)."""

from collections.abc import Sequence

import torch
import train as train_script
from torch.distributed.tensor import DTensor

from audiolm.config_file import load_config
from audiolm.training.setup import set_up_run


def main(arguments: Sequence[str]) -> int:
    """Arguments: the file to write, then those of train.py."""
    path, *rest = arguments
    args = train_script.parse_arguments(rest)
    run = set_up_run(load_config(args.cfg_path, args.options))
    scaler = run.precision.scaler
    if scaler.is_enabled():  # from its 65,536 on, this model's gradients overflow at first
        scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0})
    run.model.train()
    micro_batches = [next(run.batches) for _ in range(run.plan.num_micro_batches)]
    train_script.train_step(run, micro_batches)
    if run.accelerator.is_main_process:
        named = run.model.named_parameters()
        gradients = {name: p.grad for name, p in named if p.grad is not None}
        pieces = [p for p in run.model.llm.parameters() if isinstance(p, DTensor)]
        content = {
            "gradients": gradients,
            "norm": run.meter.grad_norm,
            "num_sharded": sum(piece.numel() for piece in pieces),
            "num_held": sum(piece.to_local().numel() for piece in pieces),
        }
        torch.save(content, path)
    run.accelerator.end_training()
    return 0
