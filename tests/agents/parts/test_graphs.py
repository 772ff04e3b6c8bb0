from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops import scan, while_loop
from torch._inductor.utils import fresh_cache, run_and_get_code

from agents.parts import graphs
from agents.parts.graphs import CannotCompile, Compiled, Replayed, replayed
from tests.agents import cuda_graphs

CPU = torch.device("cpu")


def compiled(function: Callable[..., list[Tensor]], *made_of: Any) -> Compiled:
    return Compiled(function, lambda: made_of, CPU)


@pytest.mark.usefixtures("by_torch")
def test_what_is_found_is_read_and_written_where_it_is() -> None:
    """Views of one tensor too, of which one is written before the other is read."""
    memory = torch.arange(6.0)
    left, right = memory[:3], memory.view(2, 3)[1]
    alone = torch.zeros((), dtype=torch.int64)

    def function(x: Tensor, y: Tensor | None) -> list[Tensor]:
        left.add_(x)
        memory[3:].mul_(2.0)
        alone.add_(1)
        return [left * right if y is None else left + right + y, alone + 10]

    call = compiled(function)
    first = call(torch.ones(3), None)
    assert first[0].tolist() == [6.0, 16.0, 30.0] and first[1].item() == 11
    assert memory.tolist() == [1.0, 2.0, 3.0, 6.0, 8.0, 10.0], "once, and not while it was traced"
    second = call(torch.zeros(3), None)
    assert second[0].tolist() == [12.0, 32.0, 60.0] and alone.item() == 2
    assert call.made == 1
    memory.zero_()
    assert call(torch.ones(3), torch.full((3,), 5.0))[0].tolist() == [6.0, 6.0, 6.0]
    assert call(torch.ones(1), None)[0].tolist() == [0.0, 0.0, 0.0]
    assert call.made == 3, "one for each shapes"


@pytest.mark.usefixtures("by_torch")
def test_nothing_is_lost_where_it_cannot_be_compiled() -> None:
    state, log = SimpleNamespace(calls=1, seen=[1]), {"last": 0}
    memory = torch.zeros(2)

    def change(x: Tensor) -> list[Tensor]:
        memory.add_(1.0)
        state.calls += 1
        state.seen.append(state.calls)
        log["last"] = state.calls
        return [x]

    def change_and_ask(x: Tensor) -> list[Tensor]:
        return [x * 2.0 if change(x)[0].sum() > 0 else x]

    reasons = {change: "what it computes with changes as it computes", change_and_ask: "data-dependent"}
    for function, reason in reasons.items():
        with pytest.raises(CannotCompile, match=reason):
            compiled(function, state, log)(torch.ones(2))
        assert (state.calls, state.seen, log) == (1, [1], {"last": 0})
        assert not memory.any()


@pytest.mark.usefixtures("by_torch")
def test_what_counts_beside_it_goes_on() -> None:
    """With ``overlap`` another thread acts, and counts its steps, while a graph is made."""
    owner = SimpleNamespace(counters=frozenset({"steps"}), steps=0, calls=0, old=1)

    def function(x: Tensor) -> list[Tensor]:
        owner.steps += 5
        return [x + 1]

    def change(x: Tensor) -> list[Tensor]:
        owner.calls, owner.new = 1, x
        del owner.old
        return function(x)

    call = Compiled(function, list, CPU, owner)
    assert call(torch.zeros(1))[0].item() == 1.0 and (call.made, owner.steps) == (1, 5)
    with pytest.raises(CannotCompile, match="changes as it computes"):
        Compiled(change, list, CPU, owner)(torch.zeros(1))
    assert vars(owner) == {"counters": owner.counters, "steps": 10, "calls": 0, "old": 1}


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("draw", ["uniform_", "exponential_", "normal_", "bernoulli_"])
def test_two_draws_are_not_one(draw: str) -> None:
    call = compiled(lambda x: [x + getattr(torch.zeros_like(x), draw)(), x + getattr(torch.zeros_like(x), draw)()])
    one, two = call(torch.zeros(64))
    assert not torch.equal(one, two)


@pytest.mark.usefixtures("by_torch")
def test_other_types_and_strides_have_their_graph() -> None:
    call = compiled(lambda x: [x * 2])
    given = torch.arange(6.0).view(2, 3)
    for x in (given, given.double(), given.view(3, 2).t()):
        assert torch.equal(call(x)[0], x * 2)
    assert call.made == 3


