"""Losses for PyTorch, from cross-entropy to Bellman targets and policy gradients, under one set of conventions.

Classes are here by name, functions in :mod:`rlloss.functional`.
"""

from rlloss import functional
from rlloss.core.checks import value_checks
from rlloss.rl.policy import ClippedSurrogateLoss, EntropyLoss, PolicyGradientLoss, PolicyLoss
from rlloss.rl.value import TDLoss, ValueLoss, ValueLossOutput
from rlloss.supervised.angular import AAMLoss, CenterLoss, CosFaceLoss, GE2ELoss, SphereFaceLoss
from rlloss.supervised.classification import (
    BinaryCrossEntropyLoss,
    BinaryFocalLoss,
    ClassificationLoss,
    CrossEntropyLoss,
    FocalLoss,
    HingeLoss,
    JSDivergenceLoss,
    KLDivergenceLoss,
    MulticlassHingeLoss,
    PolyLoss,
    SoftMarginLoss,
    SquaredHingeLoss,
)
from rlloss.supervised.regression import (
    AsymmetricHuberLoss,
    ExpectileLoss,
    GaussianNLLLoss,
    HuberLoss,
    LogCoshLoss,
    MAELoss,
    MAPELoss,
    MSELoss,
    MSLELoss,
    NMAELoss,
    PoissonNLLLoss,
    QuantileLoss,
    RegressionLoss,
    RMSELoss,
    SmoothL1Loss,
)
from rlloss.supervised.segmentation import DiceLoss, JaccardLoss, TverskyLoss

__version__ = "0.1.0"

__all__ = [
    "AAMLoss",
    "AsymmetricHuberLoss",
    "BinaryCrossEntropyLoss",
    "BinaryFocalLoss",
    "CenterLoss",
    "ClassificationLoss",
    "ClippedSurrogateLoss",
    "CosFaceLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EntropyLoss",
    "ExpectileLoss",
    "FocalLoss",
    "GE2ELoss",
    "GaussianNLLLoss",
    "HingeLoss",
    "HuberLoss",
    "JSDivergenceLoss",
    "JaccardLoss",
    "KLDivergenceLoss",
    "LogCoshLoss",
    "MAELoss",
    "MAPELoss",
    "MSELoss",
    "MSLELoss",
    "MulticlassHingeLoss",
    "NMAELoss",
    "PoissonNLLLoss",
    "PolicyGradientLoss",
    "PolicyLoss",
    "PolyLoss",
    "QuantileLoss",
    "RMSELoss",
    "RegressionLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SphereFaceLoss",
    "SquaredHingeLoss",
    "TDLoss",
    "TverskyLoss",
    "ValueLoss",
    "ValueLossOutput",
    "functional",
    "value_checks",
]
