"""The feature extractors that can be asked for by name. Free of torch: `--help` reads it."""

EXTRACTORS: dict[str, str] = {
    "fashion-mnist": "undye's own classifier of Fashion-MNIST, 28x28x1; ships with undye",
    "inception": "InceptionV3 of torch-fidelity, 2048 features: what published FIDs use; needs its weights",
}


def default_extractor(data_name: str) -> str | None:
    """The extractor that fits a data set (its name, or an `ImageSource.name`), or None: then the user must choose."""
    words = data_name.split()
    return "fashion-mnist" if words and words[0] in ("fashion-mnist", "fashion-mini") else None


def help_for(data_name: str) -> str:
    """What to give as `--features` where nothing fits by default: one line for an error."""
    return (
        f"no feature extractor ships for {data_name}: train one (undye features --data {data_name} --out "
        "features.safetensors) and give --features features.safetensors, or --features inception"
    )