@pytest.mark.usefixtures("by_torch")
def test_a_generator_is_no_part_of_a_graph() -> None:
    generator = torch.Generator()
    with pytest.raises(CannotCompile, match="a graph cannot hold a Generator"):
        compiled(lambda x: [x + torch.rand(2, generator=generator)])(torch.ones(2))


@pytest.mark.usefixtures("by_torch")
def test_several_types_in_one_memory_are_refused() -> None:
    packed = torch.zeros(8, dtype=torch.uint8)
    number = packed.view(torch.int64)
    with pytest.raises(CannotCompile, match="tensors of several types share memory"):
        compiled(lambda x: [x + packed.sum() + number])(torch.ones(1))


THIN = [(m, k, n) for m in (1, 2, 5, 9) for k in (1, 2, 7) for n in (1, 2, 8, 9)]


@pytest.mark.parametrize("sizes", THIN)
def test_thin_products_are_the_products(sizes: tuple[int, int, int]) -> None:
    """Of matrices stored either way, with the strides that what follows them counts on."""
    m, k, n = sizes
    torch.manual_seed(0)
    rows, columns = torch.randn(m, k, dtype=torch.float64), torch.randn(k, n, dtype=torch.float64)
    bias = torch.randn(n, dtype=torch.float64)

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [(a @ b).view(-1), torch.addmm(bias, a, b).view(-1)]

    for a in (rows, rows.t().contiguous().t()):
        for b in (columns, columns.t().contiguous().t()):
            for own_products in (0, 10_000):
                products = graphs.trace(function, a, b, own_products=own_products)(a, b)
                torch.testing.assert_close(products, function(a, b))


def operations(function: Callable[..., list[Tensor]], *arguments: Tensor, own_products: int = 0) -> set[str]:
    graph = graphs.trace(function, *arguments, own_products=own_products).graph
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


def test_thin_products_are_taken_where_they_are_thin() -> None:
    def of_product(m: int, k: int, n: int, own_products: int = 0) -> set[str]:
        matrices = torch.randn(m, k), torch.randn(n, k).t()
        return operations(lambda a, b: [a @ b], *matrices, own_products=own_products)

    assert "aten.mm.default" not in of_product(40, 64, 2)
    assert of_product(40, 64, 9) == {"aten.mm.default"}
    assert of_product(40, 64, 8) > {"aten.mm.default"}, "of the transposed"
    assert "aten.mm.default" not in of_product(16, 64, 64, own_products=16 * 64 * 64)
    for m, own_products in ((16, 16 * 64 * 64 - 1), (17, 2**20)):
        assert of_product(m, 64, 64, own_products=own_products) == {"aten.mm.default"}


