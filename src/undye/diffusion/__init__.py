"""The mathematics of diffusion: tensors in, tensors out. No networks, no files, no printing."""
