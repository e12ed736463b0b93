"""What training a module and making a reading cost a machine, predicted from shapes before anything is done.

Only the relation of one cost to another matters here: it decides who gets which work. The absolute level is guessed from the
kind of device, and `balance.Speeds` puts what was measured in its place. So the formulas count what grows with the work (tokens
through the base, tokens of the module, decoding steps) and leave out attention over long contexts, routing and merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loramem.answering.readings import STEMS, ReadingTask, context_name
from loramem.answering.routers import ROUTERS
from loramem.base.forward import decoder_layers
from loramem.base.model import Base
from loramem.inference.limits import LETTER_TOKENS, MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.modules.bucket import padded_rank
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import features, linears, parameter_count
from loramem.sources.types import Probe
from loramem.training import TrainJob
from loramem.training.packing import kind as kind_of

FORWARD, TRAINED, ADAPTER = 2, 4, 6
"""FLOP for each weight and token: read by the base; trained through a frozen base (forward, and backward to the activations);
of the module itself (its gradients besides)."""
LAUNCH_SECONDS = 0.003
"""Of one step, for each decoder layer, however few rows there are. Calculated for an accelerator that is fed from Python (97 ms
for 32 layers); two cores take 11 to 14 ms more than their products do for the embedded base's 4 layers (`benchmarks/bank.py`)."""
ASSUMED = {"cuda": (2e14, 2e13, 2e12), "cpu": (1e11, 1e11, 2e10)}
"""(FLOP a second of the base, of modules in float32, bytes a second) until something was measured: the order of magnitude."""
CHARS_PER_TOKEN = 4
"""Of English in a large vocabulary."""
TEMPLATE_TOKENS = 16
"""Of a chat template around a question."""


@dataclass(frozen=True)
class Machine:
    """A device with a base on it.

    Attributes:
        weights: Weights of the base that a token is multiplied with.
        per_rank: Parameters of a module on all linear layers, for each unit of rank.
        flops: Operations that it does in a second in the base's precision: not its peak, what it gets done.
        adapter_flops: The same in float32, in which modules compute unless they are told otherwise (`optimizer.compute`).
        weight_bytes: What one decoding step reads.
        bandwidth: Bytes that it reads in a second.
        step_seconds: Of a training step at least.
    """

    weights: int
    per_rank: int
    flops: float
    adapter_flops: float
    weight_bytes: float
    bandwidth: float
    step_seconds: float = 0.0


