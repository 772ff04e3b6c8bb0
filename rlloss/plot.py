"""Pictures of losses and their gradients over one number; matplotlib is needed to draw, not to import this.

A loss is drawn by giving it inputs that depend on one number x: an error, a margin, an angle. :data:`DRAWINGS` says
how, loss by loss; losses that can be drawn over the same thing share a picture. The gradient is with respect to x;
over probabilities and ratios x is what a network gives, a logit or a log-probability.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlloss import functional

POINTS = 601


class PlotError(ValueError):
    """A picture that cannot be drawn: an unknown name, a hyper-parameter out of range, losses without a common axis."""


class Axis(NamedTuple):
    """What is on the horizontal axis: its label, the name of x, the range of x, and what of x is shown."""

    label: str
    x: str
    low: float
    high: float
    show: Callable[[Tensor], Tensor] = torch.clone


AXES = {
    "error": Axis("error: prediction - target", "prediction", -3.0, 3.0),
    "probability": Axis("probability of the true class or action", "logit", -5.3, 5.3, torch.sigmoid),
    "margin": Axis("margin: score of the true class - score of the other", "margin", -3.0, 3.0),
    "overlap": Axis("overlap: share of the true region that is predicted", "overlap", 0.0, 1.0),
    "difference": Axis("score difference: better item - worse item", "difference", -4.0, 4.0),
    "distance": Axis("distance: to the other embedding, the positive or the center", "distance", 0.01, 2.5),
    "angle": Axis(
        "angle: to the true class or the positive (degrees)", "angle in radians", 0.001, math.pi, torch.rad2deg
    ),
    "ratio": Axis(
        "ratio: new / old probability of the action", "log-probability", math.log(0.25), math.log(3), torch.exp
    ),
}

Inputs = Callable[[Tensor], dict[str, Tensor]]


class Drawing(NamedTuple):
    """How a loss is drawn.

    Attributes:
        inputs: For each axis that the loss has, its inputs from x.
        note: What the legend says about the inputs.
        settable: Inputs that do not depend on x and that a specification may set.
    """

    inputs: Mapping[str, Inputs]
    note: str = ""
    settable: tuple[str, ...] = ()


def _column(*numbers: Tensor | float) -> Tensor:
    """Numbers as one vector; x is a scalar tensor among them."""
    return torch.stack([torch.as_tensor(number, dtype=torch.float64) for number in numbers])


def _row(*numbers: Tensor | float) -> Tensor:
    return _column(*numbers).unsqueeze(0)


def _on_circle(x: Tensor) -> Tensor:
    """A unit vector at the angle x to the first axis, and at right angles to the third."""
    return torch.stack([x.cos(), x.sin(), torch.zeros_like(x)])


_FIRST, _THIRD, _LABEL_0, _ONE = _column(1, 0, 0), _column(0, 0, 1), torch.tensor([0]), _column(1)


def _regression(target: float = 0.0, **others: Tensor) -> Drawing:
    note = f"target {target:g}" if target else ""
    return Drawing({"error": lambda x: {"input": _column(x + target), "target": _column(target), **others}}, note)


def _classification(inputs: Inputs, note: str = "") -> Drawing:
    """The number x is the difference of two logits: the margin, and the logit of the true class's probability."""
    return Drawing({"probability": inputs, "margin": inputs}, note)


def _softmax(x: Tensor) -> dict[str, Tensor]:
    return {"logits": _row(x, 0), "target": _LABEL_0}


def _sigmoid(x: Tensor) -> dict[str, Tensor]:
    return {"logits": _column(x), "target": _ONE}


def _divergence(x: Tensor) -> dict[str, Tensor]:
    return {"logits": _row(x, 0), "target": _row(0.8, 0.2)}


def _score(x: Tensor) -> dict[str, Tensor]:
    return {"score": _column(x), "target": _ONE}


