"""Serving on NVIDIA GPUs through the CUDA driver alone: no PyTorch, no CUDA toolkit, nothing compiled at run time."""
