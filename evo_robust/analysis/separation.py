"""Can the best and the worst be told apart by their genes? t-SNE and linear classifiers (RobNet, §3.3, Fig. 4).

Two classifiers stand side by side. The paper's is scikit-learn's ``SGDClassifier`` as it comes (a linear SVM by
stochastic gradient), on genes of 0 and 1, and its 98.7% are of the networks that it was fitted to. Ours is a logistic
regression on standardised genes whose regularisation is chosen by cross-validation; what it says of networks that it
has not seen is the honest figure.
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
"""A smaller group tells nothing about as many genes."""

FEW_EACH = 20
"""Smaller groups are shown with a word of caution."""

_SEED = 0
_FOLDS = 5
_REGULARISATION = [1e-3, 1e-2, 1e-1, 1.0, 10.0]


@dataclasses.dataclass(frozen=True)
class Published:
    """Fig. 4's classifier as in the paper: ``SGDClassifier`` with its defaults, and a seed.

    Attributes:
        accuracy: share in [0, 1] that it gets right of the networks it was fitted to (the paper: 98.7%).
        positive: share in [0, 1] of positive weights among genes of two choices; NaN where there are none.
    """

    accuracy: float
    positive: float


@dataclasses.dataclass(frozen=True)
class Separation:
    """Best and worst architectures, and what tells them apart.

    Attributes:
        points: t-SNE coordinates ``(n, 2)``, the best first.
        best: whether each point is one of the best, ``(n,)``.
        texts: notation of each.
        names: what each feature is: a gene, or a gene's choice where it has more than two.
        weights: weight per standard deviation of each feature ``(features,)``, > 0 where more of it is better.
        binary: whether a feature is a gene of two choices, ``(features,)``.
        training_accuracy: share in [0, 1] that the classifier gets right of what it was fitted to.
        accuracy: the same by cross-validation, of architectures that it has not seen: the honest figure.
        published: what the paper's classifier finds.
    """

    points: np.ndarray
    best: np.ndarray
    texts: list[str]
    names: list[str]
    weights: np.ndarray
    binary: np.ndarray
    training_accuracy: float
    accuracy: float
    published: Published

    @property
    def positive(self) -> float:
        """Share in [0, 1] of positive weights among genes of two choices; NaN where there are none."""
        return _positive(self.weights[self.binary])

    @property
    def each(self) -> int:
        """Architectures in each group."""
        return int(self.best.sum())


def separation(study: Study) -> Separation:
    """Best and worst 30% by robust accuracy.

    Raises:
        LeftOut: too few architectures, or no difference between them.
    """
    error = study.error("robust")
    size = int(SHARE * len(error) + 1e-9)
    if size < FEWEST_EACH:
        raise LeftOut(
            f"the best and worst {SHARE:.0%} of {len(error)} architectures are {size} each: expected {FEWEST_EACH} or "
            "more to tell them apart"
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
    """Genomes ``(n, genes)`` as columns of 0 and 1: a gene of two choices as it is, others one column per choice.

    Genes without a choice, and choices that nobody takes or all take, tell nothing and are left out.

    Returns:
        names of the columns, the columns ``(n, features)``, and which are genes of two choices ``(features,)``.
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
    """t-SNE of columns ``(n, features)`` as points ``(n, 2)``, always the same."""
    values = StandardScaler().fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    start = "pca" if min(values.shape) >= 2 else "random"
    return TSNE(perplexity=perplexity, init=start, random_state=_SEED).fit_transform(values)


def _classify(values: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Weights ``(features,)``, accuracy on what was fitted, accuracy by cross-validation."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    # the strength of regularisation is chosen within each training part, so that no fold is judged by what chose it
    search = GridSearchCV(model, {"logisticregression__C": _REGULARISATION}, cv=folds)
    accuracy = float(cross_val_score(search, values, best, cv=folds).mean())
    search.fit(values, best)
    return search.best_estimator_[-1].coef_[0], float(search.score(values, best)), accuracy


def _published(values: np.ndarray, best: np.ndarray, binary: np.ndarray) -> Published:
    """The paper's classifier on columns of 0 and 1 ``(n, features)``."""
    model = SGDClassifier(random_state=_SEED).fit(values, best)
    return Published(float(model.score(values, best)), _positive(model.coef_[0][binary]))


def _positive(weights: np.ndarray) -> float:
    return float((weights > 0).mean()) if len(weights) else float("nan")


def write_separation(found: Separation, path: Path) -> None:
    """Classifier's figures and weights as CSV, one line per feature."""
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
    """The t-SNE's points as CSV."""
    rows = [
        ["best" if best else "worst", float(x), float(y), text]
        for best, (x, y), text in zip(found.best, found.points, found.texts, strict=True)
    ]
    write_csv(path, ["group", "x", "y", "architecture"], rows)
