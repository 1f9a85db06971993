"""Somebody who watches a client's network and wants to know whether its user writes: a classifier
over all that he sees, which learns from traces of clients of which he knows it, and is tried on
others.

A trace is cut into windows of some hours. Each gives some three hundred numbers: how many
connections and pieces there were, of what sizes, how long, how far apart, how regularly, how they
follow each other. Three kinds of classifiers learn from them; the one that does best on the traces
that he knows (some of them left out, in turns) is the one that is tried.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.base import ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbfs_common.limits import FRAME_SIZE
from tests.support.traced import Conduct, Connection, trace

Numbers = NDArray[np.float64]

BURST = 5.0
"""Seconds: pieces that are closer together than this are taken for one thing that is done."""

_QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
_PARTS = 12
"""Into how many parts a window is cut, to see how even it is."""

_FRAMES = 8
"""Sizes of bursts, in frames, that are counted one by one."""

CONFIDENCE = 0.95
SURPRISE = 1e-4


@dataclass(frozen=True)
class Trace:
    """What was seen of one client for so many seconds, and whether its user wrote."""

    seen: tuple[Connection, ...]
    span: float
    busy: bool


@dataclass(frozen=True)
class Reach:
    """Windows of which it was said rightly whether the user wrote, of all; half of them by
    tossing a coin."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / self.of

    @property
    def surprising(self) -> bool:
        """Whether who tosses coins says so many rightly in less than one of ten thousand tries."""
        return float(binomtest(self.right, self.of, alternative="greater").pvalue) < SURPRISE

    @property
    def between(self) -> tuple[float, float]:
        """Where the share of many more would be, with CONFIDENCE (Clopper and Pearson)."""
        low, high = binomtest(self.right, self.of).proportion_ci(CONFIDENCE)
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.between
        return f"{self.share:.1%} of {self.of}, between {low:.1%} and {high:.1%}"


def _spread(values: Sequence[float] | Numbers) -> list[float]:
    """How many, and how they are spread: mean, deviation, quantiles, and what one says of the
    next."""
    found = np.asarray(values, dtype=np.float64)
    if found.size < 2:
        return [float(found.size), *([float(found.sum())] * (3 + len(_QUANTILES)))]
    deviation = float(found.std())
    centred = found - found.mean()
    follows = float((centred[1:] * centred[:-1]).mean() / deviation**2) if deviation else 0.0
    quantiles = [float(each) for each in np.quantile(found, _QUANTILES)]
    return [float(found.size), float(found.mean()), deviation, follows, *quantiles]


def _parts(moments: Numbers, window: float) -> list[float]:
    """How many fall into each part of the window, from the fullest to the emptiest, and how
    unevenly."""
    counts, _ = np.histogram(moments, bins=_PARTS, range=(0.0, window))
    even = float(counts.var() / counts.mean()) if counts.sum() else 0.0
    return [even, *(float(each) for each in sorted(counts, reverse=True))]


def _bursts(moments: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """When each burst begins, and how many bytes go and come in it."""
    if not moments.size:
        return np.empty(0), np.empty(0), np.empty(0)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(moments) > BURST) + 1))
    up = np.add.reduceat(np.where(sizes > 0, sizes, 0.0), starts)
    down = np.add.reduceat(np.where(sizes < 0, -sizes, 0.0), starts)
    return moments[starts], up, down


class _Seen:
    """A trace as rows of numbers: of connections, and of pieces."""

    def __init__(self, known: Trace) -> None:
        self.made = sorted(known.seen, key=lambda one: one.began)
        self.began = np.array([one.began for one in self.made])
        ended = np.array([one.ended for one in self.made])
        self.alive = [int(((self.began < at) & (ended > at)).sum()) for at in self.began]
        pieces = sorted(
            piece for one in self.made for piece in zip(one.moments, one.sizes, strict=True)
        )
        self.moments = np.array([moment for moment, _ in pieces])
        self.sizes = np.array([float(size) for _, size in pieces])

    def features(self, start: float, window: float) -> list[float]:
        """All that is seen between ``start`` and ``start + window`` (seconds), as numbers."""
        first, last = np.searchsorted(self.began, (start, start + window))
        made, began = self.made[first:last], self.began[first:last] - start
        alive = [float(each) for each in self.alive[first:last]]
        first, last = np.searchsorted(self.moments, (start, start + window))
        moments, sizes = self.moments[first:last] - start, self.sizes[first:last]
        return [
            *_of_connections(made, began, window),
            *_spread(alive),
            *_spread(np.diff(moments)),
            *_spread(sizes[sizes > 0]),
            *_spread(-sizes[sizes < 0]),
            *_parts(moments, window),
            *_of_bursts(moments, sizes, window),
        ]


