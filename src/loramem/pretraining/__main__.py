"""Command line of the pretraining: train (or resume), then write the embedded base and its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from loramem.pretraining.train import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loramem.pretraining", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining"), help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--final-steps", type=int, default=1800, help="steps of the last, mixed stage")
    options = parser.parse_args()
    train(options.work, seed=options.seed, final_steps=options.final_steps)


if __name__ == "__main__":
    main()
