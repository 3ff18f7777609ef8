"""Records `quantized_weights.npz`: what GPTQModel and AutoAWQ make of packed words, as an oracle for our readers.

    pip download --no-deps --no-binary :all: gptqmodel==7.7.0 autoawq==0.2.9     # and unpack both
    python tests/golden/record_quantized_weights.py gptqmodel-7.7.0 autoawq-0.2.9

Both packages want a GPU to be imported whole; the functions that unpack are pure, and are taken out of their sources:
`PackableQuantLinear.dequantize_weight` (gptqmodel/nn_modules/qlinear/__init__.py) after the addition that
gptqmodel/utils/model.py makes to zeros of the first format, and `dequantize_gemm` (awq/utils/packing_utils.py).
Words are random: every one is the numbers of some checkpoint.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

N, K = 8, 128
OUT = Path(__file__).with_name("quantized_weights.npz")
Arrays = dict[str, np.ndarray]


def functions(source: Path, names: set[str], **globals_: Any) -> dict[str, Any]:
    """Functions and assignments of a source file, methods as functions, without importing the package."""
    tree = ast.parse(source.read_text())
    found: list[ast.stmt] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    found += [n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") in names]
    for node in found:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module(future + found, []), str(source), "exec"), globals_)
    return globals_


def words(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 1 << 32, shape, np.uint64).astype(np.uint32).view(np.int32)


def scales(rng: np.random.Generator, groups: int) -> np.ndarray:
    return rng.uniform(0.01, 0.1, (groups, N)).astype(np.float16)


def gptq(unpack: dict[str, Any], bits: int, group_size: int, kind: str, shuffled: bool) -> Arrays:
    rng, groups, factor = np.random.default_rng(bits + group_size), K // group_size, 32 // bits
    group = np.arange(K) // group_size
    stored = {
        "qweight": words(rng, (K // factor, N)),
        "qzeros": words(rng, (groups, N // factor)),
        "scales": scales(rng, groups),
        "g_idx": (rng.permutation(group) if shuffled else group).astype(np.int32),
    }
    tensors = {name: torch.from_numpy(array.copy()) for name, array in stored.items()}
    if kind == "gptq":
        tensors["qzeros"] += {4: 0b00010001000100010001000100010001, 8: 0b00000001000000010000000100000001}[bits]
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    module = SimpleNamespace(
        **tensors | {"scales": tensors["scales"].float()},
        bits=bits,
        maxq=(1 << bits) - 1,
        pack_factor=factor,
        planar=False,
        in_features=K,
        dequant_dtype=torch.int32,
        wf_unsqueeze_zero=shifts[None, None, :],
        wf_unsqueeze_neg_one=shifts[None, :, None],
        _init_wf_unsqueeze_buffers=lambda: None,
    )
    module._dequantize_from_codes = lambda *args, **named: unpack["_dequantize_from_codes"](module, *args, **named)
    return stored | {"weight": unpack["dequantize_weight"](module).numpy().T}


def awq(unpack: dict[str, Any], group_size: int) -> Arrays:
    rng, groups = np.random.default_rng(group_size), K // group_size
    stored = {"qweight": words(rng, (K, N // 8)), "qzeros": words(rng, (groups, N // 8)), "scales": scales(rng, groups)}
    qweight, qzeros, wide = (torch.from_numpy(array.copy()) for array in stored.values())
    return stored | {"weight": unpack["dequantize_gemm"](qweight, qzeros, wide.float(), 4, group_size).numpy().T}


def main(gptqmodel: Path, autoawq: Path) -> None:
    from_gptq = functions(
        gptqmodel / "gptqmodel/nn_modules/qlinear/__init__.py",
        {"dequantize_weight", "_dequantize_from_codes", "_torch_right_shift", "_torch_shift_factor"},
        t=torch,
    )
    from_awq = functions(
        autoawq / "awq/utils/packing_utils.py",
        {"dequantize_gemm", "unpack_awq", "reverse_awq_order", "AWQ_REVERSE_ORDER"},
        torch=torch,
    )
    cases = {
        f"gptq.{bits}.{size}.{kind}.{order}": gptq(from_gptq, bits, size, kind, order == "desc_act")
        for bits in (4, 8)
        for size in (32, K)
        for kind in ("gptq", "gptq_v2")
        for order in ("desc_act", "in_order")
        if size < K or order == "in_order"
    } | {f"awq.4.{size}": awq(from_awq, size) for size in (32, 64, 128)}
    arrays: dict[str, Any] = {f"{case}/{name}": array for case, found in cases.items() for name, array in found.items()}
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
