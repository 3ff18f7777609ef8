"""Passes by name, as `warploom opt` takes them: `simplify`, or with arguments `narrow_weights{dtype=bf16}`.

A pass is the function of a file of this package, plugins' files included, that bears the file's name.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from enum import EnumType
from functools import partial
from importlib import import_module
from typing import Any, get_type_hints

from warploom import passes
from warploom.errors import CompileError
from warploom.ir.target import Target
from warploom.passes.pipeline import Pass

_SPELLING = re.compile(r"(\w+)(?:\{(.*)\})?")


def pass_names() -> list[str]:
    """All passes that can be named."""
    return sorted(found.name for found in pkgutil.iter_modules(passes.__path__) if _pass_of(found.name) is not None)


def named_pass(text: str, target: Target | None) -> Pass:
    """The pass that `text` spells, with its arguments bound.

    Args:
        text: `name`, or `name{argument=value,...}`.
        target: for passes that ask one.

    Raises:
        CompileError: no such pass or argument, a bad value, or the pass needs a target and there is none.
    """
    spelled = _SPELLING.fullmatch(text.strip())
    if spelled is None:
        raise CompileError(f"{text!r} does not name a pass", expected="name, or name{argument=value,...}", found=text)
    name = spelled[1]
    step = find_pass(name)
    wanted = dict(list(inspect.signature(step).parameters.items())[1:])  # the first is the module
    given = _arguments(spelled[2] or "", wanted)
    if "target" in wanted and target is None:
        raise CompileError(f"the pass {name} needs a target", fix="name one: --target cpu, or --target cuda:sm_90")
    unknown = sorted(given.keys() - (wanted.keys() - {"target"}))
    if unknown:
        known = ", ".join(wanted.keys() - {"target"}) or "no arguments"
        raise CompileError(f"the pass {name} takes no argument {unknown[0]!r}", expected=known, found=text)
    required = {key for key, parameter in wanted.items() if parameter.default is parameter.empty} - {"target"}
    missing = sorted(required - given.keys())
    if missing:
        raise CompileError(f"the pass {name} needs {', '.join(missing)}", fix=f"write {name}{{{missing[0]}=...}}")
    bound = _converted(name, step, given) | ({"target": target} if "target" in wanted else {})
    return partial(step, **bound) if bound else step


def find_pass(name: str) -> Callable[..., None]:
    """The pass of a name, its arguments open; see `named_pass` for errors."""
    step = _pass_of(name)
    if step is None:
        known = pass_names()
        close = get_close_matches(name, known, 1)
        raise CompileError(
            f"there is no pass {name!r}",
            expected=", ".join(known),
            found=name,
            fix=f"did you mean {close[0]}?" if close else "`warploom opt --list` lists the passes",
        )
    return step


def _pass_of(name: str) -> Callable[..., None] | None:
    """The pass of a file; helpers have no function of their own name that takes a module."""
    if name not in {found.name for found in pkgutil.iter_modules(passes.__path__)}:
        return None
    step = getattr(import_module(f"{passes.__name__}.{name}"), name, None)
    if not inspect.isfunction(step) or next(iter(inspect.signature(step).parameters), None) != "module":
        return None
    return step


def _arguments(text: str, names: Collection[str]) -> dict[str, str]:
    """`dtype=bf16,group=32` as a dict; a value may hold commas: `rules=lm_head=bf16,*=int4`."""
    starts = "|".join(names)
    pairs = [part.partition("=") for part in re.split(rf",(?=\s*(?:{starts})\s*=)", text) if part.strip()]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise CompileError(f"{wrong[0]!r} is no argument of a pass", expected="argument=value", found=text)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _converted(name: str, step: Callable[..., None], given: Mapping[str, str]) -> dict[str, Any]:
    """Values of the types that the pass declares."""
    types = get_type_hints(step)
    values = {}
    for key, text in given.items():
        try:
            values[key] = types[key](text)
        except (ValueError, TypeError) as error:
            wanted = getattr(types[key], "__name__", str(types[key]))
            choices = ", ".join(map(str, types[key])) if isinstance(types[key], EnumType) else wanted
            raise CompileError(f"{key} of the pass {name} is no {wanted}", expected=choices, found=text) from error
    return values
