"""A GPU that is not there: torch's fake tensors have a device, refuse to mix two, and hold no data.

What happens before a kernel is real: which operators are called, on which device, in which
precision and shape, which memory they hold, and where the host waits for the device.

    with fake_gpu():
        trainer = build_trainer(config, GPU)
        trainer(fake_images(128), 1)
        with Watch() as seen:
            trainer(fake_images(128), 2)
    assert not seen.waits
"""

import contextlib
import copy
import functools
import traceback
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.cuda.amp.common
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from facevae import pixels
from facevae.config import LossConfig
from facevae.perceptual.network import PerceptualNetwork, empty_perceptual_network
from facevae.pixels import ResizeMethod
from facevae.training import build, step

GPU = torch.device("cuda", 0)
PACKAGE = Path(pixels.__file__).parent
READING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
}
"""operators whose result the host needs before it can go on"""
CACHES = (pixels._channel_constant, pixels._matrix_constant)
"""of tensors, which must not leave a mode of fakes nor enter one"""


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """A block in which tensors are fakes, and PyTorch takes their GPU for one."""
    with (
        pytest.MonkeyPatch.context() as patch,
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(FakeTensor, "numpy", _as_numpy, raising=False)
        patch.setattr(FakeTensor, "tolist", lambda fake: np.ones(tuple(fake.shape)).tolist())
        # Weights hold nothing: none are drawn, and none read.
        patch.setattr(torch.nn.init, "trunc_normal_", lambda weight, **_: weight)
        patch.setattr(build, "build_perceptual_network", _network)
        patch.setattr(Tensor, "pin_memory", _pin)
        patch.setattr(nn.Module, "_apply", _moved)
        patch.setattr(FakeTensor, "__deepcopy__", _copied)
        patch.setattr(step, "step_noise", _with_real_tensors(step.step_noise))
        # PyTorch's own engine asks for a driver.
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(torch.autograd, "grad", _gradients)
        for cache in CACHES:
            cache.cache_clear()
        try:
            yield
        finally:
            for cache in CACHES:
                cache.cache_clear()


def fake_images(count: int, size: int = 64) -> Tensor:
    """Stored pixels on the GPU."""
    return torch.empty(count, size, size, 3, dtype=torch.uint8, device=GPU)


class Watch(TorchDispatchMode):
    """What a block of code asks of the GPU."""

    calls: Counter[str]
    """operators on the GPU"""
    waits: list[str]
    """where the host waits for the GPU: operator, file and line"""
    peak: int
    """most bytes on the GPU at a time of tensors made in the block"""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.waits, self.peak = Counter(), [], 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.name().partition(".")[0]
        if self._waits(name, args, kwargs):
            self.waits.append(f"{name} at {_caller()}")
        result = function(*args, **kwargs)
        if any(_is_on_gpu(leaf) for leaf in tree_leaves((args, kwargs, result))):
            self.calls[name] += 1
            self._hold(result)
        return result

    def _waits(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if name in READING:
            return any(_is_on_gpu(leaf) for leaf in tree_leaves(args))
        if name == "aten::index":  # the size of its result is that of the mask's ones
            return any(_is_on_gpu(each) and each.dtype == torch.bool for each in args[1])
        if name in ("aten::_to_copy", "aten::to"):  # the latter in inference mode
            source, *rest = args
            devices = [each for each in (*rest, kwargs.get("device")) if _is_device(each)]
            target, is_pinned = devices[0] if devices else source.device, source in _pinned
        elif name == "aten::copy_":
            onto, source, *rest = args
            target, is_pinned = onto.device, source in _pinned or onto in _pinned
        else:
            return False
        if target.type == source.device.type:
            return False
        # A copy of memory that may be swapped out waits, whatever was asked for.
        return not (is_pinned and (kwargs.get("non_blocking") or True in rest))

    def _hold(self, result: Any) -> None:
        for leaf in filter(_is_on_gpu, tree_leaves(result)):
            storage = leaf.untyped_storage()
            if storage._cdata not in self._held:
                self._held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._held.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._held.values()))


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device)


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _caller() -> str:
    ours = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "a test"


