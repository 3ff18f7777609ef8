"""llama.cpp for `cpu_decode.py`: one line of JSON with tokens per second for each line of input.

    python bench/worker_llama.py MODEL.gguf THREADS

WARPLOOM_BENCH_PLAIN=1 switches off llama.cpp's repacking of weights (its AMX code crashes on some virtual machines).
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import time

from llama_cpp import llama_cpp as llama  # type: ignore[import-not-found]

PROMPT, CONTEXT, STEPS, VOCAB = 512, 96, 64, 49152


def main() -> None:
    """Load the model, then run rounds until the input ends."""
    path, threads = sys.argv[1], int(sys.argv[2])
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model_params = llama.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.use_extra_bufts = "WARPLOOM_BENCH_PLAIN" not in os.environ
    model = llama.llama_model_load_from_file(path.encode(), model_params)
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, PROMPT, PROMPT
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"llama.cpp cannot open {path}")

    def seconds(count: int) -> float:
        """Compute `count` more tokens of the sequence and the last one's logits."""
        tokens = (llama.llama_token * count)(*(random.randrange(100, VOCAB - 100) for _ in range(count)))
        started = time.perf_counter()
        if llama.llama_decode(context, llama.llama_batch_get_one(tokens, count)) != 0:
            sys.exit("llama_decode failed")
        llama.llama_get_logits(context)
        return time.perf_counter() - started

    print(f"llama.cpp: {llama.llama_print_system_info().decode()}", file=sys.stderr)
    memory = llama.llama_get_memory(context)
    for _ in sys.stdin:
        llama.llama_memory_clear(memory, True)
        prefill = PROMPT / seconds(PROMPT)
        llama.llama_memory_clear(memory, True)
        seconds(CONTEXT)
        decode = STEPS / sum(seconds(1) for _ in range(STEPS))
        print(json.dumps({"prefill": prefill, "decode": decode}), flush=True)


if __name__ == "__main__":
    main()
