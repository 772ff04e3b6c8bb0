"""The conventions that every public function and loss keeps, each a test over the table in samples.py.

A *loss* is a function of ``rlloss.functional`` with a ``reduction``, or a class; the other functions (targets, returns)
are *plain* and keep fewer conventions. Both are found here by themselves: a new one fails until it has a sample.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rlloss
import rlloss.functional as F
from rlloss import value_checks
from tests.conftest import assert_close
from tests.rlloss.samples import SAMPLES, Sample

REDUCTIONS = ("none", "mean", "sum")
Inputs = dict[str, Tensor]
Loss = Callable[..., Tensor]


# What is public


def _public_functions() -> dict[str, Callable[..., Any]]:
    return {name: getattr(F, name) for name in F.__all__}


def _public_classes() -> dict[str, type[nn.Module]]:
    exported = {name: getattr(rlloss, name) for name in rlloss.__all__}
    return {name: value for name, value in exported.items() if inspect.isclass(value) and issubclass(value, nn.Module)}


def _modules() -> Iterator[Any]:
    """The modules that hold losses: every family of losses is one."""
    for package in (importlib.import_module("rlloss.supervised"), importlib.import_module("rlloss.rl")):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            yield importlib.import_module(module.name)


def _plain_name(name: str) -> str:
    """What ``cross_entropy``, ``CrossEntropyLoss`` and ``mse_loss``, ``MSELoss`` have in common."""
    return name.lower().replace("_", "").removesuffix("loss")


def _is_loss(function: Callable[..., Any]) -> bool:
    return "reduction" in inspect.signature(function).parameters


def _class_of(function: str) -> type[nn.Module] | None:
    """The class that stands beside a function: the same name, in the same module."""
    module = FUNCTIONS[function].__module__
    for name, cls in CLASSES.items():
        if _plain_name(name) == _plain_name(function) and cls.__module__ == module:
            return cls
    return None


def _function_of(cls: type[nn.Module]) -> str | None:
    for name in LOSS_FUNCTIONS:
        if _class_of(name) is cls:
            return name
    return None


FUNCTIONS = _public_functions()
LOSS_FUNCTIONS = {name: function for name, function in FUNCTIONS.items() if _is_loss(function)}
CLASSES = _public_classes()
CONCRETE_CLASSES = {name: cls for name, cls in CLASSES.items() if not inspect.isabstract(cls)}
KNOWN = [sample for sample in SAMPLES if sample.name in FUNCTIONS or sample.name in CONCRETE_CLASSES]
LOSSES = [sample for sample in KNOWN if sample.name in LOSS_FUNCTIONS or sample.name in CLASSES]
PLAIN = [sample for sample in KNOWN if sample.name in FUNCTIONS and sample.name not in LOSS_FUNCTIONS]

every_loss = pytest.mark.parametrize("sample", LOSSES, ids=lambda sample: sample.id)
every_plain = pytest.mark.parametrize("sample", PLAIN, ids=lambda sample: sample.id)
every_sample = pytest.mark.parametrize("sample", [*LOSSES, *PLAIN], ids=lambda sample: sample.id)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_half = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


# How a sample is called


def _inputs(sample: Sample, dtype: torch.dtype = torch.float64, *, device: str = "cpu", grad: bool = True) -> Inputs:
    """Fresh tensors of a sample in one dtype; the predictions require a gradient."""
    tensors = {}
    for name, tensor in sample.tensors.items():
        tensor = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        tensors[name] = tensor.detach().clone().requires_grad_(grad and name in sample.predictions)
    return tensors


def _like(tensors: Inputs, value: object) -> object:
    """A hyper-parameter that is a tensor follows the inputs' dtype and device."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    first = next(
        (tensor for tensor in tensors.values() if isinstance(tensor, Tensor) and tensor.is_floating_point()), value
    )
    return value.detach().to(first.device, first.dtype)


def _module(sample: Sample, reduction: str) -> nn.Module:
    """The class of a sample, built with the sample's hyper-parameters."""
    if sample.build is not None:
        return sample.build(reduction)
    cls = CLASSES.get(sample.name) or _class_of(sample.name)
    assert cls is not None
    return cls(**sample.options, **sample.class_options, reduction=reduction)


def _call_module(sample: Sample, module: nn.Module, tensors: Inputs, weight: Tensor | None, mask: Any) -> Tensor:
    given = {name: tensor for name, tensor in tensors.items() if name not in sample.owned}
    result = module(**given, **sample.extra, weight=weight, mask=mask)
    loss: Tensor = result if sample.output is None else sample.output(result)
    return loss


def _loss(sample: Sample, reduction: str = "mean") -> Loss:
    """The sample's function, or its class where it names one, as ``loss(tensors, weight=None, mask=None)``."""
    if sample.name in FUNCTIONS:
        function = FUNCTIONS[sample.name]

        def call_function(tensors: Inputs, weight: Any = None, mask: Any = None) -> Tensor:
            options = {name: _like(tensors, value) for name, value in sample.options.items()}
            loss: Tensor = function(**tensors, **options, weight=weight, mask=mask, reduction=reduction)
            return loss

        return call_function
    module = _module(sample, reduction)

    def call_class(tensors: Inputs, weight: Any = None, mask: Any = None) -> Tensor:
        return _call_module(sample, module, tensors, weight, mask)

    return call_class


