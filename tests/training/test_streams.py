"""Training from a stream: the same run whether it is stopped or not, by one process or two."""

import os
import signal
import threading
from dataclasses import replace
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
    tiny,
    together,
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


def test_an_empty_stream_is_one_line(tmp_path: Path) -> None:
    line = fails(Job(tiny(f"hf-stream:{write_shards(tmp_path / 'set', 0)}", tmp_path / "run"), tmp_path / "said"))
    assert "has no rows" in line
