"""What is installed, whether the network may be used, and which keys are set."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from loramem import __version__
from loramem.core.storage import size
from loramem.doctor.finding import Asked, Finding
from loramem.sources.remote import offline

SHOWN = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""Packages that have a line of their own."""
OPTIONAL = ("bitsandbytes", "ray", "trackio", "wandb")
TOLD_KEYS = re.compile(r"[A-Z0-9_]*API_KEY|HF_TOKEN")
"""Environment variables that hold a key of a generator, a judge, a tracker or the hub."""


@dataclass(frozen=True)
class Needed:
    """A package, the versions asked for, and the extras that ask; without any, it is always needed."""

    name: str
    versions: SpecifierSet
    extras: tuple[str, ...] = ()


def needed(requires: Iterable[str]) -> dict[str, Needed]:
    """Requirements of a package, by name; what only extras ask for says which.

    >>> found = needed(["torch>=2.8", "ray>=2.50; extra == 'ray'"])
    >>> str(found["torch"].versions), found["ray"].extras
    ('>=2.8', ('ray',))
    """
    found: dict[str, Needed] = {}
    for text in requires:
        one = Requirement(text)
        name = canonicalize_name(one.name)
        # the extra of contributors holds the others, too
        extras = tuple(
            name
            for name in re.findall(r"extra\s*==\s*['\"]([\w.-]+)['\"]", str(one.marker or ""))
            if name != "dev"
        )
        if not extras and one.marker is not None and not one.marker.evaluate():
            continue  # for another platform or Python
        before = found.get(name)
        if before is None:
            found[name] = Needed(name, one.specifier, extras)
        elif extras and before.extras:
            found[name] = Needed(name, before.versions & one.specifier, (*before.extras, *extras))
        elif not extras:
            found[name] = Needed(name, one.specifier)
    return found


def installed(name: str) -> str | None:
    """The version of a package; None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(asked: Asked) -> Iterator[Finding]:
    """Python, this package, and every package it asks for."""
    from loramem.studies.provenance import code_state

    area = "versions"
    told = metadata("loramem") if installed("loramem") else None
    python = platform.python_version()
    wanted = SpecifierSet((told["Requires-Python"] if told else None) or ">=3.11")
    yield judged(area, "python", python, wanted, "install another Python, and loramem with it")
    code = code_state()
    commit = f", commit {code['commit'][:12]}{' (changed)' if code['changed'] else ''}" if code else ""
    yield Finding(
        area, "loramem", "ok", f"{__version__}{commit}", facts={"version": __version__, "code": code}
    )
    if told is None:
        yield Finding(
            area, "packages", "note", "loramem runs from its sources and is not installed, so what it asks for is unknown",
            "pip install -e . in its folder",
        )  # fmt: skip
    requires = needed((told.get_all("Requires-Dist") or ()) if told else SHOWN)
    yield from packages(requires, {name: installed(name) for name in {*requires, *OPTIONAL}})


def packages(requires: Mapping[str, Needed], found: Mapping[str, str | None]) -> Iterator[Finding]:
    """A line for each package that is shown or wrong, one for all others, one for each optional one.

    Args:
        found: Version by name; None for what is absent.
    """
    area, silent = "versions", 0
    always = [one for one in requires.values() if not one.extras and one.name != "loramem"]
    for one in sorted(always, key=lambda one: (one.name not in SHOWN, one.name)):
        finding = judged(
            area, one.name, found[one.name], one.versions, f"pip install '{one.name}{one.versions}'"
        )
        if one.name in SHOWN or finding.state != "ok":
            yield finding
        else:
            silent += 1
    yield Finding(area, "others", "ok", f"{silent} more packages, as asked for")
    for name in OPTIONAL:
        extra = requires[name].extras if name in requires else ()
        how = f"pip install 'loramem[{extra[0]}]'" if extra else f"pip install {name}"
        has = found.get(name)
        if has is None:
            yield Finding(area, name, "ok", f"absent; optional: {how}", facts={"version": None})
        else:
            asked = requires[name].versions if name in requires else SpecifierSet()
            yield judged(area, name, has, asked, how)


def judged(area: str, name: str, has: str | None, wanted: SpecifierSet, remedy: str) -> Finding:
    """Whether a version is in its range."""
    facts = {"version": has, "wanted": str(wanted)}
    if has is None:
        return Finding(area, name, "fault", f"absent (wanted: {wanted or 'any'})", remedy, facts)
    if not wanted.contains(has, prereleases=True):
        return Finding(area, name, "fault", f"{has} is not {wanted}", remedy, facts)
    return Finding(area, name, "ok", f"{has} ({wanted})" if str(wanted) else has, facts=facts)


def network(asked: Asked) -> Iterator[Finding]:
    """Whether the network may be used, and what is there without it. Nothing is sent."""
    from huggingface_hub.constants import HF_HUB_CACHE

    off = asked.offline or offline()
    how = "--offline" if asked.offline else "HF_HUB_OFFLINE is set"
    text = f"off ({how})" if off else "allowed: a base or data set named by its hub id is downloaded"
    yield Finding("network", "hub", "ok", text, facts={"offline": off})
    yield cache(Path(HF_HUB_CACHE))


def cache(folder: Path) -> Finding:
    """What the hub's local cache holds."""
    from huggingface_hub import scan_cache_dir

    if not folder.is_dir():
        return Finding("network", "cache", "ok", f"nothing in {folder}", facts={"repositories": []})
    scan = scan_cache_dir(folder)
    kept = sorted(scan.repos, key=lambda repo: -repo.size_on_disk)
    named = ", ".join(f"{repo.repo_id} ({size(repo.size_on_disk)})" for repo in kept[:5])
    more = f" and {len(kept) - 5} more" if len(kept) > 5 else ""
    facts = {"folder": str(folder), "repositories": [{"id": r.repo_id, "type": r.repo_type, "bytes": r.size_on_disk} for r in kept]}  # fmt: skip
    if scan.warnings:
        return Finding(
            "network", "cache", "note", f"{len(scan.warnings)} damaged entries in {folder}: {first(scan.warnings)}",
            "delete those folders; they are downloaded again when wanted", facts,
        )  # fmt: skip
    return Finding("network", "cache", "ok", f"{named or 'nothing'}{more} in {folder}", facts=facts)


def first(warnings: Iterable[object]) -> str:
    return str(next(iter(warnings))).splitlines()[0]


def keys(asked: Asked) -> Iterator[Finding]:
    """Names of the keys in the environment. Values are never shown."""
    names = sorted(name for name in os.environ if TOLD_KEYS.fullmatch(name))
    held = [name for name in names if os.environ[name].strip()]
    text = f"{', '.join(held)} set" if held else "none set; generators and judges that want no key need none"
    yield Finding("keys", "environment", "ok", text, facts={"set": held})
    for name in names:
        value = os.environ[name]
        if not value.strip():
            yield Finding("keys", name, "note", "set, but empty", "unset it, or give it a value")
        elif not value.strip().isascii() or not value.strip().isprintable() or " " in value.strip():
            yield Finding("keys", name, "note", "holds characters that no key has", "copy the key once more")
