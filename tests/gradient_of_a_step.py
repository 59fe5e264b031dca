"""Take the first optimiser step of a configuration and save its gradients (main process).

torchrun ... gradient_of_a_step.py FILE --cfg-path X.yaml --options ...
"""

import sys

import torch
import train as train_script
from torch.distributed.tensor import DTensor

from audiolm.config_file import load_config
from audiolm.training.setup import set_up_run

path, *rest = sys.argv[1:]
args = train_script.parse_arguments(rest)
run = set_up_run(load_config(args.cfg_path, args.options))
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
