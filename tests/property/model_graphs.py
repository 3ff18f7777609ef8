"""Real models, tiny and slightly wrong: traced graphs with a few random edits, for passes to survive.

Random programs hardly ever look like a model; passes are written for models, and their mistakes hide where a model is
almost what they expect: a value that one more op reads, a product whose residual is not the usual one, a twin op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import mlir.ir as mlir
from hypothesis import strategies as st

from tests.property.programs import Program, dialect
from tests.unit.passes.tiny_llama import CACHE, CONFIG, random_tensors
from warploom.frontend.tensors import require
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import parse, print_module
from warploom.ir.function import Function, functions, seal
from warploom.ir.ops.elementwise import add, maximum, mul, neg, sub
from warploom.ir.ops.parameters import param
from warploom.ir.ops.shape import full, reshape
from warploom.ir.rewrite import is_op, replace
from warploom.ir.types import type_of
from warploom.ir.verify import verify
from warploom.tools.random_inputs import checkpoint_tensors, random_inputs

T = TypeVar("T")
LIMITS = Limits(max_tokens=8, max_sequences=4, max_context=32)
DIMS = {"T": 4, "S": 2, "R": 2, "P": 2, "C": 4}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 24,
}
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"tie_word_embeddings": False, "intermediate_size": 32},
    {"num_hidden_layers": 2, "num_key_value_heads": 2},
    {"architectures": ["MistralForCausalLM"], "sliding_window": 5, "num_attention_heads": 1},
)


class Draw:
    """Hypothesis' decisions, as edits take them."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """Shrinks towards `low`."""
        return int(self._draw(st.integers(low, high)))

    def choice(self, options: Sequence[T]) -> T:
        """Shrinks towards the first."""
        return options[self.integer(0, len(options) - 1)]


@st.composite
def model_programs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Program:
    """`@step` of a tiny Llama after up to four edits, with data."""
    choose = Draw(draw)
    with dialect():
        module = parse(_traced(choose.integer(0, len(VARIANTS) - 1)))
        step = functions(module)["step"]
        for _ in range(choose.integer(0, 4)):
            choose.choice(EDITS)(choose, step)
        verify(module)
        inputs = random_inputs(module, step, DIMS, choose.integer(0, 3))
        load = checkpoint_tensors(module, 0)
        names = [op.attributes["name"].value for op in functions(module)["prepare"].ops if op.name == "wl.checkpoint"]
        return Program(print_module(module), inputs, {name: load(name) for name in names}, DIMS)


@cache
def _traced(variant: int) -> str:
    config = {**CONFIG, **SMALL, **VARIANTS[variant]}
    with dialect():
        module = trace(config, partial(require, random_tensors(config)), CACHE, LIMITS)
        for name in ("sample", "logprobs"):  # no pass treats them in a way of its own
            functions(module)[name].operation.operation.erase()
        return print_module(module)


def _return_a_value(choose: Draw, step: Function) -> None:
    """One more reader, the latest there is."""
    operation = _any_op(choose, step)
    results = {**step.results, f"r{len(step.results)}": choose.choice(list(operation.results))}
    terminator = step.terminator
    with mlir.InsertionPoint(terminator), terminator.location:
        mlir.Operation.create("func.return", operands=list(results.values()))
    terminator.erase()
    seal(step.operation, list(step.operation.attributes["arg_attrs"]), list(results))


def _twin(choose: Draw, step: Function) -> None:
    """A second op like one there is, for one of its readers."""
    operation = _any_op(choose, step)
    uses = list(operation.results[0].uses)
    if uses:
        use = choose.choice(uses)
        twin = operation.clone(ip=mlir.InsertionPoint(operation)).operation
        use.owner.operation.operands[use.operand_number] = twin.results[0]


def _another_op(choose: Draw, step: Function) -> None:
    """A sum that is no residual any more, or a product that has become one."""
    operation = _any_op(choose, step, lambda op: is_op(op, add, mul, sub))
    with mlir.InsertionPoint(operation), operation.location:
        replace(operation, [choose.choice([sub, maximum, mul, add])(*operation.operands)])


def _bypass(choose: Draw, step: Function) -> None:
    """An op left out, where an operand can stand for its result."""
    operation = _any_op(choose, step, lambda op: len(op.results) == 1)
    fitting = [o for o in operation.operands if o.type == operation.results[0].type]
    if fitting:
        replace(operation, [choose.choice(fitting)])


def _swap(choose: Draw, step: Function) -> None:
    """Operands of equal type in the other order."""
    operation = _any_op(choose, step, lambda op: len(op.operands) > 1)
    first, second = operation.operands[0], operation.operands[1]
    if first.type == second.type:
        operation.operands[0], operation.operands[1] = second, first


def _identity(choose: Draw, step: Function) -> None:
    """Something that changes nothing, between an op and one of its readers."""
    operation = _any_op(choose, step, lambda op: not is_op(op, param) and type_of(op.results[0]).dtype.is_float)
    uses, type_ = list(operation.results[0].uses), type_of(operation.results[0])
    if not uses:
        return
    use = choose.choice(uses)
    with mlir.InsertionPoint.after(operation), operation.location:
        value = choose.choice([_neg_neg, _plus_zero, _reshaped])(operation.results[0], type_)
    use.owner.operation.operands[use.operand_number] = value


def _neg_neg(value: mlir.Value, type_: Any) -> mlir.Value:
    return neg(neg(value))


def _plus_zero(value: mlir.Value, type_: Any) -> mlir.Value:
    return add(value, full(shape=type_.shape, value=0.0, dtype=type_.dtype.value))


def _reshaped(value: mlir.Value, type_: Any) -> mlir.Value:
    return reshape(reshape(value, shape=(1, *type_.shape)), shape=type_.shape)


EDITS = (_return_a_value, _twin, _another_op, _bypass, _swap, _identity)


def _any_op(choose: Draw, step: Function, fits: Callable[[mlir.Operation], bool] = lambda op: True) -> mlir.Operation:
    fitting = [op for op in step.ops if not is_op(op, param) and fits(op)]
    return choose.choice(fitting or [op for op in step.ops if not is_op(op, param)])