def machine_of(base: Base, *, device: str | None = None) -> Machine:
    """The machine that a base is on, from its shapes (its weights need not be there), at the rates assumed.

    Args:
        device: `cpu` or `cuda`, where the base that is planned with computes nothing; None: its own, an accelerator where it
            has none.
    """
    model = base.model
    head = model.get_output_embeddings()
    sizes = [features(layer) for layer in (*linears(model).values(), *(() if head is None else (head,)))]
    flops, adapter_flops, bandwidth = ASSUMED["cpu" if (device or base.device.type) == "cpu" else "cuda"]
    held = sum(one.numel() * one.element_size() for one in model.parameters())
    return Machine(
        sum(inner * outer for inner, outer in sizes), parameter_count(model, LoraSpec(rank=1)), flops, adapter_flops, float(held),
        bandwidth, LAUNCH_SECONDS * len(decoder_layers(model)),
    )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One module to be trained or one reading to be made, as work.

    Attributes:
        key: Its id.
        kind: What costs alike, and works well side by side; its first entry is `train` or `read`.
        seconds: With the machine to itself, and enough beside it to fill every step.
        steps: In which it is done.
        rows: That it takes up of a step.
        floor: Seconds of a step at least, whatever is in it.
        beside: Packs of other kinds with an equal value may be joined where steps are not filled.
        together: Consecutive items with an equal value stay in one pack; empty: no matter.
    """

    key: str
    kind: tuple
    seconds: float
    steps: int = 1
    rows: int = 1
    floor: float = 0.0
    beside: tuple = ()
    together: str = ""


def training_items(jobs: Iterable[TrainJob], machine: Machine) -> list[Item]:
    """Jobs as work, in the order in which they wait for slots (`training.packing.Queue`).

    Tokens are padded ones; a module counts as if it were on all layers, took all its steps, and kept all that its backward
    pass needs.
    """
    ordered = sorted(jobs, key=lambda job: (-job.steps * job.optimizer.batch, job.spec.rank, job.key))
    return [
        Item(
            job.key, ("train", *kind_of(job)), _training_seconds(job, machine), max(1, job.steps), job.optimizer.batch,
            machine.step_seconds, (job.length, job.optimizer.compute == "tf32"),
        )
        for job in ordered
    ]  # fmt: skip


def _training_seconds(job: TrainJob, machine: Machine) -> float:
    tokens = job.steps * job.optimizer.batch * job.length
    rate = machine.adapter_flops if job.optimizer.compute == "float32" else machine.flops
    seconds = tokens * TRAINED * machine.weights / machine.flops
    seconds += tokens * ADAPTER * machine.per_rank * padded_rank(job.spec.rank) / rate
    if job.teacher:
        read = sum(len(one.ids) for one in job.teacher)
        if job.objective.hidden == "all":  # read anew at every step
            read = read * job.steps * job.optimizer.batch // len(job.teacher)
        seconds += read * FORWARD * machine.weights / machine.flops
    return seconds


# -- readings ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tokens:
    """What a reading puts through the base, estimated.

    Attributes:
        read: Tokens of prompts, contexts and options.
        written: Tokens decoded, at most.
        writers: Rows that decode.
    """

    read: int = 0
    written: int = 0
    writers: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.read + other.read, self.written + other.written, self.writers + other.writers
        )  # fmt: skip


def reading_items(tasks: Mapping[str, ReadingTask], machine: Machine, *, rows: int) -> list[Item]:
    """Readings as work, by their ids: those that read alike follow each other, of them those with the same context, and
    those of one module stay together (its weights are loaded once).

    Args:
        rows: Questions that are answered at once.
    """
    known: dict[tuple, Tokens] = {}

    def place(entry: tuple[str, ReadingTask]) -> tuple:
        identity, task = entry
        pool = "" if task.pool is None else task.pool.name
        return (reading_kind(task), task.module or "", task.source.documents_hash, pool, identity)

    found = []
    for identity, task in sorted(tasks.items(), key=place):
        mark = (
            task.source.hash, task.stem, task.module_on, task.letters, task.own_document, task.retrieval, task.pool is None,
            task.routing, len(task.pool.candidates) if task.pool else 0, len(task.readable), task.module is None,
        )  # fmt: skip
        if mark not in known:
            known[mark] = tokens_of(task)
        seconds = reading_seconds(known[mark], machine, rows=rows)
        # one after the other: each reading fills the device by itself
        found.append(Item(identity, reading_kind(task), seconds, rows=rows, together=task.module or ""))
    return found


def reading_kind(task: ReadingTask) -> tuple:
    """Equal for readings that are answered in one call (`answering.readings`), or cost alike."""
    stem = STEMS.get(task.stem)
    which = "module" if task.module is not None else stem.which
    router = "" if task.routing is None else task.routing.label
    rule = "" if task.merging is None else str(task.merging.rule)
    found = "" if task.retrieval is None else task.retrieval.label
    return ("read", which, context_name(task.stem) or "", router, rule, found, task.module_on, task.letters)


def reading_seconds(tokens: Tokens, machine: Machine, *, rows: int) -> float:
    """Prompts are bound by arithmetic; decoding by reading the weights once a step, for as many rows as there are."""
    reading = FORWARD * machine.weights * tokens.read / machine.flops
    abreast = max(1, min(rows, tokens.writers))
    return reading + tokens.written / abreast * machine.weight_bytes / machine.bandwidth


def tokens_of(task: ReadingTask) -> Tokens:
    """Tokens of a reading, by its characters; answers count with all the tokens they may have.

    A context that many questions share is counted once: of a pool, where each question may have another module, every time.
    """
    stem = STEMS.get(task.stem)
    asked = task.probes
    found = sum((_tokens_of_probe(probe, task, stem.in_context) for probe in asked), Tokens())
    prompts = sum(_length(probe.prompt) for probe in asked)
    if task.routing is not None and task.pool is not None:
        router = ROUTERS.get(task.routing.router)
        passes = len(task.pool.candidates) + 1 if router.likelihood else 1 if router.weights else 0
        found += Tokens(prompts * passes)
    return found + Tokens(_context_tokens(task, stem.context, len(asked)))


def _tokens_of_probe(probe: Probe, task: ReadingTask, in_context: bool) -> Tokens:
    prompt = _length(probe.prompt) + TEMPLATE_TOKENS
    options = sum(prompt + _length(answer) for answer in probe.answers)
    match probe.kind:
        case "continue":
            return Tokens(prompt, MAX_CONTINUATION, 1)
        case "generate":
            scored = probe.phrasing == "trained" and not in_context
            return Tokens(
                prompt + (prompt + _length(probe.answers[0]) if scored else 0), MAX_NEW_TOKENS, 1
            )  # fmt: skip
        case "passage":
            return Tokens(2 * prompt)  # with the module and without
        case "choice" if task.letters:
            return Tokens(options + prompt + options, LETTER_TOKENS, 1)
    return Tokens(options)


def _context_tokens(task: ReadingTask, context: str, asked: int) -> int:
    if context == "passages" and task.retrieval is not None:
        return asked * task.retrieval.passages_k * task.retrieval.chunk_tokens
    texts = {one.id: one.summary if context == "summary" else one.text for one in task.readable}
    lengths = {name: _length(text) for name, text in texts.items()} if context != "none" else {}
    if not lengths:
        return 0
    if task.pool is None:
        return sum(lengths.values())
    if task.own_document or context == "summary":
        return sum(lengths.get(probe.document, 0) for probe in task.probes)
    return asked * sum(lengths.values())


def _length(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)
