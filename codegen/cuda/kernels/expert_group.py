"""What a group of products with experts computes, read from its ops."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.cuda.kernel import Slot
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem, Gate
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.codegen.groups import input_slot
from warploom.ir.expert_patterns import Product
from warploom.ir.function import Function
from warploom.ir.ops.activation import clamped_swiglu
from warploom.ir.ops.experts import expert_linear, quantized_expert_linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.rewrite import is_op
from warploom.ir.types import FLOATS, DType, type_of


def read_problem(product: Product) -> ExpertProblem | str:
    """The problem of a product, or why kernels do not compute it."""
    x, experts, matrix = (type_of(value) for value in (product.x, product.experts, product.weight[0]))
    n, k, choices, rows = expert_linear.attrs_of(product.hero)["n"], x.shape[2], experts.shape[1], matrix.shape[0]
    if x.dtype is not DType.BF16 or type_of(product.result).dtype is not DType.BF16:
        return f"activations must be bf16; here {x} to {type_of(product.result)}"
    weight = read_weight(product)
    if isinstance(weight, str):
        return weight
    assert isinstance(k, int)
    assert isinstance(choices, int)
    assert isinstance(rows, int)
    problem = ExpertProblem(
        experts=rows // n,
        n=n,
        k=k,
        choices=choices,
        shared=x.shape[1] == 1,
        weight=weight,
        bias=None if product.bias is None else type_of(product.bias).dtype,
        gate=None if product.gate is None else _gate(product.gate),
    )
    if problem.bias is not None and problem.bias not in FLOATS:
        return f"biases must be floats; here {problem.bias}"
    if problem.run & (problem.run - 1):
        return f"groups of {k // weight.groups} columns in rows of {k} have no power of two in common"
    return problem


def read_weight(product: Product) -> Weight | str:
    """The format of the matrices."""
    matrix = type_of(product.weight[0])
    if is_op(product.hero, mxfp4_expert_linear):
        groups = type_of(product.weight[1]).shape[1]
        assert isinstance(groups, int)
        return Weight(DType.I4, groups, DType.I8)
    if is_op(product.hero, quantized_expert_linear):
        scale = type_of(product.weight[1])
        groups, nibbles = scale.shape[1], quantized_expert_linear.attrs_of(product.hero)["layout"] == "row4"
        assert isinstance(groups, int)
        return Weight(DType.I4 if nibbles else matrix.dtype, groups, scale.dtype, offset=len(product.weight) > 2)
    return Weight() if matrix.dtype is DType.BF16 else f"the matrices of experts must be bf16; here {matrix}"


def _gate(operation: mlir.Operation) -> Gate:
    if not is_op(operation, clamped_swiglu):
        return Gate()
    attrs = clamped_swiglu.attrs_of(operation)
    return Gate(attrs["alpha"], attrs["limit"])


def weight_slots(group: Function, product: Product) -> dict[str, Slot]:
    """Where the weight, its scales and offsets, and the bias are."""
    values = dict(zip(("w", "scale", "offset"), product.weight, strict=False))
    if product.bias is not None:
        values["bias"] = product.bias
    return {name: input_slot(group, value) for name, value in values.items()}
