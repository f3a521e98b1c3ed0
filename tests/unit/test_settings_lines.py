"""Line numbers of keys: every key that the standard reader finds has one, whatever the layout."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from doorward.settings_lines import line_numbers

TEXT = '''# a comment with [brackets] = "and quotes
[a]
b = 1 # [c]
"q.d" = { x = [1,
  2], y = """
[no]
z = 1"""" }
[[t.u]]
n = "\\"]"
[[t.u]]
n = 'a\\'
m.k = 1979-05-27
[t.u.v]
w = ''
'''


def paths(value, prefix=()):
    if prefix:
        yield prefix
    if isinstance(value, dict):
        for name, part in value.items():
            yield from paths(part, (*prefix, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from paths(part, (*prefix, index))


def test_every_key_has_the_line_where_it_stands():
    lines = line_numbers(TEXT)
    assert lines["a",] == 2
    assert lines["a", "b"] == 3
    assert lines["a", "q.d", "x", 1] == 5
    assert lines["a", "q.d", "y"] == 5
    assert lines["t", "u", 1, "n"] == 11
    assert lines["t", "u", 1, "m", "k"] == 12
    assert lines["t", "u", 1, "v", "w"] == 14
    assert set(paths(tomllib.loads(TEXT))) <= set(lines)


@given(st.text(alphabet="ab.[]{}=\"'\\\n #,1", max_size=40))
def test_no_text_makes_it_raise_and_no_key_of_good_text_is_without_a_line(text):
    lines = line_numbers(text)
    try:
        good = tomllib.loads(text)
    except (ValueError, RecursionError):
        return
    assert set(paths(good)) <= set(lines)