def _plain(sample: Sample) -> Callable[[Inputs], tuple[Tensor, ...]]:
    """A plain function, as ``function(tensors)``, which gives a tuple of results."""

    def call(tensors: Inputs) -> tuple[Tensor, ...]:
        options = {name: _like(tensors, value) for name, value in sample.options.items()}
        result = FUNCTIONS[sample.name](**tensors, **options)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    return call


def _call(sample: Sample, tensors: Mapping[str, Any]) -> Any:
    """A loss or a plain function, for the tests of its errors."""
    return _loss(sample)(tensors) if sample in LOSSES else _plain(sample)(dict(tensors))


def _gradients(sample: Sample, value: Tensor, tensors: Inputs) -> Inputs:
    gradients = torch.autograd.grad(value.sum(), [tensors[name] for name in sample.predictions])
    return dict(zip(sample.predictions, gradients, strict=True))


def _assert_same_gradients(actual: Inputs, expected: Inputs) -> None:
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, f"gradient of {name}")


# Where the mask's dimensions are in each tensor


def _feature_dims(sample: Sample, name: str) -> list[int]:
    ndim = sample.tensors[name].ndim
    return sorted(dim % ndim for dim in sample.features.get(name, ()))


def _mask_dims(sample: Sample, name: str) -> list[int]:
    """For each dimension of the mask, the dimension of the tensor."""
    return [dim for dim in range(sample.tensors[name].ndim) if dim not in _feature_dims(sample, name)]


def _batched(sample: Sample) -> list[str]:
    return [name for name in sample.tensors if name not in sample.unbatched]


def _loss_shape(sample: Sample) -> tuple[int, ...]:
    return tuple(_loss(sample, "none")(_inputs(sample)).shape)


def _mask_shape(sample: Sample) -> tuple[int, ...]:
    if sample.mask_like is None:
        return _loss_shape(sample)
    shape = sample.tensors[sample.mask_like].shape
    return tuple(shape[dim] for dim in _mask_dims(sample, sample.mask_like))


def _some_mask(shape: tuple[int, ...]) -> Tensor:
    """A mask that removes elements here and there, and the whole of the first row where there are several."""
    mask = (torch.arange(torch.Size(shape).numel()) % 3 != 1).reshape(shape)
    if len(shape) > 1:
        mask[0] = False
    return mask


def _weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0.5, 2.0, torch.Size(shape).numel(), dtype=dtype).reshape(shape)


def _mask_of(sample: Sample, name: str, mask: Tensor) -> Tensor:
    """The mask in the shape of one of the tensors."""
    for dim in _feature_dims(sample, name):
        mask = mask.unsqueeze(dim)
    return mask.expand_as(sample.tensors[name])


def _poison(tensor: Tensor, keep: Tensor) -> Tensor:
    """NaN, or an invalid index, where the mask removes."""
    with torch.no_grad():
        if tensor.is_floating_point():
            poisoned = tensor.where(keep, torch.nan)
        elif tensor.dtype == torch.bool:
            poisoned = tensor ^ ~keep
        else:
            poisoned = tensor.where(keep, -7)
    return poisoned.requires_grad_(tensor.requires_grad)


def _poison_inputs(sample: Sample, tensors: Inputs, mask: Tensor) -> Inputs:
    return {
        name: _poison(tensor, _mask_of(sample, name, mask)) if name not in sample.unbatched else tensor
        for name, tensor in tensors.items()
    }


def _poison_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """NaN in the weights of losses that the mask removes whole."""
    if weight.shape == mask.shape:
        return _poison(weight, mask)
    if weight.shape == mask.shape[: weight.ndim]:
        return _poison(weight, mask.flatten(weight.ndim).any(-1))
    return weight


def _subset(sample: Sample, tensors: Inputs, dim: int, index: Tensor) -> Inputs:
    """The rows of every tensor along one dimension of the mask."""
    return {
        name: tensor
        if name in sample.unbatched
        else tensor.detach()
        .index_select(_mask_dims(sample, name)[dim], index)
        .requires_grad_(name in sample.predictions)
        for name, tensor in tensors.items()
    }


def _undo(sample: Sample, value: Tensor) -> Tensor:
    return value if sample.undo is None else sample.undo(value)


