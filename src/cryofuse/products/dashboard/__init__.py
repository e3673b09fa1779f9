"""The dashboard: one page with map, series, totals and sea level that works without a network.

The page is inline SVG, CSS and plain JavaScript over embedded JSON: a keyboard, a screen reader
and a printer can reach all of it, and it weighs little more than its numbers. The policy in its
head forbids every request and every script but its own.
"""
