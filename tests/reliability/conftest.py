"""What the tests of this folder share: a process to copy, and a study that was run without disturbance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from reliability.processes import Forked
from reliability.small_study import Setting, Undisturbed, setting, undisturbed


@dataclass(frozen=True)
class Known:
    """A small study, a run of it that nobody disturbed, and what starts further runs."""

    setting: Setting
    plain: Undisturbed
    start: Forked


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    with Forked() as one:
        yield one


@pytest.fixture(scope="session")
def known(forked, tmp_path_factory) -> Iterator[Known]:
    folder = tmp_path_factory.mktemp("killed")
    with setting(folder / "setting") as one:
        yield Known(one, undisturbed(one, folder / "undisturbed", forked), forked)
