"""The commands that write: `loramem synth` and `loramem data probe`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loramem.cli.options import BaseOption, DeviceOption, DtypeOption, OfflineOption, StoreOption
from loramem.cli.terminal import say
from loramem.core.errors import InputError, nearest
from loramem.core.paths import check_file, user_path
from loramem.core.shown import quoted

GeneratorOption = Annotated[
    str, typer.Option(help="exact (almanac sources), reader, local, or the URL of an endpoint")
]
ModelOption = Annotated[
    str | None, typer.Option("--generator-model", help="the endpoint's model, or another base that writes")
]
GeneratorSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--generator-set",
        help="PATH=VALUE: temperature=0, error_rate=0.1, endpoint.price_in=0.4, endpoint.cost_limit=2",
    ),
]
SourceSetting = Annotated[
    list[str] | None, typer.Option("--set", help="settings of the source: NAME=VALUE (see data info NAME)")
]


def synth(
    source: Annotated[
        str, typer.Argument(help="a kind of source (see data list), or a folder of your documents")
    ],
    recipe: Annotated[str, typer.Option(help="raw, qa:40, summary:8, ... or a sum: raw+qa:40")],
    out: Annotated[Path, typer.Option(help="JSONL file to write; FILE.report.json lies beside it")],
    path: Annotated[str | None, typer.Option("--from", help="file, folder or URL of published data")] = None,
    generator: GeneratorOption = "exact",
    model: ModelOption = None,
    generator_settings: GeneratorSetting = None,
    settings: SourceSetting = None,
    partition: Annotated[
        str, typer.Option(help="corpus, document, chunk or tokens:N; with chunk, numbers are per chunk")
    ] = "document",
    chunking: Annotated[
        str, typer.Option(help="for chunk: TOKENS, TOKENS/OVERLAP or structure:TOKENS")
    ] = "2048/200",
    base: BaseOption = "embedded",
    store: StoreOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Turn documents into supervision: examples with their document, generator and cost, one JSON object a line."""
    from loramem.base import load_base
    from loramem.core.config import parse
    from loramem.core.files import write_json
    from loramem.modules.store import Store
    from loramem.sources.catalogue import load_source, source_config
    from loramem.sources.chunking import Chunking, check_partition
    from loramem.studies.learning import Synthesis
    from loramem.studies.progress import Progress
    from loramem.synthesis.generators import SupervisionChoice
    from loramem.synthesis.supervision import Example, Supervision, save

    choice = parse(
        SupervisionChoice,
        _settings({"recipe": recipe, "generator": generator, "model": model}, generator_settings),
        "synth",
    )
    check_partition(partition)
    Chunking.parse(chunking)
    config = source_config(_source(source, path, settings))
    check_file(out, "--out")
    _forbid_network(offline)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    progress = Progress()
    synthesis = Synthesis(
        loaded,
        Store(store).completions,
        pieces=chunking,
        on_reply=lambda index, reply: progress.replied(reply),
    )
    examples: list[Example] = []
    found = load_source(config, loaded.prompts.count)
    if len(found) > 1:
        raise InputError(
            f"{source}: {len(found)} sizes, and a larger one holds the smaller; give one: --set sizes=[{found[-1].size_tokens}]"
        )
    for built in found:
        for learnt in synthesis.learn(built.name, config, built, choice, partition, every=False):
            examples += learnt.supervision.examples
    save(Supervision(choice.recipe, tuple(examples)), out)
    write_json(out.with_name(out.name + ".report.json"), synthesis.accounts)
    for account in synthesis.accounts:
        say("\n".join(told(account)))
    say(f"{len(examples)} examples in {out}; train with: loramem modules train --supervision {out}")


