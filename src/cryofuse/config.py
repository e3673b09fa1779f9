"""The typed model of the configuration: the one source of defaults, checks, schema and docs.

``config/config.yaml`` and a region file are validated together when the Snakefile is parsed;
everything that is wrong is reported at once, one line each (:class:`ConfigError`).
Nothing here imports the scientific stack beyond pyproj and shapely.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import json
import re
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from cryofuse.calendar import MONTH, list_periods

RADIUS_TOO_SMALL = (
    "search_radius_m is smaller than node_spacing_m / 2: segments between nodes would be lost"
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


#: How a region names a file that is fetched.
ARCHIVE_PREFIX = "earthdata:"
_ARCHIVE_FILE = re.compile(
    ARCHIVE_PREFIX + r"(?P<short_name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@(?P<version>[A-Za-z0-9_.]+))?"
    r"(?:/(?P<pattern>[A-Za-z0-9_.*?-]+))?"
)


class ConfigError(ValueError):
    """One or more mistakes in the configuration, a line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class Settings(BaseModel):
    """Base of every section: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _month(value: Any) -> str:
    # YAML reads an unquoted 2019-07-01 as a date; months stay text.
    text = value.strftime("%Y-%m") if isinstance(value, date) else str(value)
    if not MONTH.match(text):
        raise ValueError(f"{value!r} is not a month written YYYY-MM")
    return text


class PeriodSettings(Settings):
    """Months of altimetry and learning, and how they are cut into jobs."""

    start: str = Field("2018-10", description="First month of altimetry and learning, YYYY-MM")
    end: str = Field("2024-12", description="Last month of altimetry and learning, YYYY-MM")
    length: Literal["month", "quarter", "year"] = Field(
        "month", description="How much one acquisition, subset or filter job holds"
    )

    _parse = field_validator("start", "end", mode="before")(_month)

    @model_validator(mode="after")
    def _ordered(self) -> PeriodSettings:
        if self.end < self.start:
            raise ValueError(f"end ({self.end}) is before start ({self.start})")
        return self

    def list(self) -> list[str]:
        """Return the periods from start to end, in order."""
        return list_periods(self.start, self.end, self.length)


class LocalSettings(Settings):
    """Where `source: local` finds its files."""

    atl06_dir: str | None = Field(None, description="Folder of ATL06 granules (searched in depth)")
    atl11_dir: str | None = Field(
        None, description="Folder of ATL11 files (altimetry: product: atl11; searched in depth)"
    )
    mascons_file: str | None = Field(None, description="Mascon file of the configured product")
    land_mask_file: str | None = Field(
        None, description="Separate land mask with LO_val, 1 on land (CSR only, which needs it)"
    )
    mapping_file: str | None = Field(
        None,
        description="Number of each quarter-degree cell's tile, mascon_id(lat, lon) (CSR only; "
        "without it tiles are found in the data)",
    )


class ComputeSettings(Settings):
    """Who does the work of a job that falls into independent tasks. Results do not depend on it."""

    scheduler: Literal["processes", "distributed"] = Field(
        "processes",
        description="processes: on the machine of the job, as many as its rule's threads; "
        "distributed: Dask workers elsewhere that see the same files",
    )
    address: str | None = Field(
        None,
        description="Scheduler of distributed: the address of one that runs (tcp://host:8786), or "
        "slurm: each job asks Slurm for workers of its own",
    )
    workers: Count | None = Field(
        None,
        description="Workers; null takes the rule's threads, or all that a scheduler has. "
        "Processes are never more than the rule's threads",
    )

    @model_validator(mode="after")
    def _addressed(self) -> ComputeSettings:
        if self.scheduler == "distributed" and not self.address:
            raise ValueError("scheduler: distributed needs an address: slurm, or tcp://host:port")
        if self.scheduler == "processes" and self.address:
            raise ValueError(f"address ({self.address}) is for scheduler: distributed")
        return self


#: Masters that Spark knows, and what kind each is.
SPARK_MASTERS = {
    r"local(\[(\*|[1-9]\d*)(,\s*\d+)?\])?": "local",
    r"spark://[^:,/\s]+:\d+(,[^:,/\s]+:\d+)*": "standalone",
    r"yarn": "yarn",
    r"k8s://\S+": "kubernetes",
}
#: What is told where Spark is asked for and not installed.
PYSPARK_MISSING = (
    "learning.engine: spark needs pyspark, which is not installed: pip install '.[spark]', or set "
    "learning.engine: scikit-learn"
)


def master_kind(master: str) -> str:
    """Return what kind of Spark master a URL names: local, standalone, yarn or kubernetes.

    Raises
    ------
    ValueError
        Where it is none that Spark knows.
    """
    for pattern, kind in SPARK_MASTERS.items():
        if re.fullmatch(pattern, master):
            return kind
    raise ValueError(
        "no Spark master; expected local[*], local[4], spark://host:7077, yarn or k8s://…"
    )


def local_cores(master: str, whole: int) -> int | None:
    """Return the cores that a local Spark master takes, None for a cluster.

    Parameters
    ----------
    master
        URL of a master.
    whole
        Cores for ``local[*]``.
    """
    found = re.match(r"local(?:\[(\*|\d+))?", master)
    if found is None:
        return None
    return whole if found[1] == "*" else int(found[1] or 1)


class LearningSettings(Settings):
    """The engine that fits regimes, forests and boosted trees."""

    engine: Literal["scikit-learn", "spark"] = Field(
        "scikit-learn",
        description="Who fits regimes and, for the table of skill, forests, boosted trees and "
        "XGBoost: scikit-learn (and XGBoost) in the job, or Spark (pip install .[spark]); learning "
        "curve, importance and saved models stay with scikit-learn",
    )
    master: str = Field(
        "local[*]",
        description="Spark master: local[*] is as many cores of this machine as the rule has "
        "threads, spark://host:7077 a cluster",
    )

    @field_validator("master")
    @classmethod
    def _known(cls, value: str) -> str:
        master_kind(value)
        return value

    def require_engine(self) -> None:
        """Check that the engine is installed here.

        Raises
        ------
        ConfigError
            With how to mend it.
        """
        if self.engine == "spark" and importlib.util.find_spec("pyspark") is None:
            raise ConfigError([PYSPARK_MISSING])


class AltimetrySettings(Settings):
    """Altimetry product."""

    product: Literal["atl06", "atl11"] = Field(
        "atl06", description="Altimetry product; atl11 with source: local only"
    )


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]*[A-Za-z0-9])*")


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine, by its address or as ``localhost``."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


class SystemSettings(Settings):
    """Endpoints of an archive other than Earthdata's own: its test system, or one on loopback."""

    cmr_base_url: str = Field(description="Catalogue, ending in /search/")
    edl_hostname: str = Field(description="Log-in host, without https://")
    status_url: str = Field(description="Status page")
    status_api_url: str = Field(description="Status as JSON")
    harmony_url: str | None = Field(None, description="Subsetting service")

    @field_validator("cmr_base_url", "status_url", "status_api_url", "harmony_url")
    @classmethod
    def _encrypted(cls, value: str | None) -> str | None:
        # The token goes to these hosts.
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("not an address") from None
        plain = parts.scheme == "http" and is_loopback(host)
        if not host or "@" in parts.netloc or not (parts.scheme == "https" or plain):
            raise ValueError("not an https address (http is for hosts on loopback alone)")
        return value

    @field_validator("edl_hostname")
    @classmethod
    def _host_alone(cls, value: str) -> str:
        if not _HOST_NAME.fullmatch(value):
            raise ValueError("not the name of a host, without scheme, port and path")
        return value


