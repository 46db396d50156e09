"""Results as JSON files: written whole or not at all, and read back only where every field is known and there."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cpc.config import InputError
from cpc.files import write_json

Own = TypeVar("Own", bound="Saved")


@dataclass(frozen=True)
class Saved:
    """A result with `notes`. A subclass whose fields JSON does not know says in `_plain` and `_typed` what they are."""

    KIND: ClassVar[str] = "result"
    REMEDY: ClassVar[str] = "measure again with this version"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        return values | {"notes": list(values["notes"])} | self._plain()

    @classmethod
    def from_dict(cls: type[Own], values: Mapping[str, Any]) -> Own:
        """The inverse of `to_dict`. Raises InputError where fields are missing or unknown."""
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        known, given = {field.name for field in fields(cls)}, set(values)
        if wrong := sorted((needed - given) | (given - known)):
            raise InputError(f"{cls.KIND}: {', '.join(wrong)} missing or unknown; {cls.REMEDY}")
        return cls(**{**values, "notes": tuple(values.get("notes", ())), **cls._typed(values)})

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls: type[Own], path: Path) -> Own:
        """Read what `write` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def _plain(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def letters(text: str) -> str:
    """A text in the letters of a metric or a file name."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in text)


def slug(features: str) -> str:
    """The name of features in such letters: "CPC z" is cpc_z, "log-mel" is logmel."""
    return letters(features.lower().replace("-", ""))
