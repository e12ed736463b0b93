"""Errors a user can meet, and the exit code each one means.

Every error is a `LoramemError`; each child also inherits the builtin that a caller would expect,
and holds only its message, so that it can be pickled by a worker and raised again in the parent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LoramemError(Exception):
    """Root of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(LoramemError, ValueError):
    """What the user gave cannot be used: a file, a value, a name, a clash of options."""

    exit_code = 2


class UnknownName(InputError, KeyError):
    """A name that is in no registry or store."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class Faults(InputError):
    """Several faults of one input, shown together so that one correction mends all of them."""

    def __init__(self, faults: Sequence[str] | str):
        faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(f"- {fault}" for fault in faults) if len(faults) > 1 else faults[0])
        self.faults = faults

    def __reduce__(self):
        return (type(self), (self.faults,))


class RunFailed(LoramemError, RuntimeError):
    """Some part of a run failed; the rest was finished and kept."""


class Corrupt(LoramemError, OSError):
    """A file of the store does not hold what its name promises."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The message part ``allowed: a, b. Did you mean 'b'?`` for an unknown `given`.

    >>> nearest("phonebok", ["phonebook", "counterfact"])
    "allowed: counterfact, phonebook. Did you mean 'phonebook'?"
    """
    names = sorted(map(str, allowed))
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    text = f"allowed: {', '.join(names) if names else '(none)'}."
    return text + (f" Did you mean '{close[0]}'?" if close else "")
