"""How samples were drawn, in a few words. Free of torch: the command line's tables use it."""

from typing import Any


def drawn(samples: dict[str, Any]) -> str:
    """Sampler with its options, steps, grid, seed and guidance of a report's `samples`.

    Two recipes that draw different images for a reason that a person chose differ here too; lists of coefficients are
    left to the report.
    """
    sampler = samples["sampler"]
    options = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in sampler.items()
        if key != "name" and value is not None and not isinstance(value, (list, dict))
    ]
    name = f"{sampler['name']} ({', '.join(options)})" if options else sampler["name"]
    grid = f" ({samples['grid']})" if samples["grid"] else ""
    weight = samples["guidance"].get("guidance", 1)
    guidance = f", guidance {weight:g}" if weight != 1 else ""
    return f"{name}, {samples['steps']:,} steps{grid}, seed {samples['seed']}{guidance}"
