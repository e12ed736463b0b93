"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BaseOption = Annotated[str, typer.Option("--base", help="embedded, a checkpoint folder, or a hub id")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="store folder [default: $LORAMEM_STORE or ~/.cache/loramem]")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
DtypeOption = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16, nf4 (4 bits)")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="never use the network")]
