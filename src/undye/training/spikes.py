"""Whether the loss has jumped: a line of the log held against the lines before it."""

import math
from statistics import median

HISTORY = 20
"""Lines of the log that a new one is held against."""
ENOUGH = 5
"""Lines that have to be there before any is called a spike."""
LEAST = 1.5
"""A rise by less than this factor is never called one."""
DEVIATIONS = 6.0
"""A rise has to be this many standard deviations of the lines before."""


def usual_if_spike(loss: float, history: list[float]) -> float | None:
    """What the loss usually is, if this one is far above it; else None.

    Losses are compared by their logarithms, for what is noise is a matter of proportion. The median and the median
    absolute deviation say what is usual: a spike among the lines before does not hide the next one, and where batches
    are small and the loss is restless, more is needed.

    Args:
        loss: the mean loss of the new line.
        history: those of the lines before it, the last one last; as `remember` keeps them.
    """
    past = [math.log(value) for value in history if value > 0]
    if len(past) < ENOUGH or not loss > 0:
        return None
    middle = median(past)
    spread = 1.4826 * median(abs(value - middle) for value in past)  # for normal noise: its standard deviation
    return math.exp(middle) if math.log(loss) - middle > max(math.log(LEAST), DEVIATIONS * spread) else None


def remember(history: list[float], loss: float) -> list[float]:
    """The history for the next line; a loss that is no number is left out."""
    return [*history, loss][-HISTORY:] if math.isfinite(loss) else history
