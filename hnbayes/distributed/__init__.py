"""Several processes that `torchrun` has started: chains spread over them, and data that are."""

from hnbayes.distributed.ranks import RankDiedError, Ranks, RanksStoppedError
from hnbayes.distributed.sharded import ShardedPotential

__all__ = ["RankDiedError", "Ranks", "RanksStoppedError", "ShardedPotential"]