class PlainSettings(Settings):
    """Files that centres offer by plain HTTPS, without a log-in."""

    csr: str = Field(
        "https://download.csr.utexas.edu/outgoing/grace/RL0603_mascons/"
        "CSR_GRACE_GRACE-FO_RL0603_Mascons_all-corrections.nc",
        description="Mascon file of CSR",
    )
    csr_land_mask: str = Field(
        "https://download.csr.utexas.edu/outgoing/grace/RL0603_mascons/"
        "CSR_GRACE_GRACE-FO_RL06_Mascons_v02_LandMask.nc",
        description="Land mask of CSR",
    )
    csr_mapping: str | None = Field(
        None, description="Number of each quarter-degree cell's tile (CSR), where there is one"
    )
    gsfc: str = Field(
        "https://earth.gsfc.nasa.gov/sites/default/files/geo/"
        "gsfc.glb_.200204_202603_rl06v2.0_obp-ice6gd.h5",
        description="Mascon file of GSFC",
    )


class DownloadSettings(Settings):
    """How `source: earthdata` fetches files."""

    atl06_version: str = Field("007", description="ATL06 release to ask for first")
    atl06_fallback_version: str | None = Field(
        "006", description="Release of the granules that the first lacks; null leaves them out"
    )
    mascons_short_name: str = Field(
        "TELLUS_GRAC-GRFO_MASCON_CRI_GRID_RL06.3_V4", description="Collection of JPL's mascon file"
    )
    mascons_pattern: str = Field(
        "GRCTellus*", description="Names of mascon files in it, the newest of which is taken"
    )
    plain: PlainSettings = Field(
        default_factory=PlainSettings, description="Files without a log-in: CSR and GSFC mascons"
    )
    manifest_dir: str = Field(
        "manifests",
        description="Folder of the manifests; a manifest that is there fixes what is fetched",
    )
    cache_dir: str = Field("resources/earthdata", description="Folder that keeps raw files")
    keep_raw: bool = Field(
        True, description="Keep raw granules; false removes them once their subset is written"
    )
    subset: Literal["none", "harmony"] = Field(
        "none", description="Fetch whole granules, or parts cut by the archive (needs harmony-py)"
    )
    parallel: Count = Field(4, description="Transfers at the same time, of all jobs together")
    tries: Count = Field(6, description="Most tries of a file")
    timeout_s: Positive = Field(60.0, description="Longest silence of a server (s)")
    backoff_s: Positive = Field(
        2.0, description="Wait before the second try (s), doubled with each; some chance in it"
    )
    max_wait_s: Positive = Field(
        300.0, description="Longest wait between tries, asked for by the server or not (s)"
    )
    max_failed_share: Fraction = Field(
        0.1, description="Share of a period's granules that may fail before the run stops"
    )
    trusted_hosts: list[str] = Field(
        default_factory=lambda: ["earthdata.nasa.gov", "earthdatacloud.nasa.gov", "nsidc.org"],
        min_length=1,
        description="Hosts, or their parent domains, that credentials are sent to",
    )
    system: SystemSettings | None = Field(
        None, description="Endpoints of another archive; null is Earthdata"
    )


class SelectSettings(Settings):
    """Which mascons count as the region's ice."""

    rule: Literal["ice_fraction_of_land", "product_set", "ids"] = Field(
        "ice_fraction_of_land", description="How mascons are chosen"
    )
    min: Fraction = Field(
        0.25, description="Smallest ice fraction of land (rule ice_fraction_of_land)"
    )
    ids: list[int] | None = Field(None, description="Mascon ids (rule ids)")

    @model_validator(mode="after")
    def _ids_given(self) -> SelectSettings:
        if (self.rule == "ids") != bool(self.ids):
            raise ValueError("`ids` goes with `rule: ids`, and the rule needs at least one id")
        return self


class MasconSettings(Settings):
    """Gravimetry product and mascon rule."""

    product: Literal["jpl", "csr", "gsfc"] = Field("jpl", description="Mascon product")
    select: SelectSettings = Field(default_factory=SelectSettings, description="Mascon rule")


Filter = Literal[
    "finite_height",
    "quality_summary",
    "height_sigma",
    "robust_spread",
    "snr_significance",
    "dem_difference",
    "along_track_slope",
    "photon_count",
    "geolocation_sigma",
    "multiple_scattering",
    "cloud_flag",
    "blowing_snow",
    "effective_reflectance",
    "ice_mask",
    "along_track_consistency",
    "running_median",
]


class FilterSettings(Settings):
    """Thresholds of the segment filters; null turns one off."""

    order: list[Filter] = Field(
        default_factory=lambda: list(get_args(Filter)),
        description="Order in which the filters run; a filter left out does not run",
    )
    quality_summary_max: int | None = Field(
        0, ge=0, le=1, description="Largest atl06_quality_summary kept"
    )
    height_sigma_max_m: Positive | None = Field(1.0, description="Largest h_li_sigma")
    robust_spread_max_m: Positive | None = Field(1.0, description="Largest h_robust_sprd")
    snr_significance_max: Positive | None = Field(0.02, description="Largest snr_significance")
    dem_difference_max_m: Positive | None = Field(
        100.0, description="Largest |h_li − dem_h| where the DEM is valid"
    )
    along_track_slope_max: Positive | None = Field(0.2, description="Largest |dh_fit_dx| (m/m)")
    photon_count_min: Count | None = Field(10, description="Smallest n_fit_photons")
    geolocation_sigma_max_m: Positive | None = Field(
        1.0, description="Largest sigma_geo_h, where given"
    )
    multiple_scattering_max: int | None = Field(
        4, ge=0, description="Largest msw_flag, where given"
    )
    cloud_flag_max: int | None = Field(
        None, ge=0, description="Largest cloud_flg_asr; costs about 52 % of segments"
    )
    blowing_snow_max: int | None = Field(
        None, description="Largest bsnow_conf; costs about 28 % of segments"
    )
    effective_reflectance_min: Positive | None = Field(
        None, description="Smallest r_eff; costs about 51 % of segments"
    )
    ice_mask: bool = Field(
        True, description="Remove segments off the region's ice (outline or ice mask)"
    )
    along_track_tolerance_m: Positive | None = Field(
        2.0, description="Largest mismatch of segment ends with their neighbours'"
    )
    running_median_segments: Annotated[int, Field(ge=3)] | None = Field(
        21, description="Window of the running median (segments)"
    )
    running_median_mads: Positive = Field(
        5.0, description="Largest departure from the running median (local MADs)"
    )
    running_median_floor_m: Positive = Field(0.1, description="Smallest local MAD taken")
    max_unreadable_share: Fraction = Field(
        0.1, description="Share of unreadable granules in a period above which the run stops"
    )

    @field_validator("order")
    @classmethod
    def _each_once(cls, value: list[Filter]) -> list[Filter]:
        if len(set(value)) != len(value):
            raise ValueError("a filter is named twice")
        return value

    @field_validator("running_median_segments")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError(f"must be odd, found {value}")
        return value