def _regions(x: Tensor) -> dict[str, Tensor]:
    """A region of 50 elements, predicted with the probability x, and 10 elements beside it that are predicted too."""
    return {"logits": _row(*[x] * 50, *[1.0] * 10), "target": _row(*[1] * 50, *[0] * 10)}


_SEGMENTATION = Drawing({"overlap": _regions}, "false alarms: a fifth")


def _ranking(better: float, worse: float) -> Drawing:
    return Drawing({"difference": lambda x: {"scores": _column(x, 0), "labels": _column(better, worse)}}, "2 items")


def _angular(x: Tensor) -> dict[str, Tensor]:
    """Two classes at right angles; the norm of 64 is that of the usual scale."""
    return {
        "embeddings": 64.0 * _on_circle(x).unsqueeze(0),
        "target": _LABEL_0,
        "class_weight": torch.stack([_FIRST, _THIRD]),
    }


def _speakers(x: Tensor) -> dict[str, Tensor]:
    embeddings = torch.stack([torch.stack([_on_circle(x), _FIRST]), torch.stack([_THIRD, _THIRD])])
    return {"embeddings": embeddings, "scale": torch.tensor(10.0), "bias": torch.tensor(-5.0)}


def _pairs(one: str, other: str) -> Drawing:
    """Two pairs; the negative of the first is at right angles to it."""
    return Drawing(
        {"angle": lambda x: {one: torch.stack([_on_circle(x), _THIRD]), other: torch.stack([_FIRST, _THIRD])}}
    )


def _two_of_each(x: Tensor) -> dict[str, Tensor]:
    embeddings = torch.stack([_on_circle(x), _FIRST, _THIRD, _THIRD])
    return {"embeddings": embeddings, "labels": torch.tensor([0, 0, 1, 1])}


def _triplet(x: Tensor) -> dict[str, Tensor]:
    return {"anchor": _row(0), "positive": _row(x), "negative": _row(1.5)}


def _mined_triplets(x: Tensor) -> dict[str, Tensor]:
    return {"embeddings": _column(0, x, 1.5, 2).unsqueeze(1), "labels": torch.tensor([0, 0, 1, 1])}


def _two_atoms(x: Tensor) -> dict[str, Tensor]:
    """A distribution on two values; the target is sure of the first."""
    return {"logits": _row(x, 0).unsqueeze(0), "action": _LABEL_0, "target_probs": _row(1, 0)}


def _log_prob(x: Tensor) -> dict[str, Tensor]:
    return {"log_prob": _column(x), "advantage": _ONE}


def _log_prob_of_logit(x: Tensor) -> dict[str, Tensor]:
    return _log_prob(torch.nn.functional.logsigmoid(x))


def _two_actions(x: Tensor) -> dict[str, Tensor]:
    """The first action is the better one by 1."""
    return {"logits": _row(x, 0), "q": _row(1, 0)}


