"""Training from a stream: the same run whether it is stopped or not, by one process or two."""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.streams import write_shards
from tests.training.harness import (
    Job,
    Kill,
    assert_same_run,
    assert_same_tensors,
    fails,
    finish,
    finish_all,
    kill_again_and_again,
    records,
    step_of,
    tiny,
    together,
    wait_until,
)
from tests.training.test_processes import EXACT, assert_close
from undye.checkpoint.native import find_checkpoint, load_train_state
from undye.data.hub_stream import HubStream, StreamError
from undye.data.stream import StreamSource
from undye.errors import UserError
from undye.training.events import Event, Finished, Notice, Saved, Started, StepDone
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run
from undye.training.stream_batches import StreamBatches

datasets = pytest.importorskip("datasets")
COUNTS = (9, 8, 7)
BLOCK = ["--training.shuffle-block", "5", "--labels", "auto", "--training.flip"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets.disable_progress_bars()
    return write_shards(tmp_path_factory.mktemp("streams") / "set", *COUNTS, bad=(11,))


@pytest.fixture
def streamed(quiet: RunConfig, folder: Path) -> RunConfig:
    """12 steps of 6: three epochs of 24 rows, in blocks of 5."""
    training = replace(quiet.training, shuffle_block=5, workers=2, prefetch=2)
    return replace(quiet, data=f"hf-stream:{folder}", labels="auto", training=training)


def batches(folder: Path, **more) -> StreamBatches:
    source = StreamSource(HubStream(f"hf-stream:{folder}", "train", labels=True))
    settings = {"batch_size": 7, "seed": 2, "flip": True, "labels": True, "block": 5} | more
    return StreamBatches(source=source, **settings)


def same(a, b) -> bool:
    return torch.equal(a.x_0, b.x_0) and torch.equal(a.label, b.label) and (a.examples == b.examples).all()


def test_every_row_once_an_epoch_with_its_class(folder: Path) -> None:
    found = list(islice(batches(folder, batch_size=6, flip=False).since(0), 12))
    for epoch in range(3):
        four = found[4 * epoch : 4 * epoch + 4]
        shown = torch.cat([((b.x_0.amax(dim=(1, 2, 3)) + 1) * 127.5 - 10).round().int() // 2 for b in four])
        assert set(shown.tolist()) == set(range(24)) - {11}
        assert torch.equal(torch.cat([b.label for b in four]), shown.long() % 2)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_batches_do_not_depend_on_where_it_was_begun_or_who_decodes(folder: Path, crop: str) -> None:
    whole = list(islice(batches(folder, crop=crop).since(0), 14))
    for step in range(0, 12, 2):
        for other in (batches(folder, crop=crop), batches(folder, crop=crop, workers=3, ahead=4)):
            assert all(map(same, islice(other.since(step), 2), whole[step : step + 2]))
    known = batches(folder, crop=crop)
    known.source.learn(COUNTS)
    assert same(known.at(9), whole[9])
    parts = [batches(folder, crop=crop, share=range(first, last)) for first, last in ((0, 3), (3, 7))]
    for step, (one, other) in enumerate(islice(zip(*(part.since(0) for part in parts), strict=True), 14)):
        assert torch.equal(torch.cat([one.x_0, other.x_0]), whole[step].x_0)


def test_the_images_of_a_batch_have_names(folder: Path) -> None:
    stream = batches(folder, batch_size=6, flip=False)
    found = list(islice(stream.since(0), 7))
    starts = np.cumsum([0, *COUNTS])
    for step, batch in enumerate(found):
        for name, value in zip(stream.names(step), batch.x_0.amax(dim=(1, 2, 3)).tolist(), strict=True):
            _, shard, _, row = name.split()
            k = int(starts[int(shard)]) + int(row)
            assert k == 11 or round((value + 1) * 127.5) == 10 + 2 * k


def test_a_stopped_run_ends_as_one_never_stopped(streamed: RunConfig, tmp_path: Path) -> None:
    heard: list[Event] = []
    run(streamed, tmp_path / "whole", listeners=[heard.append])
    first = next(event for event in heard if isinstance(event, Started))
    assert "a stream of images 8x8x1 in 3 shards, 2 classes" in first.lines[0]
    named = [event.text for event in heard if isinstance(event, Notice)]
    assert [text.split(":")[0] for text in named] == ["skipped shard 1 row 2"], "named once in three epochs"
    assert load_train_state(find_checkpoint(tmp_path / "whole")).values["rows"] == list(COUNTS)
    for stop in (4, 8):  # within the first epoch, and after it
        out = tmp_path / f"stopped{stop}"
        part = replace(streamed, training=replace(streamed.training, decay="none", steps=stop))
        run(part, out)
        run(replace(part, training=replace(part.training, steps=12)), out, resume=True)
        if stop == 4:
            run(replace(part, training=replace(part.training, steps=12)), tmp_path / "plain")
        assert_same_tensors(tmp_path / "plain", out)


def test_a_stream_that_breaks_off_can_be_gone_on_with(streamed: RunConfig, folder: Path, tmp_path: Path) -> None:
    own = write_shards(tmp_path / "set", *COUNTS, bad=(11,))
    streamed = replace(streamed, data=f"hf-stream:{own}")
    run(streamed, tmp_path / "whole")
    lost = own / "train-00001-of-00003.parquet"

    def lose(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            lost.rename(own / "away")

    with pytest.raises(UserError, match=r"broke off at shard 1 row \d.*for step \d+: the last good .*/4, "):
        run(streamed, tmp_path / "broken", listeners=[lose])
    (own / "away").rename(lost)
    run(streamed, tmp_path / "broken", resume=True)
    assert_same_tensors(tmp_path / "whole", tmp_path / "broken")


def test_a_stream_that_has_changed_is_refused(streamed: RunConfig, tmp_path: Path) -> None:
    streamed = replace(streamed, data=f"hf-stream:{write_shards(tmp_path / 'set', 9, 8, 7)}")
    run(replace(streamed, training=replace(streamed.training, steps=4, decay="none")), tmp_path / "run")
    write_shards(tmp_path / "set", 9, 8, 8)
    more = replace(streamed, training=replace(streamed.training, steps=12, decay="none"))
    with pytest.raises(UserError, match="holds other images"):
        run(more, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"watch": {"held_out": 0.1}}, "nothing can be held out of a stream.*pack the stream"),
        ({"watch": {"nll_every": 4}}, "nothing can be held out of a stream.*pack the stream"),
        ({"training": {"balance": "classes"}}, "balance classes needs to know all labels.*pack the stream"),
        ({"labels": "folders"}, "--labels auto"),
    ],
)
def test_what_a_stream_cannot_do(streamed: RunConfig, tmp_path: Path, change: dict, words: str) -> None:
    parts = {k: replace(getattr(streamed, k), **v) if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(UserError, match=words):
        run(replace(streamed, **parts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_is_heard_while_rows_are_waited_for(
    streamed: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("undye.data.blocks.PATIENCE", 0.1)
    training = replace(streamed.training, workers=workers, prefetch=1)
    streamed = replace(streamed, training=training, checkpoint=replace(streamed.checkpoint, every=2))
    run(streamed, tmp_path / "whole")
    for n, out in ((0, "first"), (17, "early"), (40, "later")):
        heard: list[Event] = []
        go_on, rows, left = threading.Event(), HubStream.rows, iter(range(n))

        def stalling(self, shard, start=0, rows=rows, left=left, go_on=go_on):
            for row in rows(self, shard, start):
                if threading.current_thread() is not threading.main_thread() and next(left, None) is None:
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
                    go_on.wait(60)
                    raise StreamError("given up")
                yield row

        with monkeypatch.context() as patch:
            patch.setattr(HubStream, "rows", stalling)
            with pytest.raises(Interrupted):
                run(streamed, tmp_path / out, listeners=[heard.append])
        go_on.set()
        ends = [event for event in heard if isinstance(event, Finished)]
        saved = [event.step for event in heard if isinstance(event, Saved)]
        assert [end.completed for end in ends] == [False]
        assert saved == sorted(set(saved)), "each once"
        assert ends[0].step == max(saved, default=0)
        run(streamed, tmp_path / out, resume=True)
        assert_same_tensors(tmp_path / "whole", tmp_path / out)


def test_killed_again_and_again(folder: Path, tmp_path: Path) -> None:
    data = f"hf-stream:{folder}"

    def args(out: Path) -> list[str]:
        return tiny(data, out, *BLOCK, "--training.steps", "36", "--checkpoint.every", "3")

    finish(Job(args(tmp_path / "whole"), tmp_path / "whole.txt"))
    kills = [Kill(1, True, 0.002), Kill(3, False, 0.01)]
    kill_again_and_again(args(tmp_path / "run"), tmp_path / "run", 3, kills)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_two_processes_take_the_steps_of_one(folder: Path, tmp_path: Path) -> None:
    data = f"hf-stream:{folder}"
    finish(Job(tiny(data, tmp_path / "one", *EXACT, *BLOCK), tmp_path / "one.txt"))
    finish_all(together(tiny(data, tmp_path / "two", *EXACT, *BLOCK), tmp_path / "two"))
    assert_close(tmp_path / "one", tmp_path / "two")
    assert records(tmp_path / "one", "logged")


def stall(after: int, ranks: tuple[str, ...], sign: str, words: str = "") -> None:
    """In a process: once so many rows were read in the background, no more come, or the stream breaks off."""
    left, rows = iter(range(after)), HubStream.rows

    def stalling(self, shard, start=0):
        for row in rows(self, shard, start):
            background = threading.current_thread() is not threading.main_thread()
            if os.environ["RANK"] in ranks and background and next(left, None) is None:
                Path(f"{sign}.{os.environ['RANK']}").touch()
                if words:
                    raise StreamError(words)
                threading.Event().wait()
            yield row

    HubStream.rows = stalling  # pyrefly: ignore


LONG = [*BLOCK, "--training.steps", "18", "--checkpoint.every", "50", "--training.optimizer", "adam"]


@pytest.fixture(scope="module")
def long(folder: Path) -> Path:
    """18 steps of 4 in two processes, never stopped."""
    out = folder.parent / "long"
    finish_all(together(tiny(f"hf-stream:{folder}", out, *LONG), folder.parent / "long"))
    return out


@pytest.mark.parametrize(
    ("waits", "hears", "number"),
    [
        (("0", "1"), (0, 1), signal.SIGTERM),
        (("0", "1"), (1,), signal.SIGUSR1),
        (("1",), (0,), signal.SIGTERM),  # this one has its rows, and waits for the other
    ],
    ids=["both wait, both hear", "both wait, one hears", "the one with rows hears"],
)
def test_processes_that_wait_for_rows_hear_a_signal_and_go_on_later(
    folder: Path, long: Path, tmp_path: Path, waits: tuple[str, ...], hears: tuple[int, ...], number: int
) -> None:
    args = tiny(f"hf-stream:{folder}", tmp_path / "run", *LONG, "--resume")
    before = partial(stall, 33, waits, str(tmp_path / "sign"))
    jobs = together(args, tmp_path / "stopped", before=before)
    for job in jobs:
        job.start()
    for rank in waits:
        wait_until(jobs[0], (tmp_path / f"sign.{rank}").exists)
    time.sleep(0.5)
    for rank in hears:
        jobs[rank].send(number)
    began = time.monotonic()
    assert [job.wait(60) for job in jobs] == [0, 0], "\n".join(job.said() for job in jobs)
    assert time.monotonic() - began < 30
    last = records(tmp_path / "run", "finished")[-1]
    assert not last["completed"]
    assert 0 < last["step"] == step_of(tmp_path / "run") < 10, "what was trained is saved"
    finish_all(together(args, tmp_path / "resumed"))
    assert records(tmp_path / "run", "finished")[-1]["completed"]
    assert_same_tensors(long, tmp_path / "run")


def test_a_stream_that_breaks_off_in_one_process_ends_the_other_which_waits(folder: Path, tmp_path: Path) -> None:
    def jobs(name: str, ranks: tuple[str, ...]) -> list[Job]:
        before = partial(stall, 33, ranks, str(tmp_path / name), "it broke off")
        return together(tiny(f"hf-stream:{folder}", tmp_path / name, *LONG), tmp_path / name, before=before)

    for name, ranks in (("one", ("1",)), ("both", ("0", "1"))):
        two = jobs(name, ranks)
        for job in two:
            job.start()
        assert [job.wait(60) for job in two] == [2, 2], "\n".join(job.said() for job in two)
        said = [line for job in two for line in job.said().splitlines() if line.startswith("undye: error:")]
        assert len(said) == 1, said
        assert "it broke off; this was needed for step" in said[0]


def test_a_process_that_is_gone_while_rows_are_waited_for(folder: Path, tmp_path: Path) -> None:
    before = partial(stall, 33, ("0", "1"), str(tmp_path / "sign"))
    jobs = together(tiny(f"hf-stream:{folder}", tmp_path / "run", *LONG), tmp_path / "run", before=before)
    for job in jobs:
        job.start()
    wait_until(jobs[0], (tmp_path / "sign.0").exists)
    wait_until(jobs[0], (tmp_path / "sign.1").exists)
    jobs[1].send(signal.SIGKILL)
    assert jobs[0].wait(60) == 2
    assert "another process of this run has ended" in jobs[0].said()


def test_an_empty_stream_is_one_line(tmp_path: Path) -> None:
    line = fails(Job(tiny(f"hf-stream:{write_shards(tmp_path / 'set', 0)}", tmp_path / "run"), tmp_path / "said"))
    assert "has no rows" in line