class WindowSettings(Settings):
    """A square with nodes of its own spacing, inside the coarser grid."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = Field(description="Name of the window")
    longitude: Annotated[float, Field(ge=-180, le=360)] = Field(description="Centre, degrees east")
    latitude: Annotated[float, Field(ge=-90, le=90)] = Field(description="Centre, degrees north")
    width_m: Positive = Field(description="Side of the square")
    node_spacing_m: Positive = Field(1000.0, description="Node spacing inside")
    search_radius_m: Positive = Field(1000.0, description="Search radius inside")

    @model_validator(mode="after")
    def _radius(self) -> WindowSettings:
        if self.search_radius_m < self.node_spacing_m / 2:
            raise ValueError(RADIUS_TOO_SMALL)
        return self


class CheckSettings(Settings):
    """Independent checks of elevation change: crossovers and repeats."""

    max_crossovers_per_km2: Positive | None = Field(
        0.1, description="Most crossovers kept, a seeded draw per square of a tile; null keeps all"
    )
    max_repeats_per_km2: Positive | None = Field(
        0.1, description="Most repeats kept, a seeded draw per square of a tile; null keeps all"
    )
    max_separation_m: Positive = Field(
        50.0, description="Largest distance between the two segments of a repeat"
    )
    max_node_distance_m: Positive | None = Field(
        None,
        description="Farthest node whose fit a pair is held against; null is the search radius",
    )
    seed: int = Field(20, description="Seed of the draw of pairs")


class ElevationSettings(Settings):
    """Node grid and robust fit."""

    node_spacing_m: Positive = Field(1000.0, description="Distance between nodes")
    search_radius_m: Positive = Field(
        1000.0, description="Segments within this distance enter a node's fit"
    )
    reference_date: date = Field(date(2020, 1, 1), description="Epoch of the anomalies")
    tile_m: Positive = Field(100_000.0, description="Side of a tile, one job each")
    windows: list[WindowSettings] = Field(
        default_factory=list, description="Squares with finer nodes"
    )
    min_segments: Count = Field(12, description="Fewest segments for a fit")
    min_epochs: Count = Field(4, description="Fewest distinct passes (RGT and cycle) for a fit")
    min_span_years: Positive = Field(1.0, description="Shortest time span for a fit (years)")
    edit_mads: Positive = Field(3.0, description="Residuals above this many MADs are edited")
    max_iterations: Count = Field(5, description="Most editing iterations")
    max_condition: Positive = Field(
        1e6, description="Condition of the scaled design above which the degree falls back"
    )
    max_segments_per_node: Count | None = Field(
        None, description="Evenly thin a node's segments to this many; null keeps all"
    )
    checks: CheckSettings = Field(
        default_factory=CheckSettings, description="Crossovers and repeats held against the fits"
    )

    @model_validator(mode="after")
    def _radius(self) -> ElevationSettings:
        if self.search_radius_m < self.node_spacing_m / 2:
            raise ValueError(RADIUS_TOO_SMALL)
        names = [window.name for window in self.windows]
        if len(set(names)) != len(names):
            raise ValueError("windows: two windows have the same name")
        return self

    @property
    def margin_m(self) -> float:
        """Return how far outside a tile its nodes reach for segments (m)."""
        return max([self.search_radius_m, *(w.search_radius_m for w in self.windows)])


class FusionSettings(Settings):
    """From nodes to mascons."""

    unit: Literal["mascon", "basin"] = Field(
        "mascon",
        description="Footprints that are fused: the product's mascons, or the region's basins",
    )
    estimator: Literal["regression", "mean", "hypsometric"] = Field(
        "regression", description="Estimator of the mascon mean"
    )
    scale: Literal["mascon", "gaussian_300km"] = Field(
        "mascon", description="Resolution at which altimetry is averaged"
    )
    anchor_days: Annotated[float, Field(ge=0)] = Field(
        50.0,
        description="Months this near the reference date give the zero of a mascon's series "
        "(days); 0 takes the fits' own zero",
    )
    correlation_length_m: Positive = Field(
        50_000.0,
        description="Correlation length of elevation errors: of what is filled, and of the nodes' "
        "σ where too few passes tell their scatter; a fifth of it is the cell that is filled",
    )
    causal_min_years: Positive = Field(
        1.0, description="Shortest past a causal node model needs (years)"
    )
    elevation_band_m: Positive = Field(
        200.0, description="Band height of the hypsometric estimator"
    )
    min_fitted_share: Fraction = Field(
        0.2,
        description="Smallest share of a mascon's ice held by nodes with a model; below it null",
    )
    max_model_sigma_m: Positive = Field(
        5.0, description="Nodes whose fitted change is less certain than this are left out"
    )


#: Features that may have lags: those that a month's own segments move.
LaggedFeature = Literal[
    "dh_m",
    "dh_change",
    "dh_interannual_m",
    "dh_cycle_change",
    "dh_rate_m_yr",
    "dh_fraction_thinning",
    "dh_spread_m",
    "sampled_fraction",
]


class FeatureSettings(Settings):
    """Features at mascon × month."""

    step: Literal["month", "season"] = Field("month", description="Time step of the feature table")
    change_windows_months: list[Count] = Field(
        default_factory=lambda: [1, 3, 6, 12],
        description="Spans of elevation change; a season's are those that are whole seasons",
    )
    lags_months: Count = Field(12, description="Longest lag of the dynamic features")
    lagged: list[LaggedFeature] = Field(
        ["dh_change", "dh_cycle_change", "dh_interannual_m"],
        description="Dynamic features, those with lags; dh_change is the shortest span of change",
    )

    @model_validator(mode="after")
    def _whole_seasons(self) -> FeatureSettings:
        spans = self.change_windows_months
        if self.step == "season" and spans and all(span % 3 for span in spans):
            raise ValueError(f"change_windows_months: {spans} are no whole seasons (step: season)")
        return self

    marine_distance_m: Positive = Field(
        50_000.0,
        description="Ice nearer to the sea than this, on a bed below sea level, is a marine margin",
    )


class RegimeSettings(Settings):
    """K-Means regimes."""

    k: Annotated[int, Field(ge=2, le=10)] | Literal["auto"] = Field(
        "auto", description="Number of regimes, or auto"
    )
    k_min: Annotated[int, Field(ge=2)] = Field(2, description="Fewest regimes tried")
    k_max: Annotated[int, Field(le=20)] = Field(10, description="Most regimes tried")
    bootstraps: Count = Field(20, description="Bootstrap draws of the stability")
    max_nodes: Annotated[int, Field(ge=100, le=10_000)] = Field(
        3000, description="Nodes of the even sample on which k is chosen; all are then clustered"
    )
    max_rate_sigma_m_yr: Positive = Field(
        0.5, description="Nodes with a larger rate σ are left out"
    )
    seed: int = Field(20, description="Seed")

    @model_validator(mode="after")
    def _range(self) -> RegimeSettings:
        if self.k_max < self.k_min:
            raise ValueError(f"k_max ({self.k_max}) is smaller than k_min ({self.k_min})")
        return self


Model = Literal["ridge", "varying_density", "forest", "hist_gradient_boosting", "xgboost"]
Split = Literal["random", "leave_mascon_out", "forward", "both"]
Target = Literal["change", "cumulative"]


class SearchSpace(Settings):
    """Base of a mapping whose keys are told where an unknown one is refused."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        unknown = set(value) - set(cls.model_fields) if isinstance(value, dict) else set()
        if unknown:
            named = ", ".join(repr(key) for key in sorted(unknown, key=str))
            raise ValueError(f"{named} cannot be searched (allowed: {', '.join(cls.model_fields)})")
        return value


