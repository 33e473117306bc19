"""Checkpoints: folders of safetensors and JSON. Loading one never unpickles anything."""
