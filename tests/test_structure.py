from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from undye.config import CompactConfig, ModelConfig, ScheduleConfig, UNetConfig
from undye.errors import UserError
from undye.structure import structure, unstructure


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    side: float = 1.0
    colour: str = "red"


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: int
    rate: float = 0.5
    on: bool = True
    name: str | None = None
    mode: Literal["fast", "slow"] = "fast"
    colours: Literal[1, 3] = 3
    size: tuple[int, int] = (1, 2)
    widths: tuple[float, ...] = ()
    folder: Path | None = None
    shape: Circle | Square = field(default_factory=Circle)
    number: int | float | str = 0
    anything: Any = None


FULL = Settings(
    count=3,
    name="n",
    mode="slow",
    colours=1,
    size=(3, 4),
    widths=(1.0, 2.5),
    folder=Path("a/b"),
    shape=Square(side=2.0, colour="blue"),
)


def read(**data):
    return structure(Settings, {"count": 1, **data}, "file")


def test_round_trip_through_plain_data():
    plain = unstructure(FULL)
    assert plain["size"] == [3, 4]
    assert plain["folder"] == "a/b"
    assert plain["shape"] == {"kind": "square", "side": 2.0, "colour": "blue"}
    assert structure(Settings, plain, "file") == FULL


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(network=CompactConfig(channels=(8,), blocks=(1,)), num_classes=2, class_names=("a", "b")),
        ModelConfig(network=UNetConfig(attention_levels=()), schedule=ScheduleConfig(name="cosine", beta_start=None)),
    ],
)
def test_models_go_round(config):
    assert structure(ModelConfig, unstructure(config), "config.json") == config


def test_defaults_and_base():
    assert read() == Settings(count=1)
    base = structure(Settings, {"rate": 0.1, "shape": {"side": 3.0}}, "file", base=FULL)
    assert (base.count, base.name, base.rate, base.shape) == (3, "n", 0.1, Square(side=3.0, colour="blue"))


def test_a_table_of_another_kind_starts_from_its_own_defaults():
    got = structure(Settings, {"shape": {"kind": "circle"}}, "file", base=FULL)
    assert got.shape == Circle()


def test_widening_and_none():
    assert read(rate=1).rate == 1.0
    assert isinstance(read(rate=1).rate, float)
    assert read(name=None).name is None
    assert read(widths=[1, 2]).widths == (1.0, 2.0)
    assert read(widths=[]).widths == ()
    assert read(number="x").number == "x"
    assert isinstance(read(number=2).number, int)
    assert read(anything={"a": [1]}).anything == {"a": [1]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"counts": 1}, r"file: unknown setting 'counts'; known are count, rate"),
        ({"count": 1.0}, r"file\.count: expected int, got 1\.0"),
        ({"count": True}, r"file\.count: expected int, got True"),
        ({"count": None}, r"file\.count: expected int, got None"),
        ({"rate": "0.5"}, r"file\.rate: expected float"),
        ({"rate": False}, r"file\.rate: expected float"),
        ({"on": 1}, r"file\.on: expected bool"),
        ({"name": 3}, r"file\.name: expected str"),
        ({"mode": "medium"}, r"file\.mode: 'medium' is not one of fast, slow"),
        ({"mode": []}, r"file\.mode: \[\] is not one of"),
        ({"colours": True}, r"file\.colours: True is not one of 1, 3"),
        ({"colours": 3.0}, r"file\.colours: 3\.0 is not one of 1, 3"),
        ({"size": [1]}, r"file\.size: expected 2 entries, got 1"),
        ({"size": 3}, r"file\.size: expected a list, got 3"),
        ({"size": "12"}, r"file\.size: expected a list"),
        ({"size": [1, "x"]}, r"file\.size\[1\]: expected int, got 'x'"),
        ({"folder": 3}, r"file\.folder: expected Path"),
        ({"shape": {"kind": "star"}}, r"file\.shape\.kind: 'star' is not one of circle, square"),
        ({"shape": {"kind": ["circle"]}}, r"file\.shape\.kind: \['circle'\] is not one of"),
        ({"shape": {"side": 1.0}}, r"file\.shape\.kind: None is not one of"),
        ({"shape": {"kind": "circle", "side": 1.0}}, r"file\.shape: unknown setting 'side'"),
        ({"shape": "circle"}, r"file\.shape: expected a table"),
    ],
)
def test_errors_name_the_place(data, match):
    with pytest.raises(UserError, match=match):
        read(**data)


def test_missing_and_not_a_table():
    with pytest.raises(UserError, match="file: setting 'count' is missing"):
        structure(Settings, {}, "file")
    with pytest.raises(UserError, match="file: expected a table of settings"):
        structure(Settings, [1], "file")