Share = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
# Told apart by their kind, so that a wrong one is refused once.
FeatureShare = Annotated[
    Annotated[Share, Tag("share")] | Annotated[Literal["sqrt", "log2"], Tag("name")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "share"),
]
_FOREST_FEATURES: list[FeatureShare] = [0.3, "sqrt", 0.6]


class RidgeSearch(SearchSpace):
    """Values tried for ridge regression."""

    alpha: list[Positive] = Field(
        default_factory=lambda: [30.0, 300.0, 3.0, 3000.0, 0.3],
        min_length=1,
        description="Penalty on standardised coefficients",
    )


class ForestSearch(SearchSpace):
    """Values tried for the random forest."""

    max_features: list[FeatureShare] = Field(
        default_factory=lambda: list(_FOREST_FEATURES),
        min_length=1,
        description="Features a split chooses from: share, sqrt or log2",
    )
    min_samples_leaf: list[Count] = Field(
        default_factory=lambda: [5, 20, 2], min_length=1, description="Fewest samples of a leaf"
    )
    max_samples: list[Share] = Field(
        default_factory=lambda: [0.5], min_length=1, description="Share of samples drawn for a tree"
    )


class HistGradientBoostingSearch(SearchSpace):
    """Values tried for histogram gradient boosting."""

    max_leaf_nodes: list[Annotated[int, Field(ge=2)]] = Field(
        default_factory=lambda: [8, 4, 15], min_length=1, description="Most leaves of a tree"
    )
    learning_rate: list[Share] = Field(
        default_factory=lambda: [0.1, 0.05], min_length=1, description="Shrinkage of each tree"
    )
    min_samples_leaf: list[Count] = Field(
        default_factory=lambda: [20], min_length=1, description="Fewest samples of a leaf"
    )
    l2_regularization: list[NotNegative] = Field(
        default_factory=lambda: [1.0], min_length=1, description="Penalty on leaf values"
    )
    max_features: list[Share] = Field(
        default_factory=lambda: [0.5],
        min_length=1,
        description="Share of features a split chooses from",
    )


class XGBoostSearch(SearchSpace):
    """Values tried for XGBoost."""

    max_depth: list[Count] = Field(
        default_factory=lambda: [4, 3, 2], min_length=1, description="Depth of a tree"
    )
    learning_rate: list[Share] = Field(
        default_factory=lambda: [0.03, 0.06], min_length=1, description="Shrinkage of each tree"
    )
    min_child_weight: list[NotNegative] = Field(
        default_factory=lambda: [10.0], min_length=1, description="Fewest samples of a leaf"
    )
    subsample: list[Share] = Field(
        default_factory=lambda: [0.5], min_length=1, description="Share of samples drawn for a tree"
    )
    colsample_bytree: list[Share] = Field(
        default_factory=lambda: [0.5],
        min_length=1,
        description="Share of features drawn for a tree",
    )
    reg_lambda: list[NotNegative] = Field(
        default_factory=lambda: [10.0], min_length=1, description="Penalty on leaf values"
    )


class VaryingDensitySearch(SearchSpace):
    """Values tried for densities that vary with season and place."""

    alpha: list[Positive] = Field(
        default_factory=lambda: [20.0, 60.0, 7.0],
        min_length=1,
        description="Noise variance over that of a coefficient",
    )
    shared_error: list[Annotated[float, Field(ge=0, le=0.5)]] = Field(
        default_factory=lambda: [0.4],
        min_length=1,
        description="Share of a change's error that the next change has with the other sign",
    )
    season_length: list[Positive] = Field(
        default_factory=lambda: [1.5, 1.2],
        min_length=1,
        description="Distance over which it varies with the season, in standard deviations",
    )
    place_length: list[Positive] = Field(
        default_factory=lambda: [3.0, 2.0],
        min_length=1,
        description="Distance over which it varies with the place, in standard deviations",
    )
    varying: list[NotNegative] = Field(
        default_factory=lambda: [0.5],
        min_length=1,
        description="Variance of the varying parts over that of the constant one",
    )


class SearchSettings(SearchSpace):
    """Hyper-parameter values tried, by model."""

    ridge: RidgeSearch = Field(default_factory=RidgeSearch, description="Ridge regression")
    varying_density: VaryingDensitySearch = Field(
        default_factory=VaryingDensitySearch,
        description="Densities that vary with season and place",
    )
    forest: ForestSearch = Field(default_factory=ForestSearch, description="Random forest")
    hist_gradient_boosting: HistGradientBoostingSearch = Field(
        default_factory=HistGradientBoostingSearch, description="Histogram gradient boosting"
    )
    xgboost: XGBoostSearch = Field(default_factory=XGBoostSearch, description="XGBoost")

    def space(self, model: str) -> dict[str, list[Any]]:
        """Return a model's parameters and the values tried for each."""
        return getattr(self, model).model_dump()


_CURVE_MODELS: list[Model] = ["ridge", "xgboost"]


