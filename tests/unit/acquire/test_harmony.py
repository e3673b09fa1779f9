"""Subsets made at the archive: what is asked, what comes back, and what its faults lead to."""

import json
import logging
import shutil
import sys
import urllib.request
from dataclasses import dataclass

import earthaccess
import numpy as np
import pyarrow as pa
import pytest
import shapely
from earthaccess.system import System
from hypothesis import given
from hypothesis import strategies as st

import cryofuse.acquire.harmony as acquire_harmony
from cryofuse.acquire.harmony import _subset_of, request_subsets, subset_variables
from cryofuse.atl06 import Area, read_granule
from cryofuse.config import Box, ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.geo import project
from cryofuse.logs import UserError
from cryofuse.simulate.granules import write_granules
from cryofuse.simulate.world import World
from tests.archive import LoopbackArchive
from tests.archive.harmony import HarmonyService, cut_granule

TOKEN = "token-of-the-tests"
BOX = (-48.2, 69.3, -47.0, 69.7)
SPAN = np.datetime64("2020-02-01", "us"), np.datetime64("2020-04-15", "us")
QUICK = {"poll_s": 0.01}


@dataclass(frozen=True)
class Row:
    granule: str
    concept_id: str | None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Synthetic granules over a small piece of ice, about a window of 20 km."""
    region = RegionSettings(
        title="A box of ice",
        crs="EPSG:3413",
        outline=Box(west=-49.0, south=69.0, east=-46.0, north=70.0),
    )
    world = World(
        WorldSettings(track_step=8, segment_step=10, lakes=2),
        region,
        PeriodSettings(start="2019-01", end="2023-12", length="year"),
        ElevationSettings(
            windows=[{"name": "west", "longitude": -47.6, "latitude": 69.5, "width_m": 20_000}]
        ),
    )
    folder = tmp_path_factory.mktemp("atl06")
    write_granules(world, folder, *SPAN)
    return sorted(folder.glob("*.h5"))


@pytest.fixture
def site(files, tmp_path, monkeypatch):
    """An archive with Harmony beside it, a log-in by token, and the rows of a manifest."""
    for name in ("EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "ROOT_URL", "LOCALHOST_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with LoopbackArchive(tmp_path / "archive", tokens=(TOKEN,)) as archive:
        archive.add_collection("ATL06", "006", files)
        yield Site(archive, files, tmp_path)


class Site:
    def __init__(self, archive, files, tmp):
        self.archive, self.files = archive, {path.name: path for path in files}
        self.auth = earthaccess.Auth()
        self.auth.login(strategy="environment", system=System(**archive.system()))
        listed = f"{archive.cmr_base_url}granules.umm_json?short_name=ATL06&page_size=100"
        entries = json.loads(fetch(listed, tmp / "granules.json").read_text())["items"]
        found = {entry["umm"]["GranuleUR"]: entry["meta"]["concept-id"] for entry in entries}
        # The catalogue's name of a granule may be without the ending of its file.
        self.rows = [Row(name, found.get(name) or found[name[:-3]]) for name in self.files]
        self.service = HarmonyService(archive, tmp / "subsets")
        self.root_url = self.service.root_url

    def ask(self, rows=None, box=BOX, **options):
        return request_subsets(
            self.rows if rows is None else rows,
            box,
            subset_variables(),
            self.auth,
            self.root_url,
            **(QUICK | options),
        )

    @property
    def names(self):
        return [row.granule for row in self.rows]


def fetch(url, target):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file)
    return target


def region_in(box, margin=0.1):
    """A region in a CRS in metres whose every point is more than a margin inside a box."""
    west, south, east, north = box
    corners = [
        (west + margin, south + margin), (east - margin, south + margin),
        (east - margin, north - margin), (west + margin, north - margin),
    ]  # fmt: skip
    x_m, y_m = project(*np.array(corners).T, "EPSG:3413")
    return Area(shapely.Polygon(np.column_stack([x_m, y_m])), "EPSG:3413", 100_000.0)


def rows_of(path, region):
    """A granule's rows in a region, without the name of its file."""
    table, _ = read_granule(path, region=region)
    table = table.drop_columns(["granule"])
    # Codes of dictionaries depend on which beams a file has.
    return table.cast(
        pa.schema(
            [
                pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
                for f in table.schema
            ]
        )
    ).combine_chunks()


