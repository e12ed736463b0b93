"""The rules by which modules are merged, and the settings of a merge.

Every rule is named after what it works on (docs/merging.md):

- `cat`, `cat-sqrt`: the sum of the updates, and that over sqrt(N); weights are 1 each unless given;
- `*-factors`: on A and B apart, as PEFT's `add_weighted_adapter` does. For modules trained apart this is far from any mean of theirs;
- `*-delta`: on the update B A;
- `knots-*`: on the right blocks of a joint SVD of the updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from loramem.core.config import Config
from loramem.core.registry import Registry

DENSITY = 0.5
"""Share of entries that pruning keeps (the paper's)."""


@dataclass(frozen=True)
class Rule:
    """What a merge rule does.

    Attributes:
        on: `sum` (stacked factors), `factors` (elementwise on A and B), `rows` (updates in a row space that the A factors choose),
            `delta` (elementwise on the update), `knots` (elementwise on the blocks of a joint SVD).
        prune: Entries are dropped first: the smallest, or at random.
        elect: Entries against the elected sign are left out (TIES).
        whole: Weights are 1 each unless given, so that the result is a sum; else 1/N each.
        rank: Rank of the result where none is given: the parents' `sum`, or the `largest` of them.
        cut: A rank may be given.
    """

    summary: str
    on: Literal["sum", "factors", "rows", "delta", "knots"]
    prune: Literal["magnitude", "random"] | None = None
    elect: bool = False
    whole: bool = False
    rank: Literal["sum", "largest"] = "sum"
    cut: bool = True


RULES: Registry[Rule] = Registry("merge rule")
RULES.add("cat", Rule("the sum of the updates, weight 1 each", "sum", whole=True, cut=False))
RULES.add("cat-sqrt", Rule("the sum of the updates over sqrt(N)", "sum", whole=True, cut=False))
_ELEMENTWISE: tuple[tuple[str, Literal["magnitude", "random"] | None, bool], ...] = (
    ("linear", None, False),
    ("ties", "magnitude", True),
    ("dare-linear", "random", False),
    ("dare-ties", "random", True),
    ("magnitude-prune", "magnitude", False),
)
for _name, _prune, _elect in _ELEMENTWISE:
    _of_factors = Rule(f"PEFT's {_name} on A and B", "factors", _prune, _elect, rank="largest", cut=False)
    RULES.add(f"{_name}-factors", _of_factors)
    if _prune is not None:  # the plain mean of updates needs no dense update
        RULES.add(f"{_name}-delta", Rule(f"{_name} on the update", "delta", _prune, _elect))
RULES.add(
    "svd-factors", Rule("the mean update in a row space that the A factors choose", "rows", rank="largest")
)
RULES.add("linear-delta", Rule("the weighted mean of the updates, exactly", "sum"))
RULES.add("svd-delta", Rule("the weighted mean, cut to the largest parent's rank", "sum", rank="largest"))
RULES.add("knots-linear", Rule("the weighted mean in the joint SVD's blocks", "knots"))
RULES.add("knots-ties", Rule("TIES in the joint SVD's blocks", "knots", "magnitude", True))


class Merging(Config):
    """How several modules become one."""

    rule: str = "ties-delta"
    """A name in `RULES`."""
    weights: Literal["equal", "confidence"] | tuple[Annotated[float, Field(ge=0)], ...] = "equal"
    """`equal`: 1/N each (1 each for `cat` and `cat-sqrt`). Numbers: one per parent, best first. `confidence`: what a router
    gives its modules, made to sum to what equal weights do."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of entries that a rule which prunes keeps; 0.5 where none is given."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """At most this rank; the residual is in the measures. None: the sum of the parents' ranks, the largest of them for
    `svd-delta` and `svd-factors`."""
    seed: int = 0
    """Of DARE's masks: each has its own generator, from seed, layer and parent."""

    @model_validator(mode="before")
    @classmethod
    def _density_of_the_rule(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("density") is None:
            rule = values.get("rule", cls.model_fields["rule"].default)
            if isinstance(rule, str) and rule in RULES and RULES.get(rule).prune:
                return {**values, "density": DENSITY}
        return values

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        RULES.get(rule)
        return rule

    @model_validator(mode="after")
    def _fitting(self) -> Merging:
        rule = RULES.get(self.rule)
        if self.density is not None and not rule.prune:
            raise ValueError(
                f"density: {self.rule} prunes nothing; {_having('density', lambda one: bool(one.prune))}"
            )
        if self.rank is not None and not rule.cut:
            raise ValueError(f"rank: {self.rule} is never cut; {_having('a rank', lambda one: one.cut)}")
        if self.seed and rule.prune != "random":
            raise ValueError(
                f"seed: {self.rule} draws nothing; {_having('a seed', lambda one: one.prune == 'random')}"
            )
        if self.weights == ():
            raise ValueError(
                "weights: an empty list; give one per parent, best first, or equal, or confidence"
            )
        return self

    @property
    def label(self) -> str:
        """Rule and what differs from its defaults, for columns and names of cells.

        >>> Merging().label, Merging(rule="dare-linear-factors", density=0.7, seed=2).label
        ('ties-delta', 'dare-linear-factors-d0.7-s2')
        """
        parts = [self.rule]
        if self.weights != "equal":
            given = self.weights
            parts.append("w" + (given if isinstance(given, str) else "_".join(f"{one:g}" for one in given)))
        if self.density is not None and self.density != DENSITY:
            parts.append(f"d{self.density:g}")
        if self.rank is not None:
            parts.append(f"r{self.rank}")
        if self.seed:
            parts.append(f"s{self.seed}")
        return "-".join(parts)


def _having(what: str, test: Callable[[Rule], bool]) -> str:
    return f"rules that have {what}: {', '.join(name for name in RULES if test(RULES.get(name)))}"
