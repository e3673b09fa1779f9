from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cryofuse.config import (
    CaseStudySettings,
    Config,
    ConfigError,
    archive_files,
    digest,
    load_config,
)
from cryofuse.reference_docs import GENERATED

ROOT = Path(__file__).parents[2]
REGIONS = ROOT / "config" / "regions"


def problems(**content):
    with pytest.raises(ConfigError) as error:
        load_config(content, REGIONS)
    return error.value.problems


def test_every_mistake_is_reported_at_once_in_one_line_each():
    found = problems(
        regions=["atlantis", "greenland"],
        bogus=1,
        period={"start": "2020-01", "end": "2019-01"},
        elevation={"search_radius_m": 100},
        region_settings={"greenland": {"crs": "EPSG:4326"}},
    )
    assert len(found) == 5
    assert all("\n" not in line for line in found)
    text = "\n".join(found)
    for expected in (
        "atlantis",
        "bogus: unknown key",
        "is before start",
        "node_spacing_m / 2",
        "not in metres",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("replace", "expected"),
    [
        ({"crs": "EPSG:99999999"}, "not a CRS"),
        ({"outline": {"type": "FeatureCollection", "features": []}}, "empty"),
        ({"outline": "no/such/file.gpkg"}, "no file"),
        ({"outline": {"west": 10, "south": 60, "east": 10, "north": 61}}, "empty"),
        ({"mask": "x"}, "unknown key"),
    ],
)
def test_a_wrong_region_is_named_with_its_key(replace, expected):
    found = problems(regions="greenland", region_settings={"greenland": replace})
    assert any("greenland" in line and expected in line for line in found), found


def test_an_impossible_month_is_refused_and_shown():
    assert any("2019-13" in line for line in problems(period={"start": "2019-13"}))
    assert any("2023-3" in line for line in problems(world={"absent_months": ["2023-3"]}))


SYSTEM = {
    "cmr_base_url": "https://cmr.uat.example/search/",
    "edl_hostname": "uat.urs.example",
    "status_url": "http://localhost:8000/status/",
    "status_api_url": "http://127.0.0.1:8000/status/api",
    "harmony_url": "http://[::1]:8000",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("cmr_base_url", "harmony_url", "status_url", "status_api_url")
            for value in (
                "http://cmr.example/search/",
                "http://localhost.example/",
                "http://10.0.0.1/",
                "http://127.0.0.1@cmr.example/",
                "https://me:word@cmr.example/",
                "ftp://localhost/",
                "//cmr.example/",
                "cmr.example",
                "https:///search/",
                "https://[/",
                "https://cmr.example:port/",
                "",
            )
        ),
        *(
            ("edl_hostname", value)
            for value in (
                "https://urs.example",
                "urs.example/",
                "urs.example:443",
                "a@b",
                "",
                "a\n",
            )
        ),
    ],
)
def test_the_token_goes_to_no_endpoint_without_https(key, value):
    assert load_config({"download": {"system": SYSTEM}}, REGIONS)
    (line,) = problems(download={"system": SYSTEM | {key: value}})
    assert line.startswith(f"config: download: system: {key}: not ") and "\n" not in line


def test_local_source_names_both_missing_files_on_lines_of_their_own():
    found = problems(source="local")
    assert [line for line in found if "atl06_dir" in line] != [
        line for line in found if "mascons_file" in line
    ]
    assert len(found) == 2