@pytest.mark.parametrize(
    ("shape", "beta", "alpha", "dtype", "joined"),
    [
        ((1_023, 64), 1, 1, torch.float32, False),
        ((1_023, 64), 1, 1, torch.float64, False),
        ((1_025, 64), 1, 1, torch.float32, True),
        ((40, 64), 2, 1, torch.float32, True),
        ((40, 64), 1, 2, torch.float32, True),
        ((40, 64), 1, 1, torch.bfloat16, True),
        ((40, 8), 1, 1, torch.bfloat16, True),
    ],
)
def test_a_sum_is_apart_from_a_product_that_is_not_large(
    shape: tuple[int, int], beta: int, alpha: int, dtype: torch.dtype, joined: bool
) -> None:
    torch.manual_seed(0)
    rows, columns = shape
    a, b = torch.randn(rows, 40, dtype=dtype), torch.randn(columns, 40, dtype=dtype).t()
    bias = torch.randn(columns, dtype=dtype)

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.addmm(bias, a, b, beta=beta, alpha=alpha)]

    assert ("aten.addmm.default" in operations(function, a, b)) == joined
    torch.testing.assert_close(graphs.trace(function, a, b)(a, b), function(a, b))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiler_leaves_them_apart() -> None:
    a, b, bias = torch.randn(40, 4), torch.randn(64, 4).t(), torch.randn(64)
    call = compiled(lambda x: [torch.addmm(bias, x, b).tanh()])
    with fresh_cache():  # so that the code is generated here
        results, (code,) = run_and_get_code(call, a)
    torch.testing.assert_close(results, [torch.addmm(bias, a, b).tanh()])
    assert "cpu_mm_out(" in code and "addmm" not in code
    assert "assert_size_stride(" not in code


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_an_operator_that_says_another_size_is_found_out() -> None:
    @torch.library.custom_op("rlloss_test::shrink", mutates_args=())
    def shrink(x: Tensor) -> Tensor:
        return x[:1].clone()

    @shrink.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    with pytest.raises(RuntimeError, match="expected size"):
        compiled(lambda x: [shrink(x) * 2.0])(torch.ones(2, 3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_code_is_the_graph() -> None:
    """Of results that are arguments, or the same twice, and of what is written to."""
    written = torch.zeros(3)

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        total = x @ y
        written.add_(total.view(-1))
        return [total, x.view(-1), total, written * 2.0]

    call, x, y = compiled(function), torch.randn(1, 4), torch.randn(4, 3)
    for k in (1, 2, 3):
        results = call(x, y)
        for result, expected in zip(results, [x @ y, x.view(-1), x @ y, (2.0 * k * (x @ y)).view(-1)], strict=True):
            torch.testing.assert_close(result.flatten(), expected.flatten())
    torch.testing.assert_close(written, 3.0 * (x @ y).view(-1))


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.filterwarnings("ignore:no more CUDA graphs are made, goes on without. operation not permitted")
def test_a_cuda_graph_is_the_function(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, memory, host_calls = cuda_graphs.pretend(monkeypatch), torch.zeros(2), []
    streams: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: 7)
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)

    def function(x: Tensor) -> list[Tensor]:
        host_calls.append(1)
        memory.add_(x)
        if reads:
            memory.max().item()
        return [memory * 1.0, memory[1:] + x[:1]]

    call = Replayed(function)
    results = [call(torch.full((2,), float(k))) for k in range(8)]
    sums = [0, 1, 3, 6, 10, 15, 21, 28]
    assert [[x.tolist() for x in result] for result in results] == [
        [[total, total], [total + k]] for k, total in enumerate(sums)
    ]
    assert len(host_calls) == (9 if reads else 4), "the capture is one"
    assert [graph.replays for graph in made] == [0 if reads else 5]
    other = Replayed(lambda x: [x + 1.0])
    assert [other(torch.tensor([float(k)]))[0].item() for k in range(6)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(made) == (1 if reads else 2), "none is made after one that failed"
    assert streams == [7] * reads, "which torch does not put back"


def test_what_has_no_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [x]

    cuda_graphs.pretend(monkeypatch)
    here, elsewhere = torch.zeros(1), torch.zeros(1, device="meta")
    assert isinstance(replayed(function, CPU, [here]), Replayed)
    assert replayed(function, CPU, [here, elsewhere]) is function, "a number would be a constant"
    monkeypatch.setattr(graphs, "process_count", lambda: 2)
    assert replayed(function, CPU, [here]) is function, "messages are not for a graph"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_graphs_with_loops_are_kept_and_not_taken_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that differ by one number within a loop; the cache is asked for each once more by what knows neither."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    loop: Callable[..., Any] = while_loop  # which has no types

    def make(step: int) -> Callable[..., Any]:
        def count(start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            (end,) = loop(lambda k: k < 9, lambda k: (k + step,), (start,))
            _, sums = scan(lambda total, row: (total + row, total + step * row), rows[0].clone(), rows)
            return end, sums

        return graphs.compile_function(count, torch.device("cpu"), [])

    def counters() -> tuple[int, int]:
        found = torch._dynamo.utils.counters["inductor"]
        return found["fxgraph_cache_miss"], found["fxgraph_cache_hit"]

    misses, hits = counters()
    for known in (False, True):
        torch._dynamo.reset()
        for number, step in enumerate((2, 5)):
            end, sums = make(step)(torch.tensor(1), torch.arange(6.0).view(3, 2))
            assert (end.item(), sums[2].tolist()) == ({2: 9, 5: 11}[step], [2.0 + 4.0 * step, 5.0 + 5.0 * step])
            assert counters() == ((misses + 2, hits + number + 1) if known else (misses + number + 1, hits))
