"""The far side of a store that many machines share: behind a URL, in an object store or wherever else fsspec can write.

    <kind>/<id>/recipe.json          the marker: sent last, read first; without it there is nothing
    <kind>/<id>/<copy>/...           the files; <copy> is named by the content of the marker

Two machines that finish the same thing at the same time differ in seconds and in rounding. Each sends its files to a copy of
its own, and the marker that stands says by its content which copy counts: files of two writers never mix, without a lock,
whatever the service promises. What is fetched is checked against the sizes and checksums in its marker.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from loramem.core.errors import Corrupt, InputError, RunFailed
from loramem.core.files import inside, new_folder, write_json
from loramem.core.identity import file_digest
from loramem.core.remote import Remote

UNSENT = "unsent"
"""Folder of notes, in the store of this machine, of what is to be sent; a command that was killed or cut off leaves them."""
ABOUT = "store.json"
LAYOUT = 1
_ID = re.compile(r"[\w-]+")


class Mirror:
    """What lies behind a store's URL. Nothing is asked of it before it must be; errors are those of `Remote`.

    Args:
        url: Where.
        root: The store's folder on this machine.
        markers: Of each kind of folder, the file that makes it complete. One that is no JSON is the whole folder.
    """

    def __init__(self, url: str, root: Path, markers: Mapping[str, str]):
        self.remote, self.root, self.markers = Remote(url), root, dict(markers)
        self._listed: dict[str, frozenset[str]] = {}

    def check(self) -> None:
        """See that the place can be read and written, before anything is spent on what is to be kept there.

        Raises:
            InputError: it cannot, holds a store of another version, or holds this machine's own folder.
        """
        url, far = self.remote.url, self.remote.folder
        if far is not None and self.root.resolve().is_relative_to(far.resolve()):
            raise InputError(
                f"store {url}: holds its own cache {self.root}; set LORAMEM_CACHE to another folder"
            )
        own = self.root / ABOUT
        write_json(own, {"layout": LAYOUT})
        patience = self.remote.waits
        self.remote.waits = patience[:1]  # nothing is lost, and somebody waits
        try:
            kept = self.remote.read(ABOUT)
            if kept not in (None, own.read_bytes()):
                raise InputError(f"store {url}: its {ABOUT} is of another version; give another place")
            # also where it is there: that it may be written shows now, and not after the first training
            self.remote.put({ABOUT: own})
        except RunFailed as error:
            raise InputError(str(error)) from None
        finally:
            self.remote.waits = patience

    # -- what is there -----------------------------------------------------------------------------
    def ids(self, kind: str) -> frozenset[str]:
        """Ids of all complete folders of a kind, as they are now: one listing."""
        wanted = re.compile(f"{kind}/({_ID.pattern})/{re.escape(self.markers[kind])}")
        found = map(wanted.fullmatch, self.remote.names(kind))
        self._listed[kind] = frozenset(match[1] for match in found if match)
        return self._listed[kind]

    def has(self, kind: str, identity: str) -> bool:
        """Whether a folder is complete there: known from the last listing, else asked for alone."""
        if kind not in self._listed:
            self.ids(kind)
        if identity not in self._listed[kind]:
            if not _ID.fullmatch(identity) or not self.remote.exists(self._marker(kind, identity)):
                return False
            self._listed[kind] |= {identity}
        return True

    def bodies(self, kind: str, identities: Collection[str]) -> dict[str, dict]:
        """The markers of folders, read together; what has gone meanwhile is left out. Raises `Corrupt` for a damaged one."""
        names = {self._marker(kind, identity): identity for identity in identities}
        contents = self.remote.read_all(names)
        return {names[name]: self._body(name, content) for name, content in contents.items()}

    # -- there and back ----------------------------------------------------------------------------
    def owe(self, kind: str, identity: str) -> None:
        """Note, before a folder is complete, that it is to be sent: whatever happens then, the next command does it."""
        note = self._note(kind, identity)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()

    def push_owed(self) -> None:
        """Send what is complete here and was not sent."""
        for note in sorted((self.root / UNSENT).glob("*/*")):
            kind, identity = note.parts[-2:]
            if kind in self.markers and (self.root / self._marker(kind, identity)).exists():
                self.push(kind, identity)

    def push(self, kind: str, identity: str) -> None:
        """Send a complete folder, its marker last; the first that is complete there stays.

        Raises:
            RunFailed: the place could not be reached or written. The folder is kept here, and a note of it.
        """
        marker = self._marker(kind, identity)
        content = (self.root / marker).read_bytes()
        files = self._body(marker, content)["files"] if marker.endswith(".json") else ()
        own = f"{kind}/{identity}/{_copy(content)}"
        try:
            if not self.remote.exists(marker):
                if files:
                    self.remote.put({f"{own}/{name}": self.root / kind / identity / name for name in files})
                first = self.remote.read(marker)
                if first is None:
                    self.remote.put({marker: self.root / marker})
                elif first != content:  # another machine was faster: its copy stays
                    self.remote.remove(own, tree=True)
        except RunFailed as error:
            raise RunFailed(
                f"{error}; it is kept in {self.root / kind / identity}, and the next command on this store sends it"
            ) from None
        self._listed[kind] = self._listed.get(kind, frozenset()) | {identity}
        self._note(kind, identity).unlink(missing_ok=True)

    def pull(self, kind: str, identity: str, target: Path, only: Collection[str] = ()) -> bool:
        """Fetch a folder, or `only` some of its files, to where nothing is. False where it is not there.

        Raises:
            Corrupt: what lies there is not what its marker says, also when fetched again.
        """
        marker = self._marker(kind, identity)
        content = self.remote.read(marker) if _ID.fullmatch(identity) else None
        if content is None:
            self._listed[kind] = self._listed.get(kind, frozenset()) - {identity}  # deleted meanwhile
            return False
        body = self._body(marker, content)
        told = {name: value for name, value in body["files"].items() if not only or name in only}
        with new_folder(target, marker=self.markers[kind], marker_value=lambda: body) as work:
            places = {name: inside(work, name) for name in told}

            def fetched(below: str) -> bool:
                there = self.remote.get({f"{below}/{name}": path for name, path in places.items()})
                return there and all(_as_told(path, told[name]) for name, path in places.items())

            # a folder that came there by other means has its files beside the marker
            beside = f"{kind}/{identity}"
            if told and not any(fetched(below) for below in (f"{beside}/{_copy(content)}", beside) * 2):
                raise Corrupt(self._damaged(marker, "its files are missing, or not what it lists"))
        return True

    def delete(self, kind: str, identity: str) -> None:
        """Remove a folder for all machines, its marker first. Nothing happens where there is none."""
        self.remote.remove(self._marker(kind, identity))
        self.remote.remove(f"{kind}/{identity}", tree=True)
        self._listed[kind] = self._listed.get(kind, frozenset()) - {identity}
        self._note(kind, identity).unlink(missing_ok=True)

    # -- parts -------------------------------------------------------------------------------------
    def _marker(self, kind: str, identity: str) -> str:
        return f"{kind}/{identity}/{self.markers[kind]}"

    def _note(self, kind: str, identity: str) -> Path:
        return self.root / UNSENT / kind / identity

    def _body(self, marker: str, content: bytes) -> dict[str, Any]:
        try:
            body = json.loads(content)
            for told in body["files"].values():
                int(told["bytes"]), str(told["sha256"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Corrupt(self._damaged(marker, "it cannot be read, or lists no files")) from None
        return body

    def _damaged(self, marker: str, what: str) -> str:
        kind, identity, _ = marker.split("/")
        mend = f"loramem modules delete {identity[:12]}" if kind == "modules" else f"remove {kind}/{identity}"
        return f"store {self.remote.url}: {marker} is damaged: {what}; {mend}, then the command again"


def _copy(marker: bytes) -> str:
    """The name of the copy that a marker belongs to. It lists checksums, so equal markers have equal files."""
    return hashlib.sha256(marker).hexdigest()[:16]


def _as_told(path: Path, told: Mapping[str, Any]) -> bool:
    return path.stat().st_size == told["bytes"] and file_digest(path) == told["sha256"]
