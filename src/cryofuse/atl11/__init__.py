"""ICESat-2 ATL11: heights at reference points, cycle by cycle, as a second altimetry product."""
