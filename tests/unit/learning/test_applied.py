"""Saved models say what refitting says, also where there is no gravimetry, and null has reasons."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import Model, PredictSettings, SkillSettings
from cryofuse.learning import applied, models
from cryofuse.learning.saved import Card, read_card, write_card
from cryofuse.learning.skill import HONEST_SPLITS, select_samples
from cryofuse.learning.splits import inner_folds
from cryofuse.logs import UserError
from cryofuse.tables import PREDICTED_MASS, SCORES, check, from_pandas

PLACE = {"region": "demo", "product": "jpl", "unit": "mascon"}
SETTINGS = SkillSettings(
    trees=10,
    candidates=2,
    mascon_folds=3,
    inner_folds=2,
    neighbour_buffer_km=0,
    min_train_months=12,
    terms="all",
)
CHANGE = PredictSettings(model="hist_gradient_boosting")


def empty_scores() -> pd.DataFrame:
    return SCORES.empty().to_pandas()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Nine mascons and 40 months, the last ten of which, and one mascon, lack gravimetry."""
    from tests.unit.learning.conftest import build_features

    features = build_features(mascons=9, months=40)
    unknown = (features["mascon_id"] == 104) | (features["month"] >= "2021-07-01")
    targets = [name for name in features if name.startswith("target_")]
    features.loc[unknown, targets] = np.nan
    altimetry = [name for name in features if name.startswith("dh_")]
    features.loc[features["month"] == "2020-05-01", altimetry] = np.nan
    return features


