"""`compile(model_id) -> Artifact`: the way of a model through the house, one room after the other."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlir.ir as mlir
import numpy as np

from warploom.cache_scales import cache_scales
from warploom.codegen.backend import Backend, Progress
from warploom.codegen.parameters import Parameters, exports
from warploom.codegen.random_params import random_params
from warploom.compile_options import (
    KV_CACHES,
    backends_of,
    check_cache,
    check_ends,
    check_patterns,
    check_text,
    context_of,
    is_measured,
)
from warploom.errors import CompileError
from warploom.frontend.checkpoint import Checkpoint, open_checkpoint
from warploom.frontend.dummy import dummy_checkpoint, dummy_spread, dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.models.registry import Geometry
from warploom.frontend.quantized.format import INPUT_SCALE
from warploom.frontend.stacked import load_tensor
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.tokenizer import TokenizerFiles
from warploom.frontend.trace import Limits, geometry_of, kv_type, trace
from warploom.generation_defaults import generation_defaults
from warploom.ir.context import new_context, print_module
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate_exports
from warploom.ir.ops.latent_rows import runs_of
from warploom.ir.ops.parameters import checkpoint as checkpoint_op
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of
from warploom.ir.verify import PREPARE, verify
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.scheme import Choice, Rules
from warploom.plugins import load_plugins
from warploom.refusals import refuse_overflow, refuse_surprises
from warploom.runtime.artifact import Artifact, ArtifactWriter, ir_folder, load
from warploom.runtime.manifest import (
    GenerationInfo,
    KVInfo,
    Manifest,
    ModelInfo,
    RandomParam,
    TargetInfo,
    TokenizerInfo,
)
from warploom.version import __version__

logger = logging.getLogger("warploom.compiler")
TOKENIZER, CHAT_TEMPLATE = "tokenizer.json", "chat_template.jinja"
MAX_SEQUENCES = 1024  # running at once, at most; devices take fewer by default


@dataclass(frozen=True)
class _Job:
    """What to compile for one target, and how."""

    checkpoint: Checkpoint
    geometry: Geometry
    backend: Backend
    rules: Rules
    scales: dict[str, LazyTensor]
    limits: Limits
    kv_cache: str
    generation: GenerationInfo
    dummy_weights: bool
    progress: Progress

    @property
    def cache(self) -> CacheSpec:
        dtype = KV_CACHES[self.kv_cache] or (DType.F32 if str(self.rules) == "f32" else DType.BF16)
        return CacheSpec(self.backend.page_size, dtype, self.backend.k_layout)

    @property
    def kv(self) -> KVInfo:
        geometry, cache = self.geometry, self.cache
        page = kv_type(geometry, cache).resolve({"C": 1})
        return KVInfo(
            num_layers=geometry.num_layers,
            num_kv_heads=geometry.num_kv_heads,
            head_dim=geometry.head_dim,
            page_size=cache.page_size,
            dtype=cache.dtype.value,
            bytes_per_page=math.prod(page) * cache.dtype.numpy.itemsize,
            tensors=geometry.kv_tensors,
            powers=len(runs_of(*geometry.row, cache.dtype)) if geometry.latent else 0,
        )


def compile(
    model_id: str | Path,
    *,
    target: str | Sequence[str] = "cpu",
    quantization: Choice = "bf16",
    kv_cache: str = "auto",
    deterministic: bool = False,
    out: str | Path | None = None,
    max_context: int | None = None,
    dummy_weights: bool = False,
    calibration: str | None = None,
    plugins: Sequence[str] = (),
    progress: Progress = lambda stage, fraction: None,
) -> Artifact:
    """Compile a model ahead of time.

    Args:
        model_id: a hub id, `owner/name` or `owner/name@revision`, a folder in Hugging Face's layout, or a `.gguf` file.
        target: `cpu`, or `cuda:<arch>` such as `cuda:sm_90`, or several of them for one artifact, which shares the
            weights that they pack alike; no GPU is needed.
        quantization: how weight matrices are stored: a scheme such as `bf16`, `int8`, `int4:g64` or `fp8` (see
            docs/quantization.md), or schemes by pattern of module paths, of which the first that fits counts:
            `{"lm_head": "bf16", "model.layers.0.*": "int8", "*": "int4"}`.
            Activations are f32 on the CPU and bf16 on CUDA.
        kv_cache: `auto`, which is f32 for the quantization `f32` and bf16 otherwise. Half of the memory: `int8`, each
            head of a token on a scale of its own; `fp8`, E4M3 numbers on scales of the heads of each layer, those of
            the checkpoint or measured ones, on CUDA from sm_89 on, and slow on the CPU.
        deterministic: a request's tokens never depend on what else is in the batch, at some cost in speed. On the CPU
            they never do; on CUDA, without it, equal batches give equal tokens.
        out: the artifact's folder; default: `<model name>-<quantization>.warploom` in the working directory.
        max_context: most tokens of one sequence; default and upper bound: what the model was trained for.
        calibration: text of the kind that the model will read, for schemes that want one (`int4:awq`); also what an
            FP8 cache is measured on, which is otherwise the documentation of Python's standard library.
        dummy_weights: only config.json is read; weights are random and made at load, to measure speed.
        plugins: packages that extend the compiler, see docs/extending.md; those that are installed are found.
        progress: called with the stage and the fraction of it that is done.

    Returns:
        The artifact, loaded.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError: the model cannot be read or is not supported.
        CompileError: a bad option, or code generation failed.
        ArtifactError: the artifact cannot be written.
    """
    load_plugins(plugins)
    rules = Rules(quantization)
    backends = backends_of([target] if isinstance(target, str) else target, rules, deterministic)
    progress("reading the checkpoint", 0.0)
    checkpoint = dummy_checkpoint(model_id) if dummy_weights else open_checkpoint(model_id)
    for note in checkpoint.notes if "checkpoint" in rules.families else ():
        logger.warning("%s: %s", model_id, note)
    geometry = geometry_of(checkpoint.config)
    spread = dummy_spread(checkpoint.config) if dummy_weights else 0.0
    check_ends(checkpoint.tokenizer.eos_token_ids, geometry)
    check_cache(kv_cache, backends)
    check_text(calibration, rules, kv_cache, geometry)
    context, generation = context_of(geometry, max_context), generation_defaults(checkpoint)
    folder = Path(out) if out is not None else Path(f"{_model_name(model_id)}-{_file_name(rules)}.warploom")
    targets: dict[str, TargetInfo] = {}
    random: dict[str, RandomParam] = {}
    parameters = Parameters()
    with new_context(), mlir.Location.unknown(), ArtifactWriter(folder) as writer:
        checkpoint = replace(checkpoint, tensors=_as_asked(checkpoint.tensors, rules))
        scales = _calibrate(checkpoint, rules, calibration, progress) | _static_scales(checkpoint.tensors)
        if is_measured(kv_cache, geometry):
            scales |= cache_scales(checkpoint, geometry, calibration, progress)
        checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, **scales})
        for backend in backends:
            limits = Limits(backend.max_tokens, MAX_SEQUENCES, context)
            job = _Job(
                checkpoint, geometry, backend, rules, scales, limits, kv_cache, generation, dummy_weights, progress
            )
            module = _lower(job, writer)
            targets[backend.target.name] = backend.generate(module, job.kv, writer, progress)
            added = parameters.add(module)
            if dummy_weights:
                random |= random_params(added, spread, first_seed=len(random))
            else:
                _prepare(job, module, added, writer)
        _add_tokenizer(checkpoint.tokenizer, writer)
        writer.finish(_manifest(job, targets, random, _num_parameters(module)))
    return load(folder)


def _as_asked(tensors: Mapping[str, LazyTensor], rules: Rules) -> dict[str, LazyTensor]:
    """Quantized weights with the parts that they are made of, if some are to be kept so."""
    if "checkpoint" not in rules.families:
        return {name: replace(tensor, parts=(), order=None) for name, tensor in tensors.items()}
    parts = {part.name: part for tensor in tensors.values() for part in tensor.parts}
    return {**tensors, **parts}


def _calibrate(checkpoint: Checkpoint, rules: Rules, text: str | None, progress: Progress) -> dict[str, LazyTensor]:
    """Scales of activations by name, where a scheme wants them."""
    if not rules.need_text or not checkpoint.tensors:  # dummy weights are measured for speed only
        return {}
    if text is None:
        raise CompileError(
            f"{rules} needs a calibration text",
            expected="some thousand words of the kind that the model will read",
            fix="pass calibration=..., or --calibration FILE; or leave out the option awq",
        )
    from warploom.calibration import calibrate

    return calibrate(checkpoint, rules, text, progress)


def _static_scales(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Those that a quantized checkpoint has for what its linears read."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith(f".{INPUT_SCALE}")}


def _file_name(rules: Rules) -> str:
    return "mixed" if len(rules.by_pattern) > 1 else str(rules).replace(":", "-")


def _model_name(model_id: str | Path) -> str:
    path = Path(model_id)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.suffix == ".gguf" else Path(str(model_id).partition("@")[0]).name


def _lower(job: _Job, writer: ArtifactWriter) -> mlir.Module:
    """Trace the model and run the passes; every stage that changed the program is kept in `ir/<target>/`."""
    require = dummy_tensor if job.dummy_weights else job.checkpoint.require
    module = trace(job.checkpoint.config, require, job.cache, job.limits, job.backend.activation)
    verify(module)
    check_patterns(module, job.rules)
    folder = ir_folder(job.backend.target.name)
    previous = print_module(module)
    writer.add_text(f"{folder}/00-trace.mlir", previous)
    passes = pipeline(job.backend.target, job.rules, job.scales)
    for number, name in enumerate(run(module, passes), 1):
        job.progress(name, number / len(passes))
        text = print_module(module)
        if text != previous:
            writer.add_text(f"{folder}/{number:02}-{name}.mlir", text)
        previous = text
    refuse_surprises(module, job.backend.target.name)
    return module


def _prepare(job: _Job, module: mlir.Module, wanted: Container[str], writer: ArtifactWriter) -> None:
    """Run `@prepare` into the weight files, one parameter at a time."""

    def read(name: str) -> np.ndarray:
        return load_tensor(job.checkpoint.tensors, name)

    total = sum(name in wanted for name, _ in exports(module))
    for done, (name, array) in enumerate(evaluate_exports(module, read, wanted), 1):
        refuse_overflow(name, array, str(job.rules))
        writer.add_param(name, array)
        job.progress("packing weights", done / total)


def _num_parameters(module: mlir.Module) -> int:
    """Numbers in the checkpoint tensors that the model uses."""
    used = [op for op in functions(module)[PREPARE].ops if is_op(op, checkpoint_op)]
    return sum(int(np.prod(type_of(op.results[0]).resolve({}))) for op in used)


def _add_tokenizer(files: TokenizerFiles, writer: ArtifactWriter) -> None:
    writer.add_text(TOKENIZER, files.tokenizer_json)
    if files.chat_template is not None:
        writer.add_text(CHAT_TEMPLATE, files.chat_template)


def _tokenizer(files: TokenizerFiles) -> TokenizerInfo:
    return TokenizerInfo(
        file=TOKENIZER,
        chat_template=None if files.chat_template is None else CHAT_TEMPLATE,
        bos_token=files.bos_token,
        eos_token=files.eos_token,
        eos_token_ids=list(files.eos_token_ids),
        add_bos=files.add_bos,
    )


def _manifest(
    job: _Job, targets: dict[str, TargetInfo], random: dict[str, RandomParam], num_parameters: int
) -> Manifest:
    checkpoint, geometry = job.checkpoint, job.geometry
    return Manifest(
        warploom_version=__version__,
        model=ModelInfo(checkpoint.model_id, checkpoint.config["architectures"][0], num_parameters),
        config=dict(checkpoint.config),
        vocab_size=geometry.vocab_size,
        max_context=job.limits.max_context,
        tokenizer=_tokenizer(checkpoint.tokenizer),
        generation=job.generation,
        quantization=str(job.rules),
        targets=targets,
        random_params=random,
    )
