"""Checkpoints: folders of safetensors and JSON. Loading one never unpickles anything."""

from undye.checkpoint.native import load, load_train_state, save

__all__ = ["load", "load_train_state", "save"]