@pytest.fixture(scope="module")
def folder(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fitted") / "models"
    applied.fit_models(table, empty_scores(), SETTINGS, place, PLACE)
    return place


def said(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("target", ["change", "cumulative"])
@pytest.mark.parametrize("model", get_args(Model))
def test_a_saved_model_predicts_what_refitting_gives(
    model: str, target: str, table: pd.DataFrame, folder: Path
) -> None:
    wanted = PredictSettings(model=model, target=target)
    found, card, warnings = applied.apply_saved(table, folder, wanted, PLACE)
    check(from_pandas(found), PREDICTED_MASS)
    assert (card.model, card.target) == (model, target)
    # The months after training go beyond it; nothing else sets them apart.
    assert len(warnings) == 1 and "outside the range of training" in warnings[0]

    known = table[f"target_{target}_cm"].notna() & table["dh_m"].notna()
    train = table[known].sort_values(["month", "mascon_id"])
    names = [c for c in table if not c.startswith(("target_", "land")) and c != "mascon_id"]
    names.remove("month")
    assert [feature.name for feature in card.features] == names
    parameters = models.list_candidates(SETTINGS.search.space(model), 9)
    assert card.parameters in parameters[: SETTINGS.candidates]
    with models.single_threaded():
        refit = models.build(model, card.parameters, SETTINGS.trees, SETTINGS.seed, names)
        y = train[f"target_{target}_cm"].to_numpy()
        keys = select_samples(table, target, SETTINGS).keys
        models.fit(refit, np.ascontiguousarray(train[names]), y, keys)
        asked = table[table["dh_m"].notna()].sort_values(["month", "mascon_id"])
        expected = refit.predict(np.ascontiguousarray(asked[names]))
    got = found[found["predicted_cm"].notna()]
    assert (got[["mascon_id", "month"]].to_numpy() == asked[["mascon_id", "month"]]).all(axis=None)
    assert got["predicted_cm"].to_numpy().tobytes() == expected.astype(float).tobytes()


def test_months_and_mascons_without_gravimetry_are_predicted_and_said_to_be(
    table: pd.DataFrame, folder: Path
) -> None:
    found, _, _ = applied.apply_saved(table, folder, CHANGE, PLACE)
    assert len(found) == 9 * 40
    merged = found.merge(table, on=["mascon_id", "month"])
    without = merged["dh_m"].isna()
    assert without.sum() == 9
    assert (merged["predicted_cm"].isna() == without).all()
    assert (merged["reason"][without] == "no altimetry").all()
    assert merged["reason"][~without].isna().all()
    new = (merged["mascon_id"] == 104) | (merged["month"] >= "2021-07-01")
    # January 2019 has no month before it, but its change is in this table's target.
    assert (merged["trained_on"] == ~(new | without)).all()
    assert new[merged["predicted_cm"].notna()].sum() == 9 * 10 + 30 - 1


def test_half_width_mass_and_ends_follow_from_the_card(table: pd.DataFrame, folder: Path) -> None:
    found, card, _ = applied.apply_saved(table, folder, CHANGE, PLACE)
    samples = select_samples(table, "change", SETTINGS)
    y = samples.table["observed_cm"].to_numpy()
    held = []
    with models.single_threaded():
        for fold in inner_folds("leave_mascon_out", samples.table, SETTINGS):
            model = models.build(
                card.model, card.parameters, SETTINGS.trees, SETTINGS.seed, samples.names
            )
            model.fit(samples.x[fold.train], y[fold.train])
            held.append(np.abs(y[fold.test] - model.predict(samples.x[fold.test])))
    sizes = np.sort(np.concatenate(held))
    assert card.calibration_split == "leave_mascon_out" and card.n_residuals == len(sizes)
    half = sizes[int(np.ceil((len(sizes) + 1) * 0.9)) - 1]
    assert card.half_width_cm == pytest.approx(half, rel=1e-12)
    assert np.allclose((found["upper_cm"] - found["lower_cm"]).dropna(), 2 * half)
    for name in ("predicted", "lower", "upper"):  # 1 cm on 1e5 km² is 1 Gt
        assert np.allclose(found[f"{name}_gt"], found[f"{name}_cm"], equal_nan=True)
    assert min(card.inner_rmse_cm) == pytest.approx(np.sqrt(np.mean(sizes**2)))


def test_a_card_says_what_was_trained_on(table: pd.DataFrame, folder: Path) -> None:
    card = read_card(folder / "change" / "ridge.json")
    assert (card.region, card.product, card.unit) == ("demo", "jpl", "mascon")
    assert sorted(card.months) == [100, 101, 102, 103, 105, 106, 107, 108]
    months = card.months[100].split()
    assert months[0] == card.first_month == card.zero_month == "2019-01"
    assert months[-1] == card.last_month == "2021-06" and "2020-05" not in months
    assert card.n_samples == 8 * len(months) == 8 * 29
    latitude = next(feature for feature in card.features if feature.name == "latitude")
    assert latitude.unit == "degrees north" and not latitude.nulls
    assert (latitude.low, latitude.high) == (table["latitude"].min(), table["latitude"].max())
    lag = next(feature for feature in card.features if feature.name == "dh_m_lag02")
    assert lag.unit == "m" and lag.nulls
    assert {"scikit-learn", "xgboost-cpu", "skops", "numpy", "cryofuse"} == set(card.versions)


def test_nothing_depends_on_the_order_of_rows_or_columns(
    table: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    mixed = table.sample(frac=1, random_state=2)[list(rng.permutation(table.columns))]
    first, card, _ = applied.apply_saved(table, folder, CHANGE, PLACE)
    second, _, _ = applied.apply_saved(mixed, folder, CHANGE, PLACE)
    pd.testing.assert_frame_equal(first, second)
    one = SETTINGS.model_copy(update={"models": ["ridge"], "targets": ["change"]})
    (again,) = applied.fit_models(mixed, empty_scores(), one, tmp_path / "m", PLACE)
    other = read_card(folder / "change" / "ridge.json")
    assert again.data_sha256 == other.data_sha256 == card.data_sha256


def test_an_older_folder_is_replaced_whole(table: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "models" / "change").mkdir(parents=True)
    (tmp_path / "models" / "change" / "xgboost.json").write_text("{}")
    one = SETTINGS.model_copy(update={"models": ["ridge"], "targets": ["change"]})
    applied.fit_models(table, empty_scores(), one, tmp_path / "models", PLACE)
    made = sorted(path.name for path in (tmp_path / "models").rglob("*.*"))
    assert made == ["ridge.json", "ridge.skops"] and len(list(tmp_path.iterdir())) == 1


def test_a_table_that_lacks_features_is_refused_in_one_line(
    table: pd.DataFrame, folder: Path
) -> None:
    less = table.drop(columns=["dh_m_lag01", "latitude"])
    text = said(lambda: applied.apply_saved(less, folder, CHANGE, PLACE))
    assert "lacks 2: latitude, dh_m_lag01" in text and "hist_gradient_boosting" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"unit": "km"}, "knows dh_m in km; in the table it is in m"),
        ({"step_months": 3}, "steps of 3 months; the table has 1"),
    ],
)
def test_other_units_or_steps_are_refused_in_one_line(
    change: dict, expected: str, table: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    content = json.loads((folder / "change" / "ridge.json").read_text())
    if "unit" in change:
        first = next(f for f in content["features"] if f["name"] == "dh_m")
        first.update(change)
    else:
        content.update(change)
    write_card(Card.model_validate(content), tmp_path / "change")
    wanted = PredictSettings(model="ridge")
    assert expected in said(lambda: applied.apply_saved(table, tmp_path, wanted, PLACE))


def test_a_feature_that_was_never_null_in_training_must_have_a_value(
    table: pd.DataFrame, folder: Path
) -> None:
    holes = table.copy()
    holes.loc[(holes["mascon_id"] == 101) & (holes["month"] == "2021-01-01"), "longitude"] = np.nan
    found, _, _ = applied.apply_saved(holes, folder, CHANGE, PLACE)
    row = found[(found["mascon_id"] == 101) & (found["month"] == "2021-01-01")].iloc[0]
    assert row["reason"] == "null here and never in training: longitude"
    assert np.isnan(row["predicted_cm"]) and np.isnan(row["extrapolates"])
    assert (found["reason"].notna()).sum() == 9 + 1


def test_another_region_is_predicted_with_its_warnings(table: pd.DataFrame, folder: Path) -> None:
    away = table[table["month"] >= "2019-06-01"].copy()
    away["latitude"] -= 140.0
    away.loc[away["mascon_id"] == 100, "longitude"] = 20.0
    found, _, warnings = applied.apply_saved(away, folder, CHANGE, {**PLACE, "region": "south"})
    seen = found[found["predicted_cm"].notna()]
    assert len(seen) == 9 * (40 - 5 - 1) and not seen["trained_on"].any()
    n_features = len(read_card(folder / "change" / "ridge.json").features)
    outside = np.where(seen["mascon_id"] == 100, 2 / n_features, 1 / n_features)
    # Elevation change goes on after the training months, and may leave its range.
    assert (seen["extrapolates"] >= outside - 1e-12).all()
    early = seen["month"] < "2021-07-01"
    known = early & (seen["mascon_id"] != 104)
    assert np.allclose(seen["extrapolates"][known], outside[known])
    text = "\n".join(warnings)
    assert "trained with region demo, applied with region south" in text
    assert "heights counted from 2019-01 in training, here from 2019-06" in text
    assert f"{len(seen)} of {len(seen)} predictions have features outside" in text


def test_another_product_was_never_trained_on(table: pd.DataFrame, folder: Path) -> None:
    found, _, warnings = applied.apply_saved(table, folder, CHANGE, {**PLACE, "product": "csr"})
    assert not found["trained_on"].any() and any("product csr" in line for line in warnings)


def scores_with(errors: dict[tuple[str, str], float]) -> pd.DataFrame:
    rows = [
        {
            "model": model,
            "kind": "model",
            "split": split,
            "target": "change",
            "scope": "pooled",
            "score": "rmse_cm",
            "value": value,
            "lower": np.nan,
            "upper": np.nan,
            "n": 10,
            "n_blocks": 3,
            "reason": None,
        }
        for (model, split), value in errors.items()
    ]
    return pd.DataFrame(rows).astype({"n_blocks": "Int64", "reason": "str"})


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ({"both": (2.0, 1.0), "forward": (1.0, 2.0), "random": (0.1, 3.0)}, "forest"),
        ({"forward": (1.0, 2.0), "random": (3.0, 0.1)}, "ridge"),
        ({"both": (np.nan, 1.0), "forward": (1.0, 2.0)}, "ridge"),
        ({"both": (1.0, 1.0)}, "forest"),
        ({"random": (3.0, 0.1)}, None),
    ],
)
def test_the_best_model_is_that_of_the_strictest_split(
    errors: dict, best: str | None, table: pd.DataFrame, tmp_path: Path
) -> None:
    flat = {
        (model, split): value
        for split, values in errors.items()
        for model, value in zip(("ridge", "forest"), values, strict=True)
    }
    few = SETTINGS.model_copy(
        update={"models": ["ridge", "forest"], "targets": ["change"], "trees": 2, "candidates": 1}
    )
    cards = applied.fit_models(table, scores_with(flat), few, tmp_path, PLACE)
    inner = min(cards, key=lambda card: card.inner_rmse_cm[0]).model
    card, _ = applied.choose_card(tmp_path, PredictSettings())
    assert card.model == (best or inner)
    assert {score.split for c in cards for score in c.scores} <= set(HONEST_SPLITS)