def told(account: dict) -> list[str]:
    """What the making of supervision comes to, in a few lines."""
    size = f" {account['size_tokens']}" if account["size_tokens"] else ""
    lines = [
        f"{account['source']}{size}: {account['examples']} examples of {account['units']} units by {account['generator']}, "
        f"{account['tokens']:,} learnt tokens"
    ]
    if account["dropped_tokens"]:
        lines.append(f"  {account['dropped_tokens']:,} tokens of the documents are in no chunk")
    if account["asked"]:
        parts = [
            f"asked {account['asked']}",
            f"short by {account['shortfall']}",
            f"repeated {account['duplicates']}",
        ]
        parts += [f"not borne out by the text {account['ungrounded']}"]
        if account["covered"] is not None:
            parts.append(f"facts covered {100 * account['covered']:.1f} %")
        if account["error_rate"] is not None:
            parts.append(f"wrong values {100 * account['error_rate']:.1f} %")
        lines.append("  " + ", ".join(parts))
    if account["calls"]:
        failed = ", ".join(f"{count} {kind}" for kind, count in account["failures"].items()) or "none"
        cost = "no prices given" if account["cost"] is None else f"cost {account['cost']:.4f}"
        lines.append(
            f"  {account['calls']} calls ({account['cached']} kept from before; failed: {failed}), "
            f"{account['prompt_tokens']:,} + {account['new_tokens']:,} tokens, {account['seconds']:.1f} s, {cost}"
        )
    if barren := [name for name, row in account["documents"].items() if not row["written"]]:
        more = f" and {len(barren) - 5} more" if len(barren) > 5 else ""
        lines.append(f"  nothing was written of {', '.join(barren[:5])}{more}")
    if account["cut_tokens"]:
        lines.append(f"  {account['cut_tokens']:,} tokens of the documents did not fit the reader's context")
    if account["failures"].get("too-long"):
        lines.append(
            "  too long for the generator's context: cut the documents with --partition chunk --chunking TOKENS"
        )
    overlap = account["overlap"]
    if overlap["probes"]:
        lines.append(
            f"  questions that stand in it: {overlap['exact']['count']} of {overlap['probes']} word for word, "
            f"{overlap['ngram']['count']} share a run of words, {overlap['near']['count']} nearly"
        )
    return lines