def test_local_source_asks_for_the_products_own_folder(tmp_path):
    found = problems(source="local", altimetry={"product": "atl11"})
    assert [line for line in found if "atl11_dir" in line] and len(found) == 2
    local = {"atl11_dir": str(tmp_path / "no"), "mascons_file": "x", "atl06_dir": str(tmp_path)}
    found = problems(source="local", altimetry={"product": "atl11"}, local=local)
    assert found == [f"config: local: atl11_dir: no folder {tmp_path / 'no'}"]
    found = problems(source="local", altimetry={"product": "atl12"}, local=local)
    assert len(found) == 1 and "atl12" in found[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"regions": ["greenland", "greenland"]}, "named twice"),
        ({"region_settings": {"grenland": {"title": "x"}}}, "'grenland' is not among regions"),
        ({"source": "synthetic", "altimetry": {"product": "atl11"}}, "source: local only"),
        ({"altimetry": {"product": "atl11"}}, "atl11 files are read with source: local only"),
        ({"fusion": {"unit": "basin"}}, "unit: basin needs the region's key basins"),
        (
            {
                "fusion": {"unit": "basin"},
                "region_settings": {"greenland": {"basins": {"file": "no.gpkg", "name": "n"}}},
            },
            "region greenland: basins: no file no.gpkg",
        ),
        (
            {"region_settings": {"greenland": {"dem": {"file": "earthdata:ATL14@004@5"}}}},
            "region greenland: dem: file: 'earthdata:ATL14@004@5' is not written earthdata:SHORT",
        ),
        (
            {"region_settings": {"greenland": {"ice_mask": "earthdata:IDBMG4"}}},
            "region greenland: ice_mask: earthdata:IDBMG4: write {file: earthdata:IDBMG4, variable",
        ),
        (
            {
                "source": "synthetic",
                "region_settings": {"greenland": {"bed": {"file": "earthdata:IDBMG4"}}},
            },
            "bed: file: earthdata:IDBMG4 is fetched with source: earthdata alone",
        ),
        (
            {
                "source": "local",
                "local": {"atl06_dir": ".", "mascons_file": "m.nc"},
                "mascons": {"product": "csr"},
            },
            "csr needs local: land_mask_file",
        ),
        ({"local": {"mapping_file": "m.nc"}}, "mapping_file belongs to mascons: product: csr"),
        (
            {"regions": ["vatnajokull"], "source": "synthetic", "mascons": {"product": "gsfc"}},
            "region vatnajokull: mascons: product: jpl is not that of the configuration",
        ),
        ({"source": "synthetic", "world": {"rate_raster": "no.tif"}}, "no file no.tif"),
        ({"filters": {"order": ["quality_summary"]}}, "finite_height must be in it"),
        ({"features": {"step": "season", "change_windows_months": [1, 4]}}, "no whole seasons"),
        ({"skill": {"models": ["ridge"]}}, "hold xgboost"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(content, expected):
    found = problems(**content)
    assert len(found) == 1
    assert expected in found[0]


def test_a_wrong_key_does_not_hide_a_contradiction():
    found = problems(source="local", bogus=1)
    assert len(found) == 3


def test_an_embargo_shorter_than_the_longest_lag_is_refused():
    assert any("leak" in line for line in problems(skill={"embargo_months": 3}))


def test_a_region_may_bring_its_own_months_and_mascon_rule():
    config, regions = load_config(
        {
            "regions": "greenland",
            "region_settings": {"greenland": {"period": {"start": "2019-01", "end": "2019-12"}}},
        },
        REGIONS,
    )
    assert config.for_region(regions["greenland"]).period.start == "2019-01"
    assert config.period.start == "2018-10"


@pytest.mark.parametrize("name", ["greenland", "antarctica", "vatnajokull", "demo"])
def test_every_shipped_region_is_right(name):
    _, regions = load_config({"regions": name}, REGIONS)
    assert set(regions) == {name}


def test_the_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_in_step_with_the_models(name):
    assert (ROOT / name).read_text() == GENERATED[name](), "run `make docs`"


def test_config_yaml_holds_the_defaults_and_a_comment_for_every_key():
    text = (ROOT / "config" / "config.yaml").read_text()
    assert Config.model_validate(yaml.safe_load(text)) == Config()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.strip().startswith(("#", "-")):
            assert lines[number - 1].strip().startswith("#"), line


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"forest": {"max_depth": [3]}}, "search: forest: 'max_depth' cannot be searched (allowed"),
        (
            {"svm": {"c": [1]}},
            "search: 'svm' cannot be searched (allowed: ridge, varying_density, ",
        ),
        ({"ridge": {"alpha": []}}, "search: ridge: alpha: "),
        ({"ridge": {"alpha": [-1.0]}}, "search: ridge: alpha: 0: "),
        ({"forest": {"max_features": ["all"]}}, "forest: max_features: 0: "),
        ({"xgboost": {"subsample": [1.5]}}, "xgboost: subsample: 0: "),
    ],
)
def test_a_wrong_search_is_told_in_one_line(search, expected):
    found = problems(skill={"search": search})
    assert len(found) == 1 and expected in found[0], found


def test_a_search_replaces_the_values_that_it_names_alone():
    config, _ = load_config({"skill": {"search": {"forest": {"max_features": ["log2"]}}}}, REGIONS)
    space = config.skill.search.space("forest")
    assert space == {
        "max_features": ["log2"],
        "min_samples_leaf": [5, 20, 2],
        "max_samples": [0.5],
    }


def test_a_saved_model_that_cannot_be_there_is_told_in_one_line(tmp_path):
    found = problems(predict={"models": str(tmp_path / "no")})
    assert found == [f"config: predict: models: no folder {tmp_path / 'no'}"]
    found = problems(predict={"model": "forest"}, skill={"models": ["ridge", "xgboost"]})
    assert len(found) == 1 and "predict: model: forest is not in skill: models" in found[0]
    found = problems(predict={"target": "cumulative"}, skill={"targets": ["change"]})
    assert len(found) == 1 and "predict: target: cumulative is not in skill: targets" in found[0]
    # What another run trained may be another model, and another region of this run trains first.
    other = {"predict": {"models": str(tmp_path), "model": "forest"}}
    load_config({**other, "skill": {"models": ["ridge", "xgboost"]}}, REGIONS)
    load_config({"predict": {"models": "results/greenland/models"}}, REGIONS)


def test_files_of_collections_are_placed_and_listed():
    bed = {"file": "earthdata:IDBMG4", "variable": "bed"}
    dem = {"file": "earthdata:ATL14@004/ATL14_GL_*.nc", "variable": "h"}
    content = {
        "source": "earthdata",
        "download": {"cache_dir": "raw"},
        "region_settings": {"greenland": {"bed": bed, "dem": dem}},
    }
    config, regions = load_config(content, REGIONS)
    assert regions["greenland"].bed.file == "raw/rasters/IDBMG4.nc"
    files = archive_files(config, regions, REGIONS)
    mascons, model, other = sorted(files.values(), key=lambda file: len(file.short_name))[::-1]
    assert mascons.short_name.startswith("TELLUS_GRAC")
    assert (model.short_name, model.version, model.pattern) == ("IDBMG4", None, None)
    assert (other.short_name, other.version, other.pattern) == ("ATL14", "004", "ATL14_GL_*.nc")
    # Another pattern of the collection is another file.
    assert regions["greenland"].dem.file == f"raw/rasters/{other.key}.nc"
    assert other.key.startswith("ATL14@004-") and other.key != "ATL14@004"
    local = config.model_copy(update={"source": "local"})
    assert archive_files(local, regions, REGIONS) == {}


def test_months_of_a_season_follow_each_other():
    assert CaseStudySettings(months=[12, 1, 2]).months == [12, 1, 2]
    for months in ([6, 8], [8, 7, 6], [6, 6]):
        with pytest.raises(ValidationError, match="follow each other"):
            CaseStudySettings(months=months)
