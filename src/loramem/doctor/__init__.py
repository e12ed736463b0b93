"""`loramem doctor`: does everything that a run needs work on this machine, and is the store sound?

Checks are generators of findings; one that breaks is a finding, too, and the others go on. Nothing is sent anywhere, and the hub is
asked only for a base that is named by its hub id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loramem.core.errors import InputError
from loramem.core.paths import user_path
from loramem.doctor import machine, models, software, storage
from loramem.doctor.finding import Asked, Finding, State, first_line

__all__ = ["Asked", "Finding", "State", "check_asked", "examine"]

AREAS: dict[str, Callable[[Asked], Iterator[Finding]]] = {
    "versions": software.versions,
    "devices": machine.devices,
    "memory": machine.memory,
    "disk": machine.disks,
    "network": software.network,
    "keys": software.keys,
    "embedder": models.embedder,
    "base": models.base,
    "store": storage.store,
}
"""In the order they are shown: what is quick and explains the rest comes first."""


def check_asked(asked: Asked) -> None:
    """Refuse options that name nothing. Raises `InputError`."""
    from loramem.base.model import choose_device, resolve

    choose_device(asked.device)
    if asked.store.exists() and not asked.store.is_dir():
        raise InputError(f"--store {asked.store}: a file; give a folder")
    if user_path(asked.base, "base").exists() or asked.base.count("/") != 1:
        resolve(asked.base, offline=True)  # anything but a hub id, which is looked for when its turn comes


def examine(asked: Asked) -> Iterator[Finding]:
    """Every finding, as soon as it is known."""
    for area, look in AREAS.items():
        try:
            yield from look(asked)
        except Exception as error:  # the doctor tells what is broken; it does not break with it
            yield Finding(
                area,
                "check",
                "fault",
                f"broke off: {first_line(error)}",
                "report this with the line above it",
            )
