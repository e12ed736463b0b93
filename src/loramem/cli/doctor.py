"""`loramem doctor`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from loramem.cli.options import BaseOption, DeviceOption, OfflineOption, StoreOption
from loramem.cli.terminal import say, show_json


def doctor(
    store: StoreOption = None,
    base: BaseOption = "embedded",
    device: DeviceOption = None,
    offline: OfflineOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="move what is damaged in the store to STORE/quarantine, clear what dead processes left",
        ),
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="read every byte of the store: checksums, tensors, rows")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object in place of lines")] = False,
) -> None:
    """Check versions, devices, memory, disk, network, keys, embedder, base, training and store; exit 1 if anything is faulty."""
    if offline:  # before anything is imported that reads it
        os.environ["HF_HUB_OFFLINE"] = "1"
    from loramem.core.places import is_url, local_root, store_place
    from loramem.core.secrets import masked
    from loramem.doctor import Asked, Finding, check_asked, examine

    place = store or store_place()
    url = place if is_url(place) else None
    asked = Asked(local_root(place), base, device, offline, repair, deep, url)
    check_asked(asked)
    found: list[Finding] = []
    for finding in examine(asked):
        found.append(finding)
        if not json_:
            say(masked(finding.line))
    states = Counter(finding.state for finding in found)
    if json_:
        listed = masked([asdict(one) for one in found])
        show_json({"faults": states["fault"], "notes": states["note"], "findings": listed})
    else:
        named = ", ".join(f"{one.area} {one.name}" for one in found if one.state == "fault")
        counts = ", ".join(f"{states[one]} {one}{'s' * (states[one] != 1)}" for one in ("fault", "note"))
        say(counts + (f": {named}" if named else ""))
    if states["fault"]:
        raise typer.Exit(1)
