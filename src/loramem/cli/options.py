"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

BaseOption = Annotated[str, typer.Option("--base", help="embedded, a checkpoint folder, or a hub id")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="store: a folder, or a URL that machines share (s3://bucket/prefix, gs://, az://, ...) [default: $LORAMEM_STORE or ~/.cache/loramem]",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
DtypeOption = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16, nf4 (4 bits)")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="never use the network")]
