"""Training by several processes with lightning Fabric."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class World:
    """The processes that train one model together.

    Args:
        fabric: A launched lightning Fabric. Default: one process.
    """

    def __init__(self, fabric: Any = None):
        self.fabric = fabric
        self.rank, self.size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)

    def shard(self, batch: int) -> slice:
        """This process's rows of a batch.

        Raises:
            ValueError: If the world size does not divide the batch.
        """
        if batch % self.size:
            possible = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise ValueError(
                f"batch: {self.size} processes cannot share {batch} images equally; start {possible} processes"
            )
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the processes (all-reduce)."""
        return x if self.size == 1 else self.fabric.all_reduce(x, reduce_op="mean")

    def broadcast(self, compute: Callable[[], Any]) -> Any:
        """Rank 0 broadcast: what rank 0 computes, in every process."""
        value = compute() if self.rank == 0 else None
        return value if self.size == 1 else self.fabric.broadcast(value)
