"""Gradient steps: any optimiser of torch.optim, on parameters that lie in one flat tensor where that is the same.

Compiled, a whole gradient step is one graph: loss, gradient, clipping and optimiser.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from agents.parts.exploration import linear_schedule
from agents.parts.graphs import CannotCompile, Compiled
from rlloss.core.distributed import process_count, sum_over_processes

# These update every element by itself, so one flat tensor of all parameters gives the same numbers as many small
# ones, in one kernel launch instead of one per parameter.
_ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
}  # fmt: skip
# These need a closure that is called again, or sparse gradients.
_UNSUPPORTED = {"LBFGS", "SparseAdam", "Optimizer"}
# These read values back from the device in the middle of a step, so no graph can hold them.
_UNCOMPILABLE = {"Adafactor"}
# Arguments that say how an optimiser computes, not what.
_SWITCHES = {"fused", "foreach", "capturable"}


# From tensors to a loss, scalars to log and the rows that they are means over: None for all.
ComputeLoss: TypeAlias = Callable[..., tuple[Tensor, dict[str, Tensor], Tensor | None]]


def make_optimizer(
    owner: str,
    name: str,
    learning_rate: float,
    arguments: Mapping[str, Any],
    parameters: list[nn.Parameter],
    *,
    in_graph: bool = False,
) -> torch.optim.Optimizer:
    """An optimiser of torch.optim by name.

    Args:
        owner: Who asks, for errors.
        name: Name in torch.optim, ``"Adam"`` for instance.
        learning_rate: Step size.
        arguments: The optimiser's other arguments by name.
        parameters: What it updates.
        in_graph: Whether its step is part of a compiled graph, which makes kernels of its own.

    Raises:
        ValueError: No such optimiser, or arguments that it refuses.
    """
    cls: Any = getattr(torch.optim, name, None)
    known = sorted(n for n in torch.optim.__all__ if n[0].isupper() and n not in _UNSUPPORTED)
    if name not in known:
        raise ValueError(f"{owner}: optimizer must be one of {', '.join(known)}, got {name!r}")
    # The optimiser's state holds its arguments, and numpy's numbers in a checkpoint cannot be loaded safely.
    given = {key: value.item() if hasattr(value, "item") else value for key, value in arguments.items()}
    accepted = inspect.signature(cls).parameters
    device = parameters[0].device.type
    # Fused Adagrad came to GPUs late.
    can_fuse = not in_graph and "fused" in accepted and (device == "cpu" or name != "Adagrad")
    if can_fuse and not {"fused", "foreach", "differentiable"} & given.keys():
        given["fused"] = True
    elif "capturable" in accepted and (in_graph or device == "cuda"):
        given.setdefault("capturable", True)  # keeps the step count on the device, where nothing has to wait for it
    with _refusals(owner, name):
        optimizer: torch.optim.Optimizer = cls(parameters, lr=float(learning_rate), **given)
    return optimizer


@contextmanager
def _refusals(owner: str, name: str) -> Iterator[None]:
    """Turn what an optimiser raises about its arguments, of whatever kind, into a ValueError that says so."""
    try:
        yield
    except Exception as error:  # RuntimeError for foreach with fused, for instance
        raise ValueError(f"{owner}: optimizer {name} refuses its arguments: {error}") from error


def check_optimizer(owner: str, name: str, learning_rate: float, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError where :func:`make_optimizer` would, or where the optimiser cannot take a step."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = make_optimizer(owner, name, learning_rate, arguments, [parameter])
    parameter.grad = torch.zeros_like(parameter)
    with _refusals(owner, name):
        optimizer.step()


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Move all parameters of ``module`` into one flat tensor, of which they become views."""
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    offset = 0
    for p in parameters:
        p.data = flat.data[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
    return flat


class _Bound(nn.Module):
    """A function that computes with a module, as a module of its own."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        """Call it."""
        return self.function(*arguments)


@contextmanager
def _as_if_compiling() -> Iterator[None]:
    """Let an optimiser keep its step count in a tensor on a CPU too, as it does for the compiler alone."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def call_with(values: list[Tensor], module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that computes with a module whose parameters have other values for that time.

    Args:
        values: The parameters one by one, or one flat tensor of all.
        module: The module.
        function: What to call.
        arguments: Its arguments.
    """
    named = dict(module.named_parameters())
    if len(values) == 1:
        values = list(torch.split(values[0].flatten(), [parameter.numel() for parameter in named.values()]))
    parameters = {
        f"module.{name}": value.view(parameter.shape)
        for value, (name, parameter) in zip(values, named.items(), strict=True)
    }
    return torch.func.functional_call(_Bound(module, function), parameters, arguments)


def _average_over_processes(
    gradient: Tensor, metrics: Mapping[str, Tensor], mask: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """From means over a process's rows to those over the rows of all, in one message.

    Args:
        gradient: Flat.
        metrics: Scalars.
        mask: Which rows count; None for all, which are then as many in each process.
    """
    count = gradient.new_ones(1) if mask is None else mask.sum().to(gradient.dtype).view(1)
    together = torch.cat([torch.cat([gradient, torch.stack(list(metrics.values()))]) * count, count])
    total = sum_over_processes(together)
    mean = total[:-1] / total[-1].clamp(min=1)
    return mean[: len(gradient)], dict(zip(metrics, mean[len(gradient) :], strict=True))


class _TensorsAsFactors(TorchFunctionMode):
    """Let a learning rate that is a tensor be a factor, where an optimiser's arithmetic would read its value back."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = {torch.Tensor.add_: "alpha", torch.Tensor.addcdiv_: "value", torch.Tensor.addcmul_: "value"}.get(
            function
        )
        if name is None or not isinstance(kwargs.get(name), Tensor):
            return function(*args, **kwargs)
        target, first, *second = args
        change = kwargs[name] * first
        if second:
            change = change / second[0] if function is Tensor.addcdiv_ else change * second[0]
        return target.add_(change)


