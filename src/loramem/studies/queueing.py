"""How long a queue of packs takes: by bounds, by prediction, and played with loading, unequal workers and deaths."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loramem.core.errors import InputError, RunFailed
from loramem.studies.balance import Pack


def bounds(packs: Sequence[Pack], workers: int) -> tuple[float, float]:
    """(least, most) seconds in which a queue of packs is done by equal workers that do not die: nobody can be faster than an
    even share or the longest pack, and the last pack to end began before all workers had been busy for an even share."""
    total, longest = sum(pack.cost for pack in packs), max((pack.cost for pack in packs), default=0.0)
    return max(total / workers, longest), total / workers + (1 - 1 / workers) * longest


def eta(waiting: Iterable[Pack], running: Iterable[tuple[Pack, float]], *, workers: int) -> float:
    """Seconds until all is done, if every pack takes what it is predicted to.

    Args:
        waiting: In the order of the queue.
        running: Packs that are being worked on, with the seconds since they began.
    """
    free = [max(0.0, pack.cost - since) for pack, since in running]
    free += [0.0] * (workers - len(free))
    heapq.heapify(free)
    for pack in waiting:
        heapq.heappush(free, heapq.heappop(free) + pack.cost)
    return max(free, default=0.0)


@dataclass(frozen=True)
class Span:
    """What a worker did from `start` to `end`, in seconds: `load` the base, be `down`, or a pack (its first key), which it
    `finished` or not."""

    start: float
    end: float
    what: str
    finished: bool = True


@dataclass(frozen=True)
class Simulated:
    """A queue, played to its end.

    Attributes:
        makespan: Seconds until the last pack is done.
        busy_share: Of the workers' seconds until then, those that were spent on work that was kept.
        longest_pack: Seconds of the longest pack on a worker of mean speed.
        lost_seconds: Spent on work that a death undid.
        deaths: Of workers while the work went on.
        timeline: What each worker did.
    """

    makespan: float
    busy_share: float
    longest_pack: float
    lost_seconds: float
    deaths: int
    timeline: tuple[tuple[Span, ...], ...]


def simulate(
    packs: Sequence[Pack],
    *,
    workers: int,
    load_seconds: float = 0.0,
    speed_spread: float = 0.0,
    deaths: float = 0.0,
    restart_seconds: float = 0.0,
    seed: int = 0,
) -> Simulated:
    """Play a queue of packs.

    Args:
        load_seconds: Until a worker has its base and takes its first pack.
        speed_spread: Speeds of the workers are drawn evenly from 1 - spread to 1 + spread.
        deaths: Of one worker in an hour, on average, whether it works or waits.
        restart_seconds: From a death until a worker with its base is there again.

    Raises:
        RunFailed: workers die faster than they get anything done.
    """
    if workers < 1 or not 0 <= speed_spread < 1 or min(load_seconds, deaths, restart_seconds) < 0:
        raise InputError(
            f"simulate: workers {workers} (at least 1), speed_spread {speed_spread} (0 to below 1), and no negative seconds or deaths"
        )
    draw = random.Random(seed)
    speeds = [draw.uniform(1 - speed_spread, 1 + speed_spread) for _ in range(workers)]
    fate = [random.Random(f"{seed}-{worker}") for worker in range(workers)]
    spans: list[list[Span]] = [[] for _ in range(workers)]

    def life(worker: int) -> float:
        return fate[worker].expovariate(1.0) * 3600 / deaths if deaths else math.inf

    queue, idle, now = deque(packs), list[int](), 0.0
    dies = [load_seconds + life(worker) for worker in range(workers)]
    events: list[tuple[float, int, Pack | None]] = [
        (load_seconds, worker, None) for worker in range(workers)
    ]  # sorted as a heap: all at one time, in the order of the workers
    if load_seconds:
        spans = [[Span(0.0, load_seconds, "load")] for _ in range(workers)]
    kept = lost = end = 0.0
    died = 0

    def down(worker: int) -> None:
        """It died at `dies`; it comes back."""
        nonlocal died
        died += 1
        if died > 1000 * (len(packs) + workers):
            raise RunFailed(
                f"simulate: {died:,} deaths and {len(queue)} packs still wait: workers live too short"
            )
        back = dies[worker] + restart_seconds
        spans[worker].append(Span(dies[worker], back, "down"))
        heapq.heappush(events, (max(back, now), worker, None))
        dies[worker] = back + life(worker)

    busy = 0
    while queue or busy:
        now, worker, pack = heapq.heappop(events)
        if pack is not None:  # it was at work until now: done, or dead
            busy -= 1
            began = spans[worker][-1].start
            if now == dies[worker]:
                ends = {key: began + seconds / speeds[worker] for key, seconds in pack.ends().items()}
                done = [key for key, when in ends.items() if when <= now]
                rest = pack.without(done)
                worth = (pack.cost - rest.cost if rest is not None else pack.cost) / speeds[worker]
                kept += min(worth, now - began)
                lost += max(0.0, now - began - worth)
                end = max(end, now) if rest is None else end
                if rest is not None:
                    queue.appendleft(rest)
                down(worker)
            else:
                kept, end = kept + now - began, now
                heapq.heappush(events, (now, worker, None))
        else:
            heapq.heappush(idle, worker)
        while queue and idle:
            chosen = heapq.heappop(idle)
            if dies[chosen] <= now:  # while it waited
                down(chosen)
                continue
            first = queue.popleft()
            until = now + first.cost / speeds[chosen]
            ended = min(until, dies[chosen])
            spans[chosen].append(Span(now, ended, first.keys[0], finished=ended == until))
            heapq.heappush(events, (ended, chosen, first))
            busy += 1
    longest = max((pack.cost for pack in packs), default=0.0)
    share = kept / (workers * end) if end else 1.0
    return Simulated(end, share, longest, lost, died, tuple(map(tuple, spans)))
