"""What the report holds: every figure and table that a reader wants, each with words of its own."""

import re
from types import SimpleNamespace

import jinja2
import pytest

from cryofuse.config import Config
from tests.conftest import ROOT
from tests.workflow.test_resources import load_rules

CAPTIONS = ROOT / "workflow" / "report"
#: Pages and tables of the report beside the figures.
OTHERS = {
    "summary.html",
    "dashboard.html",
    "features_card.md",
    "skill/table.md",
    "validation.json",
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Return the report's entries by path: caption, category and labels."""
    folder = tmp_path_factory.mktemp("report")
    rules, _ = load_rules(folder, regions="demo", source="synthetic")
    found = {}
    for rule in rules.values():
        for path in rule.output:
            flag = getattr(path, "flags", {}).get("report")
            if flag:
                found[re.sub(r"^results/\{region[^}]*\}/", "", str(path))] = flag
    return found


@pytest.fixture(scope="module")
def figures():
    """Return the figures that the workflow declares."""
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    declared = re.search(r"^FIGURES = \{(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL)
    lists = re.findall(r"\[(.*?)\]", declared[1], flags=re.DOTALL)
    return [name for names in lists for name in re.findall(r'"(\w+)"', names)]


def caption_of(entry):
    return CAPTIONS / str(entry.caption.get_path_or_uri(secret_free=False)).rsplit("/", 1)[-1]


def test_every_figure_and_no_other_file_is_in_it(entries, figures):
    assert len(figures) == len(set(figures)) > 20
    assert set(entries) == {f"figures/{name}.png" for name in figures} | OTHERS


def test_every_entry_has_a_caption_a_category_and_labels(entries):
    for path, entry in entries.items():
        assert caption_of(entry).is_file(), path
        assert re.match(r"\d \w", entry.category), path
        assert set(entry.labels) == {"figure", "region"}, path
        assert entry.labels["region"] == "{region}"
    labels = [entry.labels["figure"] for entry in entries.values()]
    assert len(labels) == len(set(labels))


def test_a_figures_caption_is_its_own_and_every_caption_is_used(entries, figures):
    for name in figures:
        assert caption_of(entries[f"figures/{name}.png"]).name == f"{name}.rst"
    used = {caption_of(entry).name for entry in entries.values()} | {"workflow.rst"}
    assert used == {path.name for path in CAPTIONS.iterdir()}


def test_categories_are_in_the_order_of_the_story(entries):
    categories = sorted({entry.category for entry in entries.values()})
    assert [category[0] for category in categories] == [str(k) for k in range(len(categories))]
    assert categories[0] == "0 Summary"
    assert categories[-1].endswith("Recovery of the truth")


def test_captions_say_only_what_the_configuration_holds():
    config = Config.model_validate({"source": "synthetic"}).model_dump(mode="json")
    given = SimpleNamespace(config=config, wildcards=SimpleNamespace(region="demo"))
    language = jinja2.Environment(undefined=jinja2.StrictUndefined)
    for path in CAPTIONS.iterdir():
        text = language.from_string(path.read_text()).render(snakemake=given)
        assert len(text.split()) > 8, path.name
        assert "None" not in text.replace("A threshold of None is off", ""), path.name
