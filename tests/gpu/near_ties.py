"""Logits of transformers in f32 with the near-ties of its routers taken one way and the other.

Where the last chosen expert and the best of the others differ by less than what bf16 moves a router's logits by, any
rounding may choose the other one, and what attends that position follows. Neither choice is wrong; each has logits of
its own. A near-tie of the last layer changes the logits of its own position only, one of a layer before it those of
positions after it too: so the former are kept position by position, the latter set by set. All sets are kept, so that
nothing has to be guessed; a prompt with more near-ties than that allows is no prompt to judge by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

WIDEST = 4.0  # of the median of what bf16 moves a logit by: 1.9 standard deviations of a difference of two logits
Seen = tuple[torch.Tensor, ...]  # what a router is given: hidden states [positions, hidden], and maybe more
STEPS = 32  # of which a tie's width is a whole number
MOST = 6  # near-ties before the last layer: all sets of them are kept


@dataclass(frozen=True)
class NearTie:
    """A place where the router chooses `experts` [of a token] if `shift` [experts] is added to its logits.

    Attributes:
        width: the shift lowers one logit and raises another by half of this.
    """

    layer: int
    position: int
    width: float
    shift: torch.Tensor
    experts: tuple[int, ...]


class TooManyTies(ValueError):
    """The sets of near-ties before the last layer are too many to keep."""


def references(model: PreTrainedModel, narrow: PreTrainedModel, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What f32 may say, [ways, choices, positions, vocab], and what bf16 says, [positions, vocab].

    The first way is the model as it is, each other one takes other near-ties before the last layer another way. The
    first choice is what a way says, each other one takes near-ties of the last layer another way, and equals the first
    at positions that have none. Models without routers have one way and choice. The last router must be in the last
    layer, and ties of the layers before it are those of the first way (so this is for models of two layers).

    Raises:
        TooManyTies: more than `MOST` before the last layer.
        ValueError: if taking the last router's ties the other way changed positions that have none.
    """
    exact, inputs = run(model, ids)
    bf16, narrow_inputs = run(narrow, ids)
    found = routers(model)
    if not found:
        return exact[None, None], bf16
    layers = range(len(found))
    widest = [
        WIDEST * float((logits(narrow_router, theirs) - logits(router, ours)).abs().median())
        for router, narrow_router, ours, theirs in zip(found, routers(narrow), inputs, narrow_inputs, strict=True)
    ]
    early = list(chain.from_iterable(near_ties(found[i], inputs[i], widest[i], i) for i in layers[:-1]))
    if len(early) > MOST:
        raise TooManyTies(f"{len(early)} near-ties before the last layer of {type(model).__name__}")
    ways = [choices(model, ids, way, widest[-1]) for way in sets(early)]
    most = max(map(len, ways))
    return np.stack([np.concatenate([way, way[:1].repeat(most - len(way), 0)]) for way in ways]), bf16


def sets(ties: Sequence[NearTie]) -> Iterator[tuple[NearTie, ...]]:
    """All sets of ties, at most one of a place, fewest first."""
    for count in range(len(ties) + 1):
        for way in combinations(ties, count):
            if len({(tie.layer, tie.position) for tie in way}) == count:
                yield way


def choices(model: PreTrainedModel, ids: Sequence[int], way: Collection[NearTie], widest: float) -> np.ndarray:
    """[choices, positions, vocab]: with the ties of a way; then also with those of the last layer, one a position."""
    last = len(routers(model)) - 1
    first, inputs = run(model, ids, way)
    late = list(near_ties(routers(model)[last], inputs[last], widest, last))
    by_position = [[tie for tie in late if tie.position == position] for position in range(len(ids))]
    found = [first]
    for ranked in zip_longest(*by_position):
        ties = [tie for tie in ranked if tie is not None]
        other, _ = run(model, ids, [*way, *ties])
        others = np.setdiff1d(np.arange(len(ids)), [tie.position for tie in ties])
        if (moved := np.abs(other - first)[others].max()) > 1e-4 * np.abs(first).max():
            raise ValueError(
                f"the last router of {type(model).__name__} is not in its last layer: other rows move by {moved}"
            )
        other[others] = first[others]
        found.append(other)
    return np.stack(found)


@torch.no_grad()
def near_ties(router: nn.Module, seen: Seen, widest: float, layer: int) -> Iterator[NearTie]:
    """What a shift of at most `widest` can make of the choice at each position, narrowest first.

    Found by trying, so that groups, biases and scores of any kind are the router's own.
    """
    count = len(weight_of(router))
    pairs = [(down, up) for down in range(count) for up in range(count) if down != up]
    units = torch.stack([torch.eye(count)[up] - torch.eye(count)[down] for down, up in pairs]) / 2
    unit_inputs = input_shift(router, units)
    x, *others = seen
    usual = chosen(router, seen)
    found = {(position, *experts) for position, experts in enumerate(usual.tolist())}
    for width in widest * np.arange(1, STEPS + 1) / STEPS:
        shifted_x = (x + float(width) * unit_inputs[:, None]).flatten(0, 1)
        moved = chosen(router, (shifted_x, *others)).view(len(units), *usual.shape)
        for pair, position in (moved != usual).any(-1).nonzero().tolist():
            experts = tuple(moved[pair, position].tolist())
            if (position, *experts) not in found:
                found.add((position, *experts))
                yield NearTie(layer, position, float(width), float(width) * units[pair], experts)


def chosen(router: nn.Module, seen: Seen) -> torch.Tensor:
    """[positions, experts of a token], ascending."""
    experts: torch.Tensor = router(*seen)[2]
    return experts.sort(-1).values


@torch.no_grad()
def logits(router: nn.Module, seen: Seen) -> torch.Tensor:
    """[positions, experts] in f32."""
    found: torch.Tensor = router(*seen)[0]
    return found.float()


def input_shift(router: nn.Module, shift: torch.Tensor) -> torch.Tensor:
    """[..., hidden]: what, added to a router's input, adds `shift` [..., experts] to its logits."""
    inverse: torch.Tensor = torch.linalg.pinv(weight_of(router).float())
    return shift.float() @ inverse.T


def weight_of(router: nn.Module) -> torch.Tensor:
    """[experts, hidden]."""
    weight = router.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def routers(model: PreTrainedModel) -> list[nn.Module]:
    """In order of layers; in transformers they give logits, weights and experts for rows of hidden states."""
    return [module for module in model.modules() if type(module).__name__.lower().endswith("router")]


@torch.no_grad()
def run(model: PreTrainedModel, ids: Sequence[int], ties: Collection[NearTie] = ()) -> tuple[np.ndarray, list[Seen]]:
    """Logits [positions, vocab] with ties taken the other way, and what each router is given."""
    inputs: list[Seen] = []
    with ExitStack() as stack:
        for layer, router in enumerate(routers(model)):
            stack.enter_context(shifted(router, [tie for tie in ties if tie.layer == layer], inputs))
        found: np.ndarray = model(torch.tensor([list(ids)])).logits[0].float().numpy()
    return found, inputs


@contextmanager
def shifted(router: nn.Module, ties: Collection[NearTie], inputs: list[Seen]) -> Iterator[None]:
    """Inside, ties are taken the other way: only the router sees the shift, experts get the hidden states alone."""

    def change(module: nn.Module, arguments: tuple[Any, ...]) -> Seen:
        x = arguments[0].reshape(-1, weight_of(router).shape[1])
        inputs.append((x, *arguments[1:]))
        x = x.clone()
        for tie in ties:
            x[tie.position] += input_shift(router, tie.shift)
        return (x, *arguments[1:])

    handle = router.register_forward_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()
