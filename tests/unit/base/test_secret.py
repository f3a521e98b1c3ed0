"""A secret never prints itself."""

from __future__ import annotations

import copy
import pickle

import pytest

from doorward.base.secret import Secret


def test_a_secret_shows_nothing_however_it_is_printed() -> None:
    secret = Secret("hunter2")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", str([secret])):
        assert "hunter2" not in text
    assert secret.reveal() == b"hunter2"


def test_a_secret_cannot_be_pickled_or_copied_by_pickling() -> None:
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(Secret("x"))


def test_secrets_compare_by_content_in_constant_time() -> None:
    assert Secret("a").equals(b"a")
    assert not Secret("a").equals(b"b")
