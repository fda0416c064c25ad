"""Searches on a dask and on a ray cluster of two workers, which listen on this machine alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chz
import pytest
from toys import Toy

from evo_robust.clusters import ClusterStaff, choose_staff, hire, hiring, staff
from evo_robust.clusters import dask as dask_workers
from evo_robust.clusters import ray as ray_workers
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.parts.base import UserError
from evo_robust.problem.files import load
from evo_robust.record.reading import Run, load_run
from evo_robust.run import main
from evo_robust.search import search

# a class of a file that workers cannot import
MINE = '''
"""A small search whose objective notes who measured what, and can kill its process."""

import os
import signal

import chz

from evo_robust import NSGA2, CleanError, Digits, FromScratch, Objective, Problem
from evo_robust.spaces import NSGAPhases


@chz.chz
class Noted(Objective):
    """Notes every measurement; kills its process where a file says so, once."""

    needs_weights = False

    def measure(self, candidate):
        folder = candidate.context.folder.parent
        with (folder / "notes").open("a") as file:
            file.write(f"{os.getpid()} {candidate.text}\\n")
        order = folder / f"kill {candidate.seed}"
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5


demo = Problem(
    space=NSGAPhases(phases=2, nodes=3, channels=4),
    data=Digits(train_limit=120, test_limit=40),
    objectives=(CleanError(), Noted()),
    evaluator=FromScratch(epochs=1),
    algorithm=NSGA2(pop_size=4, n_gen=2),
)
'''


def record(run: Run) -> list[str]:
    keys = ("id", "generation", "genome", "architecture", "objectives", "figures", "status", "seed", "error")
    return [json.dumps([row[key] for key in keys]) for row in run.evaluations]


class Notes:
    """What the objective noted in the folder of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> list[tuple[int, str]]:
        lines = (self.folder / "notes").read_text().splitlines()
        return [(int(pid), text) for pid, text in (line.split(" ", 1) for line in lines)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problem") / "noted.py"
    path.write_text(MINE)
    return path


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The search in one process."""
    return search(load(str(file)), tmp_path_factory.mktemp("whole") / "run", device="cpu", workers=1)


@pytest.fixture
def notes(whole: Run, tmp_path: Path) -> Notes:
    """Of a search in which the process of one candidate will be killed in the middle."""
    (tmp_path / f"kill {whole.evaluations[2]['seed']}").touch()
    return Notes(tmp_path)


def check(found: Run, whole: Run, notes: Notes) -> None:
    """The same record; only whose process was killed was tried again, and that once."""
    assert record(found) == record(whole)
    victim = whole.evaluations[2]["architecture"]
    texts = sorted(text for _, text in notes.read())
    assert texts == sorted([*(row["architecture"] for row in whole.evaluations), victim])
    assert os.getpid() not in {number for number, _ in notes.read()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Cluster:
    """Processes that this test started, in sessions of their own."""

    port = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = (folder / "log").open("w")
        self.processes: list[subprocess.Popen] = []

    def start(self, *command: str, port: int = 0, says: str = "") -> subprocess.Popen:
        """Start a command of this environment; wait until something listens on the port, and it said that it is up."""
        # the cluster's own warnings are not ours
        env = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        # a head of ray forks the servers of its clients: they may die in gRPC's handlers of forks, which are for those
        # that do not exec; and they have 30 s to begin, where nothing else is said
        env |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120"}
        path = str(Path(sys.executable).parent / command[0])
        process = subprocess.Popen(
            [path, *command[1:]], stdout=self.log, stderr=self.log, env=env, cwd=self.folder, start_new_session=True
        )
        self.processes.append(process)
        until = time.monotonic() + 240
        while port and not (answers(port) and says in (self.folder / "log").read_text()):
            assert process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a scheduler with two worker processes."""
    pytest.importorskip("distributed", reason="dask is not installed")
    port = free_port()
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        host = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard")
        cluster.start("dask", "scheduler", "--port", str(port), *host, port=port)
        two = ("--nworkers", "2", "--nthreads", "1")
        cluster.start("dask", "worker", f"tcp://127.0.0.1:{port}", *two, "--local-directory", ".", *host)
        yield f"127.0.0.1:{port}"
    finally:
        cluster.stop()


def tasks_done(address: str) -> int:
    """Candidates that the scheduler handed out and got back."""
    import distributed

    def count(dask_scheduler: Any) -> int:
        return dask_scheduler.task_prefixes["perform"].state_counts["memory"]

    with distributed.Client(address, set_as_default=False) as client:
        return client.run_on_scheduler(count)


def test_two_processes_here_one_of_them_killed(whole: Run, file: Path, notes: Notes) -> None:
    found = search(load(str(file)), notes.folder / "run", device="cpu", workers=2)
    check(found, whole, notes)


def test_dask_gives_the_same_record_though_a_worker_is_killed(
    dask_cluster: str, whole: Run, file: Path, notes: Notes, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"problem={file}", f"out={notes.folder / 'run'}", "device=cpu", "plot=false"]
    assert main([*given, f"cluster=dask://{dask_cluster}"]) == 0
    check(load_run(notes.folder / "run"), whole, notes)
    assert tasks_done(f"tcp://{dask_cluster}") == len(whole.evaluations)
    assert "a worker process died (its worker left the cluster): its task is tried again" in capsys.readouterr().out


@pytest.fixture
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head with two workers' room; ``port`` is that of its clients."""
    pytest.importorskip("ray", reason="ray is not installed: it has no release for Python 3.13 and later")
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    cluster.port = free_port()
    ports = (f"--port={free_port()}", f"--ray-client-server-port={cluster.port}", "--node-ip-address=127.0.0.1")
    small = ("--num-cpus=2", "--object-store-memory=80000000", "--include-dashboard=false", "--disable-usage-stats")
    try:
        # its clients' port answers before the node does that their servers need
        cluster.start(
            "ray", "start", "--head", "--block", *ports, *small, port=cluster.port, says="Ray runtime started."
        )
        yield cluster
    finally:
        cluster.stop()


def test_ray_gives_the_same_record_though_a_worker_is_killed(
    ray_cluster: Cluster, whole: Run, file: Path, notes: Notes
) -> None:
    # another process: what ray leaves open when it disconnects is not ours to warn about
    given = [f"problem={file}", f"out={notes.folder / 'run'}", "device=cpu", "plot=false"]
    command = [sys.executable, "-m", "evo_robust.run", *given, f"cluster=ray://127.0.0.1:{ray_cluster.port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    check(load_run(notes.folder / "run"), whole, notes)
    assert "a worker process died (ActorDiedError): its task is tried again" in ended.stdout


class Head:
    """What ``ray.init`` finds: a head that fails clients in one of ray's ways, before it serves them."""

    def __init__(self, failures: int, kind: type[Exception] = ConnectionAbortedError) -> None:
        self.failures, self.kind, self.asked = failures, kind, 0

    def init(self, address: str, **settings: object) -> None:
        assert address == "ray://127.0.0.1:10001"
        self.asked += 1
        if self.asked <= self.failures:
            raise self.kind("Initialization failure from server:\nTraceback (most recent call last):\nGone: too busy\n")


def test_a_head_of_ray_that_answers_and_is_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(ray_workers, "time", SimpleNamespace(sleep=waits.append))
    where, said = ("ray://127.0.0.1:10001", "127.0.0.1:10001"), list[str]()
    ray_workers._initialise(head := Head(2), *where, said.append)
    assert head.asked == 3 and len(waits) == 2
    assert said == ["cluster=ray://127.0.0.1:10001: ray could not begin (Gone: too busy): trying again"] * 2
    # what asking again does not mend, and a head that is never ready
    with pytest.raises(UserError, match=r"ray cannot connect \(Initialization failure from server:\); start a cluster"):
        ray_workers._initialise(head := Head(1, ConnectionError), *where, said.append)
    assert head.asked == 1
    with pytest.raises(UserError, match=r"127.0.0.1:10001: ray cannot connect \(Gone: too busy\); start a cluster"):
        ray_workers._initialise(head := Head(99), *where, said.append)
    assert head.asked == 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for."""
    for module in (hiring, staff, dask_workers):
        monkeypatch.setattr(module, "CONNECT", 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cluster=dask:127.0.0.1:8786"], "cluster=dask:127.0.0.1:8786: expected dask://HOST:PORT or ray://HOST:PORT"),
        (["cluster=spark://127.0.0.1:1"], "expected dask://HOST:PORT or ray://HOST:PORT"),
        (["cluster=dask://127.0.0.1"], "expected dask://HOST:PORT or ray://HOST:PORT"),
        (["cluster=dask://127.0.0.1:99999"], "expected dask://HOST:PORT or ray://HOST:PORT"),
        (["cluster=dask://127.0.0.1:{closed}"], "no scheduler answers there"),
        (["cluster=ray://127.0.0.1:{closed}"], "no scheduler answers there"),
        (["cluster=dask://127.0.0.1:{mute}"], "no scheduler answers there (timed out)"),
        (["evaluator.backend=dask"], "connected with no cluster: say cluster=dask://HOST:PORT"),
        (["evaluator.backend=ray"], "connected with no cluster: say cluster=ray://HOST:PORT"),
        (["evaluator.backend=ray", "cluster=dask://127.0.0.1:{mute}"], "contradicts evaluator.backend=ray"),
        (["evaluator.backend=loky", "cluster=dask://127.0.0.1:{mute}"], "evaluator.backend=loky contradicts cluster="),
        (["workers=0", "cluster=dask://127.0.0.1:{mute}"], "expected workers >= 1"),
    ],
)
def test_refused_before_a_folder_is_made(
    given: list[str], message: str, file: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in ("distributed", "ray"):
        if any(library[:3] in word for word in given):
            pytest.importorskip(library, reason=f"{library} is not installed")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        ports = {"mute": mute.getsockname()[1], "closed": free_port()}
        words = [word.format(**ports) for word in given]
        assert main([f"problem={file}", f"out={tmp_path / 'run'}", "device=cpu", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("scheme", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_is_named_with_what_to_install(
    scheme: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{scheme} cannot be used here .*pip install 'evo_robust\[cluster\]'"):
        hire(FromScratch(), f"{scheme}://127.0.0.1:1", None, "cpu", print)


def test_what_would_have_no_effect_is_refused() -> None:
    with pytest.raises(UserError, match="cluster=dask://127.0.0.1:1 has no effect: Toy evaluates in this process"):
        hire(Toy(), "dask://127.0.0.1:1", None, "cpu", print)
    with pytest.raises(UserError, match="device=cuda:1 says which device of this machine"):
        hire(FromScratch(), "dask://127.0.0.1:1", None, "cuda:1", print)
    assert hire(FromScratch(), None, 2, "cuda:1", print) is None
    assert choose_staff(FromScratch(), None, 2, "cpu") == (2, None)


def test_a_scheduler_without_workers_evaluates_nothing(file: Path, tmp_path: Path, quick: None) -> None:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    problem = load(str(file))
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler:
        cluster = scheduler.scheduler_address.replace("tcp", "dask")
        with pytest.raises(UserError, match=r"no worker can be used: it has no workers, or none of them answers"):
            search(problem, tmp_path / "run", device="cpu", cluster=cluster)
        # connected by somebody else, and asked for
        asked = chz.replace(problem, evaluator=chz.replace(problem.evaluator, backend="dask"))
        with distributed.Client(scheduler), pytest.raises(UserError, match="evaluator.backend=dask: no worker can be"):
            search(asked, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_scheduler_that_goes_is_told() -> None:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler:
            client = distributed.Client(scheduler.scheduler_address, set_as_default=False)
            staff = dask_workers.DaskStaff(client, "cluster=dask://there", None, print, client.close)
            assert staff.idle([]) == []
        with pytest.raises(UserError, match="dask://there: the scheduler is gone .* run the same command again"):
            staff._present()
        staff.close()


class Fixed(ClusterStaff):
    """Workers that are only known."""

    def look(self) -> None: ...

    def start(self, worker: Any, payload: bytes) -> None: ...

    def wait(self, busy: Any, timeout: float) -> Any: ...

    def dismiss(self, busy: Any) -> None: ...

    def close(self) -> None: ...


def introduced(host: str, devices: str | None, **versions: str) -> dict[str, Any]:
    return {"versions": versions, "missing": "", "shares": (host, devices)}


def test_workers_that_see_the_same_devices_share_them_out() -> None:
    staff = Fixed("cluster", None, print, None)
    for worker, host, devices in [
        ("a0", "a", None),
        ("b0", "b", None),
        ("a1", "a", None),
        ("c0", "c", "0"),
        ("c1", "c", "1"),
        ("d0", "d", "0,1"),
        ("d1", "d", "1,0"),
        ("a2", "a", None),
    ]:
        staff.admit(worker, introduced(host, devices))
    assert staff.places == {"a0": 0, "b0": 0, "a1": 1, "c0": 0, "c1": 0, "d0": 0, "d1": 0, "a2": 2}
    staff.leave("a1")
    staff.admit("a3", introduced("a", None))
    assert staff.places["a3"] == 1 and "a1" not in staff.places
    assert staff.size == len(staff.places) == 8
    staff.limit = 3
    assert staff.size == 3 and list(staff.idle(["a0"])) == ["b0", "c0"]


def test_workers_with_other_versions_are_not_used() -> None:
    said: list[str] = []
    staff = Fixed("cluster=here", None, said.append, None)
    staff.admit("old", introduced("a", None, torch="1.0"))
    staff.admit("bare", {"versions": {}, "missing": "No module named 'evo_robust'", "shares": None})
    assert staff.places == {}
    assert "cluster=here: a worker is not used: figures may differ with its versions: torch 1.0, here" in said[0]
    assert "evo_robust cannot be imported there (No module named 'evo_robust')" in said[1]
    with pytest.raises(UserError, match=r"no worker can be used: figures may differ .* torch 1.0"):
        staff.ready()