class SkillSettings(Settings):
    """Models, splits and scores."""

    models: list[Model] = Field(
        default_factory=lambda: list(get_args(Model)),
        min_length=1,
        description="Models",
    )
    splits: list[Split] = Field(
        default_factory=lambda: list(get_args(Split)),
        min_length=1,
        description="Splits, reported side by side",
    )
    targets: list[Target] = Field(
        default_factory=lambda: list(get_args(Target)), min_length=1, description="Targets"
    )
    folds: Annotated[int, Field(ge=2)] = Field(5, description="Folds in time and random ones")
    inner_folds: Annotated[int, Field(ge=2)] = Field(3, description="Inner folds for tuning")
    candidates: Count = Field(3, description="Hyper-parameter settings tried per model")
    search: SearchSettings = Field(
        default_factory=SearchSettings,
        description="Hyper-parameter values tried by model: all first values, all second ones …, "
        "then every other combination, up to candidates",
    )
    terms: Literal["physical", "all"] = Field(
        "physical",
        description="Features that models of the monthly change see: recent change, season, rate "
        "and place, or all; those of the cumulative anomaly see all",
    )
    response_months: Annotated[int, Field(ge=0)] = Field(
        3, description="Longest lag among the physical terms"
    )
    mascon_folds: Annotated[int, Field(ge=2)] = Field(
        9,
        description="Folds of mascons; the finer, the fewer mascons the buffers keep from training",
    )
    neighbour_buffer_km: Annotated[float, Field(ge=0)] | None = Field(
        300.0,
        description="Mascons that touch a test mascon, or whose edge is no farther than this from "
        "its edge, are left out of training: the leakage of 3° mascons; null lets neighbours "
        "train, and leaks",
    )
    embargo_months: Annotated[int, Field(ge=0)] = Field(
        12, description="Months left out between training and test; at least the longest lag"
    )
    min_train_months: Count = Field(24, description="Shortest training record of the forward split")
    bootstrap_draws: Count = Field(1000, description="Draws of the block bootstrap")
    block_months: Count = Field(
        12, description="Block length of the bootstrap, all mascons together"
    )
    coverage: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="Nominal coverage of the conformal intervals"
    )
    noise_features: Count = Field(5, description="Noise columns of the control")
    label_permutations: Count = Field(
        39, description="Permutations of the training labels: whole years, all mascons together"
    )
    curve_shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="Shares of the training months and mascons on the learning curve",
    )
    curve_draws: Count = Field(5, description="Subsets drawn for each share")
    curve_models: list[Model] = Field(
        default_factory=lambda: list(_CURVE_MODELS),
        min_length=1,
        description="Models on the learning curve, with their blind twins",
    )
    trees: Count = Field(150, description="Trees of forests and boosting")
    seed: int = Field(20, description="Seed")


class PredictSettings(Settings):
    """Application of a saved model."""

    models: str | None = Field(
        None,
        description="Folder of saved models of another run or region (results/REGION/models); "
        "null takes the run's own",
    )
    model: Literal["best"] | Model = Field(
        "best",
        description="Model; best has the smallest held-out error under the strictest split",
    )
    target: Target = Field("change", description="Target")


class ExplainedSettings(Settings):
    """Explained variance and importance."""

    split: Split = Field(
        "leave_mascon_out", description="Split whose held-out predictions are explained"
    )
    permutations: Count = Field(10, description="Draws of the grouped permutation")
    seeds: Count = Field(3, description="Seeds over which importance intervals are formed")


class CouplingSettings(Settings):
    """Correlation of altimetry and gravimetry."""

    lags_months: Count = Field(
        6, description="Lags from minus to plus this many; positive: mass lags elevation"
    )
    min_n: Annotated[int, Field(ge=6)] = Field(
        24, description="Fewest common months; below it results are null"
    )
    bootstrap_draws: Count = Field(500, description="Draws of the block bootstrap")
    block_months: Count = Field(12, description="Block length of the bootstrap")
    surrogates: Count = Field(500, description="Surrogate series for the best-lag p value")
    fdr: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="False discovery rate over the map"
    )
    seed: int = Field(20, description="Seed")


class HydrologySettings(Settings):
    """Active-lake candidates."""

    ring_m: Positive = Field(5000.0, description="Radius of the surrounding ring")
    departure_mads: Positive = Field(3.0, description="Smallest departure from the ring (MADs)")
    min_departure_m: Positive = Field(0.5, description="Smallest departure from the ring")
    cluster_distance_m: Positive = Field(
        1600.0, description="DBSCAN distance between nodes of one lake"
    )
    min_nodes: Count = Field(3, description="Fewest nodes of a lake")
    max_node_spacing_m: Positive = Field(
        2000.0, description="Nodes with a wider spacing are not searched"
    )
    min_event_km3: Positive = Field(
        0.005, description="Smallest volume change of a fill or drain event"
    )
    min_persistence_months: Count = Field(6, description="Shortest time a departure must last")
    supraglacial_elevation_max_m: Positive = Field(
        1600.0,
        description="Below it, departures that come and go with a summer are look-alikes",
    )
    geolocation_error_m: NotNegative = Field(
        4.4,
        description="Horizontal error of segments: departures that twice it makes on the slope "
        "are look-alikes (4.4 is ICESat-2's worst beam, Luthcke et al. 2021)",
    )
    inventory_match_m: Positive = Field(
        5000.0, description="Largest distance of a hit from an inventory lake"
    )


class CaseStudySettings(Settings):
    """Melt seasons 2019–2021."""

    years: list[int] = Field(
        default_factory=lambda: [2019, 2020, 2021],
        min_length=1,
        description="Melt seasons studied, never trained on",
    )
    months: list[Annotated[int, Field(ge=1, le=12)]] = Field(
        default_factory=lambda: [6, 7, 8],
        min_length=1,
        description="Consecutive months of the season",
    )

    @field_validator("months")
    @classmethod
    def _consecutive(cls, months: list[int]) -> list[int]:
        if any(after != before % 12 + 1 for before, after in pairwise(months)):
            raise ValueError(f"months of a season follow each other, found {months}")
        return months


class RapidMeltSettings(Settings):
    """Months of rapid loss."""

    quantile: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.02,
        description="Climatological quantile below which a month's change is flagged: the nominal "
        "rate of false alarms",
    )
    surrogates: Annotated[int, Field(ge=100)] = Field(
        500,
        description="Autoregressive surrogates; half set the threshold, half measure false alarms",
    )
    seed: int = Field(30, ge=0, description="Seed")


class EarlyWarningSettings(Settings):
    """Early-warning statistics, exploratory."""

    window_months: Annotated[int, Field(ge=12)] = Field(
        36, description="Running window of variance and lag-1 autocorrelation"
    )
    surrogates: Annotated[int, Field(ge=100)] = Field(
        1000, description="Phase-randomised surrogates"
    )
    seed: int = Field(31, ge=0, description="Seed")


