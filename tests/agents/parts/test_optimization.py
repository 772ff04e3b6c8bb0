from __future__ import annotations

import copy
import shutil
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.parts import graphs
from agents.parts.acting import Choice
from agents.parts.optimization import Learner, check_optimizer, flatten_parameters, make_optimizer
from tests.conftest import assert_close

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9}),
    ("Adam", {}),
    ("AdamW", {"weight_decay": 0.1}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {"alpha": 0.9, "centered": True}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Rprop", {}),
    ("ASGD", {}),
    ("Adafactor", {}),
]


def make_module() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def make_learner(module: nn.Module, name: str = "Adam", compiled: bool = False, **changes: Any) -> Learner:
    def compute_loss(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor], None]:
        loss = (module(x) - y).square().mean()
        return loss, {"loss": loss.detach(), "double": 2.0 * loss.detach()}, None

    arguments: dict[str, Any] = {"learning_rate": 0.01, "optimizer_args": {}, "max_grad_norm": None} | changes
    return Learner("Test", module, compute_loss, optimizer=name, compiled=compiled, **arguments)


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(2)
    return [(torch.randn(4, 3), torch.randn(4, 2)) for _ in range(count)]


def graphs_of(owner: Learner | Choice) -> int:
    """How many graphs a learner made, or who acts."""
    return 0 if owner._compiled is None else owner._compiled.made


# Tracing an optimiser takes seconds.
TRACED = [
    case if case[0] in ("Adam", "RMSprop", "SGD") else pytest.param(*case, marks=pytest.mark.slow) for case in CASES
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e6])
def test_steps_are_those_of_the_ordinary_optimiser(
    name: str, arguments: dict[str, Any], max_grad_norm: float | None
) -> None:
    module, reference = make_module(), make_module()
    learner = make_learner(module, name, optimizer_args=arguments, max_grad_norm=max_grad_norm)
    optimizer = getattr(torch.optim, name)(reference.parameters(), lr=0.01, **arguments)
    for x, y in batches():
        row = learner.step(x, y)
        loss = (reference(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), max_grad_norm or float("inf"))
        if max_grad_norm == 0.5:
            assert norm > 0.5, "nothing to clip: the test would be empty"
        optimizer.step()
        assert_close(row, torch.stack([loss, 2.0 * loss, norm]))
        for (what, p), q in zip(module.named_parameters(), reference.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=2e-5, atol=2e-6), what
    first = make_module()
    assert not any(torch.equal(p, q) for p, q in zip(module.parameters(), first.parameters(), strict=True))


def test_flat_parameters_are_one_tensor_and_stay_so() -> None:
    module, before = make_module(), make_module()
    flat = flatten_parameters(module)
    assert flat.shape == (3 * 5 + 5 + 5 * 2 + 2,)
    for p, q in zip(module.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)
    module.load_state_dict({name: torch.full_like(p, 3.0) for name, p in module.named_parameters()})
    assert (flat == 3.0).all()
    flat.data.fill_(4.0)
    assert all((p == 4.0).all() for p in module.parameters())
    copied = copy.deepcopy(module)
    flat.data.fill_(5.0)
    assert all((p == 4.0).all() for p in copied.parameters())


def test_parameters_that_the_loss_does_not_reach_stay() -> None:
    first, last = nn.Linear(3, 5), nn.Linear(5, 2)

    def compute_loss(x: Tensor) -> tuple[Tensor, dict[str, Tensor], None]:
        return first(x).sum(), {}, None

    learner = Learner(
        "Test", nn.Sequential(first, last), compute_loss, optimizer="SGD", learning_rate=0.1,
        optimizer_args={}, max_grad_norm=None, compiled=False,
    )  # fmt: skip
    before = first.weight.detach().clone(), last.weight.detach().clone()
    learner.step(torch.ones(1, 3))
    assert not torch.equal(first.weight, before[0])
    assert torch.equal(last.weight, before[1])


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adafactor"])
def test_a_restored_state_goes_on_identically(name: str) -> None:
    module = make_module()
    learner = make_learner(module, name)
    data = batches()
    for batch in data[:3]:
        learner.step(*batch)
    state, parameters = copy.deepcopy(learner.state_dict()), copy.deepcopy(module.state_dict())
    other = make_module()
    restored = make_learner(other, name)
    other.load_state_dict(parameters)
    restored.load_state_dict(state)
    for batch in data[3:]:
        assert torch.equal(learner.step(*batch), restored.step(*batch))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("Adamm", {}, "Test: optimizer must be one of ASGD, .*, got 'Adamm'"),
        ("LBFGS", {}, "got 'LBFGS'"),
        ("SparseAdam", {}, "got 'SparseAdam'"),
        ("Optimizer", {}, "got 'Optimizer'"),
        ("lr_scheduler", {}, "got 'lr_scheduler'"),
        ("Adam", {"beta": 1}, "Test: optimizer Adam refuses its arguments: .*beta"),
        ("Adam", {"betas": (2.0, 0.9)}, "Test: optimizer Adam refuses its arguments"),
        ("Adam", {"differentiable": True}, "Test: optimizer Adam refuses its arguments"),
        ("SGD", {"lr": 0.1}, "Test: optimizer SGD refuses its arguments"),
    ],
)
def test_bad_optimisers_are_refused(name: str, arguments: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        check_optimizer("Test", name, 0.1, arguments)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match="Test: optimizer Muon refuses"):
        make_learner(make_module(), "Muon")
    linear = nn.Linear(3, 2, bias=False)
    before = linear.weight.detach().clone()
    row = make_learner(linear, "Muon").step(*batches(1)[0])
    assert row.isfinite().all()
    assert not torch.equal(linear.weight, before)


