"""Stands in for tensorrt_llm/mapping.py."""


class Mapping:
    def __init__(
        self,
        world_size: int = 1,
        rank: int = 0,
        gpus_per_node: int = 8,
        *,
        cp_size: int = 1,
        tp_size: int = 1,
        pp_size: int = 1,
        moe_tp_size: int = -1,
        moe_ep_size: int = -1,
    ) -> None:
        if pp_size * cp_size * tp_size != world_size:
            raise ValueError(f"world_size must equal to tp_size * pp_size * cp_size, but got {world_size}")
        if rank >= world_size:
            raise ValueError(f"rank must < world_size, but got {rank}")
        self.world_size, self.rank, self.tp_size = world_size, rank, tp_size
