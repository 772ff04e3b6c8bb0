"""Functions of tensors as graphs, gradients and optimisers included, and graphs as compiled code."""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, TypeAlias

import torch
import torch._functorch.config
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch._guards import detect_fake_mode
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.output_code import CompiledFxGraph
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from rlloss.core.distributed import process_count

# A function whose graph has to be made anew more often is one that changes again and again.
_MOST_GRAPHS = 8
# Up to which a product's rows may be few enough to do without a library.
_FEW_ROWS = 16
# Of more elements than this, a product of matrices is faster as one call with the sum after it.
_LARGE_PRODUCT = 2**16
# Of operators whose strides are a library's choice.
_STRIDES_OF_LIBRARIES = ("convolution", "fft", "attention")
# What is the same where it is equal, and holds nothing.
NUMBERS = (bool, int, float, str)
# What is looked at as a whole: what it holds does not change, or is an input of the graph.
_WHOLE = (*NUMBERS, type(None), type, Tensor, FunctionType, BuiltinFunctionType, MethodType, ModuleType)

# How to trace without data; of what is found elsewhere too.
_WITHOUT_DATA: dict[str, Any] = {"tracing_mode": "fake", "_allow_non_fake_inputs": True}

Kinds: TypeAlias = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype] | None, ...]


class CannotCompile(Exception):
    """A function is no graph; nothing was changed."""


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def compile_function(
    function: Callable[..., Any], device: torch.device, traced: Iterable[GraphModule]
) -> Callable[..., Any]:
    """Make a function with loops of torch in it one graph, or fail; each call of this makes a graph of its own.

    Args:
        function: The function.
        device: Where it computes.
        traced: What it consists of but for its loops.
    """
    # torch keeps no graph with a loop in its cache unless asked to: a start of rounds on the device from 9 s to 3.5 s.
    loops = ("while_loop", "scan")
    options = compiler_options(device, traced)
    # torch 2.13 declares a buffer twice where what comes out of a loop is overwritten by the kernel after it.
    options["inplace_buffers"] = False
    options["unsafe_marked_cacheable_functions"] = {
        f"torch.ops.higher_order.{name}": torch.__version__ for name in loops
    }
    # torch gives up where one function has more than eight graphs, unless they are apart.
    compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]  # which lacks the newest argument
        function, fullgraph=True, dynamic=False, isolate_recompiles=True, options=options
    )
    return compiled


def compiler_options(device: torch.device, traced: Iterable[GraphModule]) -> dict[str, Any]:
    """What the compiler is told about graphs on a device, whose arguments have the sizes that they were traced with."""
    # Results of torch's own operators have theirs as well, and a check builds a string at each call (docs/speed.md has
    # what that takes).
    options: dict[str, Any] = {
        "size_asserts": not all(_gives_what_it_says(node) for graph in traced for node in graph.graph.nodes)
    }
    if device.type == "cpu":
        # Half of a small graph's time is the Python that launches its kernels; in C++ it is a quarter less.
        options["cpp_wrapper"] = True
        # A tanh out of one exponential is right to 1e-7, not to the last bit, and makes A2C in 1,024 device
        # environments a third faster.
        options["cpp.use_decompose_tanh"] = True
    return options


def _gives_what_it_says(node: Node) -> bool:
    """Whether what comes of an operator surely has the size and strides that it was traced with.

    An operator of somebody else's may say another, and the libraries that compute some of torch's choose strides.
    """
    name, namespace = str(node.target), getattr(node.target, "namespace", "aten")
    return namespace in ("aten", "prims") and not any(word in name for word in _STRIDES_OF_LIBRARIES)