DRAWINGS: dict[str, Drawing] = {
    "mae_loss": _regression(),
    "mse_loss": _regression(),
    "rmse_loss": _regression(),
    "nmae_loss": _regression(1.0),
    "huber_loss": _regression(),
    "smooth_l1_loss": _regression(),
    "asymmetric_huber_loss": _regression(),
    "log_cosh_loss": _regression(),
    "mape_loss": _regression(1.0),
    "msle_loss": _regression(1.0),
    "poisson_nll_loss": Drawing({"error": lambda x: {"input": _column(x), "target": _ONE}}, "count 1, log-rate"),
    "quantile_loss": _regression(),
    "expectile_loss": _regression(),
    "gaussian_nll_loss": _regression(var=_ONE)._replace(settable=("var",)),
    "q_value_loss": Drawing({"error": lambda x: {"q": _row(x), "action": _LABEL_0, "target": _column(0)}}),
    "cross_entropy": _classification(_softmax),
    "focal_loss": _classification(_softmax),
    "poly_loss": _classification(_softmax),
    "binary_cross_entropy": _classification(_sigmoid),
    "binary_focal_loss": _classification(_sigmoid),
    "kl_divergence": _classification(_divergence, "target 0.8"),
    "js_divergence": _classification(_divergence, "target 0.8"),
    "hinge_loss": Drawing({"margin": _score}),
    "squared_hinge_loss": Drawing({"margin": _score}),
    "soft_margin_loss": Drawing({"margin": _score}),
    "multiclass_hinge_loss": Drawing({"margin": lambda x: {"scores": _row(x, 0), "target": _LABEL_0}}, "2 classes"),
    "dice_loss": _SEGMENTATION,
    "tversky_loss": _SEGMENTATION,
    "jaccard_loss": _SEGMENTATION,
    "margin_ranking_loss": Drawing(
        {"difference": lambda x: {"input1": _column(x), "input2": _column(0), "target": _ONE}}, settable=("target",)
    ),
    "pairwise_ranking_loss": _ranking(1, -1),
    "soft_pairwise_loss": _ranking(1, -1),
    "pairwise_logistic_loss": _ranking(1, 0),
    "list_net_loss": _ranking(1, 0),
    "list_mle_loss": _ranking(1, 0),
    "lambda_rank_loss": _ranking(1, 0),
    "contrastive_loss": Drawing(
        {"distance": lambda x: {"x1": _row(x, 0), "x2": _row(0, 0), "target": _ONE}}, settable=("target",)
    ),
    "hinge_embedding_loss": Drawing(
        {"distance": lambda x: {"input": _column(x), "target": _ONE}}, settable=("target",)
    ),
    "triplet_loss": Drawing({"distance": _triplet}, "negative at 1.5"),
    "batch_triplet_loss": Drawing({"distance": _mined_triplets}, "negatives at 1.5 and 2"),
    "center_loss": Drawing(
        {"distance": lambda x: {"embeddings": _row(x, 0), "target": _LABEL_0, "centers": _row(0, 0)}}
    ),
    "aam_loss": Drawing({"angle": _angular}),
    "cosface_loss": Drawing({"angle": _angular}),
    "sphereface_loss": Drawing({"angle": _angular}),
    "ge2e_loss": Drawing({"angle": _speakers}, settable=("scale", "bias")),
    "cosine_embedding_loss": Drawing(
        {"angle": lambda x: {"input1": _on_circle(x).unsqueeze(0), "input2": _FIRST.unsqueeze(0), "target": _ONE}},
        settable=("target",),
    ),
    "info_nce_loss": _pairs("query", "positive"),
    "nt_xent_loss": _pairs("z1", "z2"),
    "multiple_negatives_ranking_loss": _pairs("anchors", "positives"),
    "supervised_contrastive_loss": Drawing({"angle": _two_of_each}),
    "policy_gradient_loss": Drawing({"probability": _log_prob_of_logit, "ratio": _log_prob}, settable=("advantage",)),
    "clipped_surrogate_loss": Drawing(
        {"ratio": lambda x: {**_log_prob(x), "old_log_prob": _column(0)}}, settable=("advantage",)
    ),
    "advantage_weighted_regression_loss": Drawing(
        {"probability": _log_prob_of_logit, "ratio": _log_prob}, settable=("advantage",)
    ),
    "all_action_policy_gradient_loss": Drawing({"probability": _two_actions}, "2 actions, q 1 and 0"),
    "regret_policy_gradient_loss": Drawing({"probability": _two_actions}, "2 actions, q 1 and 0"),
    "categorical_value_loss": Drawing({"probability": _two_atoms}, "2 atoms"),
    "quantile_huber_loss": Drawing(
        {"error": lambda x: {"quantiles": _column(x), "target": _column(0), "levels": _column(0.8)}},
        "level 0.8",
        settable=("levels",),
    ),
    "entropy_loss": Drawing({"probability": lambda x: {"logits": _row(x, 0)}}, "2 actions"),
    "policy_kl_loss": Drawing({"probability": lambda x: {"logits": _row(x, 0), "old_logits": _row(0, 0)}}, "old 0.5"),
    "policy_kl_penalty": Drawing({"ratio": lambda x: {"log_prob": _column(x), "old_log_prob": _column(0)}}),
}

