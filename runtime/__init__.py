"""Serves an artifact: loader, devices, KV cache, scheduler, sampler, engine. No compiler, no PyTorch."""