def test_fused_unless_told_otherwise() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    assert make_optimizer("Test", "Adam", 0.1, {}, parameters).defaults["fused"] is True
    assert not make_optimizer("Test", "Adam", 0.1, {"foreach": True}, parameters).defaults["fused"]
    assert make_optimizer("Test", "Adam", 0.1, {"fused": False}, parameters).defaults["fused"] is False


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize(("name", "arguments"), TRACED)
def test_the_compiled_step_is_the_eager_one(name: str, arguments: dict[str, Any]) -> None:
    eager, compiled = make_module(), make_module()
    a = make_learner(eager, name, optimizer_args=arguments, max_grad_norm=0.5)
    b = make_learner(compiled, name, optimizer_args=arguments, max_grad_norm=0.5, compiled=True)
    assert b.is_one_graph == (name != "Adafactor")
    data = batches(6)
    for batch in data[:3]:
        torch.testing.assert_close(b.step(*batch), a.step(*batch), rtol=1e-4, atol=1e-5)
    other = make_module()
    restored = make_learner(other, name, optimizer_args=arguments, max_grad_norm=0.5, compiled=True)
    other.load_state_dict(copy.deepcopy(compiled.state_dict()))
    restored.load_state_dict(copy.deepcopy(b.state_dict()))
    for batch in data[3:]:
        row = b.step(*batch)
        torch.testing.assert_close(row, a.step(*batch), rtol=1e-4, atol=1e-5)
        assert torch.equal(restored.step(*batch), row), "a restored state goes on identically"
    for p, q, r in zip(compiled.parameters(), eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        assert torch.equal(p, r)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD", "NAdam", "Adagrad"])
@pytest.mark.parametrize("compiled_first", [False, True])
def test_a_state_crosses_between_compiled_and_eager(name: str, compiled_first: bool) -> None:
    data = batches(6)
    module, other = make_module(), make_module()
    learner = make_learner(module, name, compiled=compiled_first)
    for batch in data[:3]:
        learner.step(*batch)
    crossed = make_learner(other, name, compiled=not compiled_first)
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    crossed.load_state_dict(copy.deepcopy(learner.state_dict()))
    for batch in data[3:]:
        torch.testing.assert_close(crossed.step(*batch), learner.step(*batch), rtol=1e-4, atol=1e-5)


class Half(nn.Module):
    """A loss with what a loss may hold, half of which is looked at here."""

    flag = False

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0
        self.helper: Any = torch.square
        self.options = {"shift": 0.0}

    def forward(self, error: Tensor) -> Tensor:
        loss = self.factor * self.helper(error) + self.options.get("more", 0.0) + self.options["shift"] * error
        mean: Tensor = (loss.abs() if self.flag else loss).mean()
        return mean


class Third(Half):
    def forward(self, error: Tensor) -> Tensor:
        return super().forward(error) / 3


def change(loss: Any, learner: Learner, which: str) -> nn.Module:
    if which == "rate":
        learner.optimizer.param_groups[0]["lr"] = 0.5
    elif which == "class":
        return Third()
    elif which == "key":
        loss.options["more"] = loss.options["shift"] = 2.0
    elif which == "function":
        loss.helper = torch.exp
    elif which == "shadow":
        loss.flag = loss.helper = torch.sin
    elif which == "method":
        loss.forward = lambda error: error.sum()
    else:
        loss.factor = 5.0
    changed: nn.Module = loss
    return changed


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("which", ["rate", "class", "key", "function", "shadow", "method", "number"])
def test_a_graph_sees_what_is_changed_between_steps(which: str) -> None:
    parameters = []
    for compiled in (False, True):
        module, holder = make_module(), nn.ModuleDict({"loss": Half()})

        def compute_loss(
            x: Tensor, y: Tensor, module: nn.Module = module, holder: nn.ModuleDict = holder
        ) -> tuple[Tensor, dict[str, Tensor], None]:
            return holder["loss"](module(x) - y), {}, None

        learner = Learner(
            "Test", module, compute_loss, optimizer="SGD", learning_rate=0.01,
            optimizer_args={"momentum": 0.9}, max_grad_norm=None, compiled=compiled, made_of=partial(list, [holder]),
        )  # fmt: skip
        for number, batch in enumerate(batches()):
            if number == 3:
                holder["loss"] = change(holder["loss"], learner, which)
            learner.step(*batch)
        parameters.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert_close(parameters[1], parameters[0])


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("name", ["Adam", "Adafactor"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_comes_after_a_step(name: str, compiled: bool) -> None:
    """As a part of the graph, and where the optimiser stays outside."""
    module = make_module()
    followers = [torch.zeros_like(p) for p in module.parameters()]

    def follow(flat: Tensor) -> None:
        with torch.no_grad():
            for follower, part in zip(followers, torch.split(flat, [f.numel() for f in followers]), strict=True):
                follower.copy_(part.view_as(follower))

    learner = make_learner(module, name, compiled, after_step=follow)
    for batch in batches(3):
        learner.step(*batch)
        for follower, parameter in zip(followers, module.parameters(), strict=True):
            assert torch.equal(follower, parameter)


class Stateful(nn.Module):
    """A loss with a state of its own."""

    mean: Tensor

    def __init__(self, in_tensor: bool) -> None:
        super().__init__()
        self.in_tensor = in_tensor
        self.calls = [0]
        self.steps = 0
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, error: Tensor) -> Tensor:
        if self.in_tensor:
            self.mean.lerp_(error.detach().mean(), 0.5)
        else:
            self.calls[0] += 1
            self.steps += 2
        mean: Tensor = (error - self.mean - self.calls[0] * self.steps).square().mean()
        return mean


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("in_tensor", [False, True])
def test_a_loss_with_a_state(in_tensor: bool) -> None:
    """A graph writes to tensors; what only Python can change is learned from eagerly."""
    parameters, losses = [], []
    for compiled in (False, True):
        module, loss = make_module(), Stateful(in_tensor)

        def compute_loss(
            x: Tensor, y: Tensor, module: nn.Module = module, loss: nn.Module = loss
        ) -> tuple[Tensor, dict[str, Tensor], None]:
            return loss(module(x) - y), {}, None

        learner = Learner(
            "Test", module, compute_loss, optimizer="Adam", learning_rate=0.01,
            optimizer_args={}, max_grad_norm=None, compiled=compiled, made_of=partial(list, [loss]),
        )  # fmt: skip
        expected = pytest.warns(UserWarning, match="goes on without: what it computes with changes")
        with expected if compiled and not in_tensor else nullcontext():
            for batch in batches(12):
                learner.step(*batch)
        assert graphs_of(learner) == (compiled and in_tensor)
        parameters.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        losses.append(loss)
    assert_close(parameters[1], parameters[0])
    assert (losses[0].calls, losses[0].steps) == (losses[1].calls, losses[1].steps)
    assert_close(losses[1].mean, losses[0].mean)


@pytest.mark.usefixtures("by_torch")
def test_a_loss_that_is_changed_at_every_step_is_learned_from_eagerly() -> None:
    learner = make_learner(make_module(), "SGD", compiled=True)
    for number, batch in enumerate(batches(graphs._MOST_GRAPHS)):
        learner.optimizer.param_groups[0]["lr"] = 0.01 * (1 + number)
        learner.step(*batch)
        learner.optimizer.param_groups[0]["lr"] = 0.01 * (1 + number) + 0.0  # another number, but the same value
        learner.step(*batch)
    assert graphs_of(learner) == graphs._MOST_GRAPHS
    learner.optimizer.param_groups[0]["lr"] = 1.0
    with pytest.warns(UserWarning, match="changed 8 times"):
        learner.step(*batch)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("schedule", [{}, {"learning_rate_end": 0.0, "learning_rate_steps": 6}])
def test_a_loss_that_cannot_be_compiled_is_learned_from_eagerly(schedule: dict[str, Any]) -> None:
    rows, parameters = [], []
    for compiled in (False, True):
        module = make_module()

        def compute_loss(x: Tensor, y: Tensor, module: nn.Module = module) -> tuple[Tensor, dict[str, Tensor], None]:
            loss = (module(x) - y).square().mean()
            return (2.0 * loss if loss > 1.0 else loss), {}, None

        learner = Learner(
            "Test", module, compute_loss, optimizer="Adam", learning_rate=0.01,
            optimizer_args={}, max_grad_norm=None, compiled=compiled, **schedule,
        )  # fmt: skip
        learner.schedule(5)
        expected = pytest.warns(UserWarning, match="Test: a gradient step cannot be compiled, goes on without")
        with expected if compiled else nullcontext():
            rows.append([learner.step(*batch) for batch in batches()])
        parameters.append([p.detach().clone() for p in module.parameters()])
    torch.testing.assert_close(rows[1], rows[0])
    torch.testing.assert_close(parameters[1], parameters[0])


@pytest.mark.usefixtures("by_torch")
def test_one_process_may_train_many() -> None:
    for _ in range(graphs._MOST_GRAPHS + 2):
        make_learner(make_module(), compiled=True).step(*batches(1)[0])


SCHEDULE: dict[str, Any] = {"learning_rate": 0.04, "learning_rate_end": 0.01, "learning_rate_steps": 6}


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_schedule_is_the_optimiser_with_other_rates(name: str, arguments: dict[str, Any]) -> None:
    module, reference = make_module(), make_module()
    learner = make_learner(module, name, optimizer_args=arguments, **SCHEDULE)
    optimizer = getattr(torch.optim, name)(reference.parameters(), lr=0.04, **arguments)
    for k, (x, y) in enumerate(batches(8)):
        learner.schedule(k)
        learner.step(x, y)
        optimizer.param_groups[0]["lr"] = 0.04 - 0.03 * min(k, 6) / 6
        optimizer.zero_grad()
        (reference(x) - y).square().mean().backward()
        optimizer.step()
    for p, q in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=2e-5, atol=2e-6)
    assert learner.learning_rate_at(4) == pytest.approx(0.02)


def test_without_an_end_the_rate_stays() -> None:
    learner = make_learner(make_module(), "SGD")
    learner.schedule(1_000)
    assert learner.optimizer.param_groups[0]["lr"] == learner.learning_rate_at(1_000) == 0.01


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize(
    ("name", "arguments"), [*TRACED, ("Adam", {"fused": True}), ("SGD", {"fused": True}), ("Adafactor", {})]
)
def test_a_schedule_needs_no_other_graph(name: str, arguments: dict[str, Any]) -> None:
    modules = []
    for compiled, schedule in ((True, {}), (True, SCHEDULE), (False, SCHEDULE)):
        modules.append(make_module())
        learner = make_learner(modules[-1], name, compiled=compiled, optimizer_args=arguments, **schedule)
        for k, batch in enumerate(batches(8)):
            learner.schedule(k)
            learner.step(*batch)
        assert graphs_of(learner) == compiled
    for p, q in zip(modules[1].parameters(), modules[2].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_a_schedule_goes_on_where_it_was(compiled: bool, crossed: bool) -> None:
    module, other = make_module(), make_module()
    learner = make_learner(module, compiled=compiled, **SCHEDULE)
    restored = make_learner(other, compiled=compiled != crossed, **SCHEDULE)
    for k, batch in enumerate(batches(8)):
        if k == 4:
            other.load_state_dict(copy.deepcopy(module.state_dict()))
            restored.load_state_dict(copy.deepcopy(learner.state_dict()))
        for each in (learner, restored) if k >= 4 else (learner,):
            each.schedule(k)
            each.step(*batch)
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) or (crossed and torch.allclose(p, q, rtol=1e-4, atol=1e-5))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("schedule", [{}, pytest.param(SCHEDULE, marks=pytest.mark.slow)], ids=["constant", "schedule"])
def test_a_whole_step_is_one_graph(schedule: dict[str, Any]) -> None:
    eager, compiled = make_module(), make_module()
    a = make_learner(eager, max_grad_norm=0.5, **schedule)
    b = make_learner(compiled, max_grad_norm=0.5, compiled=True, **schedule)
    for k, batch in enumerate(batches(4)):
        a.schedule(k)
        b.schedule(k)
        assert_close(b.step(*batch), a.step(*batch))
    for p, q in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert_close(p, q)
    assert graphs_of(b) == 1
