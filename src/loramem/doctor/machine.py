"""What the machine has: cores, accelerators, memory, disk, and what its file systems promise."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from loramem.core.files import TEMPORARY, host
from loramem.core.storage import size
from loramem.doctor.finding import Asked, Finding, State, existing, first_line

LITTLE_MEMORY = 2e9
LITTLE_DISK, NO_DISK = 5e9, 0.2e9
SHARED = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fhgfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
"""File systems that other machines may see too."""
FLEETING = {"tmpfs": "is emptied at every restart", "ramfs": "is emptied at every restart", "overlay": "goes with its container"}  # fmt: skip


# -- cores and accelerators ---------------------------------------------------------------------------------
def devices(asked: Asked) -> Iterator[Finding]:
    """Cores and threads, and every accelerator that torch can use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, quota = torch.get_num_threads(), cpu_quota()
    text = f"{cores} cores for this process, {threads} threads"
    facts = {"cores": cores, "threads": threads, "quota": quota}
    if threads > cores or (quota is not None and threads > max(1.0, quota)):
        share = cores if quota is None else min(cores, quota)
        yield Finding(
            "devices", "cpu", "note", f"{text}, of which {share:g} can run at once",
            f"set OMP_NUM_THREADS={max(1, int(share))}", facts,
        )  # fmt: skip
    else:
        yield Finding("devices", "cpu", "ok", text, facts=facts)
    yield from accelerators()


def cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Cores that a container may use at once; None where nothing is set."""
    try:
        most, period = file.read_text(encoding="ascii").split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        return None


def accelerators() -> Iterator[Finding]:
    """GPUs with memory and precisions, or why there is none."""
    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
        if driver:
            built = "has no CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
            yield Finding(
                "devices", "gpu", "note", f"an NVIDIA driver is here, but torch {torch.__version__} {built} and finds no GPU",
                "install the torch build that fits the driver (pytorch.org), or see CUDA_VISIBLE_DEVICES",
            )  # fmt: skip
        else:
            yield Finding("devices", "gpu", "ok", "none; the CPU is used", facts={"gpus": 0})
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16, tf32 = about.major >= 8, about.major >= 8
        facts = {
            "name": about.name, "free_bytes": free, "total_bytes": total, "capability": f"{about.major}.{about.minor}",
            "bf16": bf16, "tf32": tf32,
        }  # fmt: skip
        text = (
            f"{about.name}, {size(free)} of {size(total)} free, bf16 and tf32 {'yes' if bf16 else 'no'}, "
            f"CUDA {torch.version.cuda}"
        )
        if free < 0.1 * total:
            yield Finding(
                "devices", f"cuda:{index}", "note", text, "its memory is nearly full: another process has it; choose another with --device", facts,
            )  # fmt: skip
        elif not bf16:
            yield Finding(
                "devices",
                f"cuda:{index}",
                "note",
                text,
                "give --dtype float16 or float32: bfloat16 is emulated",
                facts,
            )
        else:
            yield Finding("devices", f"cuda:{index}", "ok", text, facts=facts)


# -- memory -------------------------------------------------------------------------------------------------
def memory(asked: Asked) -> Iterator[Finding]:
    """Memory of the machine, or of the container where that is less."""
    total, free = memory_bytes()
    facts = {"total_bytes": total, "available_bytes": free}
    if free is None:
        yield Finding(
            "memory", "ram", "ok", f"{size(total)}; how much is free cannot be told here", facts=facts
        )
    elif free < LITTLE_MEMORY:
        yield Finding(
            "memory",
            "ram",
            "note",
            f"{size(free)} of {size(total)} free",
            "close what is not needed, or lower --rows",
            facts,
        )
    else:
        yield Finding("memory", "ram", "ok", f"{size(free)} of {size(total)} free", facts=facts)


def memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int | None]:
    """(total, available), of a container if it has a limit of its own; available is None where the system does not say."""
    total, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    try:
        told = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        total, free = (1024 * int(told[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        pass
    try:
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        room = max(0, most - used + int(kept.get("inactive_file", 0)))  # the page cache gives way
        total, free = min(total, most), room if free is None else min(free, room)
    except (OSError, ValueError):  # no container, or no limit ("max")
        pass
    return total, free


# -- disk ---------------------------------------------------------------------------------------------------
def disks(asked: Asked) -> Iterator[Finding]:
    """Free space where things are kept, and what the store's file system promises."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, path in (
        ("store", asked.store), ("runs", Path("runs")), ("hub cache", Path(HF_HUB_CACHE)), ("temporary", Path(tempfile.gettempdir())),
    ):  # fmt: skip
        yield space(name, path)
    yield from promises(asked.store)


