"""Almanac: a seeded fictional world whose every fact has a known information in bits.

>>> from loramem.sources.almanac import common_world
>>> len(common_world().facts) >= 2000
True
"""

from loramem.sources.almanac.world import Fact, World, common_world, make_world

__all__ = ["Fact", "World", "common_world", "make_world"]
