"""GGUF checkpoints of the Llama architecture as Hugging Face would name, order and configure them.

llama.cpp's converter (conversion/llama.py, `LlamaModel.permute`) reorders the rows of q_proj and k_proj within each
head from rotate-half order (all first halves, then all second halves) to interleaved pairs; that is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_file import GGUFFile, GGUFTensor
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

# Kinds that are kept as they are stored; every other kind is dequantized to f32.
PLAIN_KINDS: Mapping[GGMLQuantizationType, str] = {
    GGMLQuantizationType.F32: "f32",
    GGMLQuantizationType.F16: "f16",
    GGMLQuantizationType.BF16: "bf16",
}
MODEL_MODULES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_MODULES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
MODEL_TENSOR = re.compile(r"(\w+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"  # goes into the config's rope_scaling


def read_gguf_tensors(file: GGUFFile, *, num_heads: int, num_kv_heads: int) -> dict[str, LazyTensor]:
    """The tensors of a Llama GGUF under Hugging Face names and in Hugging Face row order; no data is read.

    Raises:
        CheckpointError: the rows of a q or k projection do not divide into heads.
        UnsupportedModelError: the file holds a tensor that Llama does not have (experts, LoRA, another architecture).
    """
    heads = {"attn_q": num_heads, "attn_k": num_kv_heads}
    stored = (tensor for name, tensor in file.tensors.items() if name != ROPE_FACTORS)
    tensors = (_lazy_tensor(file.path, tensor, heads) for tensor in stored)
    return {tensor.name: tensor for tensor in tensors}


def hf_name(name: str) -> str | None:
    """The Hugging Face name of a GGUF tensor of a Llama model, None when Llama has no such tensor."""
    if match := LAYER_TENSOR.fullmatch(name):
        layer, module, parameter = match.groups()
        if module in LAYER_MODULES:
            return f"model.layers.{layer}.{LAYER_MODULES[module]}.{parameter}"
    elif (match := MODEL_TENSOR.fullmatch(name)) and match[1] in MODEL_MODULES:
        return f"{MODEL_MODULES[match[1]]}.{match[2]}"
    return None


def undo_permute(rows: Array, num_heads: int) -> Array:
    """Rows from llama.cpp's interleaved rotary order back to rotate-half order.

    Args:
        rows: [num_heads * head_dim, ...]; within a head, row 2i + j is row j * head_dim/2 + i of the original.
        num_heads: heads among the rows.
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _lazy_tensor(path: Path, tensor: GGUFTensor, heads: Mapping[str, int]) -> LazyTensor:
    name = hf_name(tensor.name)
    if name is None:
        raise UnsupportedModelError(
            f"{path} holds a tensor that a Llama model does not have",
            expected=f"tensors named {', '.join(MODEL_MODULES)} or blk.N.({'|'.join(LAYER_MODULES)})",
            found=tensor.name,
            fix="use a dense Llama, Mistral or SmolLM2 model",
        )
    match = LAYER_TENSOR.fullmatch(tensor.name)
    num_heads = heads.get(match[2]) if match else None
    if num_heads and tensor.shape[0] % (2 * num_heads):
        raise CheckpointError(
            f"tensor {tensor.name} in {path} has the wrong shape",
            expected=f"rows that make {num_heads} heads of even size",
            found=str(list(tensor.shape)),
            fix="download the file again",
        )
    return LazyTensor(
        name=name,
        shape=tensor.shape,
        dtype=PLAIN_KINDS.get(tensor.kind, "f32"),
        source=str(path),
        read=partial(_read_permuted, tensor, num_heads) if num_heads else partial(read_values, tensor),
    )


def _read_permuted(tensor: GGUFTensor, num_heads: int) -> Array:
    return undo_permute(read_values(tensor), num_heads)


def read_values(tensor: GGUFTensor) -> Array:
    """The values of a stored tensor in its own row order: plain kinds as a view, quantized kinds as new f32."""
    if tensor.kind in PLAIN_KINDS:
        return np.frombuffer(tensor.data, NUMPY_DTYPES[PLAIN_KINDS[tensor.kind]]).reshape(tensor.shape)
    block_rows: NDArray[np.uint8] = tensor.data.reshape(*tensor.shape[:-1], -1)
    values: Array = dequantize(block_rows, tensor.kind)
    return values.reshape(tensor.shape)