_pinned = WeakIdKeyDictionary()
"""fakes that are where the GPU may read by itself"""


def _pin(values: Tensor) -> Tensor:
    pinned = torch.empty_like(values)
    _pinned[pinned] = True
    return pinned


def _network(config: LossConfig, resize_method: ResizeMethod) -> PerceptualNetwork:
    with unset_fake_temporarily():
        return copy.deepcopy(_cached_network(config, resize_method))


_cached_network = functools.cache(empty_perceptual_network)


def _with_real_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it runs on the host: fakes do not stand a generator of random numbers."""

    def run(*args: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args)

    return run


def _moved(module: nn.Module, move: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `module.to(...)` does, which cannot exchange fakes in place."""
    for child in module.children() if recurse else ():
        _moved(child, move)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            moved = move(parameter.detach())
            module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = move(buffer)
    return module


def _copied(fake: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """What `copy.deepcopy` makes, which asks for the address of its data."""
    copied = fake.detach().clone()
    return nn.Parameter(copied, fake.requires_grad) if isinstance(fake, nn.Parameter) else copied


def _as_numpy(fake: FakeTensor) -> np.ndarray:
    if fake.device.type != "cpu":
        raise TypeError(f"can't convert {fake.device} device type tensor to numpy")
    return np.zeros(tuple(fake.shape), str(fake.dtype).removeprefix("torch."))


def _backward(loss: Tensor) -> None:
    """What `loss.backward()` does: adds gradients to those of the leaves."""
    for leaf, gradient in walk([loss], [torch.ones_like(loss)]):
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _gradients(
    outputs: Sequence[Tensor], inputs: Tensor, grad_outputs: Sequence[Tensor]
) -> tuple[Tensor]:
    """What `torch.autograd.grad` does, of one leaf."""
    (found,) = [each for leaf, each in walk(outputs, grad_outputs) if leaf is inputs]
    return (found,)


def walk(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The leaves that outputs were made of, each with its gradient, by PyTorch's own formulas.

    A node's turn comes when all that follow it are done, as in PyTorch's engine.
    """
    following = _count_following([output.grad_fn for output in outputs])
    pending: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
    ready = [node for node, count in following.items() if count == 0]

    def add(node: Any, place: int, gradient: Tensor) -> None:
        before, form = pending[node].get(place), node._input_metadata[place]
        if gradient.shape != tuple(form.shape):  # of what was broadcast
            gradient = gradient.sum_to_size(form.shape)
        gradient = gradient.to(form.dtype)
        pending[node][place] = gradient if before is None else before + gradient

    with torch.no_grad():
        for output, gradient in zip(outputs, gradients, strict=True):
            add(output.grad_fn, output.output_nr, gradient)
        while ready:
            node = ready.pop()
            got = pending.pop(node, {})
            if hasattr(node, "variable"):
                if got:
                    yield node.variable, got[0]
                continue
            results = _apply(node, got)
            for (before, place), gradient in zip(node.next_functions, results, strict=False):
                if before is None:
                    continue
                if gradient is not None:
                    add(before, place, gradient)
                following[before] -= 1
                if following[before] == 0:
                    ready.append(before)


def _apply(node: Any, got: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    if not got:
        return (None,) * len(node.next_functions)
    given = [got.get(place) for place in range(len(node._input_metadata))]
    results = node.apply(*given) if isinstance(node, BackwardCFunction) else node(*given)
    return results if isinstance(results, tuple) else (results,)


def _count_following(nodes: Sequence[Any]) -> Counter[Any]:
    """How many nodes follow each node that these were made of."""
    following: Counter[Any] = Counter(dict.fromkeys(nodes, 0))
    todo = list(following)
    while todo:
        for before, _ in todo.pop().next_functions:
            if before is not None:
                if before not in following:
                    todo.append(before)
                following[before] += 1
    return following
