"""Streams: their order, their blocks, their first rows, and what is not one."""

import threading
from itertools import islice

import numpy as np
import pytest

import undye
from tests.data.streams import png, write_shards
from undye.data.blocks import BlockReader, read_blocks
from undye.data.colour import BadImageError
from undye.data.hub_stream import HubStream, Row, StreamError
from undye.data.stream import StreamSource
from undye.data.stream_order import StreamOrder
from undye.errors import TooManyBadImages, UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


class Shards(HubStream):
    """A stream without a library: rows are numbers; it notes where it was begun to be read."""

    def __init__(self, *counts):
        self.name, self.counts, self.shards, self.begun = "numbers", counts, len(counts), []

    def rows(self, shard, start=0):
        self.begun.append((shard, start))
        for number in range(start, self.counts[shard]):
            yield Row(b"", None, shard, number)


def places(stream, order, first, count):
    """The rows at so many places, by the blocks that hold them."""
    found = {}
    for block in read_blocks(stream, order, first, threading.Event()):
        for offset, index in enumerate(block.order.tolist()):
            found[block.start + offset] = (block.rows[index].shard, block.rows[index].number)
        if block.end >= first + count:
            return [found[place] for place in range(first, first + count)]
    raise AssertionError


@pytest.mark.parametrize("counts", [(7, 4, 5), (16,), (5, 0, 3, 1), (1,)])
@pytest.mark.parametrize("block", [1, 4, 16, 1000])
def test_a_place_is_the_same_row_from_wherever_it_is_read(counts, block):
    n = sum(counts)
    order = StreamOrder(3, block, [None] * len(counts))
    whole = places(Shards(*counts), order, 0, 4 * n)
    everything = sorted((shard, k) for shard, count in enumerate(counts) for k in range(count))
    for epoch in range(4):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == everything
    assert order.counts == list(counts)
    for first in range(0, 3 * n):
        for known in (list(counts), [None] * len(counts), [counts[0], *[None] * (len(counts) - 1)]):
            again = StreamOrder(3, block, known)
            assert places(Shards(*counts), again, first, n) == whole[first : first + n], (first, known)
    assert [order.row_at(place) for place in range(4 * n)] == whole


def test_epochs_blocks_and_seeds_differ_and_blocks_are_shuffled_within():
    order = StreamOrder(0, 10, [40])
    epochs = np.array([number for _, number in places(Shards(40), order, 0, 80)]).reshape(2, 4, 10)
    assert (np.sort(epochs) == np.arange(40).reshape(4, 10)).all(), "rows stay in their block"
    ranks = {tuple((block % 10).tolist()) for epoch in epochs for block in epoch}
    assert len(ranks) == 8
    assert [n for _, n in places(Shards(40), StreamOrder(1, 10, [40]), 0, 40)] != epochs[0].ravel().tolist()
    assert len({tuple(StreamOrder(0, 1, [1] * 6).shards(epoch)) for epoch in range(9)}) > 3


def test_what_is_known_of_the_shards_spares_reading_them():
    order = StreamOrder(3, 5, [8, 8, 8])
    _, second, third = order.shards(2)
    stream = Shards(8, 8, 8)
    places(stream, order, 2 * 24 + 16, 1)
    assert stream.begun == [(second, 7), (third, 0)], "from the first row of the place's block on"


def test_a_stream_that_has_changed_or_is_empty():
    with pytest.raises(StreamError, match="numbers has changed: 8 rows in shard 0, not 7 as before"):
        places(Shards(8), StreamOrder(0, 5, [7]), 0, 30)
    with pytest.raises(StreamError, match="numbers has changed: 6 rows"):
        places(Shards(6), StreamOrder(0, 5, [7]), 0, 30)
    with pytest.raises(StreamError, match="numbers has no rows"):
        places(Shards(0, 0), StreamOrder(0, 5, [None, None]), 3, 1)