class ApplicationSettings(Settings):
    """Densities and totals, rapid melt, early warning."""

    densities_kg_m3: list[Positive] = Field(
        default_factory=lambda: [850.0, 917.0],
        description="Densities of the altimetric totals, beside the fitted one",
    )
    mass_correlation_km: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Correlation length of mascon errors in the σ of totals, 0 for independent "
        "ones; null takes the product's: 0 for JPL, as its own series does, 207 for the 1° "
        "mascons of CSR and GSFC; errors of basins are taken as fully correlated",
    )
    min_seen_share: Fraction = Field(
        0.5,
        description="Smallest share of the selected ice in mascons seen by altimetry in a month "
        "with an altimetric total; the others follow their own fits",
    )
    ice_fractions: list[Fraction] = Field(
        default_factory=lambda: [0.5, 0.25, 0.05],
        description="Smallest ice fractions of land whose totals stand beside those of the "
        "mascon rule in the table of sensitivity",
    )
    rapid_melt: RapidMeltSettings = Field(
        default_factory=RapidMeltSettings, description="Months of rapid loss"
    )
    early_warning: EarlyWarningSettings = Field(
        default_factory=EarlyWarningSettings, description="Early-warning statistics, exploratory"
    )


class WorldSettings(Settings):
    """The synthetic world (`source: synthetic`)."""

    seed: int = Field(7, description="Seed")
    track_step: Count = Field(
        1, description="Every k-th track by longitude is flown outside the windows"
    )
    segment_step: Count = Field(1, description="Every k-th segment is kept outside the windows")
    first_cycle_mispointed: int = Field(
        2, ge=0, description="Cycles pointed off the reference tracks"
    )
    fill_fraction: Fraction = Field(0.09, description="Share of fill rows")
    outlier_fraction: Fraction = Field(
        0.01, description="Share of gross outliers that carry quality flag 0"
    )
    missing_beam_fraction: Fraction = Field(
        0.01, description="Share of beams that are absent or empty"
    )
    height_noise_m: Positive = Field(
        0.03, description="Noise of a segment's height on flat ice (1σ)"
    )
    pointing_jitter_m: Annotated[float, Field(ge=0)] = Field(
        10.0, description="Jitter about the reference track (1σ)"
    )
    cell_m: Positive = Field(10_000.0, description="Cell of the grid on which mass is summed")
    coupling: Fraction = Field(
        1.0, description="Share of mass that follows elevation; 0 plants none"
    )
    law: Literal["components", "density"] = Field(
        "components",
        description="What mass follows: snow, melt, compaction and ice flow, each at its own "
        "density; or height alone, at a density and lag of regime, slope and latitude",
    )
    leakage_km: Annotated[float, Field(ge=0)] = Field(
        300.0, description="Width of the Gaussian leakage between mascons"
    )
    mass_noise_cm: Annotated[float, Field(ge=0)] = Field(
        5.6, description="Noise of a mascon month (1σ)"
    )
    mass_noise_correlation_km: Positive = Field(
        500.0, description="Correlation length of that noise"
    )
    mascon_residual_cm: Annotated[float, Field(ge=0)] = Field(
        1.5, description="Monthly mass signal of a mascon that elevation does not show (1σ)"
    )
    density_residual: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Relative spread of a mascon's own density about that law (1σ)"
    )
    lakes: Annotated[int, Field(ge=0)] = Field(
        6, description="Planted lakes, spread over the windows"
    )
    rate_raster: str | None = Field(
        None, description="GeoTIFF or NetCDF of rates (m/yr) in place of the planted ones"
    )
    mass_start: str = Field("2002-04", description="First month of the mascon file, YYYY-MM")
    absent_months: list[str] = Field(
        default_factory=list,
        description="Months that the mascon file lacks beside those that the real record lacks, "
        "YYYY-MM",
    )

    _parse = field_validator("mass_start", mode="before")(_month)

    @field_validator("absent_months", mode="before")
    @classmethod
    def _months(cls, value: Any) -> Any:
        return [_month(item) for item in value] if isinstance(value, list) else value


class Box(Settings):
    """A longitude/latitude box, degrees."""

    west: Annotated[float, Field(ge=-180, le=360)]
    south: Annotated[float, Field(ge=-90, le=90)]
    east: Annotated[float, Field(ge=-180, le=360)]
    north: Annotated[float, Field(ge=-90, le=90)]

    @model_validator(mode="after")
    def _not_empty(self) -> Box:
        if self.north <= self.south or self.east == self.west:
            raise ValueError("the box is empty")
        return self


class RasterSource(Settings):
    """A raster file and how it is read."""

    file: str = Field(
        description="GeoTIFF or NetCDF file; earthdata:SHORT_NAME@VERSION/PATTERN is fetched "
        "(source: earthdata; version and pattern may be left out)"
    )
    variable: str | None = Field(None, description="NetCDF variable")
    ice_values: list[int] | None = Field(
        None, description="Mask values that are ice (default: every non-zero)"
    )
    crs: str | None = Field(None, description="CRS where the file does not say")


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an archive's collection: the newest, of those whose names match a pattern."""

    short_name: str
    version: str | None = None
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> ArchiveFile:
        """Return what ``earthdata:SHORT_NAME@VERSION/PATTERN`` says; the last two may lack.

        Raises
        ------
        ValueError
            If the text is of another form.
        """
        match = _ARCHIVE_FILE.fullmatch(text)
        if not match:
            raise ValueError(
                f"{text!r} is not written earthdata:SHORT_NAME, earthdata:SHORT_NAME@VERSION or "
                "earthdata:SHORT_NAME@VERSION/PATTERN"
            )
        return cls(match["short_name"], match["version"], match["pattern"])

    @property
    def key(self) -> str:
        """Return a name for files about it."""
        version = f"@{self.version}" if self.version else ""
        pattern = f"-{digest(self.pattern)}" if self.pattern else ""
        return f"{self.short_name}{version}{pattern}"


class BasinSource(Settings):
    """A vector file of basins and what they are called in it."""

    file: str = Field(description="Vector file (GeoPackage, GeoJSON, Shapefile …) with a CRS")
    name: str | None = Field(
        None, description="Field with the names; polygons of one name are one basin"
    )
    layer: str | None = Field(None, description="Layer of the file (default: its first)")


class ReferenceSeries(Settings):
    """A published series to compare totals with."""

    file: str = Field(description="File")
    format: Literal["jpl", "imbie", "mankoff", "atl15"] = Field(description="Layout of the file")
    title: str | None = Field(None, description="Name in the legend")


