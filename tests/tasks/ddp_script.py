"""Run by test_ddp.py in processes of its own: one training step and one validation, results written as JSON.

python ddp_script.py DEVICES LLAMA_FOLDER DATA_FOLDER OUTPUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from wegeft_pl import AdapterConfig
from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.tasks import CausalLMTask


class Recorder(torch.optim.SGD):
    """Keeps the norms of its first step's gradients."""

    norms: list[float]

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        loss = closure() if closure else None
        self.norms = [parameter.grad.double().norm().item() for parameter in self.param_groups[0]["params"]]
        self.sums = [parameter.grad.double().sum().item() for parameter in self.param_groups[0]["params"]]
        return loss


def main(devices: int, llama: str, data: str, output: Path) -> None:
    seed_everything(0, verbose=False)
    recorders: list[Recorder] = []

    def optimizer(parameters):  # type: ignore[no-untyped-def]
        recorders.append(Recorder(parameters, lr=0.0))
        return recorders[0]

    task = CausalLMTask(llama, max_new_tokens=4, optimizer=optimizer)
    task.use_adapter(AdapterConfig("all-linear", rank=4, alpha=8, zero="psi"))
    module = GSM8KDataModule(data, batch_size=4 // devices, eval_batch_size=2)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=output.parent,
    )
    trainer.fit(task, module)
    (scores,) = trainer.test(task, module, verbose=False)
    if trainer.is_global_zero:
        output.write_text(json.dumps({"norms": recorders[0].norms, "sums": recorders[0].sums, "scores": scores}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