def test_one_block_is_read_ahead_and_no_more():
    class Counting(Shards):
        done = 0

        def rows(self, shard, start=0):
            for row in super().rows(shard, start):
                Counting.done += 1
                yield row

    reader = BlockReader(Counting(100), StreamOrder(0, 10, [None]), 0)
    for place, most in ((0, 20), (9, 20), (10, 30), (35, 50)):
        reader.block(place)
        reader._next.result()
        assert Counting.done == most
    reader.close()
    assert reader.read == 40
    assert not [t for t in threading.enumerate() if t.name.startswith("undye-stream")]


def values(stream, *shards):
    return [(row.shard, row.number, row.label, row.image) for k in shards for row in stream.rows(k)]


def test_the_shards_of_a_stream(tmp_path):
    write_shards(tmp_path / "set", 4, 3)
    stream = HubStream(f"hf-stream:{tmp_path / 'set'}", "train", labels=True)
    assert (stream.shards, stream.class_names) == (2, ("cat", "dog"))
    assert values(stream, 0, 1) == [(k // 4, k % 4, k % 2, png(10 + 2 * k)) for k in range(7)]
    assert [row.number for row in stream.rows(1, 2)] == [2]
    assert list(stream.rows(1, 3)) == []
    assert HubStream(f"hf-stream:{tmp_path / 'set'}:train", "test", labels=False).class_names is None
    assert stream.row_name(1, 2) == "shard 1 row 2"


@pytest.mark.parametrize("kind", ["folder", "zip", "saved"])
def test_other_streams(tmp_path, kind):
    import zipfile

    folder = tmp_path / "set"
    for k in range(6):
        # the library does not find the classes of a ZIP archive
        path = folder / "train" / ("ab"[k % 2] if kind == "folder" else "") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 + 2 * k))
    data = f"hf-stream:{folder}"
    if kind == "zip":
        (tmp_path / "zipped").mkdir()
        with zipfile.ZipFile(tmp_path / "zipped/train.zip", "w") as file:
            for path in sorted((folder / "train").rglob("*.png")):
                file.write(path, path.relative_to(folder / "train"))
        data = f"hf-stream:{tmp_path / 'zipped'}"
    if kind == "saved":
        write_shards(tmp_path / "parquet", 6)
        table = datasets.Dataset.from_parquet(str(tmp_path / "parquet/train-00000-of-00001.parquet"))
        table.save_to_disk(tmp_path / "saved")
        data = f"hf-stream:{tmp_path / 'saved'}"
    source = StreamSource(HubStream(data, "train", labels=True))
    reader = source.reader(source.order(0, 10), 0)
    block = reader.block(0)
    found = sorted((int(image.max()), label) for image, label in (source.decode(block, k) for k in range(6)))
    reader.close()
    assert found == [(10 + 2 * k, None if kind == "zip" else k % 2) for k in range(6)]
    assert source.total == 6


def test_the_first_rows_say_the_shape(tmp_path):
    data = f"hf-stream:{write_shards(tmp_path / 'set', 4, 3, bad=(0,))}"
    source = StreamSource(HubStream(data, "train", labels=True))
    assert (source.image_size, source.channels, source.class_names) == ((8, 8), 1, ("cat", "dog"))
    assert source.describe() == f"{data}: a stream of images 8x8x1 in 2 shards, 2 classes"
    assert StreamSource(HubStream(data, "train", labels=False), (4, 6), 3).describe().endswith("4x6x3 in 2 shards")
    same = StreamSource(HubStream(data, "train", labels=True), (8, 8), 1)
    assert same.fingerprint() == source.fingerprint()
    other = f"hf-stream:{write_shards(tmp_path / 'other', 4, 3)}"
    assert StreamSource(HubStream(other, "train", labels=True)).fingerprint() != source.fingerprint()
    for ask in (lambda: len(source), lambda: source.images(np.arange(1)), lambda: source.labels(np.arange(1))):
        with pytest.raises(UserError, match="is a stream"):
            ask()


