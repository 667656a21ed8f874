"""Charts stand where their numbers are."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from conan_embed.reporting import canvas, charts
from tests.support.fake_filter import STAGES

SVG = "{http://www.w3.org/2000/svg}"


def test_lines_and_histograms_stand_where_the_numbers_are():
    def paths(svg):
        groups = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("class") == "data"]
        found = [p for g in groups for p in g.iter(f"{SVG}path") if p.get("clip-path")]
        return [
            (np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", p.get("d")), float), p.get("style"))
            for p in found
        ]

    shares = np.array([[1.0, 0.8, 0.5], [1.0, 1.0, 0.9]])
    for size in (canvas.WIDE, canvas.NARROW):
        drawn = [points[:, 1] for points, _ in paths(charts.funnel(STAGES[:3], shares, size))]
        heights = -np.concatenate(drawn)
        assert np.corrcoef(heights, shares.ravel())[0, 1] == pytest.approx(1, abs=1e-4)
    counts = np.array([10, 0, 30, 40, 20])
    svg = charts.histogram(np.linspace(0.2, 0.7, 6), counts, 0.4, "name")
    heights = [np.ptp(points[:, 1]) for points, _ in paths(svg)]
    assert np.array(heights) / heights[0] == pytest.approx([1, 3, 4, 2], abs=0.05)
    kept = ["series-1" in style for _, style in paths(svg)]
    assert kept == [False, True, True, True]  # the bin from 0.4 on is kept