def _state_tensors(optimizer: torch.optim.Optimizer, updated: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that an optimiser keeps for what it updates, in order."""
    return [x for value in updated for x in optimizer.state.get(value, {}).values() if isinstance(x, Tensor)]


class Learner:
    """Takes gradient steps on a module's parameters.

    Attributes:
        module: Whose parameters are updated.
        flat: The tensor that all parameters are views of; None where the optimiser has to see them one by one.
        learning_rate_at: The learning rate after a number of steps.

    Args:
        owner: Who learns, for errors.
        module: Whose parameters are updated; on its device already.
        compute_loss: From tensors to a loss and scalars to log, means over rows, and which rows these are, which
            several processes count: None where all are.
        optimizer: Name in torch.optim.
        learning_rate: Step size.
        optimizer_args: The optimiser's other arguments.
        max_grad_norm: Largest norm of the gradient of all parameters; None for no clipping.
        compiled: Whether loss, gradient, clipping and the optimiser become one compiled graph. (The optimiser stays
            outside where it cannot be compiled, or was asked to be fused.)
        learning_rate_end: Step size in the end; None for one that stays.
        learning_rate_steps: Steps from the one to the other, in whatever :meth:`schedule` counts.
        after_step: What belongs to a step and comes after the optimiser's, with all parameters in one flat tensor.
        made_of: Gives what ``compute_loss`` computes with beside tensors and the module. Compiled, the step sees a
            change of it, as it does of the optimiser's arguments, and of nothing else.
    """

    def __init__(
        self,
        owner: str,
        module: nn.Module,
        compute_loss: ComputeLoss,
        *,
        optimizer: str,
        learning_rate: float,
        optimizer_args: Mapping[str, Any],
        max_grad_norm: float | None,
        compiled: bool,
        learning_rate_end: float | None = None,
        learning_rate_steps: int = 0,
        after_step: Callable[[Tensor], None] | None = None,
        made_of: Callable[[], Sequence[Any]] = tuple,
    ) -> None:
        self.parameters = list(module.parameters())
        self.module = module
        self.flat = flatten_parameters(module) if optimizer in _ELEMENTWISE else None
        self._updated = self.parameters if self.flat is None else [self.flat]
        self._make_optimizer = partial(make_optimizer, owner, optimizer, learning_rate, optimizer_args)
        self._in_graph = compiled and optimizer not in _UNCOMPILABLE and not optimizer_args.get("fused")
        self.optimizer = self._make_optimizer(self._updated, in_graph=self._in_graph)
        self._scheduled = learning_rate_end is not None
        end = learning_rate if learning_rate_end is None else learning_rate_end
        self.learning_rate_at = partial(linear_schedule, float(learning_rate), float(end), learning_rate_steps)
        self._learning_rate: float | None = None  # what schedule() set last
        self._steps = 0  # and for how many steps
        self._owner = owner
        self._compute_loss = compute_loss
        self._after_step = after_step
        self._made_of = made_of
        self._max_grad_norm = max_grad_norm
        if self._in_graph and self._scheduled:  # a graph is made anew for another number, but not for another value
            for group in self.optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=self._updated[0].device)
        self._waits_for_state = self._in_graph and self._does_keep_state()
        self._compiled = self._compile() if compiled else None

    def _compile(self) -> Compiled:
        function = self._whole_step if self._in_graph else self._only_gradient
        owner = getattr(self._compute_loss, "__self__", None)
        return Compiled(function, self._ingredients, self._updated[0].device, owner)

    def _ingredients(self) -> list[Any]:
        """What a graph is made of."""
        own = [self.optimizer.param_groups, self.optimizer.state] if self._in_graph else []
        return [*self._made_of(), self._max_grad_norm, *own]

    def _does_keep_state(self) -> bool:
        """Whether the optimiser keeps anything at all, which it makes in its first step."""
        parameter = nn.Parameter(torch.zeros(2, 2, device=self._updated[0].device))
        parameter.grad = torch.zeros_like(parameter)
        optimizer = self._make_optimizer([parameter], in_graph=True)
        with _as_if_compiling():
            optimizer.step()
        return any(optimizer.state.values())

    @property
    def is_one_graph(self) -> bool:
        """Whether all of a step is one graph."""
        return self._compiled is not None and self._in_graph

    @property
    def can_be_pure(self) -> bool:
        """Whether :meth:`pure_step` is for this learner: all of a step is one graph, of one flat tensor."""
        return self.is_one_graph and self.flat is not None

    def state(self) -> list[Tensor]:
        """What a gradient step changes, live: parameters, and the optimiser's state, which is empty at first."""
        return [*(p.data for p in self._updated), *_state_tensors(self.optimizer, self._updated)]

    @property
    def vector(self) -> Tensor:
        """All parameters in one flat tensor, which is the live one where there is one."""
        return self._joined(self._updated)

    def _joined(self, updated: Sequence[Tensor]) -> Tensor:
        """What is updated in one flat tensor."""
        return updated[0].detach() if self.flat is not None else torch.cat([x.detach().reshape(-1) for x in updated])

    def _finish(
        self, gradients: Sequence[Tensor], metrics: Mapping[str, Tensor], mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """From a loss's gradients to clipped ones of what is updated, and a row of scalars, the norm before it last."""
        gradient = torch.cat([gradient.reshape(-1) for gradient in gradients])
        if process_count() > 1:
            gradient, metrics = _average_over_processes(gradient, metrics, mask)
        norm = torch.linalg.vector_norm(gradient)
        if self._max_grad_norm is not None:
            gradient = gradient * (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        row = torch.stack([*metrics.values(), norm])
        parts = torch.split(gradient, [parameter.numel() for parameter in self._updated])
        return [part.view_as(parameter) for part, parameter in zip(parts, self._updated, strict=True)], row

    def pure_gradient(
        self, values: list[Tensor], compute_loss: ComputeLoss, *batch: Any
    ) -> tuple[list[Tensor], Tensor]:
        """Clipped gradients where what is updated has these values, and the scalars to log."""
        values = [value.detach().requires_grad_() for value in values]
        loss, metrics, mask = call_with(values, self.module, compute_loss, *batch)
        gradients = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        return self._finish(gradients, metrics, mask)

    def pure_step(
        self, state: list[Tensor], rate: Tensor | None, compute_loss: ComputeLoss, *batch: Any
    ) -> tuple[list[Tensor], Tensor]:
        """A gradient step that changes nothing: from :meth:`state` to what it is after it, and the scalars to log.

        Args:
            state: As :meth:`state` has it, after the first step.
            rate: The learning rate, where it follows a schedule; None for the present one.
            compute_loss: From ``batch`` to a loss and scalars to log, and what nobody asks for here.
            batch: Its arguments.
        """
        count = len(self._updated)
        gradients, row = self.pure_gradient(state[:count], compute_loss, *batch)
        values = [value.clone() for value in state[:count]]
        rest = iter([tensor.clone() for tensor in state[count:]])
        # The optimiser's own code on tensors that are not its own.
        optimizer = object.__new__(type(self.optimizer))
        optimizer.__dict__.update(self.optimizer.__dict__)
        optimizer.state = defaultdict(dict)
        for parameter, value, gradient in zip(self._updated, values, gradients, strict=True):
            value.grad = gradient
            own = self.optimizer.state.get(parameter, {})
            optimizer.state[value] = {name: next(rest) if isinstance(x, Tensor) else x for name, x in own.items()}
        optimizer.param_groups = [{**group, "params": values} for group in self.optimizer.param_groups]
        if self._scheduled and rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        with torch.no_grad(), _as_if_compiling(), _TensorsAsFactors():
            inspect.unwrap(type(optimizer).step)(optimizer)  # without the hooks around it
        return [*values, *_state_tensors(optimizer, values)], row

    def _whole_step(self, *batch: Any) -> list[Tensor]:
        """A gradient step as a function of ``batch`` that writes where the state is."""
        state = self.state()
        changed, row = self.pure_step(state, None, self._compute_loss, *batch)
        with torch.no_grad():
            if self._after_step is not None:
                self._after_step(self._joined(changed[: len(self._updated)]))
            for live, value in zip(state, changed, strict=True):
                live.copy_(value)
        return [row]

    def _only_gradient(self, *batch: Any) -> list[Tensor]:
        gradients, row = self.pure_gradient([p.data for p in self._updated], self._compute_loss, *batch)
        return [*gradients, row]

    def step(self, *batch: Any, look: bool = True) -> Tensor:
        """Update the parameters along the loss's gradient.

        Args:
            batch: Arguments of ``compute_loss``: tensors, or None.
            look: Whether what ``compute_loss`` computes with may have changed since the last step. Looking takes 5% of
                a small compiled step; of several in a row only the first needs it.

        Returns:
            The scalars that ``compute_loss`` returned, in its order, and the gradient's norm before clipping.
        """
        if self._compiled is None or (self._waits_for_state and not self.optimizer.state):
            return self.eager_step(self._compute_loss, *batch)
        try:
            *gradients, row = self._compiled(*batch) if look else self._compiled.call(*batch)
        except CannotCompile as error:
            self._go_on_eagerly(error)
            return self.eager_step(self._compute_loss, *batch)
        if not self._in_graph:
            self._apply(gradients)
        return row

    def eager_step(self, compute_loss: ComputeLoss, *batch: Any) -> Tensor:
        """As :meth:`step`, of any form of the loss and without the compiler: the optimiser has a state then."""
        loss, metrics, mask = compute_loss(*batch)
        raw = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        gradients, row = self._finish(raw, metrics, mask)
        self._apply(gradients)
        return row

    def _apply(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self._updated, gradients, strict=True):
            parameter.grad = gradient
        with _as_if_compiling() if self._in_graph else nullcontext():
            self.optimizer.step()
        if self._after_step is not None:
            self._after_step(self.vector)

    def schedule(self, steps: int) -> None:
        """Set the learning rate after so many steps, where it has an end to go to."""
        self._steps = steps
        rate = self.learning_rate_at(steps)
        if not self._scheduled or rate == self._learning_rate:
            return
        self._learning_rate = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _go_on_eagerly(self, error: Exception) -> None:
        """Do without the compiler, which fails before anything is updated."""
        warnings.warn(f"{self._owner}: a gradient step cannot be compiled, goes on without: {error}", stacklevel=3)
        self._compiled, self._in_graph = None, False
        state = self.state_dict()
        self.optimizer = self._make_optimizer(self._updated)
        self.load_state_dict(state)
        self.schedule(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; compiled or not, on which device, and a schedule are this learner's own."""
        groups = self.optimizer.state_dict()["param_groups"]
        kept = _SWITCHES | {"lr"} if self._scheduled else _SWITCHES
        own = [{name: group[name] for name in kept & group.keys()} for group in groups]
        loaded = [saved | mine for saved, mine in zip(state["param_groups"], own, strict=True)]
        self.optimizer.load_state_dict({**state, "param_groups": loaded})
        self._learning_rate = None
        if self._compiled is not None:
            self._compiled = self._compile()  # of the tensors that are now the state
