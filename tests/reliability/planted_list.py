"""All bugs that are planted. Nothing of the product is imported."""

from __future__ import annotations

from tests.reliability import planted_edge, planted_jobs, planted_storage
from tests.reliability.planted_plant import Plant

PLANTS: tuple[Plant, ...] = (*planted_jobs.PLANTS, *planted_storage.PLANTS, *planted_edge.PLANTS)
BY_NAME = {plant.name: plant for plant in PLANTS}
