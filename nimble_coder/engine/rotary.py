"""The angles of rotary position embedding."""

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import ModelShape


def rotary_angles(shape: ModelShape, positions: int) -> NDArray[np.float64]:
    """`[positions, head_dim / 2]`"""
    frequencies = shape.rope_theta ** -(np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
    return np.outer(np.arange(positions, dtype=np.float64), frequencies)