class RegionSettings(Settings):
    """A region: where it is and what is known about it."""

    title: str = Field(description="Name in figures")
    crs: str = Field(description="Projected CRS of nodes and tiles, e.g. EPSG:3413")
    outline: str | Box | dict[str, Any] = Field(
        description="Vector file, inline GeoJSON, or box of west, south, east, north"
    )
    coast: str | None = Field(None, description="Coast polygons for maps")
    ice_mask: str | RasterSource | None = Field(
        None, description="Vector file or raster of ice; without it the outline is taken for ice"
    )
    dem: RasterSource | None = Field(
        None, description="Elevation model (m above WGS84) that stands in for the product's own"
    )
    bed: RasterSource | None = Field(None, description="Bed elevation (m)")
    velocity: RasterSource | None = Field(None, description="Surface speed (m/yr)")
    basins: str | BasinSource | None = Field(
        None, description="Drainage basins (vector file), fused with fusion: unit: basin"
    )
    inventory: str | None = Field(
        None,
        description="Inventory of subglacial lakes (vector file or CSV)",
    )
    reference_series: list[ReferenceSeries] = Field(
        default_factory=list, description="Published mass series"
    )
    footprints: str | None = Field(
        None,
        description="Table of mascon footprints where the product's own are shipped: jpl_greenland",
    )
    period: PeriodSettings | None = Field(
        None, description="Months, in place of the configuration's"
    )
    mascons: MasconSettings | None = Field(
        None, description="Mascon rule, in place of the configuration's"
    )

    @field_validator("outline", mode="before")
    @classmethod
    def _box(cls, value: Any) -> Any:
        # Told apart by its keys, so that a wrong box is not taken for GeoJSON.
        is_box = isinstance(value, dict) and "type" not in value
        return Box.model_validate(value) if is_box else value

    @field_validator("crs")
    @classmethod
    def _projected(cls, value: str) -> str:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            crs = CRS.from_user_input(value)
        except CRSError:
            raise ValueError(f"{value!r} is not a CRS") from None
        if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info):
            raise ValueError(
                f"{value} ({crs.name}) is not in metres; take a projected CRS such as EPSG:3413"
            )
        return value


