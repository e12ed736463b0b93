"""The command line: thin commands over the Python API; `entry.main` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loramem import __version__
from loramem.cli.ask import ask
from loramem.cli.doctor import doctor
from loramem.cli.options import BaseOption, DeviceOption, DtypeOption, OfflineOption, StoreOption
from loramem.cli.study import study_app
from loramem.cli.synthesis import probe, synth
from loramem.cli.terminal import say, show_json
from loramem.core.errors import InputError
from loramem.core.paths import check_folder
from loramem.core.shown import quoted

if TYPE_CHECKING:
    from loramem.modules.store import StoredModule

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="LoRA as knowledge memory: write it, read it back, measure it.",
)
base_app = typer.Typer(no_args_is_help=True, help="Bases: the embedded one, a folder, or a hub id.")
data_app = typer.Typer(no_args_is_help=True, help="Sources of documents and probes.")
modules_app = typer.Typer(no_args_is_help=True, help="Modules in the store.")
for name, part in (("base", base_app), ("data", data_app), ("modules", modules_app), ("study", study_app)):
    app.add_typer(part, name=name)
app.command("synth")(synth)
app.command("ask")(ask)
app.command("doctor")(doctor)
data_app.command("probe")(probe)


# -- base --------------------------------------------------------------------------------------------
@base_app.command("list")
def base_list() -> None:
    """The bases that need no download."""
    from loramem.base.model import SHIPPED, embedded_folder
    from loramem.core.files import read_json

    for name in SHIPPED:
        card = read_json(embedded_folder(name) / "card.json")
        say(
            f"{name:15} {card['parameters']:,} parameters, context {card['context_length']}: {card['summary']}"
        )
    print("any other: the folder of a Hugging Face causal model, or its hub id")


@base_app.command("info")
def base_info(
    base: Annotated[str, typer.Argument(help="embedded, a folder, or a hub id")] = "embedded",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Architecture, size, fingerprint and card of a base."""
    from loramem.base import describe, load_base

    show_json(describe(load_base(base, device=device, dtype=dtype, offline=offline)))


@base_app.command("prepare")
def base_prepare(
    base: str,
    to: Annotated[Path, typer.Option("--to", help="new folder for the copy")],
    offline: OfflineOption = False,
) -> None:
    """Copy a base into a folder that needs no network."""
    from loramem.base import prepare

    say(f"{base} is in {prepare(base, to, offline=offline)}; use it with --base {to}")


# -- data --------------------------------------------------------------------------------------------
@data_app.command("list")
def data_list() -> None:
    """The kinds of source."""
    from loramem.sources.catalogue import KINDS

    for kind in KINDS:
        print(f"{kind:18} {KINDS.get(kind).summary}")


@data_app.command("info")
def data_info(name: str) -> None:
    """The settings of a kind of source."""
    from loramem.sources.catalogue import KINDS

    kind = KINDS.get(name)
    print(f"{name}: {kind.summary}")
    for field, info in kind.config.model_fields.items():
        print(f"  {field}: {'required' if info.is_required() else f'default {info.default!r}'}")


@data_app.command("prepare")
def data_prepare(
    name: str,
    to: Annotated[
        Path, typer.Option("--to", help="folder for documents.jsonl, supervision.jsonl and probes.jsonl")
    ],
    sizes: Annotated[
        str | None, typer.Option(help="sizes in tokens, e.g. 1000,4000 [default: 1000, where size applies]")
    ] = None,
    path: Annotated[str | None, typer.Option("--from", help="file, folder or URL of published data")] = None,
    slices: Annotated[str | None, typer.Option(help="recut or published")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="further settings: NAME=VALUE (see data info NAME)")
    ] = None,
    base: BaseOption = "embedded",
) -> None:
    """Build a source and write it as JSON lines."""
    from loramem.base import load_base
    from loramem.sources.catalogue import KINDS
    from loramem.sources.export import write_source
    from loramem.studies.grid import parse_assignment, set_path

    known = KINDS.get(name).config.model_fields
    settings: dict = {"name": name}
    if sizes is not None or "sizes" in known:
        settings["sizes"] = _numbers("--sizes", "1000" if sizes is None else sizes)
    if path is not None and "path" not in known:
        raise InputError(f"source {name!r} is generated; it takes no --from")
    settings |= {key: value for key, value in (("path", path), ("slices", slices)) if value is not None}
    for assignment in assignments or ():
        set_path(settings, *parse_assignment(assignment))
    from loramem.sources.catalogue import load_source, source_config

    config = source_config(settings)
    check_folder(to, "--to", to)
    for source in load_source(config, load_base(base).prompts.count):
        say(f"{write_source(source, to)}: {'; '.join(source.notes)}")


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} {quoted(text)}: give whole numbers separated by commas, e.g. 1000,4000"
        ) from None


