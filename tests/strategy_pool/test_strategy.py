"""Recipes: validation, overrides, ranges and the shipped catalog."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategy_pool.strategy as module
from strategy_pool.strategy import (
    FIELDS,
    FROZEN_METHODS,
    Strategy,
    StrategyError,
    get,
    load_catalog,
    search_space,
)

CATALOG = load_catalog()
FILES = sorted((Path(module.__file__).parent / "catalog").glob("*.toml"))


def test_the_catalog_is_large_and_begins_with_what_gives_a_result_in_seconds() -> None:
    assert len(CATALOG) >= 34
    assert len(CATALOG) == len(FILES)
    assert list(CATALOG)[:8] == [
        "logistic_multitap_224",
        "logistic_multitap",
        "probe_then_full_progressive",
        "last_stages_5_progressive",
        "full_plain_128",
        "cached_trunk_multitap",
        "probe_then_full_medium",
        "probe_then_full_light",
    ]


def test_the_catalog_covers_every_method_and_its_recipes_differ() -> None:
    assert {s.method for s in CATALOG.values()} == set(module._CHOICES["method"])
    assert {s.augmentation for s in CATALOG.values()} >= {"randaugment", "trivialaugment", "strong"}
    assert {s.resolution for s in CATALOG.values()} >= {"native", 96, 160, 224}
    identity = {"name", "summary", "source", "order"}
    recipes = [tuple((k, v) for k, v in s.to_dict().items() if k not in identity) for s in CATALOG.values()]
    assert len(set(recipes)) == len(recipes)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_file_is_a_valid_recipe_with_a_source(path: Path) -> None:
    strategy = CATALOG[path.stem]
    assert len(strategy.source) > 15 and len(strategy.summary) > 15
    assert strategy.order >= 1
    assert Strategy.from_dict(json.loads(json.dumps(strategy.to_dict()))) == strategy


def test_orders_are_unique_and_sorted() -> None:
    orders = [s.order for s in CATALOG.values()]
    assert orders == sorted(set(orders))


@pytest.mark.parametrize("name", list(CATALOG))
def test_ranges_hold_the_own_value_and_their_ends_are_allowed(name: str) -> None:
    strategy = CATALOG[name]
    space = search_space(strategy)
    assert space
    for field, bounds in space.items():
        own = getattr(strategy, field)
        if isinstance(bounds, list):
            assert own in bounds and len(set(bounds)) == len(bounds) > 1
            ends = bounds
        else:
            low, high, log = bounds
            assert low < high and low <= own <= high
            assert not log or low > 0
            assert isinstance(low, int) == isinstance(high, int) == isinstance(own, int)
            ends = [low, high]
        for value in ends:
            strategy.with_overrides({field: value})
    assert ("lr" in space) == (strategy.method not in FROZEN_METHODS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "A b"}, "lower-case"),
        ({"name": "x@1/y"}, "lower-case"),
        ({"method": "fulll"}, "did you mean 'full'"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"augmentation": "randaug"}, "did you mean 'randaugment'"),
        ({"loss": None}, "known: cross_entropy"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": "0.1"}, "a number"),
        ({"warmup": 1.0}, "below 1"),
        ({"epochs": 0}, "whole number from 1"),
        ({"epochs": 2.5}, "whole number"),
        ({"epochs": float("inf")}, "whole number"),
        ({"batch_size": True}, "whole number"),
        ({"progressive": 1}, "true or false"),
        ({"resolution": "big"}, "'native' or a whole number"),
        ({"resolution": 4}, "from 16"),
        ({"summary": 3}, "a text"),
        ({"method": "scratch"}, "takes norm 'batch'"),
    ],
)
def test_wrong_values_are_named_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        Strategy.from_dict({"name": "mine", "method": "full", **values})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(StrategyError, match="did you mean 'weight_decay'"):
        Strategy.from_dict({"name": "mine", "method": "full", "weight_decays": 0.1})
    with pytest.raises(StrategyError, match="has no method"):
        Strategy.from_dict({"name": "mine"})
    with pytest.raises(StrategyError, match="did you mean 'full_plain_128'"):
        get("full_plain_182")


def test_overrides_replace_numbers_but_not_the_recipe() -> None:
    plain = get("full_plain_128")
    changed = plain.with_overrides({"lr": 2e-3, "epochs": 10.0})
    assert (changed.lr, changed.epochs, changed.name) == (2e-3, 10, plain.name)
    assert isinstance(changed.epochs, int)
    assert plain.lr == 1e-3
    assert plain.with_overrides({}) is plain
    with pytest.raises(StrategyError, match="cannot be overridden"):
        plain.with_overrides({"method": "lora"})
    with pytest.raises(StrategyError, match="did you mean 'epochs'"):
        plain.with_overrides({"epoch": 3})


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(CATALOG)))
def test_overrides_from_the_space_survive_json(data: st.DataObject, name: str) -> None:
    strategy = get(name)
    space = search_space(strategy)
    drawn: dict[str, Any] = {}
    for field in data.draw(st.lists(st.sampled_from(sorted(space)), unique=True)):
        bounds = space[field]
        if isinstance(bounds, list):
            drawn[field] = data.draw(st.sampled_from(bounds))
        elif isinstance(bounds[0], int):
            drawn[field] = data.draw(st.integers(int(bounds[0]), int(bounds[1])))
        else:
            drawn[field] = data.draw(st.floats(bounds[0], bounds[1]))
    changed = strategy.with_overrides(drawn)
    assert changed == strategy.with_overrides(json.loads(json.dumps(drawn)))
    assert Strategy.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert {f: getattr(changed, f) for f in drawn} == drawn
    untouched = [f for f in FIELDS if f not in drawn]
    assert [getattr(changed, f) for f in untouched] == [getattr(strategy, f) for f in untouched]
    assert changed.with_overrides({f: getattr(strategy, f) for f in drawn}) == strategy


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(FIELDS),
    value=st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.none(), max_size=1),
)
def test_any_value_is_either_taken_or_a_strategy_error(field: str, value: Any) -> None:
    try:
        changed = get("full_plain").with_overrides({field: value})
    except StrategyError as error:
        assert "\n" not in str(error)
    else:
        assert getattr(changed, field) == value


def _write(folder: Path, name: str, order: int, extra: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f'summary = "s"\nsource = "me"\norder = {order}\nmethod = "full"\n{extra}')
    return path


def test_a_catalog_of_ones_own(tmp_path: Path) -> None:
    _write(tmp_path, "second", 2)
    _write(tmp_path, "first", 1, "lr = 1\n")
    (tmp_path / "notes.txt").write_text("not a recipe")
    assert list(load_catalog(tmp_path)) == ["first", "second"]
    assert load_catalog(str(tmp_path))["first"].lr == 1.0


def test_errors_of_a_catalog_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="holds no recipe"):
        load_catalog(tmp_path)
    with pytest.raises(StrategyError, match="cannot be read"):
        load_catalog(tmp_path / "missing")
    _write(tmp_path, "a", 1)
    duplicate = _write(tmp_path, "b", 1)
    with pytest.raises(StrategyError, match="'a' and 'b' both have order 1"):
        load_catalog(tmp_path)
    for text, message in [
        ("lr = ", "cannot be read"),
        ('summary = "s"\norder = 2\nmethod = "full"', "has no source"),
        ('name = "c"', "the file's name"),
        ('summary = "s"\nsource = "x"\norder = 2\nmethod = "full"\nlr = -1', "lr is -1"),
        ('summary = "s"\nsource = "x"\norder = 2\nmethod = "full"\nlerning = 1', "has no field 'lerning'"),
    ]:
        duplicate.write_text(text)
        with pytest.raises(StrategyError, match=r"b\.toml") as caught:
            load_catalog(tmp_path)
        assert message in str(caught.value)


def test_a_caller_cannot_change_the_shipped_catalog() -> None:
    load_catalog().clear()
    assert len(load_catalog()) == len(CATALOG)


def test_the_room_needs_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys, strategy_pool, strategy_pool.history, strategy_pool.prior\n"
        "bad = {'torch', 'ray', 'automl', 'search_spaces', 'alembic'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
