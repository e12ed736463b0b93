"""What a study asks besides its sources' own probes: unrelated things (harm), and questions that no module can answer."""

from __future__ import annotations

from dataclasses import replace

from loramem.base.model import Base
from loramem.core.config import Config
from loramem.sources.catalogue import Source, load_dev
from loramem.sources.slicing import spread
from loramem.sources.types import Probe
from loramem.sources.unrelated import unrelated_probes
from loramem.studies.spec import Study
from loramem.studies.study_file import StrangerChoice


def with_extras(study: Study, config: Config, source: Source, base: Base) -> Source:
    """The source with further probes; what they ask is in no document of it.

    Raises:
        InputError: strangers are asked for, but this kind of source has no dev split.
    """
    extra: list[Probe] = []
    if study.file.harm is not None:
        harm = study.file.harm
        extra += unrelated_probes(
            base.prompts.count, passages=harm.passages, facts=harm.facts, seed=harm.seed,
            written={record.prompt for record in source.records},
        )  # fmt: skip
    if study.file.strangers is not None:
        extra += strangers_of(study.file.strangers, config, base)
    return replace(source, probes=(*source.probes, *extra)) if extra else source


def strangers_of(choice: StrangerChoice, config: Config, base: Base) -> list[Probe]:
    """Questions of the dev split in words that nobody learnt, where there are such, as probes of no document."""
    dev = load_dev(config, choice.dev_tokens, base.prompts.count)
    asked = [probe for probe in dev.probes if probe.kind in ("generate", "choice")]
    wordings = {probe.phrasing for probe in asked}
    wording = "heldout" if "heldout" in wordings else "trained"
    asked = [probe for probe in asked if probe.phrasing == wording]
    kept = spread([probe.id for probe in asked], choice.questions)
    return [
        replace(probe, id=f"stranger:{probe.id}", case=f"stranger:{probe.id}", fact="", document="", phrasing="stranger")
        for probe in asked
        if probe.id in kept
    ]  # fmt: skip
