"""Stands in for tensorrt_llm/mapping.py."""


class Mapping:
    def __init__(
        self,
        world_size=1,
        rank=0,
        gpus_per_node=8,
        *,
        cp_size=1,
        tp_size=1,
        pp_size=1,
        moe_tp_size=-1,
        moe_ep_size=-1,
    ):
        if pp_size * cp_size * tp_size != world_size:
            raise ValueError(f"world_size must equal to tp_size * pp_size * cp_size, but got {world_size}")
        if rank >= world_size:
            raise ValueError(f"rank must < world_size, but got {rank}")
        self.world_size, self.rank, self.tp_size = world_size, rank, tp_size