def _count(sample: Sample, tensors: Inputs, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """What each element counts in the mean."""
    if sample.count is not None:
        return sample.count(tensors, mask).expand(shape).double()
    return torch.ones(shape, dtype=torch.float64) if mask is None else mask.double()


# The table itself


@pytest.mark.parametrize("name", [*FUNCTIONS, *CONCRETE_CLASSES])
def test_has_a_sample(name: str) -> None:
    names = {sample.name for sample in SAMPLES}
    function = _function_of(CONCRETE_CLASSES[name]) if name in CONCRETE_CLASSES else name
    assert function in names or name in names, (
        f"{name} is public but has no sample: add one to tests/rlloss/samples.py, and every convention is tested"
    )


def test_every_sample_is_of_something_public() -> None:
    unknown = [sample.id for sample in SAMPLES if sample not in KNOWN]
    assert not unknown, f"samples of names that neither rlloss.functional nor rlloss exports: {unknown}"
    ids = [sample.id for sample in SAMPLES]
    assert len(set(ids)) == len(ids), "two samples have one name and label"


def test_everything_public_in_a_module_is_exported() -> None:
    missing = []
    for module in _modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            home = F if inspect.isfunction(value) else rlloss
            if (inspect.isfunction(value) or inspect.isclass(value)) and name not in home.__all__:
                missing.append(f"{module.__name__}.{name}")
    assert not missing, f"not in the __all__ of rlloss.functional (functions) or rlloss (classes): {missing}"


@pytest.mark.parametrize("name", [name for name in LOSS_FUNCTIONS if ".supervised." in FUNCTIONS[name].__module__])
def test_supervised_function_has_a_class(name: str) -> None:
    assert _class_of(name) is not None, f"{name} has no class of the same name in {FUNCTIONS[name].__module__}"


@pytest.mark.parametrize("name", [name for name in CONCRETE_CLASSES if ".supervised." in CLASSES[name].__module__])
def test_supervised_class_has_a_function(name: str) -> None:
    assert _function_of(CLASSES[name]) is not None, f"{name} has no function of the same name beside it"


# Faces: signatures, documentation, class and function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_documented(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    missing = [section for section in ("Args:", "Returns:", "Raises:", "Example:") if f"\n{section}\n" not in text]
    assert not missing, f"{name} has no {', '.join(missing)}"
    arguments = text.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert f"\n    {parameter}: " in "\n" + arguments, f"{name} does not explain {parameter}"
    assert ">>> " in text.split("\nExample:\n")[1], f"{name} has an example that does not run"


@pytest.mark.parametrize("name", [name for name in rlloss.__all__ if name != "functional"])
def test_name_is_documented(name: str) -> None:
    value = getattr(rlloss, name)
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    assert value.__doc__ is not nn.Module.__doc__


@pytest.mark.parametrize("name", LOSS_FUNCTIONS)
def test_signature(name: str) -> None:
    """Tensors are positional, in the sample's order; the rest is keyword-only and ends in weight, mask, reduction."""
    parameters = inspect.signature(LOSS_FUNCTIONS[name]).parameters
    assert list(parameters)[-3:] == ["weight", "mask", "reduction"]
    assert [parameters[key].default for key in ("weight", "mask", "reduction")] == [None, None, "mean"]
    positional = [key for key, value in parameters.items() if value.kind is not value.KEYWORD_ONLY]
    assert positional
    for sample in LOSSES:
        if sample.name == name:
            given = [key for key in sample.tensors if key in positional]
            assert given == positional[: len(given)]
            assert all(parameters[key].default is not inspect.Parameter.empty for key in positional[len(given) :])
            assert not set(sample.options) & set(positional)
    cls = _class_of(name)
    if cls is not None:
        constructor = inspect.signature(cls).parameters
        for key, value in parameters.items():
            if key not in (*positional, "weight", "mask"):
                assert constructor[key].default == value.default, f"{cls.__name__} differs from {name} in {key}"
                assert constructor[key].kind is value.KEYWORD_ONLY


@pytest.mark.parametrize("name", CONCRETE_CLASSES)
def test_class_call_signature(name: str) -> None:
    call = inspect.signature(CONCRETE_CLASSES[name].forward).parameters
    for key in ("weight", "mask"):
        assert call[key].kind is inspect.Parameter.KEYWORD_ONLY
        assert call[key].default is None


@pytest.mark.parametrize(
    "sample", [sample for sample in LOSSES if sample.name in FUNCTIONS and _class_of(sample.name)], ids=lambda s: s.id
)
@every_reduction
def test_class_equals_function(sample: Sample, reduction: str) -> None:
    tensors, weight, mask = _inputs(sample), _weight(_loss_shape(sample)), _some_mask(_mask_shape(sample))
    expected = _loss(sample, reduction)(tensors, weight, mask)
    module = _module(sample, reduction).double()
    owned = [name for name in sample.owned if isinstance(getattr(module, name, None), nn.Parameter)]
    for name in owned:
        getattr(module, name).data.copy_(tensors[name].detach())
    actual = _call_module(sample, module, tensors, weight, mask)
    assert_close(actual, expected)
    gradients = _gradients(sample, expected, tensors)
    for name in (name for name in sample.predictions if name in owned or name not in sample.owned):
        source = getattr(module, name) if name in owned else tensors[name]
        (gradient,) = torch.autograd.grad(actual.sum(), source, retain_graph=True)
        assert_close(gradient, gradients[name], f"gradient of {name}")


@pytest.mark.parametrize(
    "sample", [sample for sample in LOSSES if sample.name in CLASSES or _class_of(sample.name)], ids=lambda s: s.id
)
def test_class_shows_its_hyper_parameters(sample: Sample) -> None:
    text = repr(_module(sample, "sum"))
    assert "reduction='sum'" in text
    for name, value in {**sample.options, **sample.class_options}.items():
        assert f"{name}={value.tolist() if isinstance(value, Tensor) else value!r}" in text


# Reduction, weight, mask


@every_loss
def test_reductions(sample: Sample) -> None:
    tensors = _inputs(sample)
    none, mean, total = (_undo(sample, _loss(sample, reduction)(tensors)) for reduction in REDUCTIONS)
    assert none.ndim > 0
    assert_close(total, none.sum(), "sum")
    assert_close(mean, none.sum() / _count(sample, tensors, None, tuple(none.shape)).sum(), "mean")
    assert none.min() < none.max(), "the sample's losses are all the same, which hides mistakes"


@every_loss
def test_weight(sample: Sample) -> None:
    tensors, weight = _inputs(sample), _weight(_loss_shape(sample))
    plain = _undo(sample, _loss(sample, "none")(tensors))
    none, mean, total = (_undo(sample, _loss(sample, reduction)(tensors, weight)) for reduction in REDUCTIONS)
    assert_close(none, weight * plain, "none")
    assert_close(total, (weight * plain).sum(), "sum")
    count = _count(sample, tensors, None, tuple(plain.shape)).sum()
    assert_close(mean, (weight * plain).sum() / count, "mean")


def _broadcasts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that broadcast to a shape: size 1 in one dimension, leading dimensions left out, a scalar."""
    ones = [(*shape[:dim], 1, *shape[dim + 1 :]) for dim in range(len(shape))]
    return [*ones, *(shape[dim:] for dim in range(1, len(shape) + 1))]


@every_loss
@every_reduction
def test_weight_broadcasts(sample: Sample, reduction: str) -> None:
    tensors, shape, loss = _inputs(sample), _loss_shape(sample), _loss(sample, reduction)
    for small in _broadcasts(shape):
        weight = _weight(small)
        assert_close(loss(tensors, weight), loss(tensors, weight.expand(shape)), f"weight {small}")


@every_loss
@every_reduction
def test_mask_broadcasts(sample: Sample, reduction: str) -> None:
    tensors, shape, loss = _inputs(sample), _mask_shape(sample), _loss(sample, reduction)
    for small in _broadcasts(shape):
        mask = _some_mask(small)
        assert_close(loss(tensors, None, mask), loss(tensors, None, mask.expand(shape)), f"mask {small}")


@every_loss
def test_mask_of_all_changes_nothing(sample: Sample) -> None:
    tensors, mask = _inputs(sample), torch.ones(_mask_shape(sample), dtype=torch.bool)
    for reduction in REDUCTIONS:
        loss = _loss(sample, reduction)
        assert_close(loss(tensors, None, mask), loss(tensors), reduction)


@every_loss
@every_reduction
def test_what_the_mask_hides_does_not_matter(sample: Sample, reduction: str) -> None:
    """NaN under the mask, in the inputs and in the weight, reaches neither value nor gradient."""
    weight, mask = _weight(_loss_shape(sample)), _some_mask(_mask_shape(sample))
    clean = _inputs(sample)
    poisoned = _poison_inputs(sample, clean, mask)
    expected = _loss(sample, reduction)(clean, weight, mask)
    actual = _loss(sample, reduction)(poisoned, _poison_weight(weight, mask), mask)
    assert_close(actual, expected)
    gradients = _gradients(sample, actual, poisoned)
    _assert_same_gradients(gradients, _gradients(sample, expected, clean))
    for name in set(sample.predictions) - set(sample.unbatched):
        hidden = gradients[name][~_mask_of(sample, name, mask)]
        assert hidden.numel() and not hidden.any(), f"a gradient reaches what the mask hides in {name}"


@every_loss
@every_reduction
def test_mask_equals_subset(sample: Sample, reduction: str) -> None:
    """Masking rows out gives the value and the gradient of the loss without them, along each dimension."""
    shape, loss = _mask_shape(sample), _loss(sample, reduction)
    weighted = _loss_shape(sample) == shape
    assert max(shape) > 2
    for dim in range(len(shape)) if sample.subset_dims is None else sample.subset_dims:
        size = shape[dim]
        index = torch.tensor([row for row in range(size) if row not in (1, size - 1)])
        keep = torch.zeros(size, dtype=torch.bool).index_fill_(0, index, True)
        mask = keep.view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)
        weight = _weight(shape) if weighted else None
        some_weight = None if weight is None else weight.index_select(dim, index)

        whole = _poison_inputs(sample, _inputs(sample), mask)
        actual = loss(whole, None if weight is None else _poison(weight, mask), mask)
        part = _subset(sample, _inputs(sample), dim, index)
        expected = loss(part, some_weight)

        gradients, wanted = _gradients(sample, actual, whole), _gradients(sample, expected, part)
        for name in sample.predictions:
            gradient = gradients[name]
            if name not in sample.unbatched:
                gradient = gradient.index_select(_mask_dims(sample, name)[dim], index)
            assert_close(gradient, wanted[name], f"gradient of {name}, mask along {dim}")
        if actual.shape == expected.shape:
            assert_close(actual, expected, f"mask along {dim}")
        elif weighted:
            assert_close(actual.index_select(dim, index), expected, f"mask along {dim}")
            assert not actual[~mask].any()


@pytest.mark.parametrize(
    "sample",
    [sample for sample in LOSSES if not sample.coupled and sample.mask_like is None],
    ids=lambda s: s.id,
)
def test_mask_anywhere(sample: Sample) -> None:
    """An element that is masked out counts in neither the sum nor the count, wherever it is."""
    tensors = _inputs(sample)
    plain = _loss(sample, "none")(tensors)
    mask = _some_mask(tuple(plain.shape))
    none, mean, total = (_loss(sample, reduction)(tensors, None, mask) for reduction in REDUCTIONS)
    assert_close(none, plain.where(mask, 0.0), "none")
    kept = _undo(sample, plain).where(mask, 0.0).sum()
    assert_close(_undo(sample, total), kept, "sum")
    assert_close(_undo(sample, mean), kept / _count(sample, tensors, mask, tuple(plain.shape)).sum(), "mean")


@pytest.mark.parametrize(
    "sample", [sample for sample in LOSSES if sample.mask_like is None or sample.count is not None], ids=lambda s: s.id
)
def test_mean_divides_by_what_is_kept(sample: Sample) -> None:
    """The mean is the weighted sum over the count, and the weight is no part of the count."""
    tensors, weight, mask = _inputs(sample), _weight(_loss_shape(sample)), _some_mask(_mask_shape(sample))
    mean, total = (_undo(sample, _loss(sample, reduction)(tensors, weight, mask)) for reduction in ("mean", "sum"))
    assert_close(mean, total / _count(sample, tensors, mask, tuple(weight.shape)).sum())


@every_loss
@every_reduction
def test_nothing_kept_gives_zero(sample: Sample, reduction: str) -> None:
    mask = torch.zeros(_mask_shape(sample), dtype=torch.bool)
    tensors = _poison_inputs(sample, _inputs(sample), mask)
    weight = torch.full(_loss_shape(sample), torch.nan, dtype=torch.float64)
    value = _loss(sample, reduction)(tensors, weight, mask)
    assert_close(value, torch.zeros_like(value))
    for name, gradient in _gradients(sample, value, tensors).items():
        assert_close(gradient, torch.zeros_like(gradient), f"gradient of {name}")


@every_loss
@every_reduction
def test_empty_batch_gives_zero_with_a_graph(sample: Sample, reduction: str) -> None:
    tensors = _subset(sample, _inputs(sample), 0, torch.zeros(0, dtype=torch.long))
    for mask in (None, torch.ones((0, *_mask_shape(sample)[1:]), dtype=torch.bool)):
        value = _loss(sample, reduction)(tensors, None, mask)
        if reduction == "none":
            assert value.numel() == 0
        else:
            assert_close(value, torch.zeros((), dtype=torch.float64))
        for name, gradient in _gradients(sample, value, tensors).items():
            assert_close(gradient, torch.zeros_like(tensors[name]), f"gradient of {name}")


# Errors


def _names(sample: Sample, name: str) -> tuple[str, ...]:
    return (name, *sample.aliases.get(name, ()))


def _assert_names_function(sample: Sample, message: str) -> None:
    assert message.startswith(tuple(f"{name}: " for name in _names(sample, sample.name))), message


def _assert_names(sample: Sample, argument: str, message: str) -> None:
    _assert_names_function(sample, message)
    assert any(re.search(rf"\b{name}\b", message) for name in _names(sample, argument)), message


@every_sample
def test_wrong_shape(sample: Sample) -> None:
    """(8, 1) against (8,) and (7,) against (8,): an error that names the function, the argument and both shapes."""
    checked = [name for name in sample.tensors if name not in sample.unchecked]
    for name in checked if len(sample.tensors) > 1 else []:
        tensor = _inputs(sample)[name]
        wrong = [tensor.unsqueeze(-1)]
        if name not in sample.unbatched:
            wrong.append(tensor.narrow(_mask_dims(sample, name)[0], 0, tensor.shape[_mask_dims(sample, name)[0]] - 1))
        for other in wrong:
            with pytest.raises(ValueError) as error:
                _call(sample, {**_inputs(sample), name: other})
            message = str(error.value)
            _assert_names(sample, name, message)
            shapes = set(re.findall(r"\((?:\d+, ?)*\d*\)", message))
            assert len(shapes) >= 2, f"both shapes are wanted in: {message}"


@every_loss
def test_wrong_reduction(sample: Sample) -> None:
    with pytest.raises(ValueError, match="reduction") as error:
        _loss(sample, "average")(_inputs(sample))
    assert "'average'" in str(error.value)
    cls = CLASSES.get(sample.name) or _class_of(sample.name)
    names = (*_names(sample, sample.name), *([cls.__name__] if cls else []))
    assert str(error.value).startswith(tuple(f"{name}: " for name in names)), str(error.value)
    if cls is not None:
        with pytest.raises(ValueError, match="reduction"):
            _module(sample, "average")


@every_loss
def test_wrong_mask(sample: Sample) -> None:
    shape = _mask_shape(sample)
    mask = torch.ones(shape, dtype=torch.bool)
    wrong: list[tuple[type[Exception], Any]] = [
        (ValueError, mask.double()),
        (ValueError, mask.long()),
        (TypeError, mask.tolist()),
        (ValueError, torch.ones((*shape[:-1], shape[-1] + 1), dtype=torch.bool)),
        (ValueError, mask.unsqueeze(0).expand(2, *shape)),
        (ValueError, mask.unsqueeze(0)),
    ]
    for kind, value in wrong:
        with pytest.raises(kind) as error:
            _loss(sample)(_inputs(sample), None, value)
        _assert_names(sample, "mask", str(error.value))


@every_loss
def test_wrong_weight(sample: Sample) -> None:
    shape = _loss_shape(sample)
    weight = _weight(shape)
    wrong: list[tuple[type[Exception], Any]] = [
        (ValueError, weight.long()),
        (TypeError, 2.0),
        (ValueError, _weight((*shape[:-1], shape[-1] + 1))),
        (ValueError, weight.unsqueeze(0).expand(2, *shape)),
        (ValueError, weight.unsqueeze(0)),
    ]
    for kind, value in wrong:
        with pytest.raises(kind) as error:
            _loss(sample)(_inputs(sample), value)
        _assert_names(sample, "weight", str(error.value))


@every_sample
def test_wrong_dtype(sample: Sample) -> None:
    """A prediction of integers or complex numbers is a mistake."""
    for name in sample.predictions:
        for dtype in (torch.long, torch.bool, torch.complex64):
            tensors = _inputs(sample, grad=False)
            with pytest.raises(ValueError) as error:
                _call(sample, {**tensors, name: tensors[name].to(dtype)})
            _assert_names(sample, name, str(error.value))
            assert str(dtype) in str(error.value)


@every_sample
def test_not_a_tensor(sample: Sample) -> None:
    for name, tensor in _inputs(sample).items():
        with pytest.raises(TypeError) as error:
            _call(sample, {**_inputs(sample), name: tensor.tolist() if tensor.ndim else str(tensor.item())})
        _assert_names(sample, name, str(error.value))


@pytest.mark.parametrize("sample", [sample for sample in KNOWN if sample.classes], ids=lambda s: s.id)
def test_value_checks(sample: Sample) -> None:
    """Inside ``value_checks`` a label out of range is an error, unless it is masked out."""
    with value_checks():
        _call(sample, _inputs(sample))
        for name, high in sample.classes.items():
            for label in (high, -7):
                tensors = _inputs(sample)
                tensors[name].view(-1)[1] = label
                with pytest.raises(ValueError, match=rf"\[0, {high}\)") as error:
                    _call(sample, tensors)
                _assert_names(sample, name, str(error.value))
                if sample in LOSSES:
                    keep = torch.ones_like(tensors[name], dtype=torch.bool)
                    keep.view(-1)[1] = False
                    assert _loss(sample)(tensors, None, keep).isfinite()


# Precision


@every_loss
@every_half
@every_reduction
def test_half_precision_is_computed_in_float32(sample: Sample, half: torch.dtype, reduction: str) -> None:
    loss, weight, mask = _loss(sample, reduction), _weight(_loss_shape(sample), half), _some_mask(_mask_shape(sample))
    low = _inputs(sample, half)
    high = {
        name: tensor.detach().float().requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else tensor
        for name, tensor in low.items()
    }
    actual, expected = loss(low, weight, mask), loss(high, weight.float(), mask)
    assert actual.dtype == torch.float32
    assert_close(actual, expected)
    gradients, wanted = _gradients(sample, actual, low), _gradients(sample, expected, high)
    for name, gradient in gradients.items():
        assert gradient.dtype == half
        assert_close(gradient, wanted[name].to(half), f"gradient of {name}")


@every_loss
@every_reduction
def test_float64_stays(sample: Sample, reduction: str) -> None:
    tensors = _inputs(sample)
    value = _loss(sample, reduction)(tensors)
    assert value.dtype == torch.float64
    single = _loss(sample, reduction)(_inputs(sample, torch.float32))
    assert single.dtype == torch.float32
    assert_close(value.float(), single)
    assert not torch.equal(value.float().double(), value), "computed in less than float64"


@every_loss
def test_extreme_inputs(sample: Sample) -> None:
    extreme = dict.fromkeys(sample.predictions, (-1e4, 1e4)) if sample.extreme is None else sample.extreme
    for turned in (False, True):
        tensors = _inputs(sample, torch.float32)
        for name, (low, high) in extreme.items():
            pattern = (torch.arange(tensors[name].numel()) % 2 == turned).reshape(tensors[name].shape)
            tensors[name] = torch.where(pattern, low, high).requires_grad_()
        value = _loss(sample)(tensors)
        assert value.isfinite()
        for name, gradient in _gradients(sample, value, tensors).items():
            assert gradient.isfinite().all(), f"gradient of {name}: {gradient}"


@every_loss
def test_autocast_changes_nothing(sample: Sample) -> None:
    tensors = _inputs(sample, torch.float32)
    expected = _loss(sample)(tensors)
    with torch.autocast("cpu", torch.bfloat16):
        actual = _loss(sample)(tensors)
    assert actual.dtype == torch.float32
    assert_close(actual, expected)
    _assert_same_gradients(_gradients(sample, actual, tensors), _gradients(sample, expected, tensors))


# Gradients and transformations


@every_loss
def test_gradient_reaches_the_predictions_only(sample: Sample) -> None:
    tensors = {
        name: tensor.requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in _inputs(sample).items()
    }
    weight = _weight(_loss_shape(sample)).requires_grad_()
    value = _loss(sample)(tensors, weight)
    for name in sample.predictions:
        (gradient,) = torch.autograd.grad(value, tensors[name], retain_graph=True)
        assert gradient.any(), f"no gradient reaches {name}"
    constants = {
        name: tensor
        for name, tensor in [*tensors.items(), ("weight", weight)]
        if tensor.requires_grad and name not in sample.predictions
    }
    for name, tensor in constants.items():
        (unwanted,) = torch.autograd.grad(value, tensor, retain_graph=True, allow_unused=True)
        nothing = unwanted is None or unwanted.abs().max() < 1e-12  # a constant that cancels has a gradient of 0
        assert nothing, f"a gradient reaches {name}"


@every_loss
def test_gradcheck(sample: Sample) -> None:
    tensors, mask = _inputs(sample), _some_mask(_mask_shape(sample))
    loss, weight = _loss(sample, "none"), _weight(_loss_shape(sample))

    def of_predictions(*predictions: Tensor) -> Tensor:
        return loss({**tensors, **dict(zip(sample.predictions, predictions, strict=True))}, weight, mask)

    assert torch.autograd.gradcheck(of_predictions, [tensors[name] for name in sample.predictions])


slow = pytest.mark.slow
# Dynamo says whether there is one graph; that autograd's compiler can take it apart as well costs as long again.
every_backend = pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=slow)])


# A label is a variant of a loss whose first sample is compiled already.
every_compiled_loss = pytest.mark.parametrize(
    "sample",
    [
        sample if sample.name not in {other.name for other in LOSSES[:number]} else pytest.param(sample, marks=slow)
        for number, sample in enumerate(LOSSES)
    ],
    ids=lambda sample: sample.id,
)


@every_compiled_loss
@every_backend
def test_compiles_without_a_break(sample: Sample, backend: str) -> None:
    torch.compiler.reset()
    tensors, weight = _inputs(sample, torch.float32), _weight(_loss_shape(sample), torch.float32)
    mask, loss = _some_mask(_mask_shape(sample)), _loss(sample)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    actual, expected = compiled(tensors, weight, mask), loss(tensors, weight, mask)
    assert_close(actual, expected)
    _assert_same_gradients(_gradients(sample, actual, tensors), _gradients(sample, expected, tensors))


def test_inductor_equals_eager() -> None:
    """The default compiler, on the losses that the agents compile; one graph, since each costs seconds."""
    torch.compiler.reset()
    wanted = ("mse_loss", "cross_entropy", "TDLoss", "clipped_surrogate_loss")
    samples = [next(sample for sample in LOSSES if sample.name == name) for name in wanted]
    losses = [_loss(sample) for sample in samples]
    inputs = [_inputs(sample, torch.float32) for sample in samples]

    def all_losses(inputs: list[Inputs]) -> list[Tensor]:
        return [loss(tensors) for loss, tensors in zip(losses, inputs, strict=True)]

    results = zip(samples, inputs, torch.compile(all_losses, fullgraph=True)(inputs), all_losses(inputs), strict=True)
    for sample, tensors, actual, expected in results:
        assert_close(actual, expected, sample.name)
        gradients = torch.autograd.grad(actual, [tensors[name] for name in sample.predictions], retain_graph=True)
        _assert_same_gradients(
            dict(zip(sample.predictions, gradients, strict=True)), _gradients(sample, expected, tensors)
        )


def _several(sample: Sample) -> list[Inputs]:
    """Variants of a sample: the predictions moved along the batch against all the rest."""
    variants = []
    for shift in range(3):
        tensors = _inputs(sample, grad=False)
        variants.append(
            {
                name: tensor.roll(shift, 0) if name in sample.predictions and tensor.ndim else tensor
                for name, tensor in tensors.items()
            }
        )
    return variants


@every_loss
def test_vmap_of_grad_equals_loop(sample: Sample) -> None:
    loss, weight, mask = _loss(sample), _weight(_loss_shape(sample)), _some_mask(_mask_shape(sample))
    variants = _several(sample)
    stacked = {name: torch.stack([tensors[name] for tensors in variants]) for name in sample.tensors}

    def of_predictions(predictions: Inputs, rest: Inputs) -> Tensor:
        return loss({name: {**predictions, **rest}[name] for name in sample.tensors}, weight, mask)

    def split(tensors: Inputs) -> tuple[Inputs, Inputs]:
        predictions = {name: tensors[name] for name in sample.predictions}
        return predictions, {name: tensor for name, tensor in tensors.items() if name not in predictions}

    transformed = torch.func.vmap(torch.func.grad_and_value(of_predictions))
    gradients, values = transformed(*split(stacked))
    for row, tensors in enumerate(variants):
        for name in sample.predictions:
            tensors[name].requires_grad_()
        expected = loss(tensors, weight, mask)
        assert_close(values[row], expected)
        _assert_same_gradients(
            {name: gradient[row] for name, gradient in gradients.items()}, _gradients(sample, expected, tensors)
        )


@every_loss
@every_reduction
def test_meta_device(sample: Sample, reduction: str) -> None:
    """Forward and backward without data: nothing synchronises, no tensor is made on another device."""
    tensors = _inputs(sample, torch.float32, device="meta")
    weight = _weight(_loss_shape(sample), torch.float32).to("meta")
    mask = _some_mask(_mask_shape(sample)).to("meta")
    loss = _loss(sample, reduction)
    if sample.name in CLASSES:
        module = _module(sample, reduction).to("meta")

        def loss(tensors: Inputs, weight: Any = None, mask: Any = None) -> Tensor:
            return _call_module(sample, module, tensors, weight, mask)

    for arguments in [(None, None), (weight, mask)]:
        value = loss(tensors, *arguments)
        assert value.is_meta
        for name, gradient in _gradients(sample, value, tensors).items():
            assert gradient.is_meta and gradient.shape == tensors[name].shape


# Plain functions


def _total(results: tuple[Tensor, ...]) -> Tensor:
    """One number that depends on every element of the results."""
    total = results[0].new_zeros(())
    for result in results:
        total = total + (result * torch.linspace(0.5, 2.0, result.numel(), dtype=result.dtype).view_as(result)).sum()
    return total


@every_plain
def test_plain_signature(sample: Sample) -> None:
    parameters = inspect.signature(FUNCTIONS[sample.name]).parameters
    positional = [key for key, value in parameters.items() if value.kind is not value.KEYWORD_ONLY]
    assert list(sample.tensors)[: len(positional)] == positional
    assert not set(sample.options) & set(positional)


@every_plain
@every_half
def test_plain_half_precision_is_computed_in_float32(sample: Sample, half: torch.dtype) -> None:
    low = _inputs(sample, half, grad=False)
    high = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in low.items()}
    for actual, expected in zip(_plain(sample)(low), _plain(sample)(high), strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual, expected)


@every_plain
def test_plain_float64_stays(sample: Sample) -> None:
    for result in _plain(sample)(_inputs(sample)):
        assert result.dtype == torch.float64
        assert not torch.equal(result.float().double(), result), "computed in less than float64"


@every_plain
def test_plain_gradcheck(sample: Sample) -> None:
    tensors = _inputs(sample)

    def of_predictions(*predictions: Tensor) -> tuple[Tensor, ...]:
        return _plain(sample)({**tensors, **dict(zip(sample.predictions, predictions, strict=True))})

    assert torch.autograd.gradcheck(of_predictions, [tensors[name] for name in sample.predictions])


@every_plain
@every_backend
def test_plain_compiles_without_a_break(sample: Sample, backend: str) -> None:
    torch.compiler.reset()
    tensors, function = _inputs(sample, torch.float32), _plain(sample)
    actual = torch.compile(function, fullgraph=True, backend=backend)(tensors)
    expected = function(tensors)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)
    gradients = _gradients(sample, _total(actual), tensors)
    _assert_same_gradients(gradients, _gradients(sample, _total(expected), tensors))


@every_plain
def test_plain_vmap_equals_loop(sample: Sample) -> None:
    function, variants = _plain(sample), _several(sample)
    stacked = {name: torch.stack([tensors[name] for tensors in variants]) for name in sample.tensors}
    results = torch.func.vmap(function)(stacked)
    for row, tensors in enumerate(variants):
        for actual, expected in zip(results, function(tensors), strict=True):
            assert_close(actual[row], expected)


@every_plain
def test_plain_meta_device(sample: Sample) -> None:
    tensors = _inputs(sample, torch.float32, device="meta")
    results = _plain(sample)(tensors)
    assert all(result.is_meta for result in results)
    for name, gradient in _gradients(sample, sum((r.sum() for r in results), results[0].sum()), tensors).items():
        assert gradient.is_meta and gradient.shape == tensors[name].shape


@every_plain
def test_plain_autocast_changes_nothing(sample: Sample) -> None:
    tensors = _inputs(sample, torch.float32)
    expected = _plain(sample)(tensors)
    with torch.autocast("cpu", torch.bfloat16):
        actual = _plain(sample)(tensors)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)
