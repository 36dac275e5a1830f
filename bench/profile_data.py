"""Writes the data set of the profile benchmark: 1,000,000 rows of 20 columns, 166 MB of CSV.

    python bench/profile_data.py bench/out/profile.csv [--rows 1000000]

Floats, integers, categories, user ids, dates, instants, text and nulls. Every value is a hash of its row and
column, so the same rows make the same file on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb

# u(i, k): uniform in [0, 1), n(i, k): nearly standard normal, nullify(i, k, p, x): x, or NULL with probability p.
_MACROS = """
CREATE MACRO h(i, k) AS hash(i * 131 + k);
CREATE MACRO u(i, k) AS (h(i, k) % 9007199254740881) / 9007199254740881.0;
CREATE MACRO n(i, k) AS u(i, k) + u(i, k + 1000) + u(i, k + 2000) + u(i, k + 3000) - 2;
CREATE MACRO nullify(i, k, p, x) AS CASE WHEN u(i, k + 5000) < p THEN NULL ELSE x END;
"""
_COLUMNS = """
    i AS row_id,
    'user_' || lpad((h(i, 1) % 200000)::VARCHAR, 6, '0') AS user_id,
    round(20 + 5 * n(i, 2), 4) AS temperature,
    nullify(i, 3, 0.05, round(1013 + 8 * n(i, 2) + 4 * n(i, 3), 4)) AS pressure,
    round(exp(2 * n(i, 4)), 6) AS amount,
    nullify(i, 5, 0.1, round(u(i, 5), 6)) AS score,
    (h(i, 6) % 100)::INTEGER AS age,
    (h(i, 7) % 1000000)::INTEGER AS population,
    nullify(i, 8, 0.02, floor(exp(6 * u(i, 8)))::BIGINT) AS visits,
    ['red', 'green', 'blue', 'black', 'white', 'yellow'][1 + (h(i, 9) % 6)::INTEGER] AS color,
    ['DE', 'FR', 'PL', 'IT', 'ES', 'NL', 'SE', 'AT', 'CZ', 'DK']
        [1 + floor(10 * u(i, 10) * u(i, 11))::INTEGER] AS country,
    nullify(i, 12, 0.3, ['bronze', 'silver', 'gold'][1 + (h(i, 12) % 3)::INTEGER]) AS tier,
    (DATE '2015-01-01' + (h(i, 13) % 4000)::INTEGER) AS signed_up,
    (TIMESTAMP '2024-01-01' + to_seconds((h(i, 14) % 63072000)::INTEGER)) AS last_seen,
    (h(i, 15) % 2 = 0) AS active,
    'note ' || md5(h(i, 16)::VARCHAR)[:12] || ' of ' || (h(i, 17) % 5000) AS note,
    round(50 + 20 * n(i, 18), 3) AS latitude,
    round(10 + 30 * n(i, 19), 3) AS longitude,
    nullify(i, 20, 0.5, (h(i, 20) % 10)::INTEGER) AS rating,
    round(0.7 * n(i, 2) + 0.3 * n(i, 21), 6) AS index_value
"""


def write(path: Path, rows: int) -> None:
    """Write ``rows`` rows to ``path``, as Parquet if it ends so, else as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = "FORMAT parquet" if path.suffix == ".parquet" else "FORMAT csv, HEADER"
    with duckdb.connect() as connection:
        connection.execute(_MACROS)
        target = str(path).replace("'", "''")
        connection.execute(f"COPY (SELECT {_COLUMNS} FROM range({rows}) t(i)) TO '{target}' ({options})")


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description="Write the data set of the profile benchmark.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    write(arguments.path, arguments.rows)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
