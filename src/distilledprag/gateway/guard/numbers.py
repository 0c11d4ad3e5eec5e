"""Runs of token ids among raw numbers: integers and floats of several widths, side by side or at equal distances.

R = runs, W = bytes of a number. An adapter's numbers are noise to this check, and small: states in bytes lie near zero, as the
ids of frequent tokens do, so that three of these can stand there by chance, eight cannot. Runs with the token 0, or of one
token only, are left out. Knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from distilledprag.gateway.guard.words import RUN

STRIDES = range(1, 33)  # distances, in numbers, at which ids are looked for, besides the tensors' widths


def holds_token_run(data: bytes, token_runs: Collection[tuple[int, ...]], widths: Iterable[int] = (), length: int = RUN) -> bool:
    """Whether `length` ids stand in `data`, forwards or backwards, of which every three in a row are one of `token_runs`.

    widths: of rows, in numbers.
    """
    forwards = {run for run in token_runs if 0 not in run and len(set(run)) > 1}
    if not forwards:
        return False
    strides = sorted({*STRIDES, *widths})
    directions = (forwards, {run[::-1] for run in forwards})
    codes = (code for runs in directions for code in _codes(np.array(sorted(runs), dtype=np.int64)))
    return any(code.found_in(data, strides, length) for code in codes)


@dataclass(frozen=True)
class _Code:
    """A way to write ids as numbers. runs: (R, 3), unsigned integers with the numbers' bits, low byte first; telling: the place,
    in bytes, of the 16 bits in which they differ most."""

    runs: np.ndarray
    telling: int

    def found_in(self, data: bytes, strides: Iterable[int], length: int) -> bool:
        """From every byte that a number may begin at: looks for first ids by their telling bits, then for the other two."""
        width = self.runs.dtype.itemsize
        wanted = set(map(tuple, self.runs.tolist()))
        table = np.zeros(2**16, dtype=bool)
        table[(self.runs[:, 0] >> (8 * self.telling)) & 0xFFFF] = True
        for shift in range(width):
            size = (len(data) - shift) // width
            if size < RUN:
                continue
            numbers = np.frombuffer(data, dtype=self.runs.dtype, count=size, offset=shift)
            halves = np.frombuffer(data, dtype="<u2", count=size * width // 2, offset=shift)[self.telling // 2 :: width // 2]
            begins = np.flatnonzero(table[halves])
            begins = begins[np.isin(numbers[begins], self.runs[:, 0])]
            if len(begins) and any(self._has_run(numbers, begins, stride, wanted, length) for stride in strides):
                return True
        return False

    def _has_run(self, numbers: np.ndarray, begins: np.ndarray, stride: int, wanted: set[tuple[int, ...]], length: int) -> bool:
        begins = begins[begins + (RUN - 1) * stride < len(numbers)]
        begins = begins[np.isin(numbers[begins + stride], self.runs[:, 1])]
        found = {begin for begin in begins.tolist() if tuple(numbers[begin : begin + RUN * stride : stride].tolist()) in wanted}
        return any(all(begin + step * stride in found for step in range(length - RUN + 1)) for begin in found)


def _codes(runs: np.ndarray) -> Iterator[_Code]:
    """The ways that are looked for; of each the runs that can be written in it. Ids of 64 bits are such of 32, two apart."""
    short = runs[(runs < 2**16).all(axis=1)].astype("<u2")
    yield _Code(short, 0)
    yield _Code(short.byteswap(), 0)
    yield _Code(runs.astype("<u4"), 0)
    yield _Code(runs.astype("<u4").byteswap(), 2)
    for kind, bits in (("<f2", "<u2"), ("<f4", "<u4"), ("<f8", "<u8")):
        with np.errstate(over="ignore"):
            floats = runs.astype(kind)
        exact = (floats.astype(np.float64) == runs).all(axis=1)
        width = floats.dtype.itemsize
        yield _Code(floats[exact].view(bits), width - 2)
        if kind == "<f4":  # bfloat16 is its upper half
            upper = floats[(floats.view("<u4") & 0xFFFF == 0).all(axis=1)].view("<u4") >> 16
            yield _Code(upper.astype("<u2"), 0)
