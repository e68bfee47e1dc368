from __future__ import annotations

import pytest

from wegeft_pl.callbacks import ReportingCallback


def test_a_reporting_callback_must_report() -> None:
    class Silent(ReportingCallback):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?report"):
        Silent()  # type: ignore[abstract]
