"""Losses for PyTorch, from cross-entropy to Bellman targets and policy gradients, under one set of conventions.

Classes are here by name, functions in :mod:`rlloss.functional`.
"""

from rlloss import functional
from rlloss.core.checks import value_checks
from rlloss.rl.policy import ClippedSurrogateLoss, EntropyLoss, PolicyGradientLoss, PolicyLoss
from rlloss.rl.value import TDLoss, ValueLoss, ValueLossOutput
from rlloss.supervised.classification import (
    BinaryCrossEntropyLoss,
    ClassificationLoss,
    CrossEntropyLoss,
    FocalLoss,
    PolyLoss,
)
from rlloss.supervised.contrastive import (
    BatchTripletLoss,
    ContrastiveLoss,
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    InfoNCELoss,
    MultipleNegativesRankingLoss,
    NTXentLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
)
from rlloss.supervised.ranking import (
    LambdaRankLoss,
    ListMLELoss,
    ListNetLoss,
    MarginRankingLoss,
    PairwiseLogisticLoss,
    PairwiseRankingLoss,
    SoftPairwiseLoss,
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

__version__ = "0.1.0"

__all__ = [
    "AsymmetricHuberLoss",
    "BatchTripletLoss",
    "BinaryCrossEntropyLoss",
    "ClassificationLoss",
    "ClippedSurrogateLoss",
    "ContrastiveLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "EntropyLoss",
    "ExpectileLoss",
    "FocalLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "InfoNCELoss",
    "LambdaRankLoss",
    "ListMLELoss",
    "ListNetLoss",
    "LogCoshLoss",
    "MAELoss",
    "MAPELoss",
    "MSELoss",
    "MSLELoss",
    "MarginRankingLoss",
    "MultipleNegativesRankingLoss",
    "NMAELoss",
    "NTXentLoss",
    "PairwiseLogisticLoss",
    "PairwiseRankingLoss",
    "PoissonNLLLoss",
    "PolicyGradientLoss",
    "PolicyLoss",
    "PolyLoss",
    "QuantileLoss",
    "RMSELoss",
    "RegressionLoss",
    "SmoothL1Loss",
    "SoftPairwiseLoss",
    "SupervisedContrastiveLoss",
    "TDLoss",
    "TripletLoss",
    "ValueLoss",
    "ValueLossOutput",
    "functional",
    "value_checks",
]
