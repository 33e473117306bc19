"""The same model computed by other means than PyTorch's, where those win."""

from undye.runtimes.onnx_model import accelerated

__all__ = ["accelerated"]