def test_subsets_read_as_whole_granules(site, tmp_path):
    """Rows and values in the region are those of the whole granules."""
    urls, reasons = site.ask()
    assert urls.keys() | reasons.keys() == set(site.names)
    assert not urls.keys() & reasons.keys()
    region, rows = region_in(BOX), 0
    for path in site.files.values():
        whole = rows_of(path, region)
        if path.name in reasons:
            assert not whole.num_rows
            continue
        subset = fetch(urls[path.name], tmp_path / f"processed_{path.name}")
        assert rows_of(subset, region).equals(whole)
        rows += whole.num_rows
    assert rows > 100
    [form] = site.service.submitted
    assert form["variable"] == ["all"]
    assert form["subset"] == ["lat(69.3:69.7)", "lon(-48.2:-47.0)"]
    assert form["granuleId"] == [",".join(row.concept_id for row in site.rows)]
    assert form["skipPreview"] == form["ignoreErrors"] == ["true"]


@pytest.mark.parametrize("empty", ["absent", "empty"])
@pytest.mark.parametrize("chosen", [None, "needed"])
def test_cut_granules_read_as_whole_ones(files, tmp_path, empty, chosen):
    """However beams without data are cut, and whether datasets are chosen."""
    variables = set(subset_variables()) if chosen else None
    region, narrow, kinds, rows = region_in(BOX), (-47.9, 69.4, -47.5, 69.6), set(), 0
    small = region_in(narrow, 0.02)
    for path in files:
        for number, (box, area) in enumerate(((BOX, region), (narrow, small))):
            subset = tmp_path / f"{number}" / f"processed_{path.name}"
            subset.parent.mkdir(exist_ok=True)
            cut_granule(path, subset, box, variables, empty)
            whole = rows_of(path, area)
            assert rows_of(subset, area).equals(whole)
            rows += whole.num_rows
            _, ledger = read_granule(subset, region=area)
            kinds |= {row["filter"] for row in ledger} - {"read", "outside_region"}
            lengths = {row["beam"]: row["rows_in"] for row in ledger if row["filter"] == "read"}
            if len(set(lengths.values())) > 1:
                kinds.add("lengths")
    assert rows > 100
    assert "lengths" in kinds
    assert ("no_beam" if empty == "absent" else "no_segments") in kinds
    assert "unreadable" not in kinds and "name_mismatch" not in kinds


def test_needed_datasets_are_what_the_reader_opens(files, tmp_path):
    """With the datasets named alone no column is lost; without any one of them rows change."""
    path = max(files, key=lambda file: file.stat().st_size)
    everywhere = (-180.0, -90.0, 180.0, 90.0)
    needed = set(subset_variables())
    target = tmp_path / path.name
    cut_granule(path, target, everywhere, needed)
    whole = rows_of(path, None)
    assert rows_of(target, None).equals(whole)
    for one in sorted(place for place in needed if place.startswith("/gt2r/")):
        cut_granule(path, target, everywhere, needed - {one})
        assert not rows_of(target, None).equals(whole), one


def test_datasets_are_chosen_where_the_service_can(site, tmp_path):
    """All that is needed is asked for in one field, and what tells the granule where known."""
    needed = list(subset_variables())
    site.service.variables = [*(name.lstrip("/") for name in needed), "/orbit_info/rgt", "gt1l/x"]
    urls, _ = site.ask()
    [form] = site.service.submitted
    [field] = form["variable"]
    assert field.split(",") == [*(name.lstrip("/") for name in needed), "/orbit_info/rgt"]
    region = region_in(BOX)
    for granule, url in urls.items():
        subset = fetch(url, tmp_path / f"processed_{granule}")
        assert rows_of(subset, region).equals(rows_of(site.files[granule], region))


def test_all_datasets_come_where_one_is_not_known(site):
    site.service.variables = list(subset_variables())[:-1]
    site.ask()
    assert site.service.submitted[0]["variable"] == ["all"]


def test_granules_go_in_batches_and_links_in_pages(site):
    site.service.page = 1
    whole, _ = site.ask()
    batched, _ = site.ask(batch=2)
    assert whole.keys() == batched.keys() and len(whole) > 3
    sizes = [len(form["granuleId"][0].split(",")) for form in site.service.submitted]
    assert sizes[0] == len(site.rows)
    assert sum(sizes[1:]) == len(site.rows) and max(sizes[1:]) == 2


