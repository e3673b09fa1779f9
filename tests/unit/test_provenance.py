"""What a table says of where it came from."""

import copy

from cryofuse.provenance import deciding

CONFIG = {
    "regions": ["greenland"],
    "compute": {"scheduler": "processes", "address": None, "workers": 3},
    "learning": {"engine": "spark", "master": "local[2]"},
}


def test_who_works_and_where_decides_nothing():
    before = copy.deepcopy(CONFIG)
    elsewhere = CONFIG | {
        "compute": {"scheduler": "distributed", "address": "slurm", "workers": None},
        "learning": {"engine": "spark", "master": "spark://host:7077"},
    }
    assert deciding(CONFIG) == deciding(elsewhere)
    assert before == CONFIG


def test_the_engine_and_the_region_decide():
    default = {"engine": "scikit-learn", "master": "local[2]"}
    assert deciding(CONFIG) != deciding(CONFIG | {"learning": default})
    assert deciding(CONFIG) != deciding(CONFIG | {"regions": ["antarctica"]})
    assert deciding({}) == {}
