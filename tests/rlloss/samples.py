"""Sample inputs of every public function and loss: the one table that test_contract.py runs on.

A new loss needs a :class:`Sample` here and nothing else; the contract finds the loss by itself and fails without one.
The defaults fit an elementwise loss of tensors of one shape; each other field says where a loss differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import rlloss
from rlloss.rl.returns import SHORT

Tensors = Mapping[str, Tensor]

_SEED = 7
_generator = torch.Generator().manual_seed(_SEED)


def normal(*shape: int) -> Tensor:
    """Standard normal numbers; float64, from which the tests make the other dtypes."""
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=_generator, dtype=torch.float64)


def integers(*shape: int, high: int) -> Tensor:
    """Integers in [0, high)."""
    return torch.randint(high, shape, generator=_generator)


def probabilities(*shape: int, dim: int) -> Tensor:
    """Positive numbers that sum to one along ``dim``."""
    return normal(*shape).softmax(dim)


def log_probabilities(*shape: int) -> Tensor:
    """Logarithms of numbers in (0.1, 0.9)."""
    return uniform(*shape, low=0.1, high=0.9).log()


def bools(*shape: int) -> Tensor:
    """True in about one place of four."""
    return uniform(*shape) < 0.25


@dataclass(frozen=True, eq=False)
class Sample:
    """Inputs of one function or class, and where it differs from an elementwise loss.

    Attributes:
        name: A name of ``rlloss.functional``, or a class of ``rlloss`` that has no function (``TDLoss``) or that needs
            samples beyond its function's.
        tensors: The tensor arguments by parameter name, in the order of the signature; floating-point ones in float64.
        options: Hyper-parameters by name: of the function and of its class, or of the class alone.
        label: Tells samples of one name apart.
        predictions: The tensors that gradients reach; the first one by default.
        unbatched: Tensors that have none of the mask's dimensions, such as class weights.
        features: For each tensor, the dimensions that the mask does not have, such as that of the classes.
        mask_like: The tensor that has the mask's shape (after ``features`` are taken away); by default the mask has
            the shape of the unreduced loss. Say so for losses that reduce over what a mask removes: ranking lists
            (mask on the list's elements, one loss a list), segmentation (mask on pixels, one loss an image).
        coupled: Whether an element's loss depends on the other elements (in-batch negatives, a norm over the batch).
        subset_dims: The mask's dimensions along which masking rows out equals leaving them out; by default all.
        count: What each element of the unreduced loss counts in the mean, from the tensors and the mask (None: no
            mask); by default 1 where it is kept. Only given where it differs: class weights, pairs in a list.
        undo: Undoes what a loss does after reducing (the square, for a root): weight and reduction work beneath it.
        extreme: Lowest and highest value that each of these tensors takes in the test of extremes; by default
            +-1e4 for every prediction. Empty where the loss is infinite there by its definition.
        classes: Integer tensors whose values must be in [0, n), and that n: what ``value_checks`` looks at.
        unchecked: Tensors whose shape alone can be anything (no other argument determines it).
        aliases: What error messages call this function or these tensors, where another function of the library
            raises them: name to the names that are fine too.
        extra: Further arguments of the class's call, by name.
        owned: Tensors that the class holds instead of taking them in its call: parameters of that name, to which the
            contract gives the sample's values, or whatever else ``build`` makes of those values.
        class_options: Further arguments of the class's constructor, by name.
        build: Makes the module, where ``Class(**options, **class_options, reduction=reduction)`` does not.
        output: Takes the loss from what the class returns.
    """

    name: str
    tensors: Tensors
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    predictions: tuple[str, ...] = ()
    unbatched: tuple[str, ...] = ()
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mask_like: str | None = None
    coupled: bool = False
    subset_dims: tuple[int, ...] | None = None
    count: Callable[[Tensors, Tensor | None], Tensor] | None = None
    undo: Callable[[Tensor], Tensor] | None = None
    extreme: Mapping[str, tuple[float, float]] | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    owned: tuple[str, ...] = ()
    class_options: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[Any], nn.Module] | None = None
    output: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.predictions:
            object.__setattr__(self, "predictions", (next(iter(self.tensors)),))
        # The next sample starts from the same seed: a sample added or moved does not change the numbers of the others.
        _generator.manual_seed(_SEED)

    @property
    def id(self) -> str:
        """What pytest calls the sample."""
        return f"{self.name}-{self.label}" if self.label else self.name


N, C, D = 6, 3, 4  # samples, classes, a further dimension: all different, so that no two shapes fit by accident
T, B, A = 5, 3, 4  # time, batch, actions


def _regression(name: str, label: str = "", **changes: Any) -> Sample:
    tensors = {"input": normal(N, D) * 2, "target": normal(N, D) * 2}
    return Sample(name, **{"tensors": tensors, "label": label, **changes})


def _positive(low: float) -> dict[str, Tensor]:
    return {"input": uniform(N, D, low=low, high=3.0), "target": uniform(N, D, low=low, high=3.0)}


_REGRESSION = [
    _regression("mae_loss"),
    _regression("mse_loss"),
    _regression("rmse_loss", undo=torch.square),
    _regression("rmse_loss", "eps", options={"eps": 0.5}, undo=lambda loss: loss.square() - 0.5),
    _regression("nmae_loss", coupled=True),
    _regression("nmae_loss", "mean", options={"norm": "mean"}, coupled=True),
    _regression("nmae_loss", "number", options={"norm": 2.5}),
    _regression("huber_loss", options={"delta": 1.3}),
    _regression("smooth_l1_loss", options={"beta": 0.7}),
    _regression("smooth_l1_loss", "l1", options={"beta": 0.0}),
    _regression("asymmetric_huber_loss", options={"delta": 1.2, "alpha": 2.0}),
    _regression("asymmetric_huber_loss", "continuous", options={"delta": 1.2, "alpha": 0.5, "continuous": True}),
    _regression("log_cosh_loss"),
    _regression("mape_loss", options={"eps": 0.1}),
    _regression("msle_loss", tensors=_positive(-0.5), extreme={"input": (-0.99, 1e4)}),
    _regression("poisson_nll_loss", extreme={"input": (-1e4, 80.0)}),  # exp(1e4) is infinite by definition
    _regression(
        "poisson_nll_loss",
        "rate",
        tensors=_positive(0.1),
        options={"log_input": False, "full": True, "eps": 1e-6},
        extreme={"input": (0.0, 1e4)},
    ),
    _regression("quantile_loss", options={"quantile": 0.8}),
    _regression("expectile_loss", options={"expectile": 0.3}),
    _regression(
        "gaussian_nll_loss",
        tensors={"input": normal(N, D), "target": normal(N, D), "var": uniform(N, D, low=0.5, high=2.0)},
        options={"full": True, "eps": 1e-4},
        predictions=("input", "var"),
        extreme={"input": (-1e4, 1e4), "var": (0.0, 1e4)},
    ),
]


def _classification(name: str, label: str = "", **changes: Any) -> Sample:
    """Logits ``(N, C, D)`` against class indices ``(N, D)``."""
    fields: dict[str, Any] = {
        "tensors": {"logits": normal(N, C, D) * 2, "target": integers(N, D, high=C)},
        "features": {"logits": (1,)},
        "classes": {"target": C},
    }
    return Sample(name, label=label, **{**fields, **changes})


def _probabilities(name: str, **changes: Any) -> Sample:
    """Class probabilities ``(N, C)`` against class indices ``(N,)``."""
    tensors = {"logits": probabilities(N, C, dim=1), "target": integers(N, high=C)}
    return _classification(name, "probabilities", tensors=tensors, extreme={"logits": (0.0, 1.0)}, **changes)


_CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def _count_class_weight(tensors: Tensors, mask: Tensor | None) -> Tensor:
    count = _CLASS_WEIGHT[tensors["target"].where(mask, 0) if mask is not None else tensors["target"]]
    return count if mask is None else count * mask


_CLASSIFICATION = [
    _classification("cross_entropy"),
    _classification(
        "cross_entropy",
        "weighted",
        options={"class_weight": _CLASS_WEIGHT, "label_smoothing": 0.1},
        count=_count_class_weight,
    ),
    _classification("cross_entropy", "ignore", options={"ignore_index": -1}),
    _probabilities("cross_entropy", options={"from_logits": False}),
    _classification(
        "cross_entropy",
        "soft",
        tensors={"logits": normal(N, C, D), "target": probabilities(N, C, D, dim=1)},
        features={"logits": (1,), "target": (1,)},
        options={"class_weight": _CLASS_WEIGHT, "label_smoothing": 0.2},
        classes={},
    ),
    Sample("binary_cross_entropy", {"logits": normal(N, C), "target": uniform(N, C)}),
    Sample(
        "binary_cross_entropy",
        {"logits": normal(N, C), "target": bools(N, C)},
        options={"pos_weight": 3.0, "label_smoothing": 0.1},
        label="bool",
    ),
    Sample(
        "binary_cross_entropy",
        {"logits": uniform(N, C, low=0.1, high=0.9), "target": uniform(N, C)},
        options={"pos_weight": _CLASS_WEIGHT, "from_logits": False},
        label="probabilities",
        extreme={"logits": (0.0, 1.0)},
        subset_dims=(0,),  # pos_weight has the classes too
    ),
    _classification("focal_loss", options={"gamma": 1.5, "alpha": 0.25}),
    _classification("focal_loss", "root", options={"gamma": 0.5, "alpha": [0.5, 1.0, 2.0]}),
    _classification("focal_loss", "gamma0", options={"gamma": 0.0}),
    _probabilities("focal_loss", options={"from_logits": False}),
    _classification("poly_loss"),
    _classification(
        "poly_loss",
        "series",
        options={"epsilon": [1.0, -0.5, 0.25], "divide_by_order": True, "label_smoothing": 0.1},
    ),
    _probabilities("poly_loss", options={"from_logits": False, "epsilon": 2.0}),
    Sample("binary_focal_loss", {"logits": normal(N, C), "target": bools(N, C)}, {"gamma": 1.5, "alpha": 0.25}),
    Sample(
        "binary_focal_loss",
        {"logits": uniform(N, C, low=0.1, high=0.9), "target": uniform(N, C)},
        options={"gamma": 0.5, "from_logits": False},
        label="probabilities",
        extreme={"logits": (0.0, 1.0)},
    ),
]


def _divergence(
    name: str, label: str = "", *, logits: bool = True, target_logits: bool = False, **options: Any
) -> Sample:
    """Model and target ``(N, C, D)``, each logits or probabilities."""
    return Sample(
        name,
        {
            "logits": normal(N, C, D) if logits else probabilities(N, C, D, dim=1),
            "target": normal(N, C, D) if target_logits else probabilities(N, C, D, dim=1),
        },
        {"from_logits": logits, "target_from_logits": target_logits, **options},
        label=label,
        features={"logits": (1,), "target": (1,)},
        extreme=None if logits else {"logits": (0.0, 1.0)},
    )


_DIVERGENCES = [
    _divergence("kl_divergence"),
    _divergence("kl_divergence", "logits", target_logits=True, temperature=2.5),
    _divergence("kl_divergence", "reverse", reverse=True),
    _divergence("kl_divergence", "probabilities", logits=False, reverse=True, temperature=0.5),
    _divergence("js_divergence"),
    _divergence("js_divergence", "logits", target_logits=True, temperature=2.5),
    _divergence("js_divergence", "probabilities", logits=False),
]


def _signs(name: str, label: str = "", **options: Any) -> Sample:
    """Scores against classes -1 and +1."""
    target = bools(N, C).long() * 2 - 1
    return Sample(name, {"score": normal(N, C), "target": target if label else target.double()}, options, label=label)


def _hinge(label: str, **options: Any) -> Sample:
    tensors = {"scores": normal(N, C, D), "target": integers(N, D, high=C)}
    return Sample(
        "multiclass_hinge_loss", tensors, options, label=label, features={"scores": (1,)}, classes={"target": C}
    )


_HINGES = [
    _signs("hinge_loss"),
    _signs("hinge_loss", "integers", margin=0.5),
    _signs("squared_hinge_loss"),
    _signs("squared_hinge_loss", "integers", margin=0.5),
    _signs("soft_margin_loss"),
    _signs("soft_margin_loss", "integers"),
    _hinge(""),
    _hinge("squared", p=2, margin=0.5, class_weight=_CLASS_WEIGHT, ignore_index=-1),
    _hinge("strongest", variant="crammer-singer"),
    _hinge("strongest-squared", variant="crammer-singer", p=2),
]

H, W = 5, 7  # height and width


def _binary_regions(name: str, label: str = "", **options: Any) -> Sample:
    """Images ``(N, H, W)`` against regions of the same shape."""
    tensors = {"logits": normal(N, H, W), "target": bools(N, H, W)}
    return Sample(name, tensors, options, label=f"binary{label}", mask_like="target")


def _class_regions(name: str, label: str = "", **options: Any) -> Sample:
    """Sequences, images or volumes ``(N, C, ...)`` against class indices."""
    tensors = {"logits": normal(N, C, H, W), "target": integers(N, H, W, high=C)}
    return Sample(
        name,
        tensors,
        options,
        label=label,
        features={"logits": (1,)},
        mask_like="target",
        classes={"target": C},
    )


_SEGMENTATION = [
    _binary_regions("dice_loss"),
    _class_regions("dice_loss"),
    _class_regions("dice_loss", "plain", squared=False, smooth=0.5, per_class=True),
    _binary_regions("tversky_loss", alpha=0.3, beta=0.7, smooth=0.1),
    _class_regions("tversky_loss", alpha=0.3, beta=0.7),
    _class_regions("tversky_loss", "ignore", ignore_index=-1, per_class=True),
    _binary_regions("jaccard_loss"),
    _class_regions("jaccard_loss", smooth=0.1),
    Sample(
        "jaccard_loss",
        {"logits": uniform(N, 2, 3, 4), "target": uniform(N, 2, 3, 4)},
        {"from_logits": False, "per_class": True},
        label="volumes",
        mask_like="target",
        extreme={"logits": (0.0, 1.0)},
    ),
]


def _angular(name: str, label: str = "", owned: str = "class_weight", **options: Any) -> Sample:
    """Embeddings ``(N, D)`` and labels ``(N,)`` against a vector per class, which the class owns."""
    return Sample(
        name,
        {"embeddings": normal(N, D), "target": integers(N, high=C), owned: normal(C, D)},
        options,
        label=label,
        predictions=("embeddings", owned),
        unbatched=(owned,),
        features={"embeddings": (1,)},
        classes={"target": C},
        owned=(owned,),
        class_options={"num_classes": C, "embedding_dim": D},
    )


def _ge2e(label: str, **options: Any) -> Sample:
    """Embeddings ``(speakers, utterances, D)``; the class owns the bias and the logarithm of the scale."""
    return Sample(
        "ge2e_loss",
        {
            "embeddings": normal(T, N, D),
            "scale": torch.tensor(1.0, dtype=torch.float64),
            "bias": torch.tensor(-1.0, dtype=torch.float64),
        },
        options,
        label=label,
        # The softmax does not change when a number is added to all its logits.
        predictions=("embeddings", "scale", "bias") if options else ("embeddings", "scale"),
        unbatched=("scale", "bias"),
        features={"embeddings": (2,)},
        coupled=True,
        extreme={"embeddings": (-1e4, 1e4)},
        unchecked=("embeddings",),
        owned=("scale", "bias"),
        build=lambda reduction: rlloss.GE2ELoss(init_scale=1.0, init_bias=-1.0, reduction=reduction, **options),
    )


_ANGULAR = [
    _angular("aam_loss", scale=8.0),
    _angular("aam_loss", "wide", scale=8.0, margin=2.0),
    _angular("aam_loss", "easy", scale=8.0, margin=0.3, easy_margin=True),
    _angular("cosface_loss", scale=8.0),
    _angular("sphereface_loss"),
    _angular("sphereface_loss", "annealed", margin=3, scale=8.0, annealing=5.0),
    _angular("center_loss", owned="centers"),
    _ge2e(""),
    _ge2e("contrast", variant="contrast"),
]


def _trajectory(*names: str, length: int = T) -> dict[str, Tensor]:
    """Rewards, discounts and values ``(length, B)`` with a termination inside."""
    discount = torch.full((length, B), 0.9, dtype=torch.float64)
    discount[2, 1] = 0.0
    return {name: discount.clone() if name == "discount" else normal(length, B) for name in names}


def _returns(name: str, *names: str, **options: Any) -> list[Sample]:
    """A recursion over time, without and with truncated steps, over few steps and over many (another form of it)."""
    samples = [Sample(name, _trajectory(*names), options, predictions=names)]
    for label, length in (("truncated", T), ("long", 2 * SHORT + 3)):
        tensors = {**_trajectory(*names, length=length), "truncated": bools(length, B)}
        samples.append(Sample(name, tensors, options, label=label, predictions=names))
    return samples


_RETURNS = [
    *_returns("lambda_returns", "reward", "discount", "next_value", lambda_=0.7),
    *_returns("n_step_returns", "reward", "discount", "next_value", n=3, lambda_=0.9),
    Sample("n_step_returns", _trajectory("reward", "discount", "next_value", length=19), {"n": 12}, label="twelve"),
    *_returns("gae", "reward", "discount", "value", "next_value", lambda_=0.7),
    *_returns("upgo_returns", "reward", "discount", "next_value"),
    *_returns("off_policy_returns", "trace", "reward", "discount", "q", "next_value"),
    *_returns("retrace", "log_rho", "reward", "discount", "q", "next_value", lambda_=0.7),
    *_returns("vtrace", "log_rho", "reward", "discount", "value", "next_value", lambda_=0.7, clip_rho=2.0, clip_c=1.5),
    Sample(
        "vtrace",
        _trajectory("log_rho", "reward", "discount", "value", "next_value"),
        {"leak": 0.3, "clip_pg_rho": 0.8},
        label="leaky",
        predictions=("log_rho", "reward", "discount", "value", "next_value"),
    ),
    Sample(
        "q_lambda_returns",
        {**_trajectory("reward", "discount"), "next_q": normal(T, B, A), "truncated": bools(T, B)},
        {"lambda_": 0.7},
        predictions=("reward", "discount", "next_q"),
    ),
    Sample("normalize_advantage", {"advantage": normal(T, B)}),
    Sample(
        "normalize_advantage",
        {"advantage": normal(T, B), "mask": ~bools(T, B)},
        label="mask",
        unchecked=("advantage",),  # of any shape; it is the mask that may not fit
    ),
]


def _target(name: str, *names: str, label: str = "", **changes: Any) -> Sample:
    """A Bellman target of a batch of transitions."""
    tensors = {
        "reward": normal(B),
        "discount": uniform(B),
        "next_value": normal(B),
        "q": normal(B, A),
        "action": integers(B, high=A),
        "next_q": normal(B, A),
        "next_action": integers(B, high=A),
        "next_probs": probabilities(B, A, dim=-1),
    }
    predictions = tuple(key for key in names if tensors[key].is_floating_point())
    classes = {key: A for key in names if not tensors[key].is_floating_point()}
    chosen = {key: tensors[key] for key in names}
    return Sample(name, chosen, label=label, **{"predictions": predictions, "classes": classes, **changes})


_SUPPORT = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0], dtype=torch.float64)
_BACKUP = ("reward", "discount")
_TARGETS = [
    _target("td_target", *_BACKUP, "next_value"),
    _target("sarsa_target", *_BACKUP, "next_q", "next_action"),
    _target("expected_sarsa_target", *_BACKUP, "next_q", "next_probs"),
    _target("soft_q_target", *_BACKUP, "next_q", options={"temperature": 0.5}),
    _target("munchausen_target", *_BACKUP, "q", "action", "next_q", options={"temperature": 0.5, "clip": -0.7}),
    _target("advantage_learning_target", *_BACKUP, "q", "action", "next_q"),
    _target("advantage_learning_target", *_BACKUP, "q", "action", "next_q", label="both", options={"persistent": True}),
    _target("persistent_target", *_BACKUP, "action", "next_q", options={"alpha": 0.9}),
    Sample("signed_hyperbolic", {"x": normal(N, D) * 5}, unchecked=("x",)),
    Sample("signed_parabolic", {"x": normal(N, D) * 5}, {"eps": 0.1}, unchecked=("x",)),
    Sample("two_hot", {"value": normal(N) * 2, "support": _SUPPORT}, unchecked=("value", "support")),
    Sample(
        "hl_gauss",
        {"value": normal(N) * 2, "support": _SUPPORT},
        {"sigma": 0.75},
        unchecked=("value", "support"),
        predictions=("value", "support"),
    ),
    Sample(
        "categorical_projection",
        {
            "next_probs": probabilities(B, 5, dim=-1),
            "reward": normal(B),
            "discount": uniform(B),
            "support": _SUPPORT,
        },
        unchecked=("support",),
    ),
]


_ACTIONS: dict[str, Any] = {"features": {"q": (-1,)}, "classes": {"action": A}}
_VALUE = [
    Sample(
        "q_learning_target",
        {"reward": normal(B), "discount": uniform(B), "next_q": normal(B, A)},
        predictions=("reward", "discount", "next_q"),
    ),
    Sample(
        "q_learning_target",
        {"reward": normal(T, B), "discount": uniform(T, B), "next_q": normal(T, B, A), "selector_q": normal(T, B, A)},
        label="double",
        predictions=("reward", "discount", "next_q"),
    ),
    Sample(
        "q_value_loss",
        {"q": normal(N, A), "action": integers(N, high=A), "target": normal(N)},
        aliases={"q_value_loss": ("mse_loss",)},
        **_ACTIONS,
    ),
    Sample(
        "q_value_loss",
        {"q": normal(T, B, A), "action": integers(T, B, high=A), "target": normal(T, B)},
        options={"criterion": rlloss.functional.huber_loss},
        label="huber",
        aliases={"q_value_loss": ("huber_loss",)},
        **_ACTIONS,
    ),
]


def _td(label: str, criterion: type[rlloss.RegressionLoss], *prefix: int, double: bool = False) -> Sample:
    tensors = {
        "outputs": normal(*prefix, A),
        "action": integers(*prefix, high=A),
        "reward": normal(*prefix),
        "discount": uniform(*prefix),
        "next_outputs": normal(*prefix, A),
    }
    if double:
        tensors["selector_outputs"] = normal(*prefix, A)
    return Sample(
        "TDLoss",
        tensors,
        label=label,
        options={"double": double},
        features={"outputs": (-1,), "next_outputs": (-1,), "selector_outputs": (-1,)},
        classes={"action": A},
        aliases={
            "TDLoss": ("q_learning_target", "mse_loss", "huber_loss", "MSELoss", "HuberLoss"),
            "next_outputs": ("next_q",),
            "selector_outputs": ("selector_q",),
        },
        build=lambda reduction: rlloss.TDLoss(criterion(reduction=reduction), double=double),
        output=lambda result: result.loss,
    )


def _value_loss(name: str, label: str = "", *further: str, outputs: int = 1, **changes: Any) -> Sample:
    """A value loss of a batch of transitions, with the further inputs that it wants."""
    shape = (N, A) if outputs == 1 else (N, A, outputs)
    tensors = {
        "outputs": normal(*shape),
        "action": integers(N, high=A),
        "reward": normal(N),
        "discount": uniform(N),
        "next_outputs": normal(*shape),
    }
    for key in further:
        tensors[key] = integers(N, high=A) if key == "next_action" else normal(*shape)
    features = tuple(range(1 - len(shape), 0))
    networks = {key: features for key in tensors if key.endswith("outputs")}
    fields: dict[str, Any] = {
        "features": networks,
        "classes": {key: A for key in tensors if key.endswith("action")},
        "aliases": {
            name: (
                "q_learning_target", "sarsa_target", "expected_sarsa_target", "soft_q_target", "munchausen_target",
                "advantage_learning_target", "persistent_target", "td_target", "huber_loss", "quantile_huber_loss",
                "HuberLoss", "HLGaussLoss", "TwoHotLoss",
            ),
            "next_outputs": ("next_q", "next_value"),
        },
        "output": lambda result: result.loss,
    }  # fmt: skip
    return Sample(name, tensors, label=label, **{**fields, **changes})


def _with_huber(cls: type[rlloss.ValueLoss], **options: Any) -> dict[str, Any]:
    """A class that leaves its reduction to the criterion."""
    return {"options": options, "build": lambda reduction: cls(rlloss.HuberLoss(reduction=reduction), **options)}


_BINS = {"low": -2.0, "high": 2.0, "num_bins": 5}
_ATOMS = {"low": -2.0, "high": 2.0, "num_atoms": 5}
_TD = [
    _td("", rlloss.HuberLoss, N),
    _td("double", rlloss.MSELoss, T, B, double=True),
    _value_loss("TDLoss", "rescale", **_with_huber(rlloss.TDLoss, rescale=True)),
    _value_loss("SarsaLoss", "", "next_action", **_with_huber(rlloss.SarsaLoss)),
    _value_loss(
        "ExpectedSarsaLoss", "", "selector_outputs", **_with_huber(rlloss.ExpectedSarsaLoss, epsilon=0.3, double=True)
    ),
    _value_loss("SoftQLoss", **_with_huber(rlloss.SoftQLoss, temperature=0.5)),
    _value_loss(
        "MunchausenLoss", "", "target_outputs", **_with_huber(rlloss.MunchausenLoss, temperature=0.5, rescale=True)
    ),
    _value_loss(
        "AdvantageLearningLoss", "", "target_outputs", **_with_huber(rlloss.AdvantageLearningLoss, persistent=True)
    ),
    _value_loss("PersistentLoss", **_with_huber(rlloss.PersistentLoss, alpha=0.5)),
    _value_loss("QVLoss", outputs=2, **_with_huber(rlloss.QVLoss)),
    _value_loss("QVLoss", "max", outputs=2, **_with_huber(rlloss.QVLoss, maximum=True)),
    _value_loss("TwoHotTDLoss", outputs=5, options=_BINS),
    _value_loss("HLGaussTDLoss", "", "selector_outputs", outputs=5, options={**_BINS, "double": True, "rescale": True}),
    _value_loss("CategoricalTDLoss", outputs=5, options=_ATOMS),
    _value_loss(
        "CategoricalTDLoss",
        "double",
        "selector_outputs",
        outputs=5,
        options={**_ATOMS, "double": True, "rescale": True},
    ),
    _value_loss("QuantileTDLoss", outputs=5, options={"num_quantiles": 5, "kappa": 0.5}),
    _value_loss(
        "QuantileTDLoss", "double", "selector_outputs", outputs=5, options={"num_quantiles": 5, "double": True}
    ),
]

_DISTRIBUTIONAL = [
    Sample(
        "categorical_value_loss",
        {"logits": normal(N, A, 5), "action": integers(N, high=A), "target_probs": probabilities(N, 5, dim=-1)},
        features={"logits": (-2, -1), "target_probs": (-1,)},
        classes={"action": A},
    ),
    Sample(
        "quantile_huber_loss",
        {"quantiles": normal(N, 5), "target": normal(N, 3)},
        features={"quantiles": (-1,), "target": (-1,)},
        unchecked=("target",),
    ),
    Sample(
        "quantile_huber_loss",
        {"quantiles": normal(T, B, 5), "target": normal(T, B, 3), "levels": uniform(T, B, 5)},
        {"kappa": 0.0},
        label="levels",
        features={"quantiles": (-1,), "target": (-1,), "levels": (-1,)},
        unchecked=("target",),
    ),
    Sample(
        "TwoHotLoss",
        {"input": normal(N, 5), "target": normal(N)},
        _BINS,
        features={"input": (-1,)},
        unchecked=("target",),
    ),
    Sample(
        "HLGaussLoss",
        {"input": normal(T, B, 5), "target": normal(T, B)},
        {**_BINS, "sigma": 0.5},
        features={"input": (-1,)},
        unchecked=("target",),
    ),
]


def _policy(name: str, label: str = "", *, old: bool = False, **changes: Any) -> Sample:
    tensors = {"log_prob": log_probabilities(T, B)}
    if old:
        tensors["old_log_prob"] = log_probabilities(T, B)
    tensors["advantage"] = normal(T, B)
    extreme = {"log_prob": (-1e4, 0.0)}  # a log-probability above 0 is none
    return Sample(name, tensors, label=label, **{"extreme": extreme, **changes})


def _actions(name: str, *names: str, **changes: Any) -> Sample:
    """Logits ``(T, B, A)`` and what else there is for every action."""
    tensors = {tensor: normal(T, B, A) for tensor in names}
    return Sample(name, tensors, features=dict.fromkeys(names, (-1,)), **changes)


def _penalty(label: str, extreme: dict[str, tuple[float, float]], **options: Any) -> Sample:
    tensors = {"log_prob": log_probabilities(T, B), "old_log_prob": log_probabilities(T, B)}
    return Sample("policy_kl_penalty", tensors, options, label=label, extreme=extreme)


def _gaussian(action: str) -> dict[str, Tensor]:
    return {name: normal(T, B, D) for name in (action, "mean", "log_std")}


_UNUSED_OLD = {"old_log_prob": None}
_POLICY = [
    _policy("policy_gradient_loss", extra=_UNUSED_OLD),
    _policy(
        "PolicyGradientLoss",
        "focal",
        extra=_UNUSED_OLD,
        build=lambda reduction: rlloss.PolicyGradientLoss(rlloss.FocalLoss(gamma=1.5, alpha=0.5), reduction=reduction),
    ),
    _policy(
        "PolicyGradientLoss",
        "poly",
        extra=_UNUSED_OLD,
        build=lambda reduction: rlloss.PolicyGradientLoss(rlloss.PolyLoss(epsilon=2.0), reduction=reduction),
    ),
    _policy("clipped_surrogate_loss", old=True, options={"clip": 0.3}),
    _policy("clipped_surrogate_loss", "dual", old=True, options={"dual_clip": 1.5}),
    _policy(
        "ClippedSurrogateLoss",
        "kl",
        old=True,
        options={"kl_coefficient": 0.7},
        aliases={"ClippedSurrogateLoss": ("clipped_surrogate_loss",)},
    ),
    _policy("advantage_weighted_regression_loss", extra=_UNUSED_OLD, options={"temperature": 0.8, "max_weight": 2.0}),
    _actions("all_action_policy_gradient_loss", "logits", "q"),
    _actions("regret_policy_gradient_loss", "logits", "q"),
    _actions("entropy_loss", "logits", unchecked=("logits",)),
    _actions("policy_kl_loss", "logits", "old_logits"),
    _actions("policy_kl_loss", "logits", "old_logits", label="reverse", options={"reverse": True}),
    _penalty("", {"log_prob": (-80.0, 0.0)}),  # exp(1e4) is infinite by definition
    _penalty("old", {"log_prob": (-1e4, 0.0)}, drawn_from="old"),
    Sample("gaussian_log_prob", _gaussian("action"), predictions=("action", "mean", "log_std")),
    Sample(
        "gaussian_log_prob",
        {**_gaussian("action"), "log_std": normal(D)},
        label="shared",
        predictions=("action", "mean", "log_std"),
        unbatched=("log_std",),
    ),
    Sample("gaussian_entropy", {"log_std": normal(T, B, D)}),
    Sample("squashed_gaussian_log_prob", _gaussian("pre_tanh"), predictions=("pre_tanh", "mean", "log_std")),
]

LISTS, LENGTH = 5, 7
_SIGNS = 2.0 * bools(LISTS, LENGTH).double() - 1.0
_GRADES = integers(LISTS, LENGTH, high=4).double()


def _count_pairs(tensors: Tensors, mask: Tensor | None) -> Tensor:
    kept = torch.ones(LISTS, LENGTH) if mask is None else mask
    return kept.sum(-1).double().square()


def _count_untied_pairs(tensors: Tensors, mask: Tensor | None) -> Tensor:
    labels, kept = tensors["labels"], torch.ones(LISTS, LENGTH) if mask is None else mask
    return ((labels[:, :, None] != labels[:, None]) * kept[:, :, None] * kept[:, None]).sum((-2, -1)).double()


def _count_lists(tensors: Tensors, mask: Tensor | None) -> Tensor:
    return torch.ones(LISTS) if mask is None else mask.any(-1).double()


def _lists(name: str, labels: Tensor, count: Callable[[Tensors, Tensor | None], Tensor], **changes: Any) -> Sample:
    """Scores and labels ``(LISTS, LENGTH)``, one loss a list."""
    tensors = {"scores": normal(LISTS, LENGTH) * 2, "labels": labels}
    return Sample(name, tensors, mask_like="scores", count=count, **changes)


_RANKING = [
    Sample(
        "margin_ranking_loss",
        {"input1": normal(N, D), "input2": normal(N, D), "target": 2.0 * bools(N, D).double() - 1.0},
        options={"margin": 0.3},
        predictions=("input1", "input2"),
    ),
    _lists("pairwise_ranking_loss", _SIGNS, _count_pairs, options={"margin": 0.7}),
    _lists("soft_pairwise_loss", _SIGNS, _count_pairs),
    _lists("pairwise_logistic_loss", _GRADES, _count_pairs),
    _lists("pairwise_logistic_loss", _GRADES, _count_untied_pairs, options={"ignore_ties": True}, label="ignore_ties"),
    _lists("list_net_loss", normal(LISTS, LENGTH), _count_lists),
    _lists("list_mle_loss", _GRADES, _count_lists),
    _lists("lambda_rank_loss", _GRADES, _count_lists, options={"sigma": 1.5}),
]


def _embeddings(name: str, *names: str, label: str = "", negatives: int = 0, **changes: Any) -> Sample:
    """Embeddings ``(N, D)``, with labels or a target on request, and further negatives that no mask covers."""
    changed = changes.pop("tensors", {})
    tensors = {embedding: normal(N, D) for embedding in names} | changed
    predictions = names
    if negatives:
        tensors["negatives"] = normal(negatives, D)
        predictions = (*names, "negatives")
    return Sample(
        name,
        tensors,
        label=label,
        predictions=predictions,
        unbatched=("negatives",) if negatives else (),
        unchecked=("negatives",) if negatives else (),
        features=dict.fromkeys(predictions, (-1,)),
        **changes,
    )


_PAIR_SIGNS = {"target": torch.tensor([1, -1, -1, 1, -1, 1])}
_PAIR_TARGETS = {"target": torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])}
_LABELS = torch.tensor([2, 2, 0, 2, 0, 5])  # one is alone in its class


def _has_positive(tensors: Tensors, mask: Tensor | None) -> Tensor:
    labels, kept = tensors["labels"], torch.ones(N, dtype=torch.bool) if mask is None else mask
    same = (labels[:, None] == labels) & kept & kept[:, None]
    return (same.sum(-1) > 1).double()


def _has_triplet(tensors: Tensors, mask: Tensor | None) -> Tensor:
    labels, kept = tensors["labels"], torch.ones(N, dtype=torch.bool) if mask is None else mask
    different = (labels[:, None] != labels) & kept & kept[:, None]
    return _has_positive(tensors, mask) * different.any(-1)


_CONTRASTIVE = [
    _embeddings("contrastive_loss", "x1", "x2", tensors=_PAIR_TARGETS, options={"margin": 3.0}),
    _embeddings(
        "contrastive_loss", "x1", "x2", tensors=_PAIR_TARGETS, options={"margin": 3.0, "squared": False}, label="plain"
    ),
    _embeddings("triplet_loss", "anchor", "positive", "negative", options={"margin": 1.5}),
    _embeddings("triplet_loss", "anchor", "positive", "negative", options={"p": 3.0, "swap": True}, label="swap"),
    _embeddings("cosine_embedding_loss", "input1", "input2", tensors=_PAIR_SIGNS, options={"margin": -0.5}),
    Sample(
        "hinge_embedding_loss",
        {"input": uniform(N, D), "target": 2.0 * bools(N, D).double() - 1.0},
        options={"margin": 0.8},
    ),
    _embeddings("info_nce_loss", "query", "positive", options={"temperature": 0.5}, coupled=True),
    _embeddings("info_nce_loss", "query", "positive", options={"symmetric": True}, label="symmetric", coupled=True),
    _embeddings("info_nce_loss", "query", "positive", negatives=5, label="negatives"),
    _embeddings("nt_xent_loss", "z1", "z2", options={"temperature": 0.7}, coupled=True, mask_like="z1"),
    _embeddings(
        "supervised_contrastive_loss", "embeddings", tensors={"labels": _LABELS}, coupled=True, count=_has_positive
    ),
    *(
        _embeddings(
            "batch_triplet_loss",
            "embeddings",
            tensors={"labels": _LABELS},
            options={"mining": mining, "margin": 1.5},
            label=mining,
            coupled=True,
            count=_has_triplet,
        )
        for mining in ("hard", "semihard", "all")
    ),
    _embeddings("multiple_negatives_ranking_loss", "anchors", "positives", options={"scale": 3.0}, coupled=True),
    _embeddings(
        "multiple_negatives_ranking_loss", "anchors", "positives", negatives=5, label="negatives", coupled=True
    ),
]

SAMPLES: list[Sample] = [
    *_REGRESSION,
    *_CLASSIFICATION,
    *_DIVERGENCES,
    *_HINGES,
    *_SEGMENTATION,
    *_ANGULAR,
    *_RANKING,
    *_CONTRASTIVE,
    *_RETURNS,
    *_TARGETS,
    *_VALUE,
    *_TD,
    *_DISTRIBUTIONAL,
    *_POLICY,
]
