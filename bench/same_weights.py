"""SmolLM2-135M for both engines: the quickstart's GGUF, its tensors stored as F16, Q8_0 or Q4_0, and compiled by us."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(".warploom/bench")


def gguf(kind: str) -> Path:
    """Return a GGUF whose matrices are `f16`, `q8_0` or `q4_0`; vectors and metadata are as in the original."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    path = FOLDER / f"smollm2-135m.{kind}.gguf"
    if path.is_file():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    reader, partial = GGUFReader(_original()), path.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    wanted = GGMLQuantizationType[kind.upper()]
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        stored = wanted if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(path)


def artifact(quantization: str) -> Path:
    """Return our artifact, compiled anew: a benchmark of an old compiler would mislead."""
    import warploom

    return warploom.compile(_original(), quantization=quantization, out=FOLDER / f"smollm2-135m.{quantization}").path


def bytes_per_token(path: Path) -> int:
    """Return how many bytes of weights the decoding of one token reads: all, as the embedding is also the head."""
    import warploom

    return sum(array.nbytes for array in warploom.load(path).params.values())


def _original() -> Path:
    from warploom.frontend.quickstart_model import fetch_smollm2_gguf

    return fetch_smollm2_gguf(Path(".warploom/models"))