def _of_connections(made: list[Connection], began: Numbers, window: float) -> list[float]:
    talked = [one for one in made if one.moments]
    return [
        *_spread(np.diff(began)),
        *_spread([float(one.up) for one in made]),
        *_spread([float(one.down) for one in made]),
        *_spread([one.ended - one.began for one in made]),
        *_spread([float(len(one.moments)) for one in made]),
        *_spread([b - a for one in made for a, b in pairwise(one.moments)]),
        *_spread([one.moments[0] - one.began for one in talked]),
        *_spread([one.ended - one.moments[-1] for one in talked]),
        *_parts(began, window),
    ]


def _of_bursts(moments: Numbers, sizes: Numbers, window: float) -> list[float]:
    when, up, down = _bursts(moments, sizes)
    kinds = Counter(
        (min(round(u / FRAME_SIZE), _FRAMES), min(round(d / FRAME_SIZE), _FRAMES))
        for u, d in zip(up, down, strict=True)
    )
    counted = [float(kinds[u, d]) for u in range(_FRAMES + 1) for d in range(_FRAMES + 1)]
    return [
        *_spread(np.diff(when)),
        *_spread(up),
        *_spread(down),
        *_parts(when, window),
        *counted,
    ]


@dataclass(frozen=True)
class Windows:
    """Windows of traces: what is seen in each, whether the user wrote, and which pair of traces it
    is of."""

    seen: Numbers
    busy: NDArray[np.bool_]
    pair: NDArray[np.int64]


def cut(traces: Sequence[Trace], window: float) -> Windows:
    """All whole windows of these traces, of which every second one is of a user who writes."""
    seen_of = [_Seen(each) for each in traces]
    rows = [
        (seen_of[of].features(number * window, window), each.busy, of // 2)
        for of, each in enumerate(traces)
        for number in range(int(each.span // window))
    ]
    seen, busy, pair = zip(*rows, strict=True)
    return Windows(np.array(seen), np.array(busy), np.array(pair))


def classifiers() -> list[ClassifierMixin]:
    """Those that are tried; always the same from the same windows."""
    return [
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5_000)),
        RandomForestClassifier(300, min_samples_leaf=2, random_state=1),
        ExtraTreesClassifier(300, min_samples_leaf=2, random_state=2),
    ]


def lived(place: Path, conduct: Conduct, span: float, seed: str) -> Trace:
    """What is seen of a client that lives so for ``span`` seconds; the same for the same seed."""
    seen = trace(place, conduct, span, seed.encode())
    return Trace(tuple(seen), span, bool(conduct.writes))


def lives(place: Path, pace: float, span: float, count: int, seed: str) -> list[Trace]:
    """So many clients that only live, and as many whose users write every 800 s and are written to
    every 900 s (means)."""
    conducts = Conduct(pace), Conduct(pace, 800.0, 900.0)
    return [
        lived(place / f"{seed}-{number}-{conduct.writes:.0f}", conduct, span, f"{seed}{number}")
        for number in range(count)
        for conduct in conducts
    ]


def reach(known: Sequence[Trace], others: Sequence[Trace], window: float) -> Reach:
    """What a watcher who has learned from the ``known`` traces says of windows of ``others``."""
    train, tried = cut(known, window), cut(others, window)
    folds = GroupKFold(min(5, len(known) // 2))

    def does(each: ClassifierMixin) -> float:
        """How well, on known traces that are left out."""
        scores = cross_val_score(each, train.seen, train.busy, groups=train.pair, cv=folds)
        return float(scores.mean())

    said = max(classifiers(), key=does).fit(train.seen, train.busy).predict(tried.seen)
    return Reach(int((said == tried.busy).sum()), len(said))
