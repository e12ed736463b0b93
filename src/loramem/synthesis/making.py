"""From units and a recipe to supervision: who writes what, without repetitions, with an account of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from loramem.core.errors import InputError, RunFailed
from loramem.sources.types import Document
from loramem.synthesis.dedupe import repeated
from loramem.synthesis.recipes import Portion, canonical, parse_recipe
from loramem.synthesis.supervision import Example, Made, Supervision
from loramem.synthesis.units import Unit, as_units

Pairs = Mapping[str, Sequence[tuple[str, str]]]
"""Published (question, answer) pairs by document id."""
Written = tuple[list[Example], Made]


class Writer(Protocol):
    """Writes the counted parts of a recipe: exactly (`synthesis.exact`), or with a model (`synthesis.writing`).

    Attributes:
        name: Kept as `Example.generator`.
    """

    name: str

    def write(self, units: Sequence[Unit], portion: Portion, exclude: Collection[str]) -> list[Written]:
        """For each unit at most `portion.n` different examples, and the account of them.

        Args:
            exclude: Questions that must not be asked: those of the probes.
        """
        ...


def raw(unit: Unit) -> Written:
    """The document's own words. A question of a record stands in the user turn (PITFALLS 1)."""
    name, found = unit.document.id, []
    for record, span in zip(unit.document.records, unit.places, strict=True):
        prompt, answer = ("", record.text) if record.form == "text" else (record.prompt, record.answer)
        if answer.strip():  # a piece of a record may hold no word
            found.append(Example(record.form, prompt, answer, name, record.id, span=span))
    return found, Made(unit.id, name, "raw", written=len(found))


def published(unit: Unit, pairs: Pairs) -> Written:
    """The pairs published for the unit's document. Raises `InputError` where there are none, or for a piece of a document."""
    name = unit.document.id
    if name not in pairs:
        raise InputError(f"recipe published: nothing was published for document {name!r}")
    if unit.id != name:
        raise InputError(
            "recipe published: pairs belong to whole documents; use partition corpus or document"
        )
    found = [
        Example("chat", question, answer, name, name, "published", span=unit.span, recipe="published")
        for question, answer in pairs[name]
    ]
    return found, Made(unit.id, name, "published", written=len(found))


def synthesize(
    material: Sequence[Unit] | Sequence[Document],
    recipe: str = "raw",
    writer: Writer | None = None,
    *,
    exclude: Collection[str] = (),
    pairs: Pairs | None = None,
) -> Supervision:
    """Make supervision: every part of the recipe for every unit, unit by unit, nothing twice.

    Args:
        material: Documents, or units (`synthesis.units`).
        recipe: A recipe such as `raw+qa:40`.
        writer: Who writes the counted parts; `raw` and `published` need none.
        exclude: Questions that no example may ask which the writer writes.
        pairs: Published pairs, for `published`.

    Raises:
        Faults: a recipe that does not exist.
        InputError: a part without a writer or without published pairs.
        RunFailed: nothing was written.
    """
    portions = parse_recipe(recipe)
    units = [m if isinstance(m, Unit) else as_units([m])[0] for m in material]
    by_unit: dict[str, list[Written]] = {unit.id: [] for unit in units}
    for portion in portions:
        name = portion.kind.name
        if portion.kind.written:
            if writer is None:
                raise InputError(
                    f"recipe {recipe!r}: {name} needs a generator; give one (exact, local or a URL)"
                )
            done = writer.write(units, portion, exclude)
        elif name == "published":
            done = [published(unit, pairs or {}) for unit in units]
        else:
            done = [raw(unit) for unit in units]
        for unit, written in zip(units, done, strict=True):
            by_unit[unit.id].append(written)
    examples: list[Example] = []
    accounts: list[Made] = []
    for parts in by_unit.values():
        out, place = repeated([example for found, _ in parts for example in found]), 0
        for found, account in parts:
            # a document may say something twice, and raw is what it says
            new = [e for n, e in enumerate(found, place) if n not in out or e.recipe == "raw"]
            place += len(found)
            account.duplicates += len(found) - len(new)
            account.written = len(new)
            examples += new
            accounts.append(account)
    if not examples:
        why = "; ".join(f"{one.unit} {one.recipe}: {one.why}" for one in accounts[:3])
        cut = any("too-long" in one.failures for one in accounts)
        advice = "; cut the documents smaller (partition chunk)" if cut else ""
        raise RunFailed(f"recipe {recipe!r} gave no examples ({why or 'no documents'}){advice}")
    return Supervision(canonical(recipe), tuple(examples), tuple(accounts))
