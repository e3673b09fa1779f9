"""The dashboard's numbers are the tables', missing ones stay missing, and nothing breaks out."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.products import style
from cryofuse.products.dashboard.data import SERIES, build_data
from cryofuse.products.dashboard.page import draw_map, embed_json
from cryofuse.products.style import cut_mascons
from cryofuse.tables import CONTRACTS
from tests.planted_dashboard import HOSTILE, tables, write_dashboard
from tests.unit.products import conftest as planted

IDS = [35, 50, 68, 90]


def build(given, unit="mascon"):
    return build_data(
        title="Testland",
        months=("2018-10", "2024-12"),
        fdr=0.05,
        coverage=0.9,
        unit=unit,
        **given,
    )


@pytest.fixture(scope="module")
def given():
    return tables()


@pytest.fixture(scope="module")
def data(given):
    return build(given)


@pytest.fixture(scope="module")
def page(given, tmp_path_factory):
    return write_dashboard(tmp_path_factory.mktemp("page"), given).read_text()


def layer(data, key):
    return next(one for one in data["layers"] if one["id"] == key)


def test_planted_tables_are_those_of_the_contracts(given):
    assert set(given["product"]) == set(CONTRACTS["product/months"].columns)
    assert set(given["totals"]) <= set(CONTRACTS["applications/totals"].columns)
    assert set(given["case_study"]) <= set(CONTRACTS["applications/case_study"].columns)


def test_every_number_of_the_series_is_the_tables_and_every_null_is_none(data, given):
    assert [one["id"] for one in data["mascons"]] == IDS
    assert (data["months"][0], data["months"][-1], len(data["months"])) == (
        "2018-10",
        "2024-12",
        75,
    )
    # As a browser reads it: what is no JSON number would not come back.
    back = json.loads(embed_json(data))["series"]
    nulls = 0
    for row in given["product"].to_dict("records"):
        mascon, month = IDS.index(row["mascon_id"]), data["months"].index(f"{row['month']:%Y-%m}")
        for name in SERIES:
            shown = back[name][mascon][month]
            nulls += shown is None
            assert shown == row[name] if shown is not None else np.isnan(row[name])
    # Mascon 90 has 75 months without 8 values, the others a first month without 7 of them (change
    # observed, too); each has the gap of March 2019: 4 values there and 2 in the month after.
    assert nulls == 75 * 8 + 3 * 6 + 4 * 2 + 4 * 6


def test_months_without_gravity_say_so(data):
    gap = data["months"].index("2019-03")
    assert [i for i, here in enumerate(data["gravimetry"]) if not here] == [gap]
    assert not any(flags[gap] for flags in data["has_gravimetry"])
    assert sum(map(sum, data["has_gravimetry"])) == 4 * 74


def test_the_share_that_intervals_hold_is_counted_over_all_mascons(given):
    table = given["product"].copy()
    lower = table["predicted_mass_lower_gt"]
    odd = table["month"].dt.month % 2 == 1
    # In every second month, far below anything observed.
    table["predicted_mass_lower_gt"] = lower.mask(odd & lower.notna(), -1e4)
    given = given | {"product": table}
    data = build(given)
    for kind in ("change", "mass"):
        held = n = 0
        for row in given["product"].to_dict("records"):
            low, high = row[f"predicted_{kind}_lower_gt"], row[f"predicted_{kind}_upper_gt"]
            value = row[f"observed_{kind}_gt"]
            n += value == value and low == low
            held += low <= value <= high
        assert data["inside"][kind] == {"n": n, "held": held} and 0 < held < n


def test_sources_have_names_and_colours_of_the_figures(data):
    assert data["sources"] == {
        "gravity": {"name": "gravity (GRACE)", "colour": style.SOURCE_COLOURS["gravity"]},
        "altimetry_850": {"name": "altimetry at 850 kg/m³", "colour": style.CATEGORIES[0]},
    }


def test_colours_stand_in_one_place_alone(page, data):
    """Neither script nor style sheet repeats what the figures' style says of maps and series."""
    parsed = Elements(page)
    script, sheet = parsed.text["script", None], parsed.text["style", None]
    variables, _, rest = sheet.partition("}")
    for colour in (*data["colours"].values(), style.OCEAN, style.LAND, style.EDGE):
        assert colour.lower() not in (script + rest).lower()
    for name, colour in (("ocean", style.OCEAN), ("land", style.LAND), ("null-face", "#dddddd")):
        assert f"--{name}: {colour};" in variables and f"var(--{name})" in rest


