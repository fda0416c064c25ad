"""The judge as a Python function, and what it takes from the networks where it is not told."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from evo_robust.attacks.base import Norm
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.fast import Precision
from evo_robust.data.base import DataSet
from evo_robust.device import choose_device
from evo_robust.judging.judgement import Judgement
from evo_robust.judging.own import ready
from evo_robust.judging.trials import Trial, trials
from evo_robust.parts.base import Fraction, UserError
from evo_robust.parts.paths import refuse_odd_path
from evo_robust.parts.plain import fault, without_numpy
from evo_robust.progress import Say, output, silent

if TYPE_CHECKING:
    from evo_robust.adversarial_set.making import AdversarialSet
    from evo_robust.judging.subjects import Subject
    from evo_robust.judging.work import Judging

# what reads networks draws pictures too, and takes seconds to import: it is imported where networks are judged

USUAL_EPS = Fraction(8 / 255)
"""Radius of the L∞ ball where neither the command nor the networks' training names one."""

USUAL_L2 = Fraction(0.5)
"""The same in L2."""

TRANSFERRED = "fgsm,pgd-20"
"""Attacks where sources are given and attacks are not: those that papers make images with."""

NO_NETWORKS = "expected networks: folders, texts such as resnet-18@FILE, or torch modules by name; got none"

Networks = str | Path | Sequence[str | Path] | Mapping[str, nn.Module]
"""Networks as :func:`judge_networks` takes them."""


def judge_networks(
    networks: Networks,
    out: str | Path,
    *,
    attacks: str | None = None,
    data: DataSet | None = None,
    pick: str = "front",
    sources: Networks | None = None,
    copies: bool = False,
    eps: Sequence[float] | None = None,
    steps: Sequence[int] = (),
    step: str | float | None = None,
    norm: Norm = "linf",
    images: int | None = None,
    signs: bool = True,
    seed: int = 0,
    precision: Precision = "float32",
    device: str = "auto",
    trust: bool = False,
    progress: bool = False,
) -> Judgement:
    """Attack trained networks on test images. What was judged in a folder before is not judged again.

    Args:
        networks: texts as ``networks=`` takes them (folders of retrain, export or run, ``resnet-18@FILE``,
            ``mine.py:make@FILE``), or networks of your own by name, from images in [0,1] to logits.
        out: folder that keeps everything, and gets the tables and pictures.
        attacks: names with settings, and sets, see ``python -m evo_robust.judge --help``; ``compact`` when not given,
            and FGSM and PGD-20 with sources.
        data: whose test images judge; that of the networks when not given.
        pick: networks of a search: ``front``, ``knee``, an index or ``best:OBJECTIVE``; several with commas.
        sources: networks on which images are made that judge the others too.
        copies: judge each network by the images of its copies alone: sources of the same layers.
        eps: strengths, ascending, in units of the pixel range 0..1; that of the networks' training when not given,
            else 8/255 (linf) or .5 (l2).
        steps: numbers of steps for attacks that name none.
        step: step length for attacks that name none: a number, or a text such as ``2/255`` or ``eps/10``.
        norm: of the balls.
        images: how many test images, >= 1; all when not given.
        signs: whether to look for signs of masked gradients.
        seed: of random starts, >= 0.
        precision: in which gradient attacks search; what counts is classified in float32.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        trust: whether files that records name as their source may be run.
        progress: whether to say how far it is.

    Returns:
        Every network's figures, each with its 95 % interval.

    Raises:
        UserError: a network is no network, is damaged or does not fit the images; an attack is unknown; or an argument
            is of a wrong type.

    Example:
        >>> found = judge_networks({"mine": model}, "runs/mine-judged", data=Digits(), attacks="compact,pgd-20")
        >>> found.verdicts[0].figure("compact 8/255").accuracy
    """
    from evo_robust.judging.report import write_report
    from evo_robust.judging.subjects import named_apart
    from evo_robust.judging.transfer_report import write_transfers
    from evo_robust.judging.work import judge

    images, seed, step = (without_numpy(value) for value in (images, seed, step))
    steps = without_numpy(tuple(steps)) if isinstance(steps, (list, tuple)) else steps
    _check_types(
        attacks=attacks,
        data=data,
        pick=pick,
        copies=copies,
        steps=steps,
        step=step,
        norm=norm,
        images=images,
        signs=signs,
        seed=seed,
        precision=precision,
        device=device,
        trust=trust,
        progress=progress,
    )
    eps = None if eps is None else _checked_strengths(eps, norm)
    step = None if step is None else str(step)
    refuse_odd_path("out", str(out))
    chosen = choose_device(device)
    say: Say = functools.partial(output().print, markup=False) if progress else silent
    read = functools.partial(_read, data=data, pick=pick, device=chosen, say=say, trust=trust)
    subjects, made_on = named_apart(read(networks), read(sources) if sources is not None else [])
    judging = judging_of(
        *(subjects, made_on, data, attacks, eps, steps, step, norm, say),
        images=images,
        seed=seed,
        precision=precision,
        copies=copies,
        signs=signs,
    )
    judgement = judge(judging, Path(out), device=chosen, say=say)
    write_report(judgement, Path(out))
    write_transfers(judgement, Path(out))
    return judgement


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("copies", "signs", "trust", "progress"), bool),
    **dict.fromkeys(("pick", "device"), str),
    "attacks": str | None,
    "data": DataSet | None,
    "steps": tuple[int, ...],
    "step": str | float | None,
    "norm": Norm,
    "images": int | None,
    "seed": int,
    "precision": Precision,
}
"""Types of the arguments of :func:`judge_networks` that are checked as the fields of parts are."""


