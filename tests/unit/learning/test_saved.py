"""Saved models come back bit by bit; whatever else lies under their name is refused unread."""

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from cryofuse.config import Model, SearchSettings
from cryofuse.learning import models, saved
from cryofuse.logs import UserError

MODELS = get_args(Model)
NAMES = ("dh_change_1m_m", "dh_rate_m_yr", "ice_fraction", "season_cos", "latitude")
N_FEATURES = len(NAMES)


def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, N_FEATURES))
    y = 3 * x[:, 0] + rng.normal(size=150)
    x[::9, 1] = np.nan
    x[:, 4] = np.nan  # null in the whole training set
    return x, y


def fit(model: str) -> Pipeline:
    (parameters,) = models.list_candidates(SearchSettings().space(model), 1)
    with models.single_threaded():
        return models.build(model, parameters, 12, 0, NAMES).fit(*samples())


def card(model: str, **known: Any) -> saved.Card:
    feature = saved.FeatureCard(name="dh_m", unit="m", low=0, high=1, nulls=True)
    return saved.Card(
        model=model,
        target="change",
        region="demo",
        product="jpl",
        unit="mascon",
        trees=12,
        seed=0,
        coverage=0.9,
        features=[feature] * N_FEATURES,
        **known,
    )


@pytest.fixture(scope="module")
def fitted() -> dict[str, Pipeline]:
    return {model: fit(model) for model in MODELS}


def plant(data: bytes, folder: Path, model: str = "forest") -> saved.Card:
    """Write bytes as a stranger would: with a card that knows their digest."""
    (folder / f"{model}.skops").write_bytes(data)
    known = {"file": f"{model}.skops", "file_sha256": hashlib.sha256(data).hexdigest()}
    saved.write_card(card(model, **known), folder)
    return saved.read_card(folder / f"{model}.json")