def test_box_over_the_date_line_goes_as_it_is(site):
    site.ask(box=(179.5, -78.0, -179.5, -77.0))
    assert site.service.submitted[0]["subset"] == ["lat(-78.0:-77.0)", "lon(179.5:-179.5)"]


def test_box_around_the_pole_cuts_nothing_of_the_longitudes(site):
    urls, _ = site.ask(box=(-180.0, 60.0, 180.0, 90.0))
    assert urls.keys() == set(site.names)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("no_service", "no service that cuts"),
        ("refused", "the request could not be understood"),
        ("job_failed", "ended as failed"),
        ("job_paused", "ended as paused"),
    ],
)
def test_nothing_is_made_and_each_granule_has_the_reason(site, kind, text):
    site.service.fault(kind)
    urls, reasons = site.ask()
    assert urls == {}
    assert reasons.keys() == set(site.names)
    assert all(text in reason and "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("kind", "path", "text"),
    [
        ("404", "/capabilities", "404"),
        ("403", "/capabilities", "403"),
        ("404", "/ogc-api-coverages/", "took no job"),
        ("html", "/ogc-api-coverages/", "took no job"),
        ("404", "/jobs/", "does not tell of its job"),
        ("html", "/jobs/", "does not tell of its job"),
    ],
)
def test_strange_answers_are_reasons(site, kind, path, text):
    # The answer to a job leads to its state.
    site.archive.fault(kind, match=path, skip=int(path == "/jobs/"))
    urls, reasons = site.ask()
    assert urls == {} and reasons.keys() == set(site.names)
    assert all(text in reason and "\n" not in reason for reason in reasons.values())


def test_other_granules_of_a_job_are_not_lost(site):
    every, _ = site.ask()
    failed, empty, hostile, whole, stranger = sorted(every)[:5]
    site.service.fault("granule_failed", failed)
    site.service.fault("no_data", empty)
    site.service.fault("hostile_link", hostile)
    site.service.fault("whole_link", whole)
    site.service.fault("stranger_link", stranger)
    urls, reasons = site.ask()
    assert urls.keys() == every.keys() - {failed, empty, hostile, whole, stranger}
    assert "WorkItem failed" in reasons[failed]
    assert "no data in the box" in reasons[empty]
    assert {hostile, whole, stranger} <= reasons.keys()
    assert urls.keys() | reasons.keys() == set(site.names)


def test_a_job_without_end_is_left_with_what_it_has(site):
    site.service.fault("endless")
    urls, reasons = site.ask(time_limit_s=0.3)
    assert len(urls) == 1
    assert urls.keys() | reasons.keys() == set(site.names)
    assert all("time limit" in reason for reason in reasons.values())
    assert site.service.cancelled == list(site.service.jobs)


def test_a_service_away_for_a_moment_is_asked_again(site):
    whole, _ = site.ask()
    site.archive.fault("503", match="/jobs/", times=1, retry_after_s=0)
    site.archive.fault("429", match="/ogc-api-coverages/", times=1, retry_after_s=0)
    site.archive.fault("reset", match="/jobs/", times=1, after_bytes=10)
    assert site.ask()[0].keys() == whole.keys()


def test_a_job_is_asked_after_again_when_an_answer_is_odd(site):
    site.archive.fault("404", match="/jobs/", skip=1, times=3)
    assert site.ask()[0]


def test_a_service_that_says_nothing_is_left(site, monkeypatch):
    monkeypatch.setattr(acquire_harmony, "_TIMEOUT_S", (1.0, 0.2))
    monkeypatch.setattr(acquire_harmony, "_TRIES", 0)
    site.archive.fault("silent", match="/capabilities")
    urls, reasons = site.ask()
    assert urls == {} and reasons.keys() == set(site.names)
    assert all("timed out" in reason for reason in reasons.values())


