"""`--set KEY=VALUE`: what another project's model does not say of itself, in the same manner for every command."""

from typing import Annotated

import tyro

Set = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="KEY=VALUE",
        help="What another project's model does not say, such as image_size=64 num_heads=4 prediction=v "
        "schedule.num_steps=4000.",
    ),
]


def joined(args: list[str]) -> list[str]:
    """`--set a=1 --set b=2` as `--set a=1 b=2`: the parser would keep the last alone."""
    rest, pairs = list[str](), list[str]()
    taking = False
    for k, arg in enumerate(args):
        if arg.startswith("--set="):
            pairs.append(arg.removeprefix("--set="))
            continue
        first = k > 0 and args[k - 1] == "--set"
        taking = arg == "--set" or (taking and not arg.startswith("-") and (first or "=" in arg))
        if arg != "--set":
            (pairs if taking else rest).append(arg)
    return rest + (["--set", *pairs] if pairs or "--set" in args else [])
