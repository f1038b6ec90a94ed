"""What runs the paper's experiments: values, resume, failures, kills, the page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.paper import experiments
from benchmarks.paper.__main__ import main
from benchmarks.paper.experiment import Experiment, Findings, Row, Verdict, verdict_of
from benchmarks.paper.kept import Kept, read_kept, sources_digest, write_kept
from benchmarks.paper.report import LARGEST_FIGURE_BYTES, page, write_report
from benchmarks.paper.workshop import Watch, Workshop
from torch import nn

from support.server import ServerProcess

ROOT = Path(__file__).parents[2]

ROW = Row("a claim", "figure 2", "0.764", "0.7", "partly", "smaller | shorter\nrun")
FINDINGS = Findings((ROW,), (("maps.png", "Two maps."),), ("A paragraph.",))
KEPT = Kept("tiny", "Tiny", "About it.", FINDINGS, 12.3, 2, 1234, {"torch": "2.0"}, "digest")


def finish(out: Path, kept: Kept, figure: bytes = b"png") -> None:
    folder = out / kept.name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for file_name, _ in kept.findings.figures:
        (folder / "figures" / file_name).write_bytes(figure)
    write_kept(folder, kept)


class TestValues:
    @pytest.mark.parametrize(
        ("holds", "expected"),
        [
            ([True], "reproduced"),
            ([True] * 3, "reproduced"),
            ([True, True, False], "partly"),
            ([True, False], "not reproduced"),
            ([False, False, True], "not reproduced"),
            ([False], "not reproduced"),
        ],
    )
    def test_verdict_follows_from_how_many_hold(self, holds: list[bool], expected: Verdict) -> None:
        assert verdict_of(holds) == expected

    def test_no_test_no_verdict(self) -> None:
        with pytest.raises(ValueError, match="put to no test has no verdict"):
            verdict_of([])

    @pytest.mark.parametrize("field", ["claim", "source", "paper", "ours", "differs"])
    def test_a_row_says_something_everywhere(self, field: str) -> None:
        with pytest.raises(ValueError, match=f"says nothing under '{field}'"):
            replace(ROW, **{field: " "})  # type: ignore[arg-type]

    def test_a_verdict_is_one_of_three(self) -> None:
        with pytest.raises(ValueError, match="'nearly' is no verdict; use one of reproduced, partly"):
            replace(ROW, verdict="nearly")  # type: ignore[arg-type]

    def test_findings_have_rows_and_captions(self) -> None:
        with pytest.raises(ValueError, match="has found nothing"):
            Findings(())
        for figure in (("maps.jpg", "A map."), ("a/maps.png", "A map."), ("maps.png", " ")):
            with pytest.raises(ValueError, match=r"needs a name that ends in \.png and a caption"):
                Findings((ROW,), (figure,))

    def test_findings_survive_json(self) -> None:
        assert Findings.from_json(json.loads(json.dumps(FINDINGS.to_json()))) == FINDINGS

    def test_every_experiment_is_found_under_its_name(self) -> None:
        names = experiments.all_names()
        assert {"quadratics", "random_walk"} <= set(names)
        for name in ("quadratics", "random_walk", "initialization"):
            loaded = experiments.load(name)
            assert isinstance(loaded, Experiment)
            assert loaded.name == name
        with pytest.raises(ValueError, match=r"there is no experiment 'nothing'; there are .*quadratics"):
            experiments.load("nothing")


class TestKept:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        finish(tmp_path, KEPT)
        assert read_kept(tmp_path / "tiny") == KEPT

    def test_without_its_figure_an_experiment_is_not_finished(self, tmp_path: Path) -> None:
        finish(tmp_path, KEPT)
        (tmp_path / "tiny" / "figures" / "maps.png").unlink()
        assert read_kept(tmp_path / "tiny") is None
        assert read_kept(tmp_path / "other") is None

    @pytest.mark.parametrize("text", ["{", "{}", '{"name": "tiny"}', '{"findings": {"rows": []}}'])
    def test_damaged_findings_are_refused_by_name(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "findings.json"
        path.write_text(text)
        with pytest.raises(
            ValueError, match=r"findings\.json is (damaged|no JSON).*remove it to have it made anew"
        ):
            read_kept(tmp_path)

    def test_the_digest_covers_what_an_experiment_imports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = sources_digest("quadratics")
        assert before == sources_digest("quadratics") != sources_digest("random_walk")
        lemma = ROOT / "benchmarks" / "paper" / "lemma.py"
        read_bytes = Path.read_bytes
        monkeypatch.setattr(
            Path, "read_bytes", lambda path: read_bytes(path) + (b"# edited" if path == lemma else b"")
        )
        assert sources_digest("quadratics") != before
        monkeypatch.undo()
        assert sources_digest("quadratics") == before


class TestPage:
    def test_page_has_every_row_and_figure(self, tmp_path: Path) -> None:
        finish(tmp_path / "out", KEPT)
        docs = tmp_path / "docs"
        docs.mkdir()
        (docs / "tiny-old.png").write_bytes(b"of an earlier page")
        path = write_report([KEPT], tmp_path / "out", docs)
        text = path.read_text()
        assert r"| a claim | [figure 2](#tiny) | 0.764 | 0.7 | **partly** | smaller \| shorter run |" in text
        assert "\nOf 1 claims of the paper: 0 reproduced, 1 partly, 0 not reproduced.\n" in text
        assert "## Tiny\n\nAbout it.\n\nA paragraph.\n\n![Tiny](tiny-maps.png)\n\n*Two maps.*" in text
        assert "| `tiny` | 2 | 1,234 | 12 |" in text
        assert sorted(path.name for path in docs.iterdir()) == ["README.md", "tiny-maps.png"]

    def test_checks_of_ours_are_counted_apart(self) -> None:
        row = replace(KEPT.findings.rows[0], claim="ours alone", verdict="not reproduced", is_own=True)
        text = page([replace(KEPT, findings=replace(KEPT.findings, rows=(*KEPT.findings.rows, row)))])
        assert (
            "Of 1 claims of the paper: 0 reproduced, 1 partly, 0 not reproduced. Besides, 1 checks of ours, marked so: "
            "0 reproduced, 0 partly, 1 not reproduced."
        ) in text
        assert "| (ours) ours alone |" in text

    def test_same_findings_same_page_in_the_order_of_the_paper(self) -> None:
        others = [replace(KEPT, name=name, title=name) for name in ("aaa", "grokking", "switch_off")]
        text = page([KEPT, *others])
        assert text == page([*others[::-1], KEPT])
        places = [text.index(f"## {title}\n") for title in ("switch_off", "grokking", "aaa", "Tiny")]
        assert places == sorted(places)

    def test_a_large_figure_is_refused_and_nothing_written(self, tmp_path: Path) -> None:
        finish(tmp_path / "out", KEPT, bytes(LARGEST_FIGURE_BYTES + 1))
        with pytest.raises(ValueError, match=r"maps\.png of tiny has 200,001 bytes; .* draw it smaller"):
            write_report([KEPT], tmp_path / "out", tmp_path / "docs")
        assert not (tmp_path / "docs").exists()

    def test_nothing_finished_nothing_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--report-only", "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")]) == 1
        assert "no experiment is finished, so there is nothing to write" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["nothing"], "there is no experiment 'nothing'; there are"),
            (["--jobs", "0"], "--jobs 0: at least one"),
            (["--jobs", "many"], "invalid int value: 'many'"),
        ],
    )
    def test_bad_arguments(self, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert text in capsys.readouterr().err

    def test_list_says_how_each_stands(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        finish(tmp_path, replace(KEPT, name="quadratics"))
        assert main(["--list", "--out", str(tmp_path)]) == 0
        lines = {
            line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")
        }
        assert "finished, by other code" in lines["quadratics"]
        assert "1 partly" in lines["quadratics"]
        assert "not finished" in lines["random_walk"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("paper")).start()
    yield process
    process.stop()


def workshop_at(server: ServerProcess, folder: Path) -> Workshop:
    return Workshop("tiny", folder, server=server.addresses["grpc"], home=server.home)


class Descent:
    """Two steps of a linear layer; counts how often it was asked to train."""

    def __init__(self, steps: int = 2, fails_after: int | None = None) -> None:
        self.asked, self.steps, self.fails_after = 0, steps, fails_after

    def __call__(self, watch: Watch) -> dict[str, float]:
        self.asked += 1
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recorder = watch(model, optimizer=optimizer)
        for step in range(1, self.steps + 1):
            if step == self.fails_after:
                raise KeyboardInterrupt
            torch.autograd.backward(model(torch.ones(1, 4)).square().sum())
            optimizer.step()
            recorder.checkpoint(step=step)
        recorder.close()
        return {"norm": float(model.weight.detach().norm())}


class TestWorkshop:
    def test_a_training_is_recorded_once(self, server: ServerProcess, tmp_path: Path) -> None:
        train, first = Descent(), workshop_at(server, tmp_path)
        recorded = first.record("a", train, recipe={"lr": 0.1, "widths": (4, 4)})
        assert recorded.run.name == "tiny.a"
        assert recorded.run.map().shape == (3, 3)
        assert first.num_runs == 1
        assert first.num_checkpoints == 3
        first.close()
        second = workshop_at(server, tmp_path)
        again = second.record("a", train, recipe={"widths": [4, 4], "lr": 0.1})
        assert train.asked == 1
        assert again.results == recorded.results
        assert again.run.run_id == recorded.run.run_id
        assert second.training_seconds > second.trained_here_seconds == 0.0
        # Everything is in the Gram rows; the snapshots are not kept.
        assert not any((tmp_path / "snapshots").glob("*/*"))
        # Another recipe, or a server that does not know the run, and it is trained again.
        path = tmp_path / "runs" / "a.json"
        kept = path.read_text()
        path.write_text(kept.replace("tiny.a", "tiny.nowhere"))
        other = second.record("a", train, recipe={"widths": [4, 4], "lr": 0.1})
        assert train.asked == 2
        assert other.run.name == "tiny.a.2"
        path.write_text(kept.replace("0.1", "0.2"))
        assert second.record("a", train, recipe={"widths": [4, 4], "lr": 0.1}).run.name == "tiny.a.3"
        assert train.asked == 3
        second.close()

    def test_a_stopped_training_is_begun_anew_as_another_run(
        self, server: ServerProcess, tmp_path: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            workshop_at(server, tmp_path).record("b", Descent(fails_after=2), recipe=None)
        whole = workshop_at(server, tmp_path)
        recorded = whole.record("b", Descent(), recipe=None)
        assert recorded.run.name == "tiny.b.2"
        assert recorded.run.map().shape == (3, 3)
        whole.close()
        # What is known here may be thrown away; the names stay taken at the server.
        shutil.rmtree(tmp_path)
        fresh = workshop_at(server, tmp_path)
        assert fresh.record("b", Descent(), recipe=None).run.name == "tiny.b.3"
        fresh.close()

    def test_what_is_no_trajectory_is_refused(self, server: ServerProcess, tmp_path: Path) -> None:
        workshop = workshop_at(server, tmp_path)
        with pytest.raises(
            ValueError, match="training 'd' recorded 1 checkpoints; a trajectory has at least two"
        ):
            workshop.record("d", Descent(steps=0), recipe=1)
        with pytest.raises(ValueError, match="training 'e' watched 0 models; it takes exactly one"):
            workshop.record("e", lambda watch: {}, recipe=1)
        assert not (tmp_path / "runs" / "d.json").exists()


EXPERIMENT = """
import os, time
import torch
from torch import nn
from benchmarks.paper.experiment import Experiment, Findings, Row

