"""Command line of the pretraining: train (or resume), then write the embedded base and its card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loramem.base.model import embedded_folder
from loramem.pretraining.card import make_card
from loramem.pretraining.export import export
from loramem.pretraining.train import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loramem.pretraining", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining"), help="folder of the checkpoint")
    parser.add_argument("--to", type=Path, default=embedded_folder(), help="folder of the finished base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--final-steps", type=int, default=1000, help="steps of the last, mixed stage")
    parser.add_argument("--train-only", action="store_true", help="keep the checkpoint, write no base")
    parser.add_argument(
        "--export-only", action="store_true", help="write base and card of the checkpoint as it is"
    )
    options = parser.parse_args()
    if not options.export_only:
        train(options.work, seed=options.seed, final_steps=options.final_steps)
    if not options.train_only:
        export(options.work, options.to, seed=options.seed)
        print(json.dumps(make_card(options.to), indent=1))


if __name__ == "__main__":
    main()
