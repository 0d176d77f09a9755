"""`Rows`: a long array of which only some consecutive rows are in memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rows:
    """Consecutive rows of an array (..., H, W), or (H, W, 3) with `axis` 0. They are counted from the array's start."""

    def __init__(self, axis: int = 0) -> None:
        self.axis = axis
        self.first = 0  # the row with which those in memory begin
        self.held: NDArray[Any] | None = None

    @property
    def end(self) -> int:
        """The row behind the last one."""
        return self.first if self.held is None else self.first + self.held.shape[self.axis]

    def add(self, rows: NDArray[Any]) -> None:
        """Adds the rows that follow."""
        self.held = rows if self.held is None else np.concatenate([self.held, rows], self.axis)

    def drop(self, before: int) -> None:
        """Forgets the rows before this one. Without any, the next ones begin there."""
        if self.held is None:
            self.first = before
        elif before > self.first:
            kept = self.between(min(before, self.end), self.end).copy()  # a view would keep the others in memory
            self.held, self.first = kept, min(before, self.end)

    def between(self, top: int, bottom: int) -> NDArray[Any]:
        """Returns the rows from `top` to the one before `bottom`."""
        assert self.held is not None and self.first <= top <= bottom <= self.end
        return self.held[(slice(None),) * self.axis + (slice(top - self.first, bottom - self.first),)]