@pytest.mark.parametrize("path", ["/capabilities", "/ogc-api-coverages/", "/jobs/"])
@pytest.mark.parametrize(("kind", "text"), [("401", "status 401"), ("login", "leads on to")])
def test_a_service_behind_a_log_in_is_a_reason(site, kind, text, path):
    """Whether the token is wrong is for the transfer of whole granules to say."""
    (site.service if kind == "login" else site.archive).fault(kind, match=path)
    urls, reasons = site.ask(batch=2)
    assert urls == {} and reasons.keys() == set(site.names)
    for reason in reasons.values():
        assert text in reason and TOKEN not in reason and "\n" not in reason
    # After that nothing more is asked, and the token does not follow to another host.
    last = [entry for entry in site.archive.log if entry.scope != "search"][-1]
    assert path in last.path and last.status == (401 if kind == "401" else 302)
    assert len([entry for entry in site.archive.log if entry.status == last.status]) == 1
    assert not [entry for entry in site.archive.log if entry.path == "/login"]


def test_what_is_ready_before_a_refusal_is_kept(site):
    every, _ = site.ask()
    mixed = 0
    for answered in range(0, 60, 8):
        site.archive.fault("401", match="/jobs/", skip=answered)
        urls, reasons = site.ask(batch=2)
        site.archive.clear_faults()
        assert urls.keys() <= every.keys() and not urls.keys() & reasons.keys()
        assert urls.keys() | reasons.keys() == set(site.names)
        mixed += bool(urls) and any("status 401" in reason for reason in reasons.values())
    assert mixed


def test_without_a_token_every_granule_has_the_reason(site):
    site.auth.token = None
    urls, reasons = site.ask()
    assert urls == {} and reasons.keys() == set(site.names)
    assert all("needs a token" in reason for reason in reasons.values())
    assert not [entry for entry in site.archive.log if "/capabilities" in entry.path]


def test_token_is_never_printed(site, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        site.ask()
        site.service.fault("job_failed")
        site.ask()
    out, err = capfd.readouterr()
    assert site.service.tokens == {f"Bearer {TOKEN}"}
    assert "Harmony job" in caplog.text
    assert not out and not err
    assert TOKEN not in caplog.text


def test_without_the_library_every_granule_has_the_reason(site, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmony", None)
    urls, reasons = site.ask()
    assert urls == {} and reasons.keys() == set(site.names)
    assert all("not installed" in reason for reason in reasons.values())


def test_granules_without_concept_id_or_collection_have_a_reason(site):
    nameless = Row(site.names[0], None)
    elsewhere = Row(site.names[1], "G1-NOWHERE")
    later = Row(site.names[2].replace("_006_", "_007_"), site.rows[2].concept_id)
    other = Row("ATL08_20200102030405_01230603_006_01.h5", "G1-NSIDC_CPRD")
    urls, reasons = site.ask([nameless, elsewhere, later, other, *site.rows[3:]])
    assert "not an ATL06 name" in reasons[other.granule]
    assert "concept id" in reasons[nameless.granule]
    assert "no ATL06 006 of NOWHERE" in reasons[elsewhere.granule]
    assert "no ATL06 007" in reasons[later.granule]
    assert urls and urls.keys() <= set(site.names[3:])
    assert site.ask([]) == ({}, {})


def test_only_addresses_of_the_service_are_taken(site, monkeypatch):
    site.root_url = "https://harmony.example"
    with pytest.raises(UserError, match=r"harmony\.example is no address of Harmony"):
        site.ask()
    site.root_url = site.service.root_url
    monkeypatch.setenv("ROOT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="ROOT_URL"):
        site.ask()


@given(st.text())
def test_strange_addresses_name_no_granule(text):
    assert _subset_of(text) is None


@pytest.mark.parametrize(
    ("name", "granule"),
    [
        ("ATL06_20190222031203_08500210_006_02_subsetted.h5", True),
        ("100622860_ATL06_20190222031203_08500210_006_02_subsetted.h5", True),
        ("ATL06_20190222031203_08500210_006_02_h_li_subsetted.h5", True),
        ("ATL06_20190222031203_08500210_006_02.h5", False),
        ("ATL06_20190222031203_08500210_006_02_subsetted.h5%00", False),
        ("..%2fATL06_20190222031203_08500210_006_02_subsetted.h5.zarr", False),
        ("ATL08_20190222031203_08500210_006_02_subsetted.h5", False),
    ],
)
@pytest.mark.parametrize("start", ["https://h/results/", "s3://bucket/", "https://me@h/", "/"])
def test_subsets_are_known_by_the_granule_in_their_names(start, name, granule):
    known = granule and start == "https://h/results/"
    expected = "ATL06_20190222031203_08500210_006_02.h5" if known else None
    assert _subset_of(f"{start}{name}?A-userid=me") == expected