# Hyper-parameters that the inputs above decide, or that cannot be written as text; the others can be set.
_FIXED = {"weight", "mask", "reduction", "from_logits", "target_from_logits", "log_input", "criterion", "gather"}


class Curve(NamedTuple):
    """A loss with its hyper-parameters, as asked for."""

    label: str
    name: str
    options: dict[str, Any]


def plot(specifications: Sequence[str], out: str, *, over: str | None = None) -> None:
    """Draw losses and their gradients into one picture.

    Args:
        specifications: Names of :mod:`rlloss.functional`, with hyper-parameters if any: ``"huber_loss:delta=2"``.
        out: The picture's file; its ending says the format.
        over: A key of :data:`AXES`; by default the first axis that all the losses have.

    Raises:
        PlotError: Unknown names or values, losses that have no axis in common, a file that cannot be written.
        ModuleNotFoundError: Matplotlib is not installed.
    """
    if Path(out).is_dir() or out.endswith("/") or not Path(out).suffix:
        raise PlotError(f"cannot write {out}: wanted a file with an ending that says its format, such as losses.png")
    curves = [_parse(specification) for specification in specifications]
    axis = _common_axis(curves, over)
    lines = [_line(curve, axis) for curve in curves]
    _draw(AXES[axis], [curve.label for curve in curves], lines, out)


def _parse(specification: str) -> Curve:
    """``name:key=value,key=value``."""
    name, _, rest = specification.partition(":")
    if name not in functional.__all__:
        close = difflib.get_close_matches(name, DRAWINGS, 1)
        hint = f"did you mean {close[0]}?" if close else "'python -m rlloss list' prints the names"
        raise PlotError(f"there is no loss named {name!r}; {hint}")
    if name not in DRAWINGS:
        raise PlotError(f"{name} cannot be drawn over one number")
    given = [_parse_option(name, part) for part in re.split(r",(?![^\[(]*[\])])", rest) if part]
    options = dict(given)
    if len(options) < len(given):
        raise PlotError(f"{name}: a hyper-parameter is given twice")
    note = DRAWINGS[name].note
    details = [note] * bool(note) + [f"{key}={value}" for key, value in options.items()]
    return Curve(f"{name} ({', '.join(details)})" if details else name, name, options)


def _parse_option(name: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    settable = _settable(name)
    if key not in settable:
        known = f"it has {', '.join(settable)}" if settable else "it has none"
        raise PlotError(f"{name} has no hyper-parameter {key!r} to set; {known}")
    if not equals or not value:
        raise PlotError(f"{name}: {key} needs a value: {key}=...")
    if value.lower() in ("true", "false", "none"):
        value = value.capitalize()
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError):
        parsed = value
    numbers = parsed if isinstance(parsed, list | tuple) else [parsed]
    if not isinstance(settable[key], str | bool) and not all(isinstance(x, int | float | None) for x in numbers):
        raise PlotError(f"{name}: {key} must be a number or a list of numbers, got {value}")
    if isinstance(settable[key], bool) and not isinstance(parsed, bool):
        raise PlotError(f"{name}: {key} must be True or False, got {value}")
    if key in DRAWINGS[name].settable and not isinstance(parsed, int | float):
        raise PlotError(f"{name}: {key} must be a number, got {value}")
    return key, parsed


def _settable(name: str) -> dict[str, Any]:
    """What a specification can set, with its default."""
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _FIXED}
    return {**dict.fromkeys(DRAWINGS[name].settable), **options}


