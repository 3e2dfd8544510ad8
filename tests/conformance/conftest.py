"""The contracts assert outside of test modules; pytest rewrites their assertions too."""

import pytest

pytest.register_assert_rewrite("conformance")
