"""Executor of DistributionValidator: gives TFX's executor its message."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.components.distribution_validator import executor as tfx_distribution_validator
from tfx.types import standard_component_specs as specs
from tfx.utils import json_utils

from two_tower.components.comparable_statistics import distributions


class Executor(tfx_distribution_validator.Executor):
    """Executor that compares two splits of one statistics artifact."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> Any:
        """Writes the measured distances as TFX's DistributionValidator does."""
        comparable = input_dict["comparable"]
        config = distributions.validator_config(
            distributions.compared_from_json(exec_properties["compared"]), exec_properties["limit"]
        )
        return super().Do(
            {specs.STATISTICS_KEY: comparable, specs.BASELINE_STATISTICS_KEY: comparable},
            output_dict,
            {
                specs.DISTRIBUTION_VALIDATOR_CONFIG_KEY: config,
                specs.INCLUDE_SPLIT_PAIRS_KEY: json_utils.dumps([json.loads(exec_properties["pair"])]),
            },
        )