def test_basins_are_called_basins(given, tmp_path):
    shown = build(given, unit="basin")
    said = [one[key] for one in shown["layers"] for key in ("title", "note")]
    assert not [text for text in said if "mascon" in text]
    assert "Skill: leave basins out" in said
    page = write_dashboard(tmp_path, given, unit="basin").read_text()
    body = page[page.index("<body>") : page.index('<script type="application/json"')]
    words = re.sub(r"<[^>]*>", " ", body[: body.index("<footer>")])
    # Zero is that of a file of mascons, whatever is made of it.
    assert "mascon" not in words.lower().replace("baseline of the mascon file", "")
    assert 'aria-label="Basin 35"' in page and 'aria-label="Basins of ' in page


def test_reasons_stand_where_predictions_are_missing(data):
    texts, index = data["reasons"]["texts"], data["reasons"]["index"]
    assert {texts[i] for i in index[3]} >= {HOSTILE}
    assert texts[index[0][0]] == "no month before" and index[0][1] is None


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("rate", [-0.2, -0.3, -0.4, None]),
        # Of xgboost, whose error is the smallest.
        ("skill_leave_mascon_out", [0.5, 0.4, 0.3, None]),
        ("skill_forward", [0.4, 0.3, 0.2, None]),
        ("explained_total", [0.5, 0.2, None, None]),
        ("explained_trend", [0.8, 0.6, 0.4, None]),
        ("coupling_raw", [0.9, 0.4, -0.1, None]),
        ("regime", [0, 1, None, None]),
        ("season_2019_observed_gt", [-10.5, -15.0, -20.4, None]),
        ("season_2021_dh_season_m", [-0.0875, -0.125, -0.17, None]),
    ],
)
def test_a_layer_shows_what_the_tables_hold(data, key, values):
    shown = layer(data, key)["values"]
    assert [v is None for v in shown] == [v is None for v in values]
    known = [(a, b) for a, b in zip(shown, values, strict=True) if b is not None]
    assert [a for a, _ in known] == pytest.approx([b for _, b in known], abs=1e-12)


