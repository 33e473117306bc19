"""The results as Markdown."""

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """Tables of what peers.json holds; a part that was not measured is left out."""
    machine, versions = result["machine"], result["machine"]["versions"]
    lines = [
        "# undye beside its peers",
        "",
        f"`{result['command']}` on {machine['cpu']}, {machine['threads']} threads, {result['data']}, "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
    ]
    if "speed" in result:
        lines += _speed(result["speed"])
    if "quality" in result:
        lines += _quality(result["quality"])
    return "\n".join(lines)


def _speed(speed: dict[str, Any]) -> list[str]:
    lines = [
        "## Training speed, 28x28x1",
        "",
        f"All in one process, {speed['rounds']} rounds, in each a turn for everyone in random order. "
        "Images per second: median (range) over the rounds.",
        "",
        "| contender | precision | batch | weights | images/s |",
        "|---|---|---:|---:|---:|",
    ]
    for row in speed["contenders"]:
        rates = row["images_per_second"]
        lines.append(
            f"| {row['project']} | {row['precision']} | {row['batch']} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['median']:.0f} ({min(rates):.0f} to {max(rates):.0f}) |"
        )
    lines += [
        "",
        "undye against each peer at that peer's faster batch size, within the same round. Bold: what "
        '`precision="auto"` chooses on this machine.',
        "",
        "| undye | peer | times as many images/s, median (range) |",
        "|---|---|---:|",
    ]
    for row in speed["ratios"]:
        low, high = row["range"]
        bold = "**" if row["is_default"] else ""
        lines.append(f"| {row['undye']} | {row['peer']} | {bold}{row['median']:.1f}{bold} ({low:.1f} to {high:.1f}) |")
    return [*lines, ""]


def _quality(quality: dict[str, Any]) -> list[str]:
    about = quality["classifier"]
    lines = [
        f"## Samples after {quality['budget_seconds']:g} s of training",
        "",
        f"Frechet distance (lower is better) of {quality['samples']:,} samples, DDIM {quality['ddim_steps']} steps, to "
        f"the {quality['test_images']:,} test images, in the {about.get('dims', 64)} penultimate features of a "
        f"classifier of undye's ({about['test_accuracy']:.1%} right on the test images). In brackets: its standard "
        "error by bootstrap over the samples. Distances from different numbers of images do not compare: few images "
        "lie farther away.",
        "",
        "| what | Frechet distance | steps | batch | lr | training seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in quality["contenders"]:
        lines.append(
            f"| {row['name']} | {row['frechet']:.2f} ({row['spread']:.2f}) | {row['steps']:,} | {row['batch']} "
            f"| {row['lr']:g} | {row['seconds']:.1f} |"
        )
    for row in quality["bounds"]:
        lines.append(f"| {row['name']} | {row['frechet']:.2f} ({row['spread']:.2f}) | | | | |")
    lines += ["", "![64 samples of each](peers.png)", "", "Recipes:", ""]
    return [*lines, *(f"- {row['name']}: {row['recipe']}" for row in quality["contenders"]), ""]