def _common_axis(curves: Sequence[Curve], over: str | None) -> str:
    """The first axis of the first loss that all others have too, or the one that was asked for."""
    wanted = list(DRAWINGS[curves[0].name].inputs) if over is None else [over]
    for axis in wanted:
        if all(axis in DRAWINGS[curve.name].inputs for curve in curves):
            return axis
    names = dict.fromkeys(curve.name for curve in curves)
    axes = "; ".join(f"{name}: {', '.join(DRAWINGS[name].inputs)}" for name in names)
    problem = "these losses share no axis" if over is None else f"these losses cannot all be drawn over {over!r}"
    raise PlotError(f"{problem} ({axes})")


class Line(NamedTuple):
    """A curve's points: what is on the horizontal axis, the loss, and its gradient."""

    shown: list[float]
    loss: list[float]
    gradient: list[float]


def _line(curve: Curve, axis_name: str) -> Line:
    """The loss and its gradient along the axis."""
    axis, drawing, function = AXES[axis_name], DRAWINGS[curve.name], getattr(functional, curve.name)
    fixed = {"from_logits": False} if axis_name == "overlap" else {}
    options = {key: value for key, value in curve.options.items() if key not in drawing.settable}

    def loss_at(x: Tensor) -> Tensor:
        inputs = drawing.inputs[axis_name](x)
        for key in set(drawing.settable) & set(curve.options):
            inputs[key] = torch.full_like(inputs[key], curve.options[key])
        loss: Tensor = function(**inputs, **options, **fixed, reduction="none")
        return loss.flatten()[0]

    x = torch.linspace(axis.low, axis.high, POINTS, dtype=torch.float64)
    try:
        gradient, loss = torch.func.vmap(torch.func.grad_and_value(loss_at))(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise PlotError(str(error)) from error
    return Line(axis.show(x).tolist(), loss.tolist(), gradient.tolist())


def _draw(axis: Axis, labels: Sequence[str], lines: Sequence[Line], out: str) -> None:
    """Losses on the left, gradients on the right, one legend for both below."""
    from matplotlib.figure import Figure

    columns = max(1, 130 // (max(map(len, labels)) + 8))
    rows = math.ceil(len(labels) / columns)
    figure = Figure(figsize=(11.0, 4.5 + 0.22 * rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ["-", "--", "-.", ":"]
    for number, (label, line) in enumerate(zip(labels, lines, strict=True)):
        # What is drawn first is widest, so that it shows where curves coincide.
        width = 2.6 - 1.2 * number / len(labels)
        look: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": styles[number % 4], "linewidth": width}
        left.plot(line.shown, line.loss, label=label, **look)
        right.plot(line.shown, line.gradient, **look)
    left.set(title="loss", xlabel=axis.label, ylim=_limits([line.loss for line in lines]))
    right.set(
        title=f"gradient with respect to the {axis.x}",
        xlabel=axis.label,
        ylim=_limits([line.gradient for line in lines]),
    )
    for panel in (left, right):
        panel.axhline(0.0, color="black", linewidth=0.6, zorder=0)
        panel.grid(alpha=0.3)
        panel.margins(x=0.0)
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small", frameon=False, handlelength=3.5)
    try:
        figure.savefig(out, dpi=150)
    except (OSError, ValueError, RuntimeError) as error:
        raise PlotError(f"cannot write {out}: {error}") from error


def _limits(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The range of all curves, but for the far end of one that leaves the others' range behind."""
    values = torch.tensor(curves, dtype=torch.float64).flatten()
    values = values[values.isfinite()]
    if not values.numel():
        return -1.0, 1.0
    usual = torch.quantile(values, torch.tensor([0.02, 0.98], dtype=torch.float64))
    spread = float(usual[1] - usual[0]) or 1.0
    low = max(float(values.min()), float(usual[0]) - spread)
    high = min(float(values.max()), float(usual[1]) + spread)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room
