"""The store as the doctor shows it: counts, faults, and what a repair did."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from loramem.core.storage import size
from loramem.doctor.finding import Asked, Finding
from loramem.modules.store_check import QUARANTINE, StoreCheck, Tell, check_store, repair

REPAIR = "loramem doctor --repair sets it aside; the next run makes it again"


TELL_EVERY_SECONDS = 10.0


def patience() -> Tell:
    """Says on standard error how far a long check is."""
    last = time.monotonic()

    def tell(part: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_EVERY_SECONDS:
            last = time.monotonic()
            print(f"looking at {part}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return tell


def store(asked: Asked) -> Iterator[Finding]:
    """Everything in the store, checked and, if asked for, repaired."""
    if asked.url is not None:
        yield Finding(
            "store",
            asked.url,
            "note",
            f"kept elsewhere; looked at is what this machine has of it, {asked.store}",
        )
    if not asked.store.exists():
        yield Finding("store", str(asked.store), "ok", "not there yet; the first run makes it")
        return
    check = check_store(asked.store, deep=asked.deep, tell=patience())
    if asked.repair:
        done = repair(check, deep=asked.deep)
        for path, target, why in done.moved:
            name, to = path.relative_to(check.root), target.relative_to(check.root)
            yield Finding("repair", str(name), "note", f"moved to {to}: {why}", facts={"to": str(to)})
        for path, why in done.left:
            yield Finding("repair", str(path.relative_to(check.root)), "fault", f"left where it is: {why}", "move it away by hand")  # fmt: skip
        text = f"{len(done.moved)} set aside, {done.cleared} temporaries of dead processes removed"
        yield Finding("repair", "done", "ok", text, facts={"moved": len(done.moved), "cleared": done.cleared})
        check = check_store(asked.store, deep=asked.deep, tell=patience())
        check.faults = [fault for fault in check.faults if fault.path not in {path for path, _ in done.left}]
    yield from shown(check, deep=asked.deep)


def shown(check: StoreCheck, *, deep: bool) -> Iterator[Finding]:
    """A line for what there is, one for each fault, and one for each kind of thing that deserves a remark."""
    parts = ", ".join(
        f"{count.things:,} {part} ({size(count.bytes)})"
        for part, count in check.counts.items()
        if count.things
    )
    how = "every byte read" if deep else "markers, headers and sizes read; --deep reads every byte"
    facts = {
        "bytes": check.bytes, "parts": {part: vars(count) for part, count in check.counts.items()}, "deep": deep,
        "without_checksums": check.without_sums, "temporary": vars(check.temporary), "faults": len(check.faults),
    }  # fmt: skip
    yield Finding("store", str(check.root), "ok", f"{parts or 'empty'}; {how}", facts=facts)
    for fault in check.faults:
        yield Finding("store", str(fault.path.relative_to(check.root)), "fault", fault.text, REPAIR)
    if check.without_sums:
        text = f"{check.without_sums:,} modules and readings of older versions have no checksums"
        yield Finding("store", "checksums", "ok", text)
    if check.temporary.things:
        text = f"{check.temporary.things:,} ({size(check.temporary.bytes)}): work in progress, or left by processes that died"
        yield Finding("store", "temporary", "note", text, "loramem doctor --repair removes those of the dead")
    if check.unknown:
        names = ", ".join(str(path.relative_to(check.root)) for path in check.unknown[:5])
        more = f" and {len(check.unknown) - 5} more" if len(check.unknown) > 5 else ""
        yield Finding("store", "unknown", "note", f"{names}{more}: nothing of loramem's; left alone")
    aside = check.counts.get(QUARANTINE)
    if aside is not None and aside.things:
        yield Finding(
            "store", QUARANTINE, "note", f"{aside.things:,} things set aside ({size(aside.bytes)})",
            f"delete {check.root / QUARANTINE} once they are made again",
        )  # fmt: skip
