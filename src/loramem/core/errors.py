"""Errors a user can meet, and the exit code each one means.

Every error is a `LoramemError`; each child also inherits the builtin that a caller would expect,
and holds only its message, so that it can be pickled by a worker and raised again in the parent.
A message quotes what users and data gave; wherever it ends (a terminal, a log, a report), it holds no secret and no
character that acts on who reads it (`core.shown.told`), and stays short, however long that is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from loramem.core.shown import shortened, told

LONGEST = 1_950
"""Characters of a message."""
LONGEST_FAULT = 400
"""Characters of one fault of several."""
MOST_NAMES = 40
"""Allowed names that are listed; of more only those that come near."""


class LoramemError(Exception):
    """Root of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, *messages: object):
        super().__init__(*(_fit(one, LONGEST) if isinstance(one, str) else one for one in messages))


class InputError(LoramemError, ValueError):
    """What the user gave cannot be used: a file, a value, a name, a clash of options."""

    exit_code = 2


class UnknownName(InputError, KeyError):
    """A name that is in no registry or store."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class Faults(InputError):
    """Several faults of one input, shown together so that one correction mends all of them.

    The message holds as many as fit in it and says how many more there are; `faults` has them all.
    """

    def __init__(self, faults: Sequence[str] | str):
        given = [faults] if isinstance(faults, str) else faults
        most = LONGEST if len(given) == 1 else LONGEST_FAULT
        faults = [_fit(fault, most) for fault in given]
        super().__init__(_listed(faults) if len(faults) > 1 else faults[0])
        self.faults = faults

    def __reduce__(self):
        return (type(self), (self.faults,))


class RunFailed(LoramemError, RuntimeError):
    """Some part of a run failed; the rest was finished and kept."""


class Corrupt(LoramemError, OSError):
    """A file of the store does not hold what its name promises."""


def _fit(text: str, most: int) -> str:
    """A message as it is shown. Secrets are looked for in more than is shown, so that none is cut in two and missed; not in all,
    for that takes long in a text of megabytes."""
    return shortened(told(shortened(text, 4 * most)), most)


def _listed(faults: Sequence[str]) -> str:
    """The faults, one a line, as far as a message holds them."""
    lines: list[str] = []
    room = LONGEST - len("- ... and 1000000 more")
    for number, fault in enumerate(faults):
        room -= len(fault) + 3
        if room < 0:
            lines.append(f"- ... and {len(faults) - number:,} more")
            break
        lines.append(f"- {fault}")
    return "\n".join(lines)


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The message part ``allowed: a, b. Did you mean 'b'?`` for an unknown `given`.

    >>> nearest("phonebok", ["phonebook", "counterfact"])
    "allowed: counterfact, phonebook. Did you mean 'phonebook'?"
    """
    names = sorted(map(str, allowed))
    # of a text that is far too long for a name the beginning is enough; to compare takes time by its square
    close = difflib.get_close_matches(str(given)[:LONGEST_FAULT], names, n=5, cutoff=0.5)
    shown = names if len(names) <= MOST_NAMES else close or names[:5]
    text = f"allowed: {', '.join(shown) if shown else '(none)'}"
    text += "." if len(shown) == len(names) else f", ... ({len(names):,} in all)."
    return text + (f" Did you mean '{close[0]}'?" if close else "")
