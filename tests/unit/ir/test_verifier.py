"""Each invariant of the verifier, broken on purpose in a sound program."""

from __future__ import annotations

from collections.abc import Callable

import mlir.ir as mlir
import pytest

from warploom.errors import IRError
from warploom.ir.context import parse
from warploom.ir.function import functions
from warploom.ir.types import tensor
from warploom.ir.verify import verify

T = 'tensor<?xf32, #wl.dims<["T"]>>'
DIMS = "attributes {wl.dims = {T = array<i64: 1, 8, 1>}}"
GROUP = f"""
  func.func private @neg_0(%x: {T} {{wl.name = "0"}}) -> ({T} {{wl.name = "0"}}) {DIMS} {{
    %0 = "wl.neg"(%x) : ({T}) -> {T}
    return %0 : {T}
  }}"""
STEP = f"""
  func.func @step(%x: {T} {{wl.name = "x"}}, %z: {T} {{wl.name = "z"}})
      -> ({T} {{wl.name = "y"}}, tensor<4xbf16> {{wl.name = "w"}}) {DIMS} {{
    %0 = "wl.add"(%x, %z) : ({T}, {T}) -> {T} loc("model.norm")
    %1 = call @neg_0(%0) : ({T}) -> {T}
    %2 = "wl.param"() {{name = "w", shape = [4], dtype = "bf16"}} : () -> tensor<4xbf16>
    // here
    return %1, %2 : {T}, tensor<4xbf16>
  }}"""
PREPARE = """
  func.func @prepare() {
    %0 = "wl.checkpoint"() {name = "hf.w", shape = [4], dtype = "bf16"} : () -> tensor<4xbf16>
    "wl.export"(%0) {name = "w"} : (tensor<4xbf16>) -> ()
    return
  }"""
SOUND = "module {" + GROUP + STEP + PREPARE + "\n}"

IOTA = '%9 = "wl.iota"() {{shape = [{shape}], axis = {axis} : i64}} : () -> {type_}'
STORED = '"wl.checkpoint"() {name = "hf.w", shape = [4], dtype = "bf16"} : () -> tensor<4xbf16>'
EXPORT = '"wl.export"(%0) {name = "w"} : (tensor<4xbf16>) -> ()'


def added(line: str) -> tuple[str, str]:
    """One more op in @step."""
    return "// here", line


VIOLATIONS: dict[str, tuple[str, tuple[str, str]]] = {
    "1 an attribute is missing": ("does not parse", (', shape = [4], dtype = "bf16"}', ', dtype = "bf16"}')),
    "1 an unknown op": ("does not parse", added('"wl.no_such_op"() : () -> ()')),
    "1 a call of nothing": ("does not parse", ("call @neg_0", "call @neg_1")),
    "1 a call of other types": ("does not parse", (f"@neg_0(%0) : ({T})", "@neg_0(%2) : (tensor<4xbf16>)")),
    "2 a declaration": ("must have one block", ("func.func @step", "func.func private @f()\n  func.func @step")),
    "2 no function": ("functions only", ("func.func @step", "module {}\n  func.func @step")),
    "2 a foreign op": ("is not allowed", added("%9 = ub.poison : tensor<4xf32>")),
    "2 a foreign type": ("not a type", added(IOTA.format(shape=4, axis=0, type_="tensor<4xf64>"))),
    "3 another result shape": ("wrong result types", added(IOTA.format(shape=4, axis=0, type_="tensor<5xi32>"))),
    "3 another result dtype": ("wrong result types", added(IOTA.format(shape=4, axis=0, type_="tensor<4xf32>"))),
    "3 an attribute's value": ("no such axis", added(IOTA.format(shape=4, axis=1, type_="tensor<4xi32>"))),
    "3 operand types": ("operands differ", added(f'%9 = "wl.add"(%x, %2) : ({T}, tensor<4xbf16>) -> {T}')),
    "3 undecidable": ("cannot decide", added(IOTA.format(shape='"T"', axis=0, type_="tensor<4xi32>"))),
    "4 undeclared in an op": (
        r"symbols \['Q'\] are not declared",
        added(IOTA.format(shape='"Q"', axis=0, type_='tensor<?xi32, #wl.dims<["Q"]>>')),
    ),
    "4 undeclared in an input": (r"input 0: symbols \['T'\]", (f'"0"}}) {DIMS}', '"0"})')),
    "4 bounds": ("bounds of T", ("array<i64: 1, 8, 1>", "array<i64: 8, 1, 1>")),
    "4 a multiple of nothing": ("bounds of T", ("array<i64: 1, 8, 1>", "array<i64: 1, 8, 0>")),
    "5 inputs": ("inputs are not unique", ('wl.name = "z"', 'wl.name = "x"')),
    "5 results": ("results are not unique", ('wl.name = "y"', 'wl.name = "w"')),
    "5 exports": ("exports are not unique", (EXPORT, f"{EXPORT}\n    {EXPORT}")),
    "6 a checkpoint in @step": ("stands outside", ('"wl.param"()', '"wl.checkpoint"()')),
    "6 an export in @step": ("stands outside", added('"wl.export"(%2) {name = "v"} : (tensor<4xbf16>) -> ()')),
    "6 a param in @prepare": ("param stands in", ('"wl.checkpoint"()', '"wl.param"()')),
    "6 a param that nobody exports": ("does not match an export", (EXPORT, EXPORT.replace('"w"', '"v"'))),
    "6 a param of another type": (
        "does not match an export",
        (f"{STORED}\n    {EXPORT}", f"{STORED}\n    {EXPORT}".replace("bf16", "f32")),
    ),
    "7 a public callee": ("is no fusion group", ("func.func private @neg_0", "func.func @neg_0")),
    "7 other facts about a symbol": (
        "declare T differently",
        (f'"0"}}) {DIMS}', f'"0"}}) {DIMS}'.replace("8", "9")),
    ),
    "7 a group that calls": ("calls no other", (f'"wl.neg"(%x) : ({T})', f"call @neg_0(%x) : ({T})")),
}


def test_the_sound_program_is_accepted(wl: mlir.Context) -> None:
    verify(parse(SOUND))


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_caught(wl: mlir.Context, name: str) -> None:
    message, (old, new) = VIOLATIONS[name]
    assert old in SOUND
    with pytest.raises(IRError, match=message):
        verify(parse(SOUND.replace(old, new)))


def erase_callee(module: mlir.Module) -> None:
    functions(module)["neg_0"].operation.operation.erase()


def drop_attribute(module: mlir.Module) -> None:
    del functions(module)["step"].ops[2].attributes["shape"]


def retype(module: mlir.Module) -> None:
    functions(module)["step"].ops[0].results[0].set_type(tensor(("T",), "f16").to_mlir())


@pytest.mark.parametrize("damage", [erase_callee, drop_attribute, retype])
def test_damage_by_a_pass_is_caught(wl: mlir.Context, damage: Callable[[mlir.Module], None]) -> None:
    module = parse(SOUND)
    damage(module)
    with pytest.raises(IRError, match=r"structurally invalid|missing attributes"):
        verify(module)


def test_the_error_says_where(wl: mlir.Context) -> None:
    wrong = SOUND.replace("-> " + T + ' loc("model.norm")', "-> " + T.replace("f32", "f16") + ' loc("model.norm")')
    wrong = wrong.replace(f"call @neg_0(%0) : ({T})", f"call @neg_0(%x) : ({T})")
    with pytest.raises(IRError, match=r"@step: model\.norm: add: wrong result types"):
        verify(parse(wrong))
