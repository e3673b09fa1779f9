"""Every command, target, file and link that README.md and the guide name is true."""

import re
import shlex
from importlib.util import find_spec

import pytest
import yaml

from tests.conftest import ROOT
from tests.dry_runs import type_snakemake

README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Made by `snakemake --report`, which needs the whole of `make demo`.
MADE_BY_REPORT = {"report.html"}


def shell_lines(text):
    """Return the lines of a page's code blocks: indented by four, or fenced as a shell's."""
    text = re.sub(r" \\\n +", " ", text)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    fenced = [block for kind, block in blocks if kind in ("", "bash", "sh", "shell", "console")]
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", bare, flags=re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()] + indented
    return [line.removeprefix("$ ").strip() for line in lines]


def commands(text, program):
    """Return the commands of a program, split as a shell splits them, without comments."""
    split = [shlex.split(line, comments=True) for line in shell_lines(text)]
    return [words for words in split if words and words[0] == program]


def inline_commands(text, program):
    """Return the commands that stand inside a sentence, between single backquotes."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", bare))
    return [shlex.split(span) for span in spans if re.match(rf"{program}\s", span)]


def fenced_yaml(text):
    return re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


SNAKEMAKE = commands(README, "snakemake")
GUIDE_SNAKEMAKE = commands(GUIDE, "snakemake") + inline_commands(GUIDE, "snakemake")
INLINE = inline_commands(README, "snakemake")


def overlay(text, folder):
    """Return a page's own mine.yaml with its files in a folder: local, small, and there."""
    from cryofuse.config import Config, PeriodSettings, WorldSettings
    from cryofuse.simulate.mascons import plant_mass, write_mascons
    from cryofuse.simulate.world import World
    from cryofuse.simulate.world_files import DEFAULT_REGION

    shown, *parts = fenced_yaml(text)
    for part in parts:
        Config.model_validate(yaml.safe_load(part))
    assert shown.startswith("# mine.yaml")
    mine = yaml.safe_load(shown)
    local = mine["local"]
    (folder / "atl06").mkdir(parents=True)
    assert local["atl06_dir"].startswith("/") and local["mascons_file"].endswith(".nc")
    local["atl06_dir"] = str(folder / "atl06")
    months = PeriodSettings(start="2018-10", end="2018-12")
    world = World(WorldSettings(mass_start="2018-10"), DEFAULT_REGION, months)
    write_mascons(plant_mass(world), folder / "mascons.nc")
    local["mascons_file"] = str(folder / "mascons.nc")
    for region in mine.get("region_settings", {}).values():
        region["outline"] = str(ROOT / "config" / "outlines" / "greenland.geojson")
        for key in ("ice_mask", "bed"):
            assert region[key]["file"].startswith("/")
            region[key]["file"] = str(folder / "mascons.nc")
        for series in region["reference_series"]:
            series["file"] = str(folder / "series.txt")
        (folder / "series.txt").write_text("2018.8 0.0 1.0\n")
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(mine))
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The overlays of the README and the guide."""
    return {
        "README": overlay(README, tmp_path_factory.mktemp("readme") / "data"),
        "guide": overlay(GUIDE, tmp_path_factory.mktemp("guide") / "data"),
    }


@pytest.fixture(scope="module")
def dry_run(mine, tmp_path_factory):
    """Run a command as typed from the root, planned only, its results elsewhere; each once."""
    folder, done = tmp_path_factory.mktemp("fresh"), {}

    def run(words, page="README"):
        given = [str(mine[page]) if word == "mine.yaml" else word for word in words[1:]]
        key = tuple(word for word in given if word != "-n")
        if key not in done:
            # Plain options go first: --configfile and --config take every word that follows them.
            options = ["--directory", str(folder)]
            options += [] if "-n" in given else ["-n"]
            options += [] if {"--cores", "--profile"} & set(given) else ["--cores", "1"]
            done[key] = type_snakemake([*options, *given])
        return done[key]

    return run


def planned(done):
    """Return the jobs that a dry run plans: rule → count."""
    table = re.findall(r"^(\w+)\s+(\d+)$", done.stdout, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in table}


def test_the_parser_sees_the_readmes_commands():
    made = [words[1] for words in commands(README, "make")]
    assert made == ["demo", "test", "bench", "test-statistics", "test-engines"]
    assert len(SNAKEMAKE) >= 5
    assert any("mine.yaml" in words for words in SNAKEMAKE)
    other = [line for line in shell_lines(README) if line.split()[0] not in ("make", "snakemake")]
    assert other == [], "a command that no test knows"
    assert commands("    $ make x # why\n", "make") == [["make", "x"]]
    assert commands("```sh\nsnakemake -n\n```\n", "snakemake") == [["snakemake", "-n"]]
    assert inline_commands("as `snakemake -n\nall`.", "snakemake") == [["snakemake", "-n", "all"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_make_target_of_a_page_is_in_the_makefile(page):
    text = page.read_text()
    named = {words[1] for words in commands(text, "make") + inline_commands(text, "make")}
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("words", SNAKEMAKE + INLINE, ids=" ".join)
def test_every_snakemake_command_of_the_readme_plans_a_run(words, dry_run):
    done = dry_run(words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(done).get("total", 0) > 1


@pytest.mark.parametrize("words", GUIDE_SNAKEMAKE, ids=" ".join)
def test_every_snakemake_command_of_the_guide_plans_a_run(words, dry_run):
    if "--report" in words:
        # A report needs a finished run: `make demo` proves the option, this test the rest.
        at = words.index("--report")
        assert re.search(r"--report results/\S+/report.html", MAKEFILE)
        words = words[:at] + words[at + 2 :]
    done = dry_run(words, "guide")
    if "engine: spark" in " ".join(words) and not find_spec("pyspark"):
        assert done.returncode == 1
        assert "pip install '.[spark]'" in done.stdout + done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(done).get("total", 0) > 1


def test_the_readmes_own_data_lead_to_the_region_that_it_names(dry_run):
    (words,) = [words for words in SNAKEMAKE if "mine.yaml" in words]
    done = dry_run(words)
    assert "results/greenland/summary.html" in done.stdout
    assert {"list_granules", "subset_granules", "score_skill"} <= set(planned(done))
    assert not {"simulate_granules", "download_granules"} & set(planned(done))


def test_the_antarctic_command_plans_nothing_in_greenland(dry_run):
    (words,) = [words for words in SNAKEMAKE if "regions=antarctica" in words]
    done = dry_run(words)
    assert "results/antarctica/" in done.stdout and "greenland" not in done.stdout


def test_the_regions_that_the_readme_lists_are_those_that_are_shipped():
    (listed,) = re.findall(r"Regions are files in `config/regions`: ([^.]*)\.", README)
    shipped = {path.stem for path in (ROOT / "config" / "regions").glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", listed)) == shipped


def guide_stages():
    (listed,) = re.findall(r"Every stage is a target:(.*?)\.\s", GUIDE, flags=re.DOTALL)
    return re.findall(r"`(\w+)`", listed)


def test_every_stage_of_the_guide_is_a_target_and_every_target_is_a_stage_of_the_guide(dry_run):
    stages = guide_stages()
    assert len(stages) == len(set(stages)) > 10
    done = dry_run(["snakemake", *stages, "--configfile", "config/demo.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(stages) <= set(planned(done))
    local = re.search(r"^localrules:\n(.*?)\n\n", (ROOT / "Snakefile").read_text(), re.M | re.S)
    assert set(re.findall(r"(\w+),", local.group(1))) - {"all"} == set(stages)


def outputs_table():
    """Return the file names of the README's table of outputs."""
    (table,) = re.findall(r"^\| file \| what \|\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    cells = [row.split("|")[1] for row in table.splitlines()]
    return [(cell, re.findall(r"`([^`]+)`", cell)) for cell in cells]


def test_the_parser_sees_the_table_of_outputs():
    rows = outputs_table()
    assert len(rows) >= 12
    assert all(names for _, names in rows)
    assert any("features/" in names for _, names in rows)


@pytest.mark.e2e
@pytest.mark.parametrize("names", [names for _, names in outputs_table()], ids=", ".join)
def test_every_file_of_the_table_of_outputs_is_made(names, tiny_run):
    results = tiny_run / "results" / "demo"
    for i, name in enumerate(names):
        if name in MADE_BY_REPORT:
            assert "--report results/demo/report.html" in MAKEFILE
            continue
        # `…_causal` stands for the name before it with another end.
        path = results / (names[i - 1] + name[1:] if name.startswith("…") else name)
        if name.endswith("/"):
            assert path.is_dir() and any(path.iterdir()), name
        else:
            path = path if path.suffix else path.with_suffix(".parquet")
            assert path.is_file() and path.stat().st_size > 0, name


@pytest.mark.e2e
def test_every_folder_of_a_run_is_in_the_table_of_outputs(tiny_run):
    results = tiny_run / "results" / "demo"
    named = {name.split("/")[0] for _, names in outputs_table() for name in names}
    made = {p.name for p in results.iterdir() if not p.name.startswith(".") and p.is_dir()}
    assert made - named <= {"acquire"}, "a folder that the README does not explain"


def links(page):
    """Return the relative links and images of a page."""
    bare = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", bare)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize(
    ("page", "link"),
    [pytest.param(page, link, id=f"{page.name}:{link}") for page in PAGES for link in links(page)],
)
def test_every_relative_link_leads_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    assert target.is_relative_to(ROOT), "a link that leaves the repository"
    assert target.exists(), f"{page.name} links to {link}, which is not there"
    if anchor:
        heads = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert anchor in slugs


def test_the_readme_shows_a_figure_and_links_to_the_documentation():
    found = links(ROOT / "README.md")
    assert "docs/figures/rate_map.png" in found
    assert {"docs/guide.md", "docs/methods.md", "docs/tables.md", "config/README.md"} <= set(found)
    assert "rulegraph.mmd" in links(ROOT / "docs" / "guide.md")