def test_scales_of_differences_are_centred_on_zero_and_seasons_share_theirs(data):
    scaled = [one for one in data["layers"] if "low" in one]
    assert len(scaled) == len(data["layers"]) - 1 == 4 + 2 + 4 + 3 + 9
    assert all(one["low"] == -one["high"] < 0 for one in scaled)
    for column in ("dh_season_m", "observed_gt"):
        ends = {layer(data, f"season_{year}_{column}")["high"] for year in (2019, 2020, 2021)}
        assert len(ends) == 1
    for palette in data["palettes"].values():
        middle = palette[len(palette) // 2]
        light = [int(middle[i : i + 2], 16) for i in (1, 3, 5)]
        assert len(palette) % 2 == 1 and min(light) > 220


def test_only_significant_coupling_is_marked(data):
    raw = layer(data, "coupling_raw")
    assert raw["marked"] == [True, False, False, False]
    assert raw["texts"][0] == "lag +0 months, significant"
    assert raw["texts"][2] == "lag +2 months, not told from chance"
    assert raw["reasons"][3] == "fewer than 24 common months"


def test_a_mascon_without_a_score_says_that_not_what_others_lack(data, given):
    assert layer(data, "skill_forward")["reasons"][3] == "no held-out prediction to score"
    none = given["scores"].assign(value=np.nan, reason="too few months")
    assert (
        layer(build(given | {"scores": none}), "skill_forward")["reasons"] == ["too few months"] * 4
    )


def test_rows_in_any_order_make_the_same_page(data, given):
    mixed = {name: table.sample(frac=1, random_state=3) for name, table in given.items()}
    ordered = ("totals", "sea_level", "lakes")
    assert build(mixed | {name: given[name] for name in ordered}) == data


def test_tables_are_handed_out_as_they_are(data, given):
    shown = data["tables"]["totals"]
    frame = pd.DataFrame(shown["rows"], columns=shown["columns"])
    assert frame["mass_gt"].to_numpy() == pytest.approx(
        given["totals"]["mass_gt"].to_numpy(), nan_ok=True, abs=0
    )
    assert frame["month"].tolist() == [f"{m:%Y-%m}" for m in given["totals"]["month"]]
    assert [row[0] for row in data["tables"]["lakes"]["rows"]] == [1]


def test_dates_and_whole_numbers_may_be_missing(given):
    lakes = given["lakes"].assign(
        first_fill=np.datetime64("NaT"), mascon_id=pd.array([pd.NA, 68], "Int32")
    )
    shown = build(given | {"lakes": lakes})["tables"]["lakes"]
    row = dict(zip(shown["columns"], json.loads(json.dumps(shown["rows"]))[0], strict=True))
    assert row["first_fill"] is None and row["mascon_id"] is None
    assert row["first_drain"] == "2021-08"


def test_embedded_json_cannot_end_its_element_and_holds_no_nan():
    text = embed_json({"a": HOSTILE, "b": [1.5, None]})
    assert "<" not in text and ">" not in text and "&" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        embed_json({"a": float("nan")})


class Elements(html.parser.HTMLParser):
    """Every element with its attributes; text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self.headings = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text):
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag in ("script", "style"):
            self.text.setdefault((tag, attributes.get("type")), text)


def test_the_page_asks_for_nothing_and_lets_only_its_own_script_run(page):
    parsed = Elements(page)
    for tag, attributes in parsed.found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "srcset", "xlink:href"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
    policy = next(a["content"] for _, a in parsed.found if "http-equiv" in a)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data: blob:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        code = parsed.text[tag, None]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert allowed[kind] == f"'sha256-{digest}'"
    assert sum(tag == "script" for tag, _ in parsed.found) == 2


def test_what_comes_from_data_is_text(page):
    parsed = Elements(page)
    data = json.loads(parsed.text["script", "application/json"])
    assert HOSTILE in data["reasons"]["texts"]
    assert "<land>" not in page and "Test &lt;land&gt;" in page
    assert page.count("alert(") == page.count("alert(&#x27;x&#x27;)") + 1
    assert not re.search(r"\bNaN\b|Infinity", embed_json(data))


def test_the_page_has_a_language_and_headings_in_order(page):
    tags = [tag for tag, _ in Elements(page).found]
    assert ("html", {"lang": "en"}) in Elements(page).found
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def rings(d):
    """The closed rings of a path of the map, its steps added up."""
    found = []
    for part in filter(None, d.split("M")):
        start, _, steps = part.removesuffix("z").partition("l")
        numbers = [int(n) for n in re.findall(r"-?\d+", steps)]
        moves = np.array([re.findall(r"-?\d+", start), *np.reshape(numbers, (-1, 2))], dtype=int)
        found.append(np.cumsum(moves, axis=0))
    return found


def test_mascons_are_drawn_where_they_are(world):
    base, shapes = world["base"], cut_mascons(planted.mascons(), planted.base())
    lakes = planted.lakes()
    text = draw_map(base, shapes, lakes[lakes["status"] == "candidate"])
    x_min, y_min, x_max, y_max = base.extent
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups())
    assert width / height == pytest.approx((x_max - x_min) / (y_max - y_min), abs=2e-3)
    step = (x_max - x_min) / width
    for number, footprint, ice in zip(shapes.mascon_id, shapes.footprint, shapes.ice, strict=True):
        group = re.search(f'id="mascon-{number}".*?</g>', text)[0]
        for kind, geometry in (("footprint", footprint), ("ice", ice)):
            d = re.search(f'class="{kind}" d="([^"]*)"', group)[1]
            drawn = [
                shapely.Polygon(np.array([x_min, y_max]) + ring * [step, -step])
                for ring in rings(d)
            ]
            both = shapely.union_all(drawn)
            apart = shapely.symmetric_difference(both, geometry).area
            assert apart <= 0.02 * geometry.area, (number, kind)
    # No number comes near a lake's triangle, of 18 by 15 steps.
    at = [int(v) for v in re.search(r'data-lake="1" d="M(\d+) (\d+)', text).groups()]
    for found in re.findall(r'<text x="(\d+)" y="(\d+)" data-room="(\d+)"', text):
        a, b, room = map(int, found)
        assert np.hypot(a - at[0], b - at[1] - 9) >= room + 9, "a number lies over a lake"
    x, y = (int(v) for v in re.search(r'data-lake="1" d="M(\d+) (\d+)', text).groups())
    assert abs(x_min + x * step - 33e3) < step and abs(y_max - (y + 9) * step + 1_997e3) < step


def test_a_ring_smaller_than_a_step_is_nothing():
    base = planted.base()
    lone = planted.mascons().iloc[:1].copy()
    lone["geometry"] = [shapely.box(320, 79.5, 320.001, 79.5001)]
    text = draw_map(base, cut_mascons(lone, base), planted.lakes().iloc[:0])
    assert 'class="footprint" d=""' in text
