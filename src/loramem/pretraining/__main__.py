"""Command line of the pretraining: train (or resume), then write the embedded base, or a sibling of it, and its card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loramem.base.model import EMBEDDED, embedded_folder
from loramem.pretraining.card import make_card
from loramem.pretraining.export import export
from loramem.pretraining.siblings import train_sibling
from loramem.pretraining.train import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loramem.pretraining", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining"), help="folder of the checkpoint")
    parser.add_argument(
        "--to", type=Path, default=None, help="folder of the finished base [default: the shipped one]"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--final-steps", type=int, default=1000, help="steps of the last, mixed stage")
    parser.add_argument(
        "--polish-steps", type=int, default=200, help="steps of the stage after it, for a sibling"
    )
    parser.add_argument(
        "--depth", type=int, default=None, help="make a sibling of the embedded base with so many layers"
    )
    parser.add_argument("--train-only", action="store_true", help="keep the checkpoint, write no base")
    parser.add_argument(
        "--export-only", action="store_true", help="write base and card of the checkpoint as it is"
    )
    options = parser.parse_args()
    if options.depth is not None and options.to is None:
        parser.error("--depth makes another base than the shipped one: give --to DIR")
    if not options.export_only:
        if options.depth is None:
            train(options.work, seed=options.seed, final_steps=options.final_steps)
        else:
            train_sibling(
                options.work,
                embedded_folder(),
                depth=options.depth,
                seed=options.seed,
                steps=options.final_steps,
                polish=options.polish_steps,
            )
    if not options.train_only:
        to = options.to or embedded_folder()
        polish = options.polish_steps
        depth = (
            ""
            if options.depth is None
            else f" --polish-steps {polish} --depth {options.depth} (from {EMBEDDED})"
        )
        made_by = f"python -m loramem.pretraining --final-steps {options.final_steps}{depth}"
        export(options.work, to, seed=options.seed, made_by=made_by)
        print(json.dumps(make_card(to), indent=1))


if __name__ == "__main__":
    main()