class Config(Settings):
    """Everything a run is configured by."""

    regions: list[str] = Field(
        default_factory=lambda: ["greenland"],
        min_length=1,
        description="Region, or list of regions: names of files in config/regions",
    )
    source: Literal["earthdata", "local", "synthetic"] = Field(
        "earthdata", description="Where granules and mascons come from"
    )
    compute: ComputeSettings = Field(
        default_factory=ComputeSettings, description="Workers inside a job"
    )
    learning: LearningSettings = Field(
        default_factory=LearningSettings, description="Engine of the learning"
    )
    period: PeriodSettings = Field(default_factory=PeriodSettings, description="Months")
    refresh: bool = Field(
        False, description="Accept files that changed at their centre since they were pinned"
    )
    refetch: bool = Field(
        False, description="Fetch granules again that keep_raw: false has removed"
    )
    local: LocalSettings = Field(
        default_factory=LocalSettings, description="Files of source: local"
    )
    download: DownloadSettings = Field(
        default_factory=DownloadSettings, description="Transfers of source: earthdata"
    )
    altimetry: AltimetrySettings = Field(default_factory=AltimetrySettings, description="Altimetry")
    mascons: MasconSettings = Field(default_factory=MasconSettings, description="Gravimetry")
    filters: FilterSettings = Field(default_factory=FilterSettings, description="Segment filters")
    elevation: ElevationSettings = Field(default_factory=ElevationSettings, description="Node fits")
    fusion: FusionSettings = Field(default_factory=FusionSettings, description="Nodes to mascons")
    features: FeatureSettings = Field(default_factory=FeatureSettings, description="Features")
    regimes: RegimeSettings = Field(default_factory=RegimeSettings, description="Regimes")
    skill: SkillSettings = Field(default_factory=SkillSettings, description="Predictive skill")
    predict: PredictSettings = Field(
        default_factory=PredictSettings, description="Application of a saved model"
    )
    explained: ExplainedSettings = Field(
        default_factory=ExplainedSettings, description="Explained variance"
    )
    coupling: CouplingSettings = Field(default_factory=CouplingSettings, description="Coupling")
    hydrology: HydrologySettings = Field(
        default_factory=HydrologySettings, description="Subglacial lakes"
    )
    case_study: CaseStudySettings = Field(
        default_factory=CaseStudySettings, description="Melt seasons"
    )
    applications: ApplicationSettings = Field(
        default_factory=ApplicationSettings, description="Totals and sea level"
    )
    world: WorldSettings = Field(default_factory=WorldSettings, description="Synthetic world")
    region_settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Keys of a region file to replace, by region: finer outline, ice mask …",
    )

    @field_validator("regions", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def conflicts(self) -> list[str]:
        """Return where sections contradict each other, one line each."""
        found = []
        if len(set(self.regions)) != len(self.regions):
            found.append("regions: a region is named twice")
        found += [
            f"region_settings: {name!r} is not among regions ({', '.join(self.regions)})"
            for name in self.region_settings
            if name not in self.regions
        ]
        product = self.altimetry.product
        if self.source == "local":
            found += [
                f"source: local needs local: {key}"
                for key in (f"{product}_dir", "mascons_file")
                if not getattr(self.local, key)
            ]
            folder = getattr(self.local, f"{product}_dir")
            if folder and not Path(folder).is_dir():
                found.append(f"local: {product}_dir: no folder {folder}")
            if self.mascons.product == "csr" and not self.local.land_mask_file:
                found.append("mascons: product: csr needs local: land_mask_file")
        elif product != "atl06":
            found.append(
                f"altimetry: product: {product} files are read with source: local only "
                f"(found source: {self.source})"
            )
        if self.mascons.product != "csr":
            found += [
                f"local: {key} belongs to mascons: product: csr (found {self.mascons.product})"
                for key in ("land_mask_file", "mapping_file")
                if getattr(self.local, key)
            ]
        if "finite_height" not in self.filters.order:
            found.append("filters: order: finite_height must be in it: nodes need a height")
        if self.skill.embargo_months < self.features.lags_months:
            found.append(
                f"skill: embargo_months ({self.skill.embargo_months}) is shorter than the longest "
                f"lag (features: lags_months {self.features.lags_months}): test months would leak"
            )
        if self.explained.split not in self.skill.splits or "xgboost" not in self.skill.models:
            found.append(
                f"explained: split: {self.explained.split} needs skill: splits to hold it, and "
                "skill: models to hold xgboost"
            )
        found += self._predict_conflicts()
        raster = self.world.rate_raster
        if self.source == "synthetic" and raster and not Path(raster).is_file():
            found.append(f"world: rate_raster: no file {raster}")
        return found

    def _predict_conflicts(self) -> list[str]:
        """Return why there is no saved model of the kind that is to be applied."""
        predict = self.predict
        if predict.models is None:
            chosen: tuple[tuple[str, str, list[Any]], ...] = (
                ("model", predict.model, ["best", *self.skill.models]),
                ("target", predict.target, [*self.skill.targets]),
            )
            return [
                f"predict: {key}: {value} is not in skill: {key}s: add it, or name a folder of "
                "saved models"
                for key, value, known in chosen
                if value not in known
            ]
        own = [Path("results") / name / "models" for name in self.regions]
        if Path(predict.models) in own or Path(predict.models).is_dir():
            return []
        return [f"predict: models: no folder {predict.models}"]

    def for_region(self, region: RegionSettings) -> Config:
        """Return the configuration with a region's own months and mascon rule in force."""
        update = {key: value for key in ("period", "mascons") if (value := getattr(region, key))}
        return self.model_copy(update=update)


def digest(value: Any) -> str:
    """Return a short SHA-256 of any plain value or settings, independent of key order."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _explain(error: ValidationError, where: str) -> list[str]:
    lines = []
    for item in error.errors():
        path = ": ".join(str(part) for part in item["loc"])
        key = f"{where}: {path}" if path else where
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        else:
            message = item["msg"].removeprefix("Value error, ")
            found = item.get("input")
            plain = isinstance(found, str | int | float | bool)
            lines.append(f"{key}: {message}" + (f" (found {found!r})" if plain else ""))
    return lines


def load_region(name: str, folder: Path, replace: dict[str, Any] | None = None) -> RegionSettings:
    """Read and check a region file, with some of its keys replaced.

    Parameters
    ----------
    name
        Region name: ``config/regions/{name}.yaml`` must exist.
    folder
        Folder of the region files; relative paths inside them start from its parent's parent.
    replace
        Keys that replace those of the file.

    Raises
    ------
    ConfigError
        With one line for every mistake.
    """
    from cryofuse.geo import OutlineError, load_outline

    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError([f"regions: unknown region {name!r} (known: {known})"])
    content = (yaml.safe_load(path.read_text()) or {}) | (replace or {})
    try:
        region = RegionSettings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, f"region {name}")) from None
    root = folder.parent.parent
    region = region.model_copy(update=_resolve(region, root))
    try:
        load_outline(region)
    except OutlineError as error:
        raise ConfigError([f"region {name}: outline: {error}"]) from None
    return region


def _resolve(region: RegionSettings, root: Path) -> dict[str, Any]:
    """Return the region's file paths, those that stand beside the project made absolute."""

    def place(text: str) -> str:
        beside = root / text
        return str(beside) if not Path(text).exists() and beside.exists() else text

    changed: dict[str, Any] = {}
    for key in ("outline", "coast", "ice_mask", "basins", "inventory"):
        value = getattr(region, key)
        if isinstance(value, str):
            changed[key] = place(value)
        elif isinstance(value, BasinSource):
            changed[key] = value.model_copy(update={"file": place(value.file)})
    return changed


def _basins_missing(name: str, region: RegionSettings) -> list[str]:
    """Return what is wrong with a region's basins where they are fused."""
    basins = region.basins
    if basins is None:
        return [f"region {name}: fusion: unit: basin needs the region's key basins (a vector file)"]
    path = basins if isinstance(basins, str) else basins.file
    return [] if Path(path).is_file() else [f"region {name}: basins: no file {path}"]


def archive_files(
    config: Config, regions: dict[str, RegionSettings], regions_folder: Path
) -> dict[str, ArchiveFile]:
    """Return the files that a run has fetched from collections, by their keys.

    Parameters
    ----------
    config
        Configuration.
    regions
        Regions by name.
    regions_folder
        Folder of the region files.
    """
    if config.source != "earthdata":
        return {}
    found = [mascon_archive(config)] * (config.mascons.product == "jpl")
    for name in regions:
        region = load_region(name, regions_folder, config.region_settings.get(name))
        found += [
            ArchiveFile.parse(source.file)
            for key in _RASTER_KEYS
            if isinstance(source := getattr(region, key), RasterSource)
            and source.file.startswith(ARCHIVE_PREFIX)
        ]
    return {file.key: file for file in found}


def mascon_archive(config: Config) -> ArchiveFile:
    """Return JPL's mascon file as a file of its collection."""
    download = config.download
    return ArchiveFile(download.mascons_short_name, None, download.mascons_pattern)


def raster_path(config: Config, key: str) -> str:
    """Return where the file of a collection lies when it was fetched, by its key."""
    return f"{config.download.cache_dir}/rasters/{key}.nc"


_RASTER_KEYS = ("ice_mask", "dem", "bed", "velocity")


def _place_fetched(name: str, region: RegionSettings, config: Config) -> RegionSettings:
    """Return a region with the files that are fetched under the names they will have."""
    changed: dict[str, Any] = {}
    problems = []
    for key in _RASTER_KEYS:
        source = getattr(region, key)
        text = source if isinstance(source, str) else getattr(source, "file", "")
        if not text.startswith(ARCHIVE_PREFIX):
            continue
        try:
            file = ArchiveFile.parse(text)
        except ValueError as error:
            problems.append(f"region {name}: {key}: file: {error}")
            continue
        if isinstance(source, str):
            problems.append(f"region {name}: {key}: {text}: write {{file: {text}, variable: …}}")
        elif config.source != "earthdata":
            problems.append(
                f"region {name}: {key}: file: {text} is fetched with source: earthdata alone "
                f"(found source: {config.source}): name a file"
            )
        else:
            path = raster_path(config, file.key)
            changed[key] = source.model_copy(update={"file": path})
    if problems:
        raise ConfigError(problems)
    return region.model_copy(update=changed)


def load_config(
    content: dict[str, Any], regions_folder: Path
) -> tuple[Config, dict[str, RegionSettings]]:
    """Check a configuration and the regions it names, reporting every mistake at once.

    Raises
    ------
    ConfigError
        With one line for every mistake.
    """
    problems: list[str] = []
    config = None
    try:
        config = Config.model_validate(content)
        judged = config
    except ValidationError as error:
        problems += _explain(error, "config")
        # The right sections are still judged together, so that all mistakes show at once.
        wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
        judged = Config.model_validate({k: v for k, v in content.items() if k not in wrong})
    problems += [f"config: {line}" for line in judged.conflicts()]
    names, replace = judged.regions, judged.region_settings
    regions = {}
    for name in names:
        try:
            regions[name] = load_region(name, regions_folder, replace.get(name))
        except ConfigError as error:
            problems += error.problems
        else:
            if judged.fusion.unit == "basin":
                problems += _basins_missing(name, regions[name])
            try:
                regions[name] = _place_fetched(name, regions[name], judged)
            except ConfigError as error:
                problems += error.problems
    problems += [
        f"region {name}: mascons: product: {region.mascons.product} is not that of the "
        f"configuration ({judged.mascons.product}): a run has one mascon file"
        for name, region in regions.items()
        if region.mascons and region.mascons.product != judged.mascons.product
    ]
    if problems or config is None:
        raise ConfigError(problems)
    return config, regions
