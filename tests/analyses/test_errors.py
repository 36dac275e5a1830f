from __future__ import annotations

import pytest

from async_delivery.plugins import AnalysisError, InputNotFoundError, InvalidInputError, RetryableError


def test_what_an_analysis_raises_says_how_the_job_fails() -> None:
    assert AnalysisError("no").as_failure().code == "analysis_error"
    assert AnalysisError("no", code="quota_of_upstream").as_failure().code == "quota_of_upstream"
    assert not InvalidInputError("params.x", "is wrong").as_failure().retryable
    assert InvalidInputError("params.x", "is wrong").as_failure().retry_hint == "check_input_and_retry"
    assert InputNotFoundError("file 'x'").as_failure().code == "input_not_found"
    again = RetryableError("busy", retry_after_seconds=30)
    assert again.as_failure().retry_hint == "retry_with_backoff"
    assert again.retry_after_seconds == 30
    with pytest.raises(ValueError, match="lower-case"):
        AnalysisError("no", code="Not A Code")