def trace(
    function: Callable[..., Any], *examples: Tensor, without_data: bool = False, own_products: int = 0
) -> GraphModule:
    """A function of tensors as a graph of tensor operations, gradients included, that changes nothing but arguments.

    What is computed twice, such as the values of the same states with and without gradient, is computed once.

    Args:
        function: The function.
        examples: Arguments.
        without_data: Whether only the arguments' shapes are known while it is traced, so that nothing is computed.
        own_products: As in :class:`Compiled`.
    """
    options = _WITHOUT_DATA if without_data else {}
    products: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.mm.default: partial(_mm, own_products),
        torch.ops.aten.addmm.default: partial(_addmm, own_products),
    }
    plain = make_fx(lambda *x: function(*x), **options)(*examples)  # which a method is not taken for
    traced = make_fx(torch.func.functionalize(lambda *x: plain(*x)), products, **options)(*examples)
    # It would take two draws of random numbers for one.
    graph = traced.graph if any(map(_is_random, traced.graph.nodes)) else fx_graph_cse(traced.graph)
    graph.eliminate_dead_code()
    return GraphModule(traced, graph)


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _mm(own_products: int, a: Tensor, b: Tensor) -> Any:
    """A product of matrices that libraries for a CPU are slow at (docs/speed.md has figures)."""
    (m, k), n = a.shape, b.shape[1]
    along_rows = b.stride(1) == 1 and min(m, k) <= 2
    is_small = m <= _FEW_ROWS and m * k * n <= own_products
    along_both = a.stride(1) == b.stride(0) == 1 and (n <= 2 or is_small)
    if a.device.type != "cpu":
        return NotImplemented
    if along_rows or along_both:  # code of the compiler's own, which what comes before and after is part of
        return (a.unsqueeze(2) * b.unsqueeze(0)).sum(1)
    return torch.mm(b.t(), a.t()).t().contiguous() if n <= 8 < m else NotImplemented


