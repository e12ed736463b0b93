"""What a study costs: from the ledgers that lie beside its modules, and from what a run spent itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loramem.core.files import read_marker
from loramem.core.ledger import Ledger
from loramem.modules.store import Store, weight_bytes
from loramem.studies.execute import Outcome
from loramem.studies.plan import Plan


def module_costs(plans: Iterable[Plan], store: Store) -> dict[str, dict[str, float]]:
    """Of every finished module of the plans, by its id: training tokens and seconds, tokens cut away, bytes on disk.

    Whoever adds up several studies counts a module that they share once, by its id.
    """
    found: dict[str, dict[str, float]] = {}
    for identity in sorted({identity for plan in plans for identity in plan.modules}):
        if store.has_module(identity):
            folder = store.module_record(identity)
            ledger = read_marker(folder / "ledger.json")
            found[identity] = {
                "tokens": ledger["tokens"], "truncated_tokens": ledger["truncated_tokens"], "seconds": ledger["seconds"],
                "bytes": weight_bytes(folder),
            }  # fmt: skip
    return found


def costs_of(modules: Mapping[str, Mapping[str, float]], legs: Iterable[tuple[Plan, Outcome]]) -> dict:
    """What the whole study costs (its modules, whoever trained them) beside what this run spent.

    Args:
        modules: See `module_costs`.
        legs: Plan and outcome on every base.
    """
    spent = Ledger()
    for plan, outcome in legs:
        for stage, amounts in outcome.ledger.as_dict().items():
            spent.add(stage, **amounts)
        for row in plan.supervision:
            own = {name: row[name] for name in ("calls", "prompt_tokens", "new_tokens", "cached")}
            if any(own.values()):
                spent.add("synthesis", **own, **({} if row["cost"] is None else {"cost": row["cost"]}))
    return {
        "train_tokens": sum(one["tokens"] for one in modules.values()),
        "truncated_tokens": sum(one["truncated_tokens"] for one in modules.values()),
        "module_bytes": sum(one["bytes"] for one in modules.values()),
        "this_run": spent.as_dict(),
    }
