"""What a job may tell ``profile``. Imports pydantic only."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

NULL_VALUES = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "NaN", "nan")


class Format(StrEnum):
    """How the data set is written down."""

    AUTO = "auto"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


class Encoding(StrEnum):
    """Of a CSV file's text."""

    UTF_8 = "utf-8"
    UTF_16 = "utf-16"
    LATIN_1 = "latin-1"


class ProfileParams(BaseModel):
    """One data set and how to look at it."""

    model_config = ConfigDict(extra="forbid")

    data: list[dict[str, Any]] | None = Field(None, description="The data set as a list of row objects")
    csv: str | None = Field(None, description="The data set as CSV text")
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="The data set as a file below the server's data folder"
    )
    format: Format = Field(Format.AUTO, description="Format of a file; auto looks at its name and content")
    delimiter: Annotated[str, Field(min_length=1, max_length=4, pattern=r"^[^\x00\r\n]+$")] | None = Field(
        None, description="Between the values of a CSV line; default: detected"
    )
    header: bool | None = Field(None, description="Whether a CSV file begins with names; default: detected")
    encoding: Encoding = Field(Encoding.UTF_8, description="Encoding of a CSV file")
    decimal_separator: Annotated[str, Field(pattern=r"^[.,]$")] = Field(
        ".", description="In the numbers of a CSV file"
    )
    null_values: list[Annotated[str, Field(max_length=100)]] = Field(
        list(NULL_VALUES), max_length=50, description="Texts of a CSV file that mean a missing value"
    )
    top_values: int = Field(5, ge=0, le=100, description="Most frequent values listed per column")
    max_columns: int = Field(100, ge=1, le=1000, description="Columns profiled; the rest is left out")
    max_bins: int = Field(20, ge=1, le=100, description="Bars of a histogram")
    memory_limit_mb: int = Field(
        256, ge=64, le=1024, description="Memory for DuckDB; beyond, it spills to disk"
    )
