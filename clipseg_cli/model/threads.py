"""Shares the cores among the images of a batch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(function: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Returns the result for each item. As many items as `threads` are computed at once, and each gets its share.

    An image with several threads waits for all of them after every step of the network, and whatever else needs a core
    in between makes all of them wait. Images beside each other never wait. torch must give the same bits with any
    number of threads. Sets torch's number of threads to `threads` in the calling thread.
    """
    at_once = min(threads, len(items))
    if at_once <= 1:
        return [function(item) for item in items]
    torch.set_num_threads(threads // at_once)  # new threads take this number
    try:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)
