"""cryofuse: join ICESat-2 elevation change and GRACE mass change over ice sheets."""

__version__ = "0.1.0"