def test_a_bad_image_is_replaced_by_the_next_of_its_block_and_named_once(tmp_path):
    data = f"hf-stream:{write_shards(tmp_path / 'set', 40, bad=(7, 8))}"
    source = StreamSource(HubStream(data, "train", labels=True))
    named = []
    source.on_bad = named.append
    reader = source.reader(source.order(0, 40), 0)
    block = reader.block(0)
    source.saw(reader.read)
    for _ in range(2):
        for place in range(40):
            image, label = source.decode(block, place)
            k = int(block.order[place])
            shown = 9 if k in (7, 8) else k
            assert (int(image.max()), label) == (10 + 2 * shown, shown % 2)
    reader.close()
    assert sorted(str(bad).split(":")[0] for bad in named) == ["row 7", "row 8"]
    assert len(source.report.bad) == 2
    assert source.report.total == 40


def test_too_many_bad_or_small_images_and_rows_without_a_class(tmp_path):
    data = f"hf-stream:{write_shards(tmp_path / 'set', 20)}"

    def decoded(source):
        reader = source.reader(source.order(0, 20), 0)
        block = reader.block(0)
        source.saw(reader.read)
        reader.close()
        return [source.decode(block, k) for k in range(20)]

    with pytest.raises(TooManyBadImages, match=r"8x8 is smaller than 9x9.*--upscale"):
        decoded(StreamSource(HubStream(data, "train", labels=True), (9, 9)))
    assert len(decoded(StreamSource(HubStream(data, "train", labels=True), (9, 9), upscale=True))) == 20
    source = StreamSource(HubStream(data, "train", labels=True))
    for image, why in ((b"", "the file is empty"), (BadImageError("no image in this row"), "no image in this row")):
        with pytest.raises(BadImageError, match=why):
            source._pixels(Row(image, 0, 0, 0), (0.5, 0.5))


def test_few_rows_say_little_of_how_many_are_bad(tmp_path, monkeypatch):
    def decoded(judged):
        monkeypatch.setattr("undye.data.stream.JUDGED", judged)
        data = f"hf-stream:{write_shards(tmp_path / 'set', 20, bad=(3, 9))}"
        source = StreamSource(HubStream(data, "train", labels=True))
        # no reader, which would go on in the background and might find the end, and so the number of rows, meanwhile
        for block in islice(read_blocks(source._stream, source.order(0, 10), 0, threading.Event()), 2):
            source.saw(block.end)
            for place in range(block.start, block.end):
                source.decode(block, place)
        return source

    assert len(decoded(1000).report.bad) == 2
    with pytest.raises(TooManyBadImages, match=r"of 10 images cannot be used"):
        decoded(10)
    source = decoded(1000)
    next(iter(read_blocks(source._stream, source.order(0, 100), 0, threading.Event())))
    assert source.total == 20
    with pytest.raises(TooManyBadImages, match=r"2 of 20 images cannot be used"):
        source.saw(21)


@pytest.fixture
def odd_labels(tmp_path):
    """20 rows in two classes, but row 5 has a class that there is not, row 0 none and row 1 says so with -1."""
    kinds = {"image": datasets.Image(), "label": datasets.Value("int64")}
    labels = [None, -1, 0, 1, 0, 7, *[k % 2 for k in range(14)]]
    pictures = [{"bytes": png(10 + 2 * k), "path": None} for k in range(20)]
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=datasets.Features(kinds))
    # `datasets` itself would refuse to write such a table; who writes it with another library can
    table.info.features["label"] = datasets.ClassLabel(names=["cat", "dog"])
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set/train.parquet")
    return tmp_path / "set"