def _check_types(**given: object) -> None:
    """Raise ``UserError`` for the first argument that is of a wrong type."""
    for name, value in given.items():
        if wrong := fault(value, _KINDS[name]):
            raise UserError(f"expected {name} to be {wrong}")


def _checked_strengths(eps: Sequence[float], norm: Norm) -> tuple[float, ...]:
    try:
        return check_strengths(eps, norm)
    except ValueError as error:
        raise UserError(str(error)) from None


def _read(networks: Networks, data: DataSet | None, pick: str, device: str, say: Say, trust: bool) -> list[Subject]:
    """The networks; one of one's own is copied, so that it stays as it is."""
    from evo_robust.judging.subjects import Subject, subjects_of

    if isinstance(networks, Mapping):
        if not networks:
            raise UserError(NO_NETWORKS)
        for name, network in networks.items():
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise UserError(f"networks: expected a name for each network, in one line of text, got {name!r}")
            ready(network, f"networks: {name!r}")
        return [
            Subject(name, "given in Python", functools.partial(_copied, network)) for name, network in networks.items()
        ]
    texts = [networks] if isinstance(networks, (str, Path)) else networks
    if not isinstance(texts, Sequence) or not all(isinstance(text, (str, Path)) for text in texts):
        raise UserError(f"{NO_NETWORKS.partition(';')[0]}; got {type(networks).__name__}")
    found = subjects_of([str(text) for text in texts], data, pick, device, say, trust=trust)
    if not found:
        raise UserError(NO_NETWORKS)
    return found


def _copied(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().eval()


def judging_of(
    subjects: Sequence[Subject],
    sources: Sequence[Subject],
    data: DataSet | None,
    attacks: str | None,
    eps: Sequence[float] | None,
    steps: Sequence[int],
    step: str | None,
    norm: Norm,
    say: Say,
    *,
    adversarial_set: AdversarialSet | None = None,
    **rest: Any,
) -> Judging:
    """What is asked for, with what the networks themselves say where it does not tell.

    Args:
        subjects: the networks that are judged.
        sources: those on which images are made.
        data: whose test images judge; None for that of the networks.
        attacks: names with settings, and sets; None for the usual ones.
        eps: strengths, ascending, in units of the pixel range 0..1; None for that of the networks' training.
        steps: numbers of steps for attacks that name none.
        step: step length for attacks that name none.
        norm: of the balls.
        say: called with a line on the strength, where that is one of the networks' training.
        adversarial_set: settings of the trial of that name; None for those of a network's search.
        rest: further fields of the :class:`evo_robust.judging.work.Judging`.

    Raises:
        UserError: the networks' data is not known or differs, or an attack is unknown.
    """
    from evo_robust.judging.work import Judging

    judged_on = data or data_of([*subjects, *sources])
    own = next((subject.adversarial_set for subject in subjects if subject.adversarial_set is not None), None)
    return Judging(
        subjects=tuple(subjects),
        data=judged_on,
        trials=tuple(trials_of(attacks, subjects, judged_on, bool(sources), eps, steps, step, norm, say)),
        adversarial_set=adversarial_set or own,
        sources=tuple(sources),
        **rest,
    )


def trials_of(
    attacks: str | None,
    subjects: Sequence[Subject],
    data: DataSet,
    made_on_others: bool,
    eps: Sequence[float] | None,
    steps: Sequence[int],
    step: str | None,
    norm: Norm,
    say: Say,
) -> list[Trial]:
    """The trials that are asked for, see :func:`evo_robust.judging.trials.trials`; the usual ones where none are.

    Raises:
        UserError: an attack is unknown, or its settings are wrong.
    """
    text = attacks or (TRANSFERRED if made_on_others else "compact")
    found = trials(
        text,
        eps or _strengths(norm, subjects, say),
        steps,
        step,
        norm,
        n_classes=data.n_classes,
        data=data.name,
        eps_l2=eps or (USUAL_L2,),
    )
    if eps is not None and all(trial.eps != tuple(eps) for trial in found):
        given = ", ".join(f"{one:g}" for one in eps)
        raise UserError(
            f"eps={given} has no effect on attacks={text}: expected strengths behind the name, such as fgsm:eps=.1:.2, "
            "or an attack without strengths of its own"
        )
    return found


def data_of(subjects: Sequence[Subject]) -> DataSet:
    """The data set that all networks were trained on.

    Raises:
        UserError: it is not known, or they were trained on different ones.
    """
    known = [(subject.name, subject.data) for subject in subjects if subject.data is not None]
    if not known:
        raise UserError("expected data=NAME: the networks do not say which images they are for")
    name, data = known[0]
    for other_name, other in known[1:]:
        if (other.name, other.in_shape, other.n_classes) != (data.name, data.in_shape, data.n_classes):
            raise UserError(
                f"these networks are for different images ({name}: {data.name}; {other_name}: {other.name}): "
                "expected data=NAME, or judge them apart"
            )
    return data


def _strengths(norm: Norm, subjects: Sequence[Subject], say: Say) -> tuple[Fraction, ...]:
    """The strength that all networks were trained at, which is one in linf; else the usual one."""
    trained = {subject.eps for subject in subjects if subject.eps is not None}
    if len(trained) == 1 and (eps := trained.pop()) != USUAL_EPS:
        if norm == "linf":
            say(f"eps={eps:.4g}, the strength of their training")
        return (Fraction(eps),)
    return (USUAL_EPS,)
