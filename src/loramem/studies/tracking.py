"""Charts of a run elsewhere, for those who want them: trackio (on this machine) or Weights & Biases.

The run's own log holds the same and more (`studies.run_log`), so nothing depends on a tracker, and one that fails is dropped.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loramem.core.errors import InputError
from loramem.core.registry import Registry
from loramem.core.secrets import is_secret, masked
from loramem.studies.progress import Tracker

Config = Mapping[str, str | int | float | bool | None]


class _Run:
    """A run of a package that speaks as Weights & Biases does."""

    def __init__(self, run: Any, finish: Callable[[], None]):
        self.run, self._finish = run, finish

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers by name; `step` counts the calls."""
        if values:
            self.run.log(dict(values), step=step)

    def finish(self) -> None:
        """Send what is left, and close."""
        self._finish()


def _trackio(
    module: Any, project: str, run: str, config: dict, offline: bool, folder: Path | None
) -> Tracker:
    """Keeps all on this machine, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise and the network may be used."""
    with _without("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if offline else _without():
        made = module.init(project=project, name=run, config=config, embed=False)
    return _Run(made, module.finish)


def _wandb(module: Any, project: str, run: str, config: dict, offline: bool, folder: Path | None) -> Tracker:
    """Sends only with a key, and where the network may be used; else it keeps all in `folder`/wandb for `wandb sync`."""
    sends = bool(os.environ.get("WANDB_API_KEY", "").strip()) and not offline
    # its default also uploads code, console output and the machine's details
    quiet = module.Settings(console="off", disable_code=True, disable_git=True, save_code=False, silent=True)
    made = module.init(
        project=project, name=run, config=config, mode="online" if sends else "offline", dir=folder and str(folder), settings=quiet
    )  # fmt: skip
    return _Run(made, made.finish)


TRACKERS: Registry[Callable[..., Tracker]] = Registry("tracker")
TRACKERS.add("trackio", _trackio)
TRACKERS.add("wandb", _wandb)
EXTRAS = {"trackio": "track", "wandb": "wandb"}


def tracker(
    name: str,
    project: str,
    run: str,
    *,
    config: Config | None = None,
    offline: bool = False,
    folder: Path | None = None,
) -> Tracker:
    """Begin to track a run.

    Args:
        name: `trackio` or `wandb`.
        project, run: What charts are called.
        config: Settings to show beside them; what is named or looks like a secret is left out.
        offline: Nothing is sent.
        folder: Where files of wandb lie; None: the working folder.

    Raises:
        InputError: an unknown name, or its package is not installed.
    """
    begin = TRACKERS.get(name)
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise InputError(f"track {name}: not installed; pip install 'loramem[{EXTRAS[name]}]'") from None
    shown = masked({key: value for key, value in (config or {}).items() if not is_secret(key)})
    try:
        return begin(module, project, run, shown, offline, folder)
    except Exception as error:  # its kinds are its own; nothing has been spent yet
        text = str(error).strip().split("\n")[0]
        raise InputError(f"track {name}: it does not begin: {type(error).__name__}: {text[:300]}") from None


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Within the block the environment lacks these variables."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