def space(name: str, path: Path) -> Finding:
    """Bytes and files that still fit."""
    where = existing(path)
    usage = os.statvfs(where)
    free, total = usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize
    facts = {"path": str(path), "free_bytes": free, "total_bytes": total, "free_files": usage.f_favail}
    text = f"{size(free)} of {size(total)} free at {path}"
    if usage.f_files and usage.f_favail < 1000:
        return Finding("disk", name, "fault", f"{text}, but room for {usage.f_favail} files only", "delete small files", facts)  # fmt: skip
    if free < NO_DISK:
        return Finding("disk", name, "fault", text, "free some space, or choose another folder", facts)
    return Finding("disk", name, "note" if free < LITTLE_DISK else "ok", text, facts=facts)


def promises(store: Path) -> Iterator[Finding]:
    """Whether what the store relies on holds where it lies: whole renames, flushed files, folders that refuse to be replaced."""
    if not store.exists():
        above = existing(store)
        if os.access(above, os.W_OK):
            yield Finding("disk", "store folder", "ok", f"{store} is not there yet; the first run makes it")
        else:
            yield Finding("disk", "store folder", "fault", f"{store} is not there, and {above} cannot be written", "give --store, or set LORAMEM_STORE")  # fmt: skip
        return
    kind = file_system(store)
    facts = {"file_system": kind, "shared": kind in SHARED}
    if not os.access(store, os.W_OK):
        yield Finding("disk", "store folder", "fault", f"{store} cannot be written", "mend its permissions, or give another --store", facts)  # fmt: skip
        return
    try:
        with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{host()}-{os.getpid()}-", dir=store) as work:
            state, broken = write_test(Path(work))
    except OSError as error:
        state, broken = "fault", f"the write test failed ({first_line(error)})"
    if broken:
        yield Finding(
            "disk", "store folder", state, f"{kind}: {broken}", "keep the store on another file system", facts
        )
        return
    seen = "other machines may see it" if kind in SHARED else "of this machine"
    text = f"{kind} ({seen}); renames are whole, files can be flushed"
    if kind in FLEETING:
        yield Finding("disk", "store folder", "note", f"{text}; {kind} {FLEETING[kind]}", "give --store on a disk that stays", facts)  # fmt: skip
    else:
        yield Finding("disk", "store folder", "ok", text, facts=facts)


def write_test(work: Path) -> tuple[State, str]:
    """What the file system below `work` does otherwise than the store needs, and how bad that is; no text where all is well."""
    for name, text in (("old", "old"), ("new", "new" * 1000)):
        with open(work / name, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    os.replace(work / "new", work / "old")
    if (work / "old").read_text(encoding="ascii") != "new" * 1000 or (work / "new").exists():
        return "fault", "a file that is renamed over another does not take its place"
    for name in ("a", "b"):
        (work / name).mkdir()
        (work / name / "held").write_text(name, encoding="ascii")
    os.rename(work / "a", work / "c")
    if (work / "c" / "held").read_text(encoding="ascii") != "a" or (work / "a").exists():
        return "fault", "a folder cannot be renamed whole"
    try:
        os.rename(work / "b", work / "c")
        return (
            "fault",
            "a folder can be renamed over a filled one, so two processes could undo each other's work",
        )
    except OSError:
        pass
    try:
        handle = os.open(work, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        return (
            "note",
            f"a folder cannot be flushed ({error.strerror}), so a power cut may undo what was finished",
        )
    return "ok", ""


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that a path lies on; `unknown` where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    found, longest = "unknown", -1
    where = path.resolve()
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if (point == where or point in where.parents) and len(str(point)) >= longest:
            found, longest = after.split()[0], len(str(point))
    return found
