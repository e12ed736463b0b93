"""Names of files for names from data."""

from __future__ import annotations

import re

from loramem.core.identity import digest

_PLAIN = re.compile(r"[a-z0-9_](?:[a-z0-9._=+@-]*[a-z0-9_=+@-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""What Windows takes for devices, whatever follows a dot."""
_HASHED = re.compile(r".*-[0-9a-f]{12}", re.DOTALL)
LONGEST = 120
"""Characters of a name; most file systems hold 255 bytes, suffix included."""


def file_name(text: str) -> str:
    """A name for a file or folder: no path, on any file system, and never the name of another text.

    A plain name (small letters, digits, `._=+@-`) stays what it is. Any other is spelt in plain characters and gets a
    hash: so two names that differ in case or in the form of their accents alone do not meet on a disk that ignores that.

    >>> file_name("phonebook-load-exact_match")
    'phonebook-load-exact_match'
    >>> file_name("../../etc/passwd"), file_name("Con")
    ('etc-passwd-8c8931e4aa24', 'con-d9da4106d37c')
    """
    if (
        len(text) <= LONGEST
        and _PLAIN.fullmatch(text)
        and not _RESERVED.fullmatch(text)
        and not _HASHED.fullmatch(text)
    ):
        return text  # fmt: skip
    spelt = re.sub(r"[^a-z0-9_=+@]+", "-", text.lower()).strip("-")[: LONGEST - 13].strip("-")
    return f"{spelt or 'name'}-{digest(text)[:12]}"