def _decimals(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} {quoted(text)}: give numbers separated by commas, e.g. 0.5,0.3,0.2"
        ) from None


def _choice(text: str) -> str | list[str]:
    """A word for a group of matrices, or the names of some."""
    parts = [part for part in text.split(",") if part]
    return parts[0] if len(parts) == 1 and parts[0] in ("all-linear", "attention", "mlp") else parts


# -- modules -----------------------------------------------------------------------------------------
@modules_app.command("train")
def modules_train(
    supervision: Annotated[Path, typer.Option(help="JSONL: form, prompt, answer per line")],
    each: Annotated[
        str, typer.Option(help="a module for the whole file, or for each document or record")
    ] = "file",
    rank: int = 16,
    alpha: Annotated[float | None, typer.Option(help="default: the rank")] = None,
    targets: str = "all-linear",
    lr: float = 5e-3,
    batch: int = 8,
    exposures: Annotated[
        float | None, typer.Option(help="times every example is seen [default: 100]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps in place of exposures")] = None,
    plateau: Annotated[
        float | None, typer.Option(help="until the loss stands still, at most so many exposures")
    ] = None,
    stop_when_memorised: Annotated[
        bool, typer.Option("--stop-when-memorised", help="end once every learnt token has p > 0.5")
    ] = False,
    snapshots: Annotated[
        str | None, typer.Option(help="steps whose weights are kept too (ID@STEP), e.g. 0,100,200")
    ] = None,
    dropout: float = 0.0,
    layers: Annotated[str, typer.Option(help="all, first-half, second-half, or numbers: 0,1,2")] = "all",
    variant: Annotated[str, typer.Option(help="lora, pissa or dora")] = "lora",
    objective: Annotated[
        str, typer.Option(help="ntp, or dcd (each row then needs a 'context' for the teacher)")
    ] = "ntp",
    distractors: Annotated[
        str | None, typer.Option(help="finished modules (ID,ID) that are on beside it half of the time")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="PATH=VALUE as in a study's modules: optimizer.schedule=linear"),
    ] = None,
    seed: int = 0,
    base: BaseOption = "embedded",
    store: StoreOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Train a module on a file of supervision, or one for each of its documents, and keep it in the store."""
    from loramem.api import train_modules_of
    from loramem.core.config import parse
    from loramem.modules.recipe import ModuleConfig
    from loramem.modules.store import Store
    from loramem.studies.grid import parse_assignment, set_path

    budget = {
        "exposures": 100.0 if exposures is None and steps is None and plateau is None else exposures,
        "steps": steps,
        "plateau": None if plateau is None else {"max_exposures": plateau},
        "stop_when_memorised": stop_when_memorised,
        "snapshots": [] if snapshots is None else _numbers("--snapshots", snapshots),
    }
    body: dict = {
        "spec": {
            "rank": rank, "alpha": "rank" if alpha is None else alpha, "targets": _choice(targets), "dropout": dropout, "variant": variant,
            "layers": layers if layers.replace("-", "").isalpha() else _numbers("--layers", layers),
        },
        "objective": {"name": objective}, "budget": budget, "optimizer": {"lr": lr, "batch": batch},
    }  # fmt: skip
    if distractors is not None:
        body["distractors"] = {"modules": distractors.split(",")}
    for assignment in settings or ():
        set_path(body, *parse_assignment(assignment))
    beside = body.get("distractors")
    if isinstance(beside, dict) and isinstance(named := beside.get("modules"), list | str):
        given = [named] if isinstance(named, str) else named  # a text is one name, not its letters
        beside["modules"] = [Store(store).module(str(name)).id for name in given]
    config = parse(ModuleConfig, body)
    made = train_modules_of(
        supervision, config, each=each, base=base, store=store, seed=seed, device=device, dtype=dtype, offline=offline,
    )  # fmt: skip
    for name, module in made.items():
        say(f"module {module.id[:12]} in {module.folder}" + (f": {name}" if each != "file" else ""))


@modules_app.command("list")
def modules_list(store: StoreOption = None) -> None:
    """Every finished module."""
    from loramem.core.errors import Corrupt
    from loramem.core.files import damage_in
    from loramem.modules.store import Store

    kept = Store(store)
    found = kept.modules()
    kept.fetch("modules", (module.id for module in found))
    for module in found:
        record = kept.module_record(module.id)
        with damage_in(record, Corrupt):
            say(_line_of(module, record))
    print(f"{len(found)} modules")


def _line_of(module: StoredModule, record: Path) -> str:
    """A module in a line of the list, by its recipe and its config."""
    from loramem.core.files import read_json
    from loramem.modules.peft_format import CONFIG

    recipe, config = module.recipe, read_json(record / CONFIG)
    spec = recipe.get("spec") or {"rank": config["r"], "variant": "dora" if config.get("use_dora") else None}
    kind = "-".join(filter(None, (recipe.get("objective", {}).get("name"), spec.get("variant"))))
    kind = kind or recipe.get("rule", "")
    return (
        f"{module.id[:12]}  {recipe['type']:8} {kind or 'lora':10} rank {spec['rank']:<5} steps {recipe.get('steps', '-'):<6} "
        f"seed {recipe.get('seed', '-')}  base {recipe['base'][:8]}"
    )


@modules_app.command("show")
def modules_show(module: str, store: StoreOption = None) -> None:
    """Recipe and files of a module (a unique prefix of its id is enough)."""
    from loramem.core.files import read_marker
    from loramem.modules.store import Store

    found = Store(store).module(module)
    show_json({"id": found.id, "folder": str(found.folder), **read_marker(found.home / "recipe.json")})


@modules_app.command("delete")
def modules_delete(module: str, store: StoreOption = None) -> None:
    """Delete a module for good."""
    from loramem.modules.store import Store

    say(f"deleted {Store(store).delete_module(module)}")


@modules_app.command("export")
def modules_export(
    modules: Annotated[list[str], typer.Argument(help="finished modules (unique prefixes, ID@STEP)")],
    to: Annotated[
        Path, typer.Option("--to", help="new folder; several modules get folders of their own in it")
    ],
    reader: Annotated[
        str, typer.Option("--for", help="peft, or vllm: checked against what it loads, and how to serve it")
    ] = "peft",
    max_lora_rank: Annotated[
        int | None,
        typer.Option("--max-lora-rank", help="limit of the vLLM server [default: the smallest that serves]"),
    ] = None,
    base_name: Annotated[
        str | None, typer.Option("--base-name", help="hub id or folder of the base, for the configs")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write modules as PEFT adapter folders, which PEFT loads and vLLM serves."""
    from loramem.api import export

    made = export(modules, to, reader=reader, max_lora_rank=max_lora_rank, base_name=base_name, store=store)
    for name, folder in made.folders.items():
        say(f"exported to {folder}" if len(made.folders) == 1 else f"exported {name} to {folder}")
    for line in filter(None, (made.serve, *made.notes)):
        say(line)