def refusal(found: saved.Card, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        saved.load_model(found, folder)
    text = str(error.value)
    assert "\n" not in text and str(folder) in text
    return text


def schema_of(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return json.loads(opened.read("schema.json"))


def zipped(schema: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("schema.json", json.dumps(schema))
    return buffer.getvalue()


@pytest.mark.parametrize("model", MODELS)
def test_a_model_comes_back_bit_by_bit(model: str, fitted: dict, tmp_path: Path) -> None:
    written = saved.save_model(fitted[model], card(model), tmp_path)
    read = saved.read_card(tmp_path / f"{model}.json")
    assert read == written
    again = saved.load_model(read, tmp_path)
    x, _ = samples()
    x = np.vstack([x, 10 * x, np.full((1, N_FEATURES), np.nan)])
    assert again.predict(x).tobytes() == fitted[model].predict(x).tobytes()
    assert type(again.steps[-1][1]) is type(fitted[model].steps[-1][1])


@pytest.mark.parametrize("model", MODELS)
def test_the_same_fit_gives_the_same_bytes(model: str, fitted: dict, tmp_path: Path) -> None:
    first = saved.save_model(fitted[model], card(model), tmp_path / "a")
    second = saved.save_model(fit(model), card(model), tmp_path / "b")
    data = (tmp_path / "a" / f"{model}.skops").read_bytes()
    assert first.file_sha256 == second.file_sha256 == hashlib.sha256(data).hexdigest()


def test_every_trusted_type_is_needed_by_a_model(fitted: dict, tmp_path: Path) -> None:
    held = set()
    waiting = []
    for model in MODELS:
        saved.save_model(fitted[model], card(model), tmp_path)
        waiting.append(schema_of((tmp_path / f"{model}.skops").read_bytes()))
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            held |= {f"{node['__module__']}.{node['__class__']}"} if "__class__" in node else set()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    assert held == saved.TRUSTED_TYPES


class Mine:
    """Leaves a file where it is run."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["forest.skops", "forest.json"])
def test_a_raw_pickle_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    data = pickle.dumps(Mine(mark))
    found = plant(data, tmp_path)
    if name.endswith(".skops"):
        assert "is no saved model" in refusal(found, tmp_path)
    else:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=r"forest\.json is no card"):
            saved.read_card(tmp_path / name)
    assert not mark.exists()
    pickle.loads(data)  # the bait is live
    assert mark.exists()


def test_a_type_that_skops_trusts_by_itself_is_refused_by_name(tmp_path: Path) -> None:
    x, y = samples()
    other = make_pipeline(StandardScaler(), SVR()).fit(x[:, :1], y)
    data = skops.io.dumps({"steps": other.steps, "booster": None})
    assert skops.io.get_untrusted_types(data=data) == []
    said = refusal(plant(data, tmp_path), tmp_path)
    assert "sklearn.svm._classes.SVR" in said and "StandardScaler" not in said


def test_a_function_in_a_transformer_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    step = FunctionTransformer(partial(os.mkdir, str(mark)))
    data = skops.io.dumps({"steps": [("bad", step)], "booster": None})
    assert "FunctionTransformer" in refusal(plant(data, tmp_path), tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "node",
    [
        {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"},
        {"__class__": "system", "__module__": "os", "__loader__": "ObjectNode"},
        {"__class__": "Ridge", "__module__": "sklearn.linear_model._ridge", "__loader__": "Method"},
        {"__class__": "dict", "__module__": "builtins"},
        {"__loader__": "DictNode"},
    ],
    ids=str,
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_type_is_found_wherever_it_stands(node: dict, deep: bool, tmp_path: Path) -> None:
    fine = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
    schema = {**fine, "content": [fine, {"hidden": [[node]]}]} if deep else node
    said = refusal(plant(zipped(schema), tmp_path), tmp_path)
    name = f"{node.get('__module__')}.{node.get('__class__')} (as {node.get('__loader__')})"
    assert name in said


def test_a_changed_or_truncated_file_is_refused(fitted: dict, tmp_path: Path) -> None:
    found = saved.save_model(fitted["ridge"], card("ridge"), tmp_path)
    path = tmp_path / "ridge.skops"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for data in (bytes(changed), whole[:-1], b""):
        path.write_bytes(data)
        assert "changed or cut short" in refusal(found, tmp_path)
    path.unlink()
    assert "no file" in refusal(found, tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_file_with_a_fitting_card_is_refused(
    share: float, fitted: dict, tmp_path: Path
) -> None:
    saved.save_model(fitted["forest"], card("forest"), tmp_path)
    data = (tmp_path / "forest.skops").read_bytes()
    refusal(plant(data[: int(share * len(data))], tmp_path), tmp_path)


def test_a_card_does_not_lead_out_of_its_folder(fitted: dict, tmp_path: Path) -> None:
    found = saved.save_model(fitted["ridge"], card("ridge"), tmp_path)
    (tmp_path / "inside").mkdir()
    away = found.model_copy(update={"file": "../ridge.skops"})
    assert "no file" in refusal(away, tmp_path / "inside")


def test_a_file_that_unpacks_too_large_is_refused(
    fitted: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saved.save_model(fitted["ridge"], card("ridge"), tmp_path)
    monkeypatch.setattr(saved, "MAX_BYTES", 1000)
    assert "unpacks to" in refusal(found, tmp_path)


def test_a_pipeline_of_untrusted_types_is_not_even_saved(tmp_path: Path) -> None:
    x, y = samples()
    with pytest.raises(UserError, match=r"sklearn\.svm\._classes\.SVR"):
        saved.save_model(make_pipeline(SVR()).fit(x[:, :1], y), card("ridge"), tmp_path)
    assert list(tmp_path.iterdir()) == []


FAR = 1_000_000


def lead_forest_astray(pipeline: Pipeline, column: str, value: int) -> None:
    tree = pipeline[-1].estimators_[3].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][column][0] = value
    tree.__setstate__(state)


def lead_boosting_astray(pipeline: Pipeline, column: str, value: int) -> None:
    pipeline[-1]._predictors[3][0].nodes[column][0] = value


@pytest.mark.parametrize(
    ("model", "astray", "column", "value"),
    [
        ("forest", lead_forest_astray, "left_child", FAR),
        ("forest", lead_forest_astray, "right_child", 0),
        ("forest", lead_forest_astray, "feature", FAR),
        ("forest", lead_forest_astray, "feature", -7),
        ("hist_gradient_boosting", lead_boosting_astray, "left", FAR),
        ("hist_gradient_boosting", lead_boosting_astray, "right", 0),
        ("hist_gradient_boosting", lead_boosting_astray, "feature_idx", N_FEATURES),
        ("hist_gradient_boosting", lead_boosting_astray, "is_categorical", 1),
    ],
)
def test_trees_that_lead_astray_are_refused(
    model: str, astray: Callable, column: str, value: int, tmp_path: Path
) -> None:
    bad = fit(model)
    astray(bad, column, value)
    found = saved.save_model(bad, card(model), tmp_path)
    assert "cannot be read as a saved model" in refusal(found, tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("left_children", FAR), ("right_children", 0), ("split_indices", FAR), ("split_type", 1)],
)
def test_a_booster_that_leads_astray_is_refused(
    column: str, value: int, fitted: dict, tmp_path: Path
) -> None:
    booster = json.loads(fitted["xgboost"][-1].get_booster().save_raw("json").decode())
    booster["learner"]["gradient_booster"]["model"]["trees"][2][column][0] = value
    data = skops.io.dumps({"steps": [], "booster": json.dumps(booster)})
    said = refusal(plant(data, tmp_path, "xgboost"), tmp_path)
    assert "a tree" in said


@pytest.mark.parametrize(
    "change",
    [
        {"drivers": [FAR]},
        {"place": [N_FEATURES]},
        {"x_": np.zeros((150, 2))},
        {"weights_": np.zeros(3)},
    ],
    ids=["drivers", "place", "x", "weights"],
)
def test_a_varying_density_of_other_sizes_is_refused(change: dict, tmp_path: Path) -> None:
    bad = fit("varying_density")
    vars(bad[-1]).update(change)
    found = saved.save_model(bad, card("varying_density"), tmp_path)
    assert "cannot be read as a saved model" in refusal(found, tmp_path)


def test_a_model_of_fewer_features_than_its_card_names_is_refused(
    fitted: dict, tmp_path: Path
) -> None:
    for model in MODELS:
        found = saved.save_model(fitted[model], card(model), tmp_path)
        fewer = found.model_copy(update={"features": found.features[:-1]})
        assert "cannot be read as a saved model" in refusal(fewer, tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "svm"}, "model"),
        ({"features": [{"name": "dh_m"}]}, "features"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_card_is_told_in_one_line(change: dict, expected: str, tmp_path: Path) -> None:
    saved.write_card(card("ridge"), tmp_path)
    path = tmp_path / "ridge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as error:
        saved.read_card(path)
    text = str(error.value)
    assert "\n" not in text and expected in text and str(path) in text


def keys() -> pd.DataFrame:
    month = np.array(["2019-01", "2019-02"], "datetime64[M]").astype("datetime64[us]")
    return pd.DataFrame({"mascon_id": np.array([7, 7], np.int32), "month": month})


def test_the_data_digest_is_what_its_docstring_says() -> None:
    x, y = np.array([[1.0, np.nan], [-0.0, 4.0]]), np.array([0.5, -0.5])
    nan = struct.pack("<Q", 0x7FF8000000000000)
    by_hand = b'["a", "b"]' + struct.pack("<ii", 7, 7) + struct.pack("<qq", 588, 589)
    by_hand += struct.pack("<dd", 0.5, -0.5)
    by_hand += nan + struct.pack("<d", 1.0) + struct.pack("<dd", 4.0, 0.0)
    found = saved.digest_samples(keys(), x, y, ["b", "a"])
    assert found == hashlib.sha256(by_hand).hexdigest()


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.permutations(range(3)), st.integers(0, 17))
def test_the_data_digest_knows_values_and_no_order(
    rows: list[int], columns: list[int], place: int
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    months = np.arange(6).astype("datetime64[M]").astype("datetime64[us]")
    table = pd.DataFrame({"mascon_id": np.array([1, 1, 2, 2, 3, 3], np.int32), "month": months})
    names = np.array(["a", "b", "c"])
    first = saved.digest_samples(table, x, y, names.tolist())
    mixed = x[np.ix_(rows, columns)]
    again = saved.digest_samples(table.iloc[rows], mixed, y[rows], names[columns].tolist())
    assert again == first
    x.flat[place] = np.nextafter(x.flat[place], np.inf)
    assert saved.digest_samples(table, x, y, names.tolist()) != first