def probe(
    folder: Annotated[str, typer.Argument(help="a folder of documents, or a kind of source (see data list)")],
    out: Annotated[Path, typer.Option(help="JSONL file to write")],
    generator: GeneratorOption,
    model: ModelOption = None,
    generator_settings: GeneratorSetting = None,
    path: Annotated[str | None, typer.Option("--from", help="file, folder or URL of published data")] = None,
    settings: SourceSetting = None,
    questions: Annotated[int, typer.Option(help="questions per document and level")] = 10,
    levels: Annotated[
        str, typer.Option(help="of recall, comprehension, structure")
    ] = "recall,comprehension,structure",
    split: Annotated[str, typer.Option(help="shares of train, dev and test")] = "0,0.2,0.8",
    supervision: Annotated[
        Path | None,
        typer.Option(help="what the modules learn: its questions are not asked, its generator is refused"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="let the supervision's own generator write")] = False,
    base: BaseOption = "embedded",
    store: StoreOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Write evaluation questions for documents that have none; use them with `sources: {mine: {name: folder, path: DIR, probes: FILE}}`."""
    from loramem.base import load_base
    from loramem.core.config import parse
    from loramem.core.files import write_jsonl
    from loramem.modules.store import Store
    from loramem.sources.catalogue import leads_of, load_source, source_config
    from loramem.studies.progress import Progress
    from loramem.synthesis.completing import Cached
    from loramem.synthesis.generators import SupervisionChoice, make_completer
    from loramem.synthesis.probing import CHECKED, LEVELS, refuse_same, write_probes
    from loramem.synthesis.recipes import MOST
    from loramem.synthesis.supervision import load
    from loramem.synthesis.units import as_units
    from loramem.synthesis.writing import ModelWriter

    wanted = [level.strip() for level in levels.split(",") if level.strip()]
    for level in wanted:
        if level not in LEVELS:
            raise InputError(f"--levels {quoted(level)}; {nearest(level, LEVELS)}")
    shares = _shares(split)
    if generator in ("exact", "reader"):
        raise InputError(
            f"--generator {generator}: almanac sources have questions of their own; give local or a URL"
        )
    if questions < 1 or not wanted:
        raise InputError(f"--questions {questions} --levels {quoted(levels)}: nothing to ask")
    if questions > MOST:
        raise InputError(f"--questions {quoted(questions)}: at most {MOST:,} for a document and level")
    choice = parse(
        SupervisionChoice,
        _settings({"recipe": "qa:1", "generator": generator, "model": model}, generator_settings), "probe",
    )  # fmt: skip
    learnt = load(supervision).examples if supervision is not None else ()
    config = source_config(_source(folder, path, settings))
    check_file(out, "--out")
    _forbid_network(offline)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    completer = make_completer(
        choice, loaded, load=lambda name: load_base(name, device=device, offline=offline)
    )
    if not force:
        refuse_same({example.generator for example in learnt}, completer.name)
    progress = Progress()
    kept = Cached(completer, Store(store).completions)
    writers = {
        level: ModelWriter(
            kept, most_tokens=min(choice.max_tokens, getattr(completer, "longest", choice.max_tokens)), check=choice.check and level in CHECKED,
            on_reply=lambda index, reply: progress.replied(reply),
        )
        for level in wanted
    }  # fmt: skip
    rows: list[dict] = []
    done: set[str] = set()
    for built in load_source(config, loaded.prompts.count):
        leads = leads_of(built)
        new = [document for document in built.documents if document.id not in done]
        done.update(document.id for document in new)  # larger sizes begin with the smaller ones
        units = [unit.with_lead(leads.get(unit.document.id, "")) for unit in as_units(new)]
        if not units:
            continue
        made, accounts = write_probes(
            units, writers, questions, shares=shares, exclude={e.prompt for e in learnt if e.form == "chat"}
        )
        rows += made
        short = sum(account.shortfall for account in accounts)
        failed = sum(sum(account.failures.values()) for account in accounts)
        say(
            f"{built.name}: {len(made)} questions on {len(units)} documents, {short} fewer than asked, {failed} calls failed"
        )
        for account in [one for one in accounts if one.failures][:5]:
            say(f"  {account.unit} {account.recipe}: {account.why}")
    write_jsonl(out, rows)
    say(
        f"{len(rows)} questions in {out}: "
        + ", ".join(f"{name} {sum(r['split'] == name for r in rows)}" for name in ("train", "dev", "test"))
    )


def _source(name: str, path: str | None, assignments: Sequence[str] | None) -> dict:
    """The config of a source given on the command line: a kind by its name, else a folder of documents."""
    from loramem.sources.catalogue import KINDS
    from loramem.studies.grid import parse_assignment, set_path

    found: dict = {"name": name}
    if name not in KINDS:
        if not user_path(name).exists():
            raise InputError(
                f"{quoted(name)} is neither a folder of documents nor a source; {nearest(name, KINDS)}"
            )
        if path is not None:
            raise InputError(f"{name} is a folder of documents; it takes no --from")
        found = {"name": "folder", "path": name}
    if path is not None:
        found["path"] = path
    for assignment in assignments or ():
        set_path(found, *parse_assignment(assignment))
    return found


def _settings(given: dict, assignments: Sequence[str] | None) -> dict:
    from loramem.studies.grid import parse_assignment, set_path

    found = {key: value for key, value in given.items() if value is not None}
    for assignment in assignments or ():
        set_path(found, *parse_assignment(assignment, "--generator-set"), where="--generator-set")
    return found


def _forbid_network(offline: bool) -> None:
    """`--offline` holds for published data and for other bases too; an endpoint is asked wherever it is."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _shares(text: str) -> tuple[float, float, float]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"--split {quoted(text)}: give three shares that sum to 1, e.g. 0,0.2,0.8")
    return shares  # type: ignore[return-value]
