"""What `compile` may be asked for: targets, quantization, cache and context, each checked against the others."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import mlir.ir as mlir

from warploom.codegen.backend import Backend, backend_of
from warploom.errors import CheckpointError, CompileError
from warploom.frontend.models.registry import Geometry
from warploom.ir.function import in_all_layers
from warploom.ir.ops.experts import expert_linear
from warploom.ir.rewrite import entries, is_op
from warploom.ir.types import DType
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_weights import module_paths, weight_paths

KV_CACHES = {"auto": None, "fp8": DType.F8, "int8": DType.I8}
MEASURED = "fp8"  # the kind of cache whose keys and values stand on static scales


def backends_of(targets: Sequence[str], rules: Rules, deterministic: bool) -> list[Backend]:
    """The backends of the targets; CompileError if one is unknown, named twice, or has no kernels for the weights."""
    if not targets or len(set(targets)) < len(targets):
        raise CompileError(
            "compile needs each target once",
            expected="cpu, cuda:<arch>, or several",
            found=", ".join(targets) or "none",
        )
    backends = [backend_of(target, deterministic) for target in targets]
    for backend in backends:
        _check_quantization(backend, rules)
    return backends


def _check_quantization(backend: Backend, rules: Rules) -> None:
    missing = [family for family in rules.families if family not in backend.quantizations]
    if missing:
        raise CompileError(
            f"{backend.target.name} has no kernels for {missing[0]} weights yet",
            expected=", ".join(backend.quantizations),
            found=str(rules),
            fix="choose another quantization, or another target",
        )


def check_ends(eos_token_ids: Sequence[int], geometry: Geometry) -> None:
    """Refuse end tokens that the model cannot choose: a step would ban them, beyond its logits."""
    if wrong := [token for token in eos_token_ids if token >= geometry.vocab_size]:
        raise CheckpointError(
            "the model has an end token that is outside of its vocabulary",
            expected=f"eos_token_id below {geometry.vocab_size}",
            found=str(wrong[0]),
            fix="correct eos_token_id in config.json or generation_config.json, or use the tokenizer of this model",
        )


def check_cache(kv_cache: str, backends: Sequence[Backend]) -> None:
    """Raise a CompileError if there is no such KV cache, or a backend has no kernels for it."""
    if kv_cache not in KV_CACHES:
        raise CompileError("unknown kind of KV cache", expected=", ".join(KV_CACHES), found=repr(kv_cache))
    for backend in backends:
        if kv_cache not in backend.kv_caches:
            raise CompileError(
                f"{backend.target.name} has no kernels for an {kv_cache} cache",
                expected=", ".join(backend.kv_caches),
                found=kv_cache,
                fix="choose another kv_cache",
            )


def is_measured(kv_cache: str, geometry: Geometry) -> bool:
    """Whether the cache stands on static scales: latent rows have powers of two of their own."""
    return kv_cache == MEASURED and not geometry.latent


def check_text(text: str | None, rules: Rules, kv_cache: str, geometry: Geometry) -> None:
    """Raise a CompileError if nothing reads the calibration text."""
    if text is not None and not rules.need_text and not is_measured(kv_cache, geometry):
        raise CompileError(
            f"{rules} reads no calibration text",
            expected=f"a scheme that does, such as int4:awq, or an {MEASURED} cache of keys and values",
            fix="leave the text out, or choose another quantization",
        )


def check_patterns(module: mlir.Module, rules: Rules) -> None:
    """Raise a CompileError if a pattern of the rules fits none of the model's weights: it is misspelt."""
    paths = weight_paths(module)
    for pattern, _ in rules.by_pattern:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise CompileError(
                f"the quantization pattern {pattern!r} fits no weight of this model",
                expected="a pattern of " + ", ".join(dict.fromkeys(map(in_all_layers, paths))),
                found=str(rules),
                fix="correct the pattern, or leave it out",
            )
    experts = [op for function in entries(module) for op in function.ops if is_op(op, expert_linear)]
    chosen = [rules.scheme_of(module_paths(op)) for op in experts]
    if unused := [scheme.name for _, scheme in rules.by_pattern if scheme.only_experts and scheme not in chosen]:
        raise CompileError(
            f"{unused[0]} stores experts, and none of this model",
            expected="a mixture of experts, and a pattern that fits them",
            found=str(rules),
            fix="choose another scheme, such as int4",
        )


def context_of(geometry: Geometry, wanted: int | None) -> int:
    """The most tokens of one sequence: what is wanted, which the model can, or all that it can."""
    if wanted is None:
        return geometry.max_context
    if not 1 <= wanted <= geometry.max_context:
        raise CompileError(
            "max_context is out of range", expected=f"1 to {geometry.max_context} tokens", found=str(wanted)
        )
    return wanted
