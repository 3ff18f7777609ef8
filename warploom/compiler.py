"""`compile(model_id) -> Artifact`: the way of a model through the house, one room after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlir.ir as mlir
import msgspec
import numpy as np

from warploom.codegen.cpu.driver import CpuProduct, compile_entries
from warploom.codegen.cpu.isa import LEVELS
from warploom.codegen.cpu.target import CPU, K_LAYOUT, PAGE_SIZE
from warploom.errors import CompileError
from warploom.frontend.checkpoint import Checkpoint, open_checkpoint
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.models.registry import Geometry
from warploom.frontend.tokenizer import TokenizerFiles
from warploom.frontend.trace import Limits, geometry_of, trace
from warploom.ir.context import new_context, print_module
from warploom.ir.function import functions, path_of
from warploom.ir.interpreter import evaluate_exports
from warploom.ir.ops.parameters import export
from warploom.ir.rewrite import entries, is_op
from warploom.ir.types import DType
from warploom.ir.verify import PREPARE, verify
from warploom.passes.donate import REFUSED
from warploom.passes.pipeline import Pass, pipeline, run
from warploom.runtime.artifact import Artifact, ArtifactWriter, load
from warploom.runtime.manifest import GenerationInfo, KVInfo, Manifest, ModelInfo, TargetInfo, TokenizerInfo, Variant
from warploom.version import __version__

TARGETS = ("cpu",)
PLAN, TOKENIZER, CHAT_TEMPLATE = "plan.cpu.json", "tokenizer.json", "chat_template.jinja"
MAX_TOKENS = 2048  # of one step: prompt chunks and decodes together
MAX_SEQUENCES = 256  # running at once

Progress = Callable[[str, float], None]  # what is going on, and the fraction of it that is done


@dataclass(frozen=True)
class _Job:
    """What to compile, and how."""

    checkpoint: Checkpoint
    geometry: Geometry
    quantization: str
    limits: Limits
    progress: Progress

    @property
    def cache(self) -> CacheSpec:
        dtype = DType.F32 if self.quantization == "f32" else DType.BF16
        return CacheSpec(PAGE_SIZE, dtype, K_LAYOUT)


def compile(
    model_id: str | Path,
    *,
    target: str = "cpu",
    quantization: str = "bf16",
    out: str | Path | None = None,
    max_context: int | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> Artifact:
    """Compile a model ahead of time.

    Args:
        model_id: a hub id, a folder in Hugging Face's layout, or a `.gguf` file.
        target: `cpu`.
        quantization: how weight matrices are stored: `f32`, `bf16`, or `int8` (one scale per output channel).
            Activations are f32; the KV cache is f32 for `f32` and bf16 otherwise.
        out: the artifact's folder; default: `<model name>-<quantization>.warploom` in the working directory.
        max_context: most tokens of one sequence; default and upper bound: what the model was trained for.
        progress: called with the stage and the fraction of it that is done.

    Returns:
        The artifact, loaded.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError: the model cannot be read or is not supported.
        CompileError: a bad option, or code generation failed.
        ArtifactError: the artifact cannot be written.
    """
    if target not in TARGETS:
        raise CompileError(f"unknown target {target!r}", expected=", ".join(TARGETS), found=str(target))
    passes = pipeline(CPU, quantization)
    progress("reading the checkpoint", 0.0)
    checkpoint = open_checkpoint(model_id)
    geometry = geometry_of(checkpoint.config)
    limits = Limits(MAX_TOKENS, MAX_SEQUENCES, _context(geometry, max_context))
    job = _Job(checkpoint, geometry, quantization, limits, progress)
    folder = Path(out) if out is not None else Path(f"{_model_name(model_id)}-{quantization}.warploom")
    with new_context(), mlir.Location.unknown(), ArtifactWriter(folder) as writer:
        module = _lower(job, passes, writer)
        product = _generate(job, module, writer)
        parameters = _prepare(job, module, writer)
        _add_tokenizer(checkpoint.tokenizer, writer)
        writer.finish(_manifest(job, product, parameters))
    return load(folder)


def _context(geometry: Geometry, wanted: int | None) -> int:
    if wanted is None:
        return geometry.max_context
    if not 1 <= wanted <= geometry.max_context:
        raise CompileError(
            "max_context is out of range", expected=f"1 to {geometry.max_context} tokens", found=str(wanted)
        )
    return wanted


def _model_name(model_id: str | Path) -> str:
    path = Path(model_id)
    return path.stem if path.suffix == ".gguf" else path.resolve().name if path.is_dir() else path.name


def _lower(job: _Job, passes: list[Pass], writer: ArtifactWriter) -> mlir.Module:
    """Trace the model and run the passes; every stage that changed the program is kept in `ir/`."""
    module = trace(job.checkpoint.config, job.checkpoint.tensors, job.cache, job.limits)
    verify(module)
    previous = print_module(module)
    writer.add_text("ir/00-trace.mlir", previous)
    for number, name in enumerate(run(module, passes), 1):
        job.progress(name, number / len(passes))
        text = print_module(module)
        if text != previous:
            writer.add_text(f"ir/{number:02}-{name}.mlir", text)
        previous = text
    _check_in_place(module)
    return module


def _check_in_place(module: mlir.Module) -> None:
    """A step that copies its cache would be a surprise."""
    for function in entries(module):
        for operation in function.ops:
            if REFUSED in operation.attributes:
                reason = operation.attributes[REFUSED].value
                raise CompileError(f"{path_of(operation)}: the KV cache would be copied", found=reason)


def _generate(job: _Job, module: mlir.Module, writer: ArtifactWriter) -> CpuProduct:
    """Native code for every ISA level, its plan and its readable sources."""
    with tempfile.TemporaryDirectory() as scratch:
        job.progress("generating code", 0.0)
        product = compile_entries(module, LEVELS, Path(scratch))
        for isa, library in product.libraries.items():
            writer.add_file(f"kernels/cpu/{isa.name}.so", library)
    for path, source in product.sources.items():
        writer.add_text(path, source)
    writer.add_bytes(PLAN, msgspec.json.format(msgspec.json.encode(product.plan)))
    return product


def _prepare(job: _Job, module: mlir.Module, writer: ArtifactWriter) -> int:
    """Run `@prepare` into the weight files, one parameter at a time; returns the number of checkpoint values used."""
    tensors = job.checkpoint.tensors
    total = sum(is_op(op, export) for op in functions(module)[PREPARE].ops)
    used: dict[str, int] = {}

    def read(name: str) -> np.ndarray:
        array = tensors[name].load()
        used[name] = array.size
        return array

    for done, (name, array) in enumerate(evaluate_exports(module, read), 1):
        writer.add_param(name, array)
        job.progress("packing weights", done / total)
    return sum(used.values())


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


def _manifest(job: _Job, product: CpuProduct, num_parameters: int) -> Manifest:
    checkpoint, geometry, cache = job.checkpoint, job.geometry, job.cache
    page_bytes = 2 * geometry.num_kv_heads * geometry.head_dim * cache.page_size * cache.dtype.numpy.itemsize
    return Manifest(
        warploom_version=__version__,
        model=ModelInfo(checkpoint.model_id, checkpoint.config["architectures"][0], num_parameters),
        config=dict(checkpoint.config),
        vocab_size=geometry.vocab_size,
        max_context=job.limits.max_context,
        tokenizer=_tokenizer(checkpoint.tokenizer),
        generation=msgspec.convert(dict(checkpoint.generation), GenerationInfo),
        kv=KVInfo(
            num_layers=geometry.num_layers,
            num_kv_heads=geometry.num_kv_heads,
            head_dim=geometry.head_dim,
            page_size=cache.page_size,
            dtype=cache.dtype.value,
            bytes_per_page=page_bytes * geometry.num_layers,
        ),
        quantization=job.quantization,
        targets={
            "cpu": TargetInfo(
                plan=PLAN,
                variants=[Variant(isa.name, f"kernels/cpu/{isa.name}.so", list(isa.features)) for isa in LEVELS],
                scratch_bytes=product.scratch_bytes,
            )
        },
    )
