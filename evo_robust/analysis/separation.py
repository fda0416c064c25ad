"""Can genes separate the best from the worst? t-SNE and linear classifiers (RobNet, §3.3, Fig. 4).

There are two classifiers. The paper's is scikit-learn's ``SGDClassifier`` with its defaults (a linear SVM by stochastic
gradient), on genes of 0 and 1; its 98.7% are on the networks of the fit. Ours is a logistic regression on standardised
genes, with regularisation chosen by cross-validation. Its accuracy on unseen networks is the meaningful figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evo_robust.analysis.study import LeftOut, Study, blank
from evo_robust.files import write_csv

SHARE = 0.3
"""Share of the architectures that are the best, and the worst (the paper's 300 of 1,000)."""

FEWEST_EACH = 10
"""With smaller groups, nothing can be said about so many genes."""

FEW_EACH = 20
"""Smaller groups are shown with a warning."""

_SEED = 0
_FOLDS = 5
_REGULARISATION = [1e-3, 1e-2, 1e-1, 1.0, 10.0]


@dataclasses.dataclass(frozen=True)
class PublishedClassifier:
    """Fig. 4's classifier as in the paper: ``SGDClassifier`` with its defaults, and a seed.

    Attributes:
        accuracy: accuracy in [0, 1] on the networks of its fit (the paper: 98.7%).
        positive: share in [0, 1] of positive weights among genes of two choices; NaN where there are none.
    """

    accuracy: float
    positive: float


@dataclasses.dataclass(frozen=True)
class Separation:
    """Best and worst architectures, and the classifiers that separate them.

    Attributes:
        points: t-SNE coordinates ``(n, 2)``, the best first.
        best: whether each point is one of the best, ``(n,)``.
        texts: notation of each architecture.
        names: name of each feature: a gene, or a choice of a gene with more than two.
        weights: weight per standard deviation of each feature ``(features,)``, > 0 where more of it is better.
        binary: whether a feature is a gene of two choices, ``(features,)``.
        training_accuracy: accuracy in [0, 1] of our classifier on the architectures of its fit.
        accuracy: its accuracy on unseen architectures, by cross-validation.
        published: results of the paper's classifier.
    """

    points: np.ndarray
    best: np.ndarray
    texts: list[str]
    names: list[str]
    weights: np.ndarray
    binary: np.ndarray
    training_accuracy: float
    accuracy: float
    published: PublishedClassifier

    @property
    def positive(self) -> float:
        """Share in [0, 1] of positive weights among genes of two choices; NaN where there are none."""
        return _positive(self.weights[self.binary])

    @property
    def each(self) -> int:
        """Number of architectures in each group."""
        return int(self.best.sum())


def separation(study: Study) -> Separation:
    """Separate the best and worst 30% by robust accuracy.

    Raises:
        LeftOut: too few architectures, or no difference between them.
    """
    error = study.error("robust")
    size = int(SHARE * len(error) + 1e-9)
    if size < FEWEST_EACH:
        raise LeftOut(
            f"the best and worst {SHARE:.0%} of {len(error)} architectures are {size} each: expected {FEWEST_EACH} or "
            "more to separate them"
        )
    order = np.argsort(error, kind="stable")
    if error[order[size - 1]] >= error[order[-size]]:
        raise LeftOut(f"the best and the worst {SHARE:.0%} have the same {study.robust_words}")
    chosen = np.concatenate([order[:size], order[-size:]])
    best = np.arange(2 * size) < size
    names, values, binary = features(study.genomes[chosen], study.space.n_choices, study.space.gene_names)
    weights, training, accuracy = _classify(values, best)
    texts = [study.texts[i] for i in chosen]
    published = _published(values, best, binary)
    return Separation(embed(values), best, texts, names, weights, binary, training, accuracy, published)


def features(
    genomes: np.ndarray, n_choices: np.ndarray, names: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Genomes ``(n, genes)`` as columns of 0 and 1: genes of two choices as they are, others as a column per choice.

    Genes without a choice are left out, and so are choices that all genomes or none make.

    Returns:
        Names of the columns, the columns ``(n, features)``, and which are genes of two choices ``(features,)``.
    """
    found: list[tuple[str, np.ndarray, bool]] = []
    for gene, (name, choices) in enumerate(zip(names, n_choices, strict=True)):
        column = genomes[:, gene]
        if choices == 2:
            found.append((name, column.astype(float), True))
        else:
            found += [(f"{name} = {v}", (column == v).astype(float), False) for v in range(int(choices))]
    found = [item for item in found if np.ptp(item[1]) > 0]
    columns = np.array([column for _, column, _ in found], dtype=float).reshape(len(found), len(genomes)).T
    return [name for name, _, _ in found], columns, np.array([two for _, _, two in found], dtype=bool)


def embed(values: np.ndarray) -> np.ndarray:
    """t-SNE of columns ``(n, features)`` as points ``(n, 2)``, with a fixed seed."""
    values = StandardScaler().fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    start = "pca" if min(values.shape) >= 2 else "random"
    return TSNE(perplexity=perplexity, init=start, random_state=_SEED).fit_transform(values)


def _classify(values: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Weights ``(features,)``, accuracy on the data of the fit, and accuracy by cross-validation."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    # regularisation is chosen within each training part, so that no fold is tested on data that chose it
    search = GridSearchCV(model, {"logisticregression__C": _REGULARISATION}, cv=folds)
    accuracy = float(cross_val_score(search, values, best, cv=folds).mean())
    search.fit(values, best)
    return search.best_estimator_[-1].coef_[0], float(search.score(values, best)), accuracy


def _published(values: np.ndarray, best: np.ndarray, binary: np.ndarray) -> PublishedClassifier:
    """The paper's classifier on columns of 0 and 1 ``(n, features)``."""
    model = SGDClassifier(random_state=_SEED).fit(values, best)
    return PublishedClassifier(float(model.score(values, best)), _positive(model.coef_[0][binary]))


def _positive(weights: np.ndarray) -> float:
    return float((weights > 0).mean()) if len(weights) else float("nan")


def write_separation(found: Separation, path: Path) -> None:
    """Write the classifier's figures and weights as CSV, one line per feature."""
    whole = [
        ("training accuracy", found.training_accuracy),
        ("cross-validated accuracy", found.accuracy),
        ("share of positive weights", found.positive),
        ("the paper's classifier: training accuracy", found.published.accuracy),
        ("the paper's classifier: share of positive weights", found.published.positive),
        ("architectures in each group", found.each),
    ]
    rows = [["figure", name, blank(value)] for name, value in whole]
    rows += [["weight", name, float(w)] for name, w in zip(found.names, found.weights, strict=True)]
    write_csv(path, ["kind", "name", "value"], rows)


def write_points(found: Separation, path: Path) -> None:
    """Write the points of the t-SNE as CSV."""
    rows = [
        ["best" if best else "worst", float(x), float(y), text]
        for best, (x, y), text in zip(found.best, found.points, found.texts, strict=True)
    ]
    write_csv(path, ["group", "x", "y", "architecture"], rows)