def test_a_model_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    text = said(lambda: applied.choose_card(folder / "change", PredictSettings(model="ridge")))
    assert "no card" in text and "found none" in text
    (folder / "change" / "ridge.json").rename(folder / "ridge.json")
    try:
        text = said(lambda: applied.choose_card(folder, PredictSettings(model="ridge")))
        assert "change/forest.json" in text
    finally:
        (folder / "ridge.json").rename(folder / "change" / "ridge.json")


def test_without_samples_there_are_cards_with_the_reason_and_null_predictions(
    table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = table.assign(target_change_cm=np.nan)
    settings = SETTINGS.model_copy(update={"targets": ["change"]})
    with caplog.at_level(logging.WARNING):
        cards = applied.fit_models(bare, empty_scores(), settings, tmp_path / "m", PLACE)
    assert {card.reason for card in cards} == {"no gravimetry"} and "no model" in caplog.text
    assert not list((tmp_path / "m").rglob("*.skops"))
    found, _, warnings = applied.apply_saved(bare, tmp_path / "m", PredictSettings(), PLACE)
    check(from_pandas(found), PREDICTED_MASS)
    assert found["predicted_cm"].isna().all() and warnings == ["no model: no gravimetry"]
    assert set(found["reason"]) == {"no model: no gravimetry"} and len(found) == len(table)


def test_one_mascon_is_tuned_forward_in_time_and_a_short_record_not_at_all(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(
        update={"embargo_months": 0, "models": ["ridge"], "targets": ["change"]}
    )
    alone = table[table["mascon_id"] == 100]
    short = alone[alone["month"] < "2020-11-01"]
    (card,) = applied.fit_models(alone, empty_scores(), settings, tmp_path / "a", PLACE)
    assert card.calibration_split == "forward" and card.half_width_cm is not None
    assert 9 <= card.n_residuals < 29 and len(card.inner_rmse_cm) == 2
    (card,) = applied.fit_models(short, empty_scores(), settings, tmp_path / "b", PLACE)
    assert card.calibration_split is None and card.half_width_cm is None
    found, _, _ = applied.apply_saved(short, tmp_path / "b", PredictSettings(model="ridge"), PLACE)
    assert found["predicted_cm"].notna().sum() == 21 and found["lower_gt"].isna().all()
    reasons = found["reason"][found["predicted_cm"].notna()]
    assert set(reasons) == {"no interval: too few inner residuals"}
