"""What all forms have in common.

Their description is worked out once: Prefect does it anew for every field of every block within a block, which takes 10 s of
computing to save a linac. And what is said of a form that was filled in wrongly does not repeat what was filled in: the password
beside a missing name would be in the error, and so in logs.
"""

import copy
from typing import Any, ClassVar

from pydantic import ConfigDict


class OneSchema:
    """Goes before `Block` among a class's bases."""

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _schemas: dict[Any, dict[str, Any]] = {}  # noqa: RUF012 (one for all)

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As pydantic's, from memory after the first time."""
        key = (cls, arguments, tuple(sorted(options.items())))
        if key not in OneSchema._schemas:
            OneSchema._schemas[key] = super().model_json_schema(*arguments, **options)  # type: ignore[misc]
        return copy.deepcopy(OneSchema._schemas[key])