def _addmm(own_products: int, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product of matrices and a sum; on a CPU the sum is a part of what comes after, except for large products."""
    if beta != 1 or alpha != 1 or a.dtype.itemsize < 4:  # half precision would be rounded twice
        return NotImplemented
    product = _mm(own_products, a, b)
    if product is not NotImplemented:
        return x + product
    if a.device.type != "cpu" or len(a) * b.shape[1] > _LARGE_PRODUCT:
        return NotImplemented
    return torch.mm(a, b) - (-x)  # the compiler would turn a sum back into one call, which copies x first


class Compiled:
    """A function as compiled graphs, one for each shapes, strides and types of its arguments, made when first seen.

    Tensors that the function finds elsewhere, in modules for instance, are inputs of the graph, and what it writes to
    them is written. Everything else that it finds is part of the graph, which therefore has to be told when it changes.
    Unlike ``torch.compile`` this looks at nothing but the arguments and what it is told to look at before each call,
    and there is little around it: a small gradient step takes two thirds of the time.

    Args:
        function: Takes tensors and None and returns tensors. It may not ask for values.
        made_of: Gives what the function computes with. Attributes, and what dicts and lists hold, are looked at before
            each call, at any depth (but nothing in arrays, sets and functions); where one is another, the graph is made
            anew.
        device: Where it computes.
        owner: Whose attributes the function may not set. Those that ``counters`` names change beside it, in another
            thread.
        own_products: Products of matrices ``(m, k)`` and ``(n, k)^T`` of few rows with m k n up to this are code of the
            compiler's own, on a CPU: a library's call takes longer than such a product.

    Attributes:
        made: How many graphs were made.
    """

    def __init__(
        self,
        function: Callable[..., list[Tensor]],
        made_of: Callable[[], Iterable[Any]],
        device: torch.device,
        owner: Any = None,
        own_products: int = 0,
    ) -> None:
        self._function = function
        self._contents = _Contents(made_of)
        self._device = device
        self._own_products = own_products
        self._attributes: dict[str, Any] = getattr(owner, "__dict__", {})
        self._counters: frozenset[str] = getattr(owner, "counters", frozenset())
        self._graphs: dict[Kinds, Callable[..., list[Tensor]]] = {}
        self.made = 0

    def __call__(self, *arguments: Tensor | None) -> list[Tensor]:
        """Call it.

        Raises:
            CannotCompile: The function cannot be compiled, or became another one too often.
        """
        if self.changed():
            self._graphs.clear()
        return self.call(*arguments)

    def changed(self) -> bool:
        """Whether what the function computes with is another than when this was last asked."""
        return self._contents.changed()

    def call(self, *arguments: Tensor | None) -> list[Tensor]:
        """Call it without a look at what it computes with."""
        kinds = tuple([None if x is None else (x.shape, x.stride(), x.dtype) for x in arguments])
        if kinds not in self._graphs:
            self._graphs[kinds] = self._make(arguments)
        return self._graphs[kinds](*arguments)

    def _make(self, arguments: tuple[Tensor | None, ...]) -> Callable[..., list[Tensor]]:
        if self.made == _MOST_GRAPHS:
            raise CannotCompile(f"its shapes, or what it computes with, changed {_MOST_GRAPHS} times")
        if self._graphs and self.changed():  # it is looked at anew for all of them
            self._graphs.clear()
        self._contents.look()
        attributes = self._attributes.copy()
        present = [k for k, x in enumerate(arguments) if x is not None]

        def function(*tensors: Tensor) -> list[Tensor]:
            given: list[Tensor | None] = [None] * len(arguments)
            for k, tensor in zip(present, tensors, strict=True):
                given[k] = tensor
            return self._function(*given)

        try:
            examples = [x for x in arguments if x is not None]
            inputs, plain = _take_found(function, examples)
            graph = trace(plain, *inputs, without_data=True, own_products=self._own_products)
            options = compiler_options(self._device, [graph])
            if self._own_products:  # a sum of a few would be computed anew wherever it is used
                options["unroll_reductions_threshold"] = 1
            compiled = compile_graph(graph, inputs, options)
        except Exception as error:  # what tracing the code of a loss may raise is anyone's guess
            self._restore(attributes)
            raise CannotCompile(first_line(error)) from error
        if self._restore(attributes):
            raise CannotCompile("what it computes with changes as it computes")
        self.made += 1
        run: Callable[..., list[Tensor]] = partial(compiled, *inputs[: len(inputs) - len(examples)])
        run = replayed(run, self._device, inputs)
        if len(present) == len(arguments):
            return run
        return lambda *given: run(*[x for x in given if x is not None])

    def _restore(self, attributes: dict[str, Any]) -> bool:
        """Undo what tracing changed in Python; whether there was anything."""
        changed, own = self._contents.restore(), self._attributes
        for name in (own.keys() | attributes.keys()) - self._counters:
            if own.get(name, own) is not attributes.get(name, own):
                changed = True
                if name in attributes:
                    own[name] = attributes[name]
                else:
                    del own[name]
        return changed


def compile_graph(graph: GraphModule, inputs: list[Tensor], options: dict[str, Any]) -> Callable[..., list[Tensor]]:
    """A graph of tensor operations as code of torch's compiler, without what torch puts around it.

    That is for gradients and views, of which there are none here, and takes as long as a small network.
    """
    codes: list[Callable[[list[Any]], Any]] = []

    def compile_inner(inner: GraphModule, examples: Sequence[Any], **more: Any) -> Any:
        compiled = compile_fx_inner(inner, examples, **more)
        is_whole = len(examples) == len(inputs) and _number_of_results(inner) == _number_of_results(graph)
        if isinstance(compiled, CompiledFxGraph) and compiled.current_callable is not None and is_whole:
            codes.append(compiled.current_callable)
        return compiled

    # A hit in the cache of what is around it would not show the code; the code has a cache of its own.
    with torch.no_grad(), torch._functorch.config.patch(enable_autograd_cache=False):
        whole: Any = compile_fx(graph, [*inputs], compile_inner, options)
    return whole if len(codes) != 1 else lambda *x: codes[0]([*x])


def _number_of_results(graph: GraphModule) -> int:
    (results,) = graph.graph.output_node().args
    assert isinstance(results, tuple | list)
    return len(results)


def has_cuda_graphs(device: torch.device) -> bool:
    """Whether what runs on a device can be recorded and started again in one call."""
    return device.type == "cuda"


def replayed(
    function: Callable[..., list[Tensor]], device: torch.device, tensors: Iterable[Tensor]
) -> Callable[..., list[Tensor]]:
    """A function as a CUDA graph, where there can be one: on a GPU, by one process, and with nothing on the host.

    Args:
        function: As :class:`Replayed` takes it.
        device: Where it computes.
        tensors: What it reads and writes; a number that stays on the host would be a constant in the graph.
    """
    can_be = has_cuda_graphs(device) and process_count() == 1 and all(x.device.type == device.type for x in tensors)
    return Replayed(function) if can_be else function


class Replayed:
    """A function on a GPU as a CUDA graph, which the host starts in one call however many kernels it has.

    The first calls are ordinary ones, in which libraries make what they need. What the function reads and writes beside
    its arguments has to stay where it is.

    Args:
        function: From tensors on the GPU to tensors there, without a look at their values on the host.
    """

    _ordinary_calls = 3
    _one_at_a_time = threading.Lock()  # to record on the stream that torch keeps for it
    _failed: ClassVar[list[torch.cuda.CUDAGraph]] = []  # which torch's allocator still knows of

    def __init__(self, function: Callable[..., list[Tensor]]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: list[Tensor] = []
        self._results: list[Tensor] = []

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """Call it; what it returns stays as it is when it is called again."""
        self._calls += 1
        if self._calls == self._ordinary_calls + 1:
            self._capture(arguments)
        if self._graph is None:
            return self._function(*arguments)
        for own, given in zip(self._arguments, arguments, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return [result.clone() for result in self._results]

    def _capture(self, arguments: tuple[Tensor, ...]) -> None:
        """Make the graph, which computes nothing yet; without one the function is called as ever."""
        with self._one_at_a_time:
            if self._failed:  # after which torch promises nothing
                return
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            given = [argument.clone() for argument in arguments]
            try:
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may act meanwhile
                    results = self._function(*given)
            except Exception as error:
                self._failed.append(graph)
                torch.cuda.set_stream(stream)  # torch does not leave its own
                warnings.warn(f"no more CUDA graphs are made, goes on without: {error}", stacklevel=2)
            else:
                self._graph, self._arguments, self._results = graph, given, results


class _StandIns(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Puts tensors without data in the place of those that a function finds: some operations would write to these."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}  # both, so that no other comes to have the same id

    def _stand_in(self, x: Tensor) -> Tensor:
        if isinstance(x, FakeTensor):
            return x
        with disable_proxy_modes_tracing():
            fake = self._mode.from_tensor(x)  # the same one each time
        self._pairs[id(fake)] = fake, x
        return fake

    def original(self, x: Tensor) -> Tensor:
        """What a tensor stands in for; itself where it does not."""
        return self._pairs.get(id(x), (x, x))[1]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in self._mode.lift_fns:  # which make a constant a tensor
            args, kwargs = tree_map_only(Tensor, self._stand_in, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def _take_found(function: Callable[..., Any], examples: list[Tensor]) -> tuple[list[Tensor], GraphModule]:
    """A function as a graph whose first inputs are the tensors that it found, and all inputs.

    Of tensors that share memory there is one, and they are views of it.
    """
    stand_ins: list[_StandIns] = []

    def traced(*tensors: Tensor) -> Any:
        mode = detect_fake_mode(tensors)
        assert mode is not None
        stand_ins.append(_StandIns(mode))
        with stand_ins[0]:
            return function(*tensors)

    module = make_fx(traced, **_WITHOUT_DATA)(*examples)
    graph = module.graph
    sharing: dict[int, list[tuple[Node, Tensor]]] = defaultdict(list)
    for node in graph.find_nodes(op="get_attr"):
        tensor = getattr(module, str(node.target))
        if not isinstance(tensor, Tensor):
            raise CannotCompile(f"a graph cannot hold a {type(tensor).__name__}")
        tensor = stand_ins[0].original(tensor).detach()
        sharing[tensor.untyped_storage().data_ptr() or -id(tensor)].append((node, tensor))
    found = [_whole([tensor for _, tensor in members]) for members in sharing.values()]
    first = next(iter(graph.nodes))
    for number, (whole, members) in enumerate(zip(found, sharing.values(), strict=True)):
        with graph.inserting_before(first):
            holder = graph.placeholder(f"found_{number}")
        for node, tensor in members:
            with graph.inserting_before(node):
                node.replace_all_uses_with(_view(holder, whole, tensor))
            graph.erase_node(node)
    module.recompile()
    return [*found, *examples], module


def _layout(tensor: Tensor) -> tuple[list[int], list[int], int]:
    return list(tensor.shape), list(tensor.stride()), int(tensor.storage_offset())


def _whole(tensors: list[Tensor]) -> Tensor:
    """The tensor, or all of the memory that several of them are views of."""
    one = tensors[0]
    if all(_layout(one) == _layout(other) for other in tensors):
        return one
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise CannotCompile("tensors of several types share memory")
    return one.as_strided((one.untyped_storage().nbytes() // one.itemsize,), (1,), 0)


def _view(holder: Node, whole: Tensor, tensor: Tensor) -> Node:
    if _layout(whole) == _layout(tensor):
        return holder
    return holder.graph.call_function(torch.ops.aten.as_strided.default, (holder, *_layout(tensor)))


class _Contents:
    """What is in objects at any depth, and whether anything is another than when it was looked at.

    Args:
        roots: Gives the objects.
    """

    def __init__(self, roots: Callable[[], Iterable[Any]]) -> None:
        self._roots = roots
        self._dicts: list[dict[Any, Any]] = []
        self._lists: list[list[Any]] = []
        self._values: list[Any] | None = None

    def look(self) -> None:
        """Look at it."""
        self._dicts, self._lists = [], []
        self._open(self._roots(), set())
        self._copies = [*map(dict, self._dicts)], [*map(list, self._lists)]
        self._values = self._read()

    def _open(self, parts: Iterable[Any], seen: set[int]) -> None:
        for x in parts:
            if isinstance(x, _WHOLE) or id(x) in seen:
                continue
            seen.add(id(x))
            if isinstance(x, list):
                self._lists.append(x)
                self._open(x, seen)
            elif isinstance(x, tuple | set | frozenset):
                self._open(x, seen)
            else:
                content = x if isinstance(x, dict) else getattr(x, "__dict__", {})
                self._dicts.append(content)
                self._open(content.values(), seen)

    def _read(self) -> list[Any]:
        return [*self._roots(), *chain.from_iterable(map(dict.values, self._dicts)), *chain.from_iterable(self._lists)]

    def changed(self) -> bool:
        """Whether anything is another, or nothing was looked at yet; a number may be another of the same value."""
        before, self._values = self._values, self._read()
        if before is None or len(before) != len(self._values):
            return True
        return not (all(map(is_, self._values, before)) or all(map(_is_same, self._values, before)))

    def restore(self) -> bool:
        """Put back what dicts and lists held when they were looked at; whether anything was another."""
        if not self.changed():
            return False
        dicts, lists = self._copies
        for content, before in zip(self._dicts, dicts, strict=True):
            content.clear()
            content.update(before)
        for items, former in zip(self._lists, lists, strict=True):
            items[:] = former
        return True


def _is_same(x: Any, y: Any) -> bool:
    return x is y or (type(x) is type(y) and type(x) in NUMBERS and bool(x == y))