def test_rows_without_a_class_that_there_is(odd_labels, tmp_path):
    stream = HubStream(f"hf-stream:{odd_labels}", "train", labels=True)
    rows = list(stream.rows(0))
    bad = {row.number: str(row.image) for row in rows if isinstance(row.image, BadImageError)}
    no = "no label in this row"
    assert bad == {0: no, 1: no, 5: "the label 7 is none of the 2 classes"}
    assert [row.label for row in rows[:6]] == [None, None, 0, 1, 0, None]
    with pytest.raises(TooManyBadImages, match="row 0: no label in this row"):
        undye.pack(f"hf-stream:{odd_labels}", tmp_path / "x.pack")
    packed = undye.pack(f"hf-stream:{odd_labels}", tmp_path / "x.pack", max_bad_fraction=0.2)
    assert [str(b.path) for b in packed.report.bad] == ["row 0", "row 1", "row 5"]
    source = undye.load_images(tmp_path / "x.pack")
    assert (len(source), source.class_names) == (17, ("cat", "dog"))
    undye.pack(f"hf-stream:{odd_labels}", tmp_path / "y.pack", labels="none")
    assert len(undye.load_images(tmp_path / "y.pack")) == 20


def test_a_stream_that_cannot_be_packed_is_one_line_and_leaves_nothing(tmp_path):
    write_shards(tmp_path / "empty", 0)
    with pytest.raises(UserError, match="has no rows"):
        undye.pack(f"hf-stream:{tmp_path / 'empty'}", tmp_path / "out/x.pack")
    folder = write_shards(tmp_path / "cut", 4, 3)
    (folder / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(StreamError, match="broke off at shard 1 row 0: "):
        undye.pack(f"hf-stream:{folder}", tmp_path / "out/x.pack")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wait_for_a_block_can_be_given_up(monkeypatch):
    monkeypatch.setattr("undye.data.blocks.PATIENCE", 0.1)
    stalled, go_on = threading.Event(), threading.Event()

    class Stalling(Shards):
        def rows(self, shard, start=0):
            for row in super().rows(shard, start):
                if row.number == 15:
                    stalled.set()
                    go_on.wait(60)
                yield row

    class Enough(Exception):
        pass

    def waiting():
        if stalled.is_set():
            raise Enough

    reader = BlockReader(Stalling(100), StreamOrder(0, 10, [None]), 0, waiting)
    assert reader.block(9).end == 10
    with pytest.raises(Enough):
        reader.block(10)
    reader.close()  # does not wait for the row
    assert reader._thread.is_alive()
    assert reader._thread.daemon
    go_on.set()
    reader._thread.join(60)
    assert not reader._thread.is_alive()


def test_what_is_no_stream_of_images(tmp_path):
    def opened(table, labels=True):
        (tmp_path / "set").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "set/train.parquet")
        return StreamSource(HubStream(f"hf-stream:{tmp_path / 'set'}", "train", labels))

    images = datasets.Features({"image": datasets.Image()})
    with pytest.raises(UserError, match=r"no column of images \(columns: text\)"):
        opened(datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(UserError, match=r"none of its first 2 rows holds an image.*no image in this row"):
        opened(datasets.Dataset.from_dict({"image": [None, None]}, features=images))
    with pytest.raises(UserError, match="has no rows"):
        opened(datasets.Dataset.from_dict({"image": []}, features=images))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    numbers = datasets.Dataset.from_dict({"image": [{"bytes": png(5), "path": None}], "label": [3]}, features=kinds)
    with pytest.raises(UserError, match=r"do not say which classes there are.*leave --labels out"):
        opened(numbers)
    assert opened(numbers, labels=False).class_names is None
    with pytest.raises(UserError, match="no split dev: it has train"):
        HubStream(f"hf-stream:{tmp_path / 'set'}:dev", "train", True)


def test_a_stream_that_breaks_off_names_the_place(tmp_path):
    folder = write_shards(tmp_path / "set", 4, 3)
    stream = HubStream(f"hf-stream:{folder}", "train", labels=True)
    (folder / "train-00001-of-00002.parquet").unlink()
    assert len(list(islice(stream.rows(0), 4))) == 4
    with pytest.raises(StreamError, match="broke off at shard 1 row 0: ") as error:
        list(stream.rows(1))
    assert "\n" not in str(error.value)
