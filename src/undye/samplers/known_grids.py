"""Step grids that the package brings: found on one model with `undye optimise-grid`, and good for others like it.

These were made for the cpu preset on Fashion-MNIST (cosine schedule of 1000 steps, v-prediction, 28x28). On another
training of it, with other weights and a learned variance, they are 1.7 to 1.9 times nearer to the many-step solution
than the best of the grids that need no search.
"""

from undye.config import ModelConfig, ScheduleConfig
from undye.config_grids import OptimisedGrid

SMALL_COSINE: dict[int, OptimisedGrid] = {
    grid.steps: grid
    for grid in (
        OptimisedGrid(
            times=(1000.0, 922.459, 798.668, 521.192, 149.511, 0.0),
            sampler="unipc", orders=(1, 2, 3, 2, 1),
            distance=0.1251, best_known=0.1766, best_known_name="unipc of order 3 on cosine",
        ),
        OptimisedGrid(
            times=(1000.0, 922.492, 862.700, 707.716, 552.886, 244.763, 120.256, 33.779, 0.0),
            sampler="unipc", orders=(1, 2, 3, 2, 2, 2, 2, 1),
            distance=0.0727, best_known=0.1018, best_known_name="dpm++2m on karras",
        ),
    )
}  # fmt: skip


def known_grids(config: ModelConfig) -> dict[int, OptimisedGrid]:
    """The grids that should suit a model: those of the cosine schedule of 1000 steps, for images up to 32x32."""
    fits = config.schedule == ScheduleConfig(name="cosine", num_steps=1000) and max(config.image_size) <= 32
    return SMALL_COSINE if fits else {}
