"""What a plan was made for is what the run wants, or the run says so."""

import re

import numpy as np
import pytest

from cryofuse.acquire.scope import check_scope, plan_scope
from cryofuse.calendar import period_bounds
from cryofuse.config import RegionSettings
from cryofuse.logs import UserError

BOX = {"west": -50.0, "south": 69.0, "east": -46.0, "north": 71.0}


def region(outline=BOX, crs="EPSG:3413"):
    return RegionSettings(title="A region", crs=crs, outline=outline)


def scope(period="2019Q3", **changes):
    return plan_scope(region(**changes), *period_bounds(period))


def test_months():
    assert scope("2019Q3")["months"] == "2019-07 to 2019-09"
    assert scope("2019-07")["months"] == "2019-07 to 2019-07"
    assert scope("2019")["months"] == "2019-01 to 2019-12"
    clipped = np.datetime64("2018-10-01", "us"), np.datetime64("2019-01-01", "us")
    assert plan_scope(region(), *clipped)["months"] == "2018-10 to 2018-12"


def test_outlines(tmp_path):
    outline = scope()["outline"]
    assert outline == scope("2020")["outline"]
    assert outline != scope(outline=BOX | {"west": -51.0})["outline"]
    assert outline != scope(crs="EPSG:3995")["outline"]
    path = tmp_path / "outline.geojson"
    path.write_text('{"type": "Polygon"}')
    first = scope(outline=str(path))["outline"]
    moved = tmp_path / "moved.geojson"
    moved.write_text('{"type": "Polygon"}')
    assert scope(outline=str(moved))["outline"] == first
    path.write_text('{"type": "Polygon" }')
    assert scope(outline=str(path))["outline"] != first


@pytest.mark.parametrize("planned", ["2019Q3", "2019"])
def test_a_plan_that_fits(planned):
    check_scope("plan.csv", scope(planned), scope("2019Q3"))


@pytest.mark.parametrize("line", ["outline", "months"])
def test_a_plan_that_does_not_say_is_taken(line):
    told = {"outline": "x", "months": "2000-01 to 2000-02"}
    kept = {key: value for key, value in (scope() | told).items() if key != line}
    other = "months" if line == "outline" else "outline"
    with pytest.raises(UserError, match=f"# {other}"):
        check_scope("plan.csv", kept, scope())
    check_scope("plan.csv", {}, scope())


@pytest.mark.parametrize("planned", ["2019-07", "2019-08", "2018", "2020"])
def test_a_plan_of_fewer_months(planned):
    with pytest.raises(UserError) as caught:
        check_scope("plan.csv", scope(planned), scope("2019Q3"))
    text = str(caught.value)
    assert "\n" not in text and text.startswith("plan.csv was planned for 20")
    assert "2019-07 to 2019-09" in text and "remove it" in text


def test_a_plan_of_another_outline():
    with pytest.raises(UserError, match=re.escape("another outline")) as caught:
        check_scope("plan.csv", scope(outline=BOX | {"east": -40.0}), scope())
    assert "\n" not in str(caught.value)


def test_months_that_cannot_be_read_are_refused():
    with pytest.raises(UserError, match="planned for July"):
        check_scope("plan.csv", {"months": "July"}, scope())