def train(watch):
    model = nn.Linear(3, 3)
    with watch(model) as recorder:
        with torch.no_grad():
            model.weight.mul_(0.5)
        recorder.checkpoint(step=1)
    return {{"one": 1.0}}

def run(workshop):
    with open(workshop.scratch / "pids", "a") as pids:
        print(os.getpid(), file=pids)
    {first}
    with workshop.progress("training", 2) as progress:
        recorded = workshop.record("whole", train, recipe={name!r})
        progress.advance()
    {more}
    workshop.figure("dot").write_bytes(b"dot")
    mds = float(recorded.run.map().mean())
    row = Row("{name} claims", "figure 1", "1.0", f"{{mds:.3f}}", "reproduced", "everything")
    return Findings((row,), (("dot.png", "A dot."),))

EXPERIMENT = Experiment({name!r}, "Title of {name}", 0.1, run)
"""
BLOCK = 'while not os.path.exists(os.environ["GO_ON"]): time.sleep(0.05)'


class TestProgram:
    @pytest.mark.timeout(300)
    def test_failures_and_kills(self, tmp_path: Path) -> None:
        """A failing experiment stops no other one; after a kill -9 the next call does only what is left."""
        folder, out, docs = tmp_path / "more", tmp_path / "out", tmp_path / "docs"
        folder.mkdir()
        bad = "raise RuntimeError('no luck')"
        for name, first, more in (("t_good", "", ""), ("t_bad", bad, ""), ("t_slow", "", BLOCK)):
            (folder / f"{name}.py").write_text(EXPERIMENT.format(name=name, first=first, more=more))
        (folder / "t_broken.py").write_text("import nothing_like_it\n")
        command = [sys.executable, "-m", "benchmarks.paper", "--out", str(out), "--docs", str(docs)]
        command += ["t_good", "t_slow"]
        environment = {**os.environ, "PAPER_EXPERIMENTS": str(folder), "GO_ON": str(tmp_path / "go")}
        begun = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        trained = out / "t_slow" / "runs" / "whole.json"
        try:
            wait(lambda: trained.exists() and read_kept(out / "t_good") is not None)
            server = json.loads((out / "home" / "server.json").read_text())["pid"]
        finally:
            begun.kill()
            begun.wait()
        pid = int((out / "t_slow" / "scratch" / "pids").read_text())
        wait(lambda: not is_alive(pid))
        assert not (docs / "README.md").exists()

        before = trained.stat().st_mtime_ns
        (tmp_path / "go").touch()
        command += ["t_bad", "t_broken"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "t_good: finished before" in done.stdout
        assert "t_bad failed: " in done.stdout
        assert "RuntimeError: no luck" in done.stdout
        assert f"see {out / 't_bad' / 'log.txt'}" in done.stdout
        assert (
            "t_broken failed: cannot be loaded: ModuleNotFoundError(\"No module named 'nothing_like_it'\")"
            in done.stdout
        )
        assert trained.stat().st_mtime_ns == before
        text = (docs / "README.md").read_text()
        assert "t_good claims" in text
        assert "t_slow claims" in text
        assert "t_bad claims" not in text
        assert (docs / "t_slow-dot.png").read_bytes() == b"dot"
        assert len((out / "t_good" / "scratch" / "pids").read_text().split()) == 1
        # The one who was killed could not stop the server; the last one did.
        assert not is_alive(server)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait(condition: object, seconds: float = 90.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