@modules_app.command("import")
def modules_import(
    folder: Annotated[
        Path, typer.Argument(help="adapter folder: adapter_config.json and adapter_model.safetensors")
    ],
    text: Annotated[
        Path | None, typer.Option(help="file with what it learnt, by which routers find it")
    ] = None,
    base: BaseOption = "embedded",
    store: StoreOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Keep a PEFT adapter of any program as a module of the store; it must fit the base tensor by tensor."""
    from loramem.api import import_module
    from loramem.core.files import read_marker

    made = import_module(
        folder, base=base, store=store, text=text, device=device, dtype=dtype, offline=offline
    )
    say(f"module {made.id[:12]} in {made.folder}")
    for note in read_marker(made.home / "recipe.json").get("notes", ()):
        say(f"note: {note}")


@modules_app.command("merge")
def modules_merge(
    modules: Annotated[
        list[str], typer.Argument(help="finished modules (unique prefixes, ID@STEP), best first")
    ],
    rule: Annotated[
        str, typer.Option(help="cat, linear-delta, ties-delta, knots-ties, ... (docs/merging.md)")
    ] = "ties-delta",
    weights: Annotated[str, typer.Option(help="equal, or one number per module: 0.5,0.3,0.2")] = "equal",
    density: Annotated[
        float | None, typer.Option(help="share of entries that a rule which prunes keeps [default: 0.5]")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="most ranks of the result [default: the sum of theirs, for most rules]")
    ] = None,
    seed: Annotated[int, typer.Option(help="of DARE's random masks")] = 0,
    store: StoreOption = None,
) -> None:
    """Merge modules into one, and keep it in the store."""
    from loramem.api import merge
    from loramem.core.config import parse
    from loramem.core.files import read_marker
    from loramem.modules.merged import Merging

    given: dict = {"rule": rule, "density": density, "rank": rank, "seed": seed}
    if weights != "equal":
        given["weights"] = _decimals("--weights", weights)
    made = merge(modules, parse(Merging, given), store=store)
    say(f"module {made.id[:12]} in {made.folder}")
    show_json(read_marker(made.home / "recipe.json")["measures"])


# -- entry -------------------------------------------------------------------------------------------
@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
