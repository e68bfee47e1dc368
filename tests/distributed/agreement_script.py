"""One of two processes of test_agreement.py: ``python agreement_script.py RANK RENDEZVOUS FACTS.json OUTPUT.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from wegeft_pl.distributed import check_agreement


def main(rank: int, rendezvous: str, facts: Path, output: Path) -> None:
    """Compares each pair of facts and writes what was raised."""
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    said = []
    for pair in json.loads(facts.read_text()):
        try:
            check_agreement(pair[rank], torch.device("cpu"))
        except ValueError as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append(None)
    output.write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
