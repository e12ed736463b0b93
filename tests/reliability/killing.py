"""Kills a study at random moments, starts it again, and compares how it ends with a run that nobody disturbed.

As a program it prints one line of JSON with what it did: `python tests/reliability/killing.py --kills 50`, with the folder
`tests` on PYTHONPATH. It raises `AssertionError` where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reliability.comparing import check_same, check_whole, stamps
from reliability.processes import Forked, Process, Start, fresh
from reliability.small_study import (
    CONCURRENCY,
    PHASES,
    Place,
    Setting,
    Undisturbed,
    Watch,
    reach,
    setting,
    undisturbed,
)


@dataclass
class Account:
    """What was done to a study, for the record.

    Attributes:
        by_phase: Kills by what the run was doing.
        amid_a_write: Kills that left something half written, which must then be gone at the end.
        modules, readings: How many each attempt finished.
        asked_again: Questions that the judge had to be asked again: those under way when a run was killed.
        apart: Files that in the end differed in the last digits of numbers, of all rounds.
    """

    launch: str
    seed: int
    kills: int = 0
    attempts: int = 0
    rounds: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    amid_a_write: int = 0
    modules: list[int] = field(default_factory=list)
    readings: list[int] = field(default_factory=list)
    asked_again: int = 0
    apart: int = 0
    undisturbed_seconds: float = 0.0
    seconds: float = 0.0

    def line(self) -> str:
        return json.dumps(
            {
                **self.__dict__,
                "by_phase": {phase: self.by_phase[phase] for phase in PHASES},
                "undisturbed_seconds": round(self.undisturbed_seconds, 1),
                "seconds": round(self.seconds, 1),
            }
        )


def kill_at(process: Process, watch: Watch, plain: Undisturbed, phase: str, share: float) -> str | None:
    """SIGKILL a run when it has done such a share of a phase. Returns what it was doing; None where it came to its end before."""
    # any of the modules may be the one at hand: the first alone takes half of the time, for what is loaded with it
    which, part = divmod(share * plain.stages["train"], 1) if phase in ("train", "save") else (0, share)
    if reach(process, watch, phase, part * plain.lasts(phase), modules=int(which)):
        process.send(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            return watch.phase()
    return None


def check_not_again(place: Place, watch: Watch, plain: Undisturbed, trained: int, read: int) -> None:
    """What an attempt set out to do is what was missing when it began."""
    for stage, done in (("train", trained), ("read", read)):
        assert watch.stages.get(stage, 0) in (0, plain.stages[stage] - done), (stage, watch.stages, done)


def plant_torn(place: Place, wanted: Place) -> None:
    """Leave what a crash of the machine may leave: a module and a reading without their markers, half written."""
    for kind, name in (("modules", "adapter_model.safetensors"), ("readings", "predictions.jsonl")):
        id, whole = next(iter(wanted.finished(kind).items()))
        torn = place.store / kind / id
        torn.mkdir(parents=True)
        (torn / name).write_bytes((whole / name).read_bytes()[:100])


def rounds(rng: random.Random, kills: int, each: int) -> Iterator[list[str]]:
    """Phases to kill in, in the order in which a run comes to them; every phase is as likely as any other."""
    while kills > 0:
        count = min(each, kills)
        yield sorted(rng.choices(PHASES, k=count), key=PHASES.index)
        kills -= count


def kill_again_and_again(
    setting: Setting,
    plain: Undisturbed,
    folder: Path,
    start: Start,
    plans: Sequence[Sequence[str]],
    *,
    seed: int,
    launch: str,
    note: Callable[[str], None] = lambda text: None,
) -> Account:
    """In each round kill one run of the study in every phase of a plan, then let it end, and compare.

    Raises:
        AssertionError: a torn folder is read, something is done twice, or results differ.
    """
    rng, account, began = (
        random.Random(seed),
        Account(launch, seed, undisturbed_seconds=plain.seconds),
        time.monotonic(),
    )
    for number, plan in enumerate(plans):
        place = Place(folder / f"round-{number}")
        plant_torn(place, plain.place)
        asked, judged = len(setting.asked), 0
        aims = [(phase, rng.random()) for phase in plan]
        while True:
            account.attempts += 1
            before, trained, read = stamps(place), place.trained(), place.finished("readings")
            process, watch = start(place.command(setting), place.folder), Watch(place)
            if aims:
                phase, share = aims.pop(0)
                killed = kill_at(process, watch, plain, phase, share)
                if killed is None:  # it was done too soon: once more, earlier
                    aims.insert(0, (phase, share / 2))
            else:
                killed = None
                assert process.wait() == 0, process.output + process.errors
                watch.phase()
            assert process.code == (0 if killed is None else -signal.SIGKILL), process.output + process.errors
            assert not process.errors, process.errors
            if killed is not None:
                account.kills += 1
                account.by_phase[killed] += 1
                account.amid_a_write += bool(place.temporaries())
                judged += killed == "judge"
            after = stamps(place)
            assert before.items() <= after.items(), "something finished was made again or taken away"
            check_not_again(place, watch, plain, len(trained), len(read))
            check_whole(place)
            account.modules.append(len(place.trained() - trained))
            account.readings.append(len(place.finished("readings").keys() - read.keys()))
            note(f"attempt {account.attempts}: {killed or 'went through'}")
            if killed is None and not aims:
                break
        again = len(setting.asked) - asked - len(set(setting.asked[asked:]))
        assert again <= CONCURRENCY * judged, (again, judged)
        account.asked_again += again
        account.apart += len(check_same(place, plain.place))
        account.rounds += 1
        shutil.rmtree(place.folder)
    account.seconds = time.monotonic() - began
    return account


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill a study and print the account as one line of JSON."""
    parser = argparse.ArgumentParser(
        description="Kill a study at random moments, restart it, compare how it ends."
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=7, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forked", action="store_true", help="copy a process that has imported everything")
    given = parser.parse_args(arguments)
    plans = list(rounds(random.Random(given.seed), given.kills, given.each))
    with tempfile.TemporaryDirectory() as name, setting(Path(name) / "setting") as one:
        folder = Path(name)

        def run(start: Start, launch: str) -> Account:
            plain = undisturbed(one, folder / "undisturbed", start)
            return kill_again_and_again(
                one,
                plain,
                folder,
                start,
                plans,
                seed=given.seed,
                launch=launch,
                note=lambda text: print(text, file=sys.stderr),
            )

        if given.forked:
            with Forked() as forked:
                account = run(forked, "forked")
        else:
            account = run(fresh, "fresh")
    print(account.line())


if __name__ == "__main__":
    main()
